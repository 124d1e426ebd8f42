# mypy: ignore-errors
"""Attention over short rows in Triton; short_rows.py wraps it. Triton's language is not Python's
typing.

Scores are in base 2: log2(e) is in their scale, so that exp2 serves. A program's rows of q, or of
k and v, are of one sequence; programs beyond its end leave at once.
"""

# M queries of a program, N keys of one, D head width; H query heads, G key/value heads

import triton
import triton.language as tl

from workbench.training.step.kernels import tanh

LOG2_E = tl.constexpr(1.4426950408889634)
NEVER = tl.constexpr(-1.0e30)


@triton.jit
def scored(q, k, m, n, length, scale, softcap, WINDOW: tl.constexpr, CAPPED: tl.constexpr):
    """(scores of q @ k in base 2, the soft cap's slope); NEVER where q may not see k.

    q is M by D and k D by N, or the other way round; m and n have the scores' shape.
    """
    s = tl.dot(q, k, input_precision="ieee")
    slope = 1.0
    if CAPPED:
        t = tanh(s * (scale / softcap))
        slope = 1.0 - t * t
        s = t * (softcap * LOG2_E)
    else:
        s = s * (scale * LOG2_E)
    seen = (n <= m) & (n < length)
    if WINDOW > 0:
        seen &= m - n < WINDOW
    return tl.where(seen, s, NEVER), slope


@triton.jit
def attend(
    q, k, v, out, lse, cu, T, scale, softcap,
    q_stride, k_stride, v_stride, GROUP: tl.constexpr, H: tl.constexpr,
    WINDOW: tl.constexpr, CAPPED: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr,
    M: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    h = tl.program_id(1)
    start = tl.load(cu + tl.program_id(2)).to(tl.int64)
    length = (tl.load(cu + tl.program_id(2) + 1) - start).to(tl.int32)
    first = tl.program_id(0) * M
    if first >= length:
        return
    m, d = first + tl.arange(0, M), tl.arange(0, BLOCK_D)
    in_q = (m < length)[:, None] & (d < D)[None, :]
    q_MD = tl.load(q + (start + m)[:, None] * q_stride + h * D + d[None, :], mask=in_q, other=0.0)
    k += start * k_stride + h // GROUP * D
    v += start * v_stride + h // GROUP * D
    top = tl.full((M,), NEVER, tl.float32)
    total = tl.zeros((M,), tl.float32)
    out_MD = tl.zeros((M, BLOCK_D), tl.float32)
    low = 0
    if WINDOW > 0:
        low = tl.maximum(first - WINDOW + 1, 0) // N * N
    for at in range(low, tl.minimum(first + M, length), N):
        n = at + tl.arange(0, N)
        in_k = (n < length)[:, None] & (d < D)[None, :]
        k_ND = tl.load(k + n[:, None].to(tl.int64) * k_stride + d[None, :], mask=in_k, other=0.0)
        v_ND = tl.load(v + n[:, None].to(tl.int64) * v_stride + d[None, :], mask=in_k, other=0.0)
        s, _ = scored(
            q_MD, tl.trans(k_ND), m[:, None], n[None, :], length, scale, softcap, WINDOW, CAPPED
        )
        higher = tl.maximum(top, tl.max(s, 1))
        p = tl.where(s > NEVER, tl.exp2(s - higher[:, None]), 0.0)
        fade = tl.exp2(top - higher)
        total = total * fade + tl.sum(p, 1)
        out_MD = out_MD * fade[:, None] + tl.dot(p.to(v_ND.dtype), v_ND, input_precision="ieee")
        top = higher
    total = tl.where(m < length, total, 1.0)
    to = out + ((start + m)[:, None] * H + h) * D + d[None, :]
    tl.store(to, (out_MD / total[:, None]).to(out.dtype.element_ty), mask=in_q)
    tl.store(lse + h * T + start + m, top + tl.log2(total), mask=m < length)


@triton.jit
def attend_backward_q(
    q, k, v, out, lse, dout, dq, delta, cu, T, scale, softcap,
    q_stride, k_stride, v_stride, dq_stride, GROUP: tl.constexpr, H: tl.constexpr,
    WINDOW: tl.constexpr, CAPPED: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr,
    M: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """dq, and delta = sum over D of out · dout."""
    h = tl.program_id(1)
    start = tl.load(cu + tl.program_id(2)).to(tl.int64)
    length = (tl.load(cu + tl.program_id(2) + 1) - start).to(tl.int32)
    first = tl.program_id(0) * M
    if first >= length:
        return
    m, d = first + tl.arange(0, M), tl.arange(0, BLOCK_D)
    in_m = m < length
    in_q = in_m[:, None] & (d < D)[None, :]
    q_MD = tl.load(q + (start + m)[:, None] * q_stride + h * D + d[None, :], mask=in_q, other=0.0)
    at_out = ((start + m)[:, None] * H + h) * D + d[None, :]
    dout_MD = tl.load(dout + at_out, mask=in_q, other=0.0)
    out_MD = tl.load(out + at_out, mask=in_q, other=0.0)
    delta_M = tl.sum(out_MD.to(tl.float32) * dout_MD.to(tl.float32), 1)
    tl.store(delta + h * T + start + m, delta_M, mask=in_m)
    lse_M = tl.load(lse + h * T + start + m, mask=in_m, other=0.0)
    k += start * k_stride + h // GROUP * D
    v += start * v_stride + h // GROUP * D
    dq_MD = tl.zeros((M, BLOCK_D), tl.float32)
    low = 0
    if WINDOW > 0:
        low = tl.maximum(first - WINDOW + 1, 0) // N * N
    for at in range(low, tl.minimum(first + M, length), N):
        n = at + tl.arange(0, N)
        in_k = (n < length)[:, None] & (d < D)[None, :]
        k_ND = tl.load(k + n[:, None].to(tl.int64) * k_stride + d[None, :], mask=in_k, other=0.0)
        v_ND = tl.load(v + n[:, None].to(tl.int64) * v_stride + d[None, :], mask=in_k, other=0.0)
        s, slope = scored(
            q_MD, tl.trans(k_ND), m[:, None], n[None, :], length, scale, softcap, WINDOW, CAPPED
        )
        p = tl.exp2(s - lse_M[:, None])
        dp = tl.dot(dout_MD, tl.trans(v_ND), input_precision="ieee")
        ds = p * (dp - delta_M[:, None]) * slope
        dq_MD += tl.dot(ds.to(k_ND.dtype), k_ND, input_precision="ieee")
    to = dq + (start + m)[:, None] * dq_stride + h * D + d[None, :]
    tl.store(to, (dq_MD * scale).to(dq.dtype.element_ty), mask=in_q)


@triton.jit
def attend_backward_kv(
    q, k, v, lse, dout, delta, dk, dv, cu, T, scale, softcap,
    q_stride, k_stride, v_stride, dk_stride, dv_stride, GROUP: tl.constexpr, H: tl.constexpr,
    WINDOW: tl.constexpr, CAPPED: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr,
    M: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """dk and dv, summed over the query heads that share them."""
    g = tl.program_id(1)
    start = tl.load(cu + tl.program_id(2)).to(tl.int64)
    length = (tl.load(cu + tl.program_id(2) + 1) - start).to(tl.int32)
    first = tl.program_id(0) * N
    if first >= length:
        return
    n, d = first + tl.arange(0, N), tl.arange(0, BLOCK_D)
    in_k = (n < length)[:, None] & (d < D)[None, :]
    k_ND = tl.load(k + (start + n)[:, None] * k_stride + g * D + d[None, :], mask=in_k, other=0.0)
    v_ND = tl.load(v + (start + n)[:, None] * v_stride + g * D + d[None, :], mask=in_k, other=0.0)
    dk_ND = tl.zeros((N, BLOCK_D), tl.float32)
    dv_ND = tl.zeros((N, BLOCK_D), tl.float32)
    begin = first // M * M
    end = length
    if WINDOW > 0:
        end = tl.minimum(length, first + N + WINDOW - 1)
    blocks = tl.cdiv(end - begin, M)
    for step in range(GROUP * blocks):
        h = g * GROUP + step // blocks
        m = begin + step % blocks * M + tl.arange(0, M)
        in_m = m < length
        in_q = in_m[:, None] & (d < D)[None, :]
        at_q = (start + m)[:, None] * q_stride + h * D + d[None, :]
        at_out = ((start + m)[:, None] * H + h) * D + d[None, :]
        q_MD = tl.load(q + at_q, mask=in_q, other=0.0)
        dout_MD = tl.load(dout + at_out, mask=in_q, other=0.0)
        lse_M = tl.load(lse + h * T + start + m, mask=in_m, other=0.0)
        delta_M = tl.load(delta + h * T + start + m, mask=in_m, other=0.0)
        s, slope = scored(
            k_ND, tl.trans(q_MD), m[None, :], n[:, None], length, scale, softcap, WINDOW, CAPPED
        )
        p = tl.where(in_m[None, :], tl.exp2(s - lse_M[None, :]), 0.0)
        dv_ND += tl.dot(p.to(dout_MD.dtype), dout_MD, input_precision="ieee")
        dp = tl.dot(v_ND, tl.trans(dout_MD), input_precision="ieee")
        ds = p * (dp - delta_M[None, :]) * slope
        dk_ND += tl.dot(ds.to(q_MD.dtype), q_MD, input_precision="ieee")
    to_k = dk + (start + n)[:, None] * dk_stride + g * D + d[None, :]
    to_v = dv + (start + n)[:, None] * dv_stride + g * D + d[None, :]
    tl.store(to_k, (dk_ND * scale).to(dk.dtype.element_ty), mask=in_k)
    tl.store(to_v, dv_ND.to(dv.dtype.element_ty), mask=in_k)

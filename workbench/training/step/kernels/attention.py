"""Attention for rows that are short, and for scores that are soft-capped.

Flash Attention 2's algorithm (Dao 2023, arXiv 2307.08691). On rows of some hundred tokens the
libraries' kernels wait more than they compute: theirs takes five launches going backward, with an
fp32 accumulator of dq and with dk and dv of every query head, which are then summed. Here it is
two; a program sums the query heads that share keys, and the gradients of q, k and v lie beside each
other, so that the projections before them go backward in one product. (For heads beyond 256 values
the sum is a third launch: their groups are so few that a program for each would leave most of a
card without one.) On long rows the libraries' are faster, because scores are computed twice going
backward here (times in docs/notes/2026-11-27-step.md).

Scores are in base 2: log2(e) is in their scale, so that exp2 serves. A program's rows of q, or of
k and v, are of one sequence; programs beyond its end leave at once. The reference of the tests is
attention/implementations.py's dense attention.
"""

# T tokens, H query heads, G key/value heads, D head width, R rows;
# in kernels M queries of a program, N keys of one

from typing import Any

import torch
from torch import Tensor

from workbench.training.step.kernels.triton_math import stable_tanh
from workbench.training.step.kernels.triton_support import ceil_div, jit, tl

LOG2_E = tl.constexpr(1.4426950408889634)
NEVER = tl.constexpr(-1.0e30)
"""The score of a pair that may not see each other: finite, so that no difference is NaN."""
BLOCKS: dict[int, dict[str, tuple[int, int, int, int]]] = {
    64: {"attend": (64, 64, 4, 2), "q": (64, 64, 4, 2), "kv": (64, 64, 4, 1)},
    128: {"attend": (64, 64, 4, 3), "q": (64, 32, 4, 3), "kv": (64, 64, 4, 1)},
    256: {"attend": (64, 32, 4, 2), "q": (32, 32, 4, 2), "kv": (32, 32, 4, 2)},
    512: {"attend": (16, 32, 4, 2), "q": (16, 32, 4, 2), "kv": (32, 16, 4, 2)},
}
"""(queries, keys, warps, stages) of a program, by width of heads and kernel. In 16 bits all take
less than the 99 KiB of shared memory of compute capability 8.6 to 12.0
(tests/training/step/kernels/test_shared_memory.py)."""
WIDE = 256
"""Values of the widest heads for which one program sums dk and dv over all that share keys."""
FP32_BLOCKS = (32, 32, 4, 1)
"""The same in fp32, for tests: no plan attends so in fp32."""


@jit
def _score_tile(q, k, m, n, length, scale, softcap, WINDOW: tl.constexpr, CAPPED: tl.constexpr):
    """Return (scores of q @ k in base 2, the soft cap's slope); NEVER where q may not see k.

    q is M by D and k D by N, or the other way round; m and n have the scores' shape.
    """
    s = tl.dot(q, k, input_precision="ieee")
    slope = 1.0
    if CAPPED:
        t = stable_tanh(s * (scale / softcap))
        slope = 1.0 - t * t
        s = t * (softcap * LOG2_E)
    else:
        s = s * (scale * LOG2_E)
    seen = (n <= m) & (n < length)
    if WINDOW > 0:
        # A window counts the query's own key.
        seen &= m - n < WINDOW
    return tl.where(seen, s, NEVER), slope


@jit
def _attention_kernel(
    q, k, v, out, lse, cu, T, scale, softcap,
    q_stride, k_stride, v_stride, GROUP: tl.constexpr, H: tl.constexpr,
    WINDOW: tl.constexpr, CAPPED: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr,
    M: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """Write the output of M queries of one head and their log-sum-exp, in base 2."""
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
    # Blocks of keys that lie wholly before the window are skipped.
    low = 0
    if WINDOW > 0:
        low = tl.maximum(first - WINDOW + 1, 0) // N * N
    for at in range(low, tl.minimum(first + M, length), N):
        n = at + tl.arange(0, N)
        in_k = (n < length)[:, None] & (d < D)[None, :]
        k_ND = tl.load(k + n[:, None].to(tl.int64) * k_stride + d[None, :], mask=in_k, other=0.0)
        v_ND = tl.load(v + n[:, None].to(tl.int64) * v_stride + d[None, :], mask=in_k, other=0.0)
        s, _ = _score_tile(
            q_MD, tl.trans(k_ND), m[:, None], n[None, :], length, scale, softcap, WINDOW, CAPPED
        )
        higher = tl.maximum(top, tl.max(s, 1))
        # A row that has seen NEVER alone would give exp2(0) = 1.
        p = tl.where(s > NEVER, tl.exp2(s - higher[:, None]), 0.0)
        # What was summed so far was relative to the old maximum.
        fade = tl.exp2(top - higher)
        total = total * fade + tl.sum(p, 1)
        out_MD = out_MD * fade[:, None] + tl.dot(p.to(v_ND.dtype), v_ND, input_precision="ieee")
        top = higher
    # Rows beyond the end may have seen no key, and log2(0) is no number.
    total = tl.where(m < length, total, 1.0)
    to = out + ((start + m)[:, None] * H + h) * D + d[None, :]
    tl.store(to, (out_MD / total[:, None]).to(out.dtype.element_ty), mask=in_q)
    tl.store(lse + h * T + start + m, top + tl.log2(total), mask=m < length)


@jit
def _attention_backward_q_kernel(
    q, k, v, out, lse, dout, dq, delta, cu, T, scale, softcap,
    q_stride, k_stride, v_stride, dq_stride, GROUP: tl.constexpr, H: tl.constexpr,
    WINDOW: tl.constexpr, CAPPED: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr,
    M: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """Write dq of M queries, and delta = the sum over D of out · dout (arXiv 2205.14135)."""
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
        s, slope = _score_tile(
            q_MD, tl.trans(k_ND), m[:, None], n[None, :], length, scale, softcap, WINDOW, CAPPED
        )
        p = tl.exp2(s - lse_M[:, None])
        dp = tl.dot(dout_MD, tl.trans(v_ND), input_precision="ieee")
        # The softmax's gradient; delta stands for the sum over all keys of p · dp.
        ds = p * (dp - delta_M[:, None]) * slope
        dq_MD += tl.dot(ds.to(k_ND.dtype), k_ND, input_precision="ieee")
    to = dq + (start + m)[:, None] * dq_stride + h * D + d[None, :]
    tl.store(to, (dq_MD * scale).to(dq.dtype.element_ty), mask=in_q)


@jit
def _attention_backward_kv_kernel(
    q, k, v, lse, dout, delta, dk, dv, cu, T, scale, softcap,
    q_stride, k_stride, v_stride, dk_stride, dv_stride, part_stride,
    GROUP: tl.constexpr, H: tl.constexpr,
    WINDOW: tl.constexpr, CAPPED: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr,
    M: tl.constexpr, N: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """Write dk and dv of N keys, summed over the query heads that share them.

    With PARTS above 1 that many programs divide these heads, and each writes a part of the sums.
    """
    g, part = tl.program_id(1) // PARTS, tl.program_id(1) % PARTS
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
    # Queries before the first key of this block see none of it.
    begin = first // M * M
    end = length
    if WINDOW > 0:
        # Nor do queries whose window begins behind its last key.
        end = tl.minimum(length, first + N + WINDOW - 1)
    blocks = tl.cdiv(end - begin, M)
    # All query heads that share these keys, so that dk and dv are summed in registers.
    for step in range(GROUP // PARTS * blocks):
        h = g * GROUP + part * (GROUP // PARTS) + step // blocks
        m = begin + step % blocks * M + tl.arange(0, M)
        in_m = m < length
        in_q = in_m[:, None] & (d < D)[None, :]
        at_q = (start + m)[:, None] * q_stride + h * D + d[None, :]
        at_out = ((start + m)[:, None] * H + h) * D + d[None, :]
        q_MD = tl.load(q + at_q, mask=in_q, other=0.0)
        dout_MD = tl.load(dout + at_out, mask=in_q, other=0.0)
        lse_M = tl.load(lse + h * T + start + m, mask=in_m, other=0.0)
        delta_M = tl.load(delta + h * T + start + m, mask=in_m, other=0.0)
        s, slope = _score_tile(
            k_ND, tl.trans(q_MD), m[None, :], n[:, None], length, scale, softcap, WINDOW, CAPPED
        )
        p = tl.where(in_m[None, :], tl.exp2(s - lse_M[None, :]), 0.0)
        dv_ND += tl.dot(p.to(dout_MD.dtype), dout_MD, input_precision="ieee")
        dp = tl.dot(v_ND, tl.trans(dout_MD), input_precision="ieee")
        ds = p * (dp - delta_M[None, :]) * slope
        dk_ND += tl.dot(ds.to(q_MD.dtype), q_MD, input_precision="ieee")
    at_part = part.to(tl.int64) * part_stride + g * D + d[None, :]
    to_k = dk + (start + n)[:, None] * dk_stride + at_part
    to_v = dv + (start + n)[:, None] * dv_stride + at_part
    tl.store(to_k, (dk_ND * scale).to(dk.dtype.element_ty), mask=in_k)
    tl.store(to_v, dv_ND.to(dv.dtype.element_ty), mask=in_k)


class ShortRowAttention(torch.autograd.Function):
    """Causal attention of rows: apply(q, k, v, cu, max_length, scale, window, softcap).

    Keeps its inputs, its output and one fp32 number for each query and head. `cu` (int32, R + 1)
    holds the rows' ends; `window` counts the keys a query sees, its own included.
    """

    @staticmethod
    def forward(
        ctx: Any,
        q_THD: Tensor,
        k_TGD: Tensor,
        v_TGD: Tensor,
        cu: Tensor,
        max_length: int,
        scale: float,
        window: int | None,
        softcap: float | None,
    ) -> Tensor:
        q_THD, k_TGD, v_TGD = (_with_adjacent_heads(x) for x in (q_THD, k_TGD, v_TGD))
        out_THD = q_THD.new_empty(q_THD.shape)
        lse_HT = q_THD.new_empty(q_THD.shape[1], q_THD.shape[0], dtype=torch.float32)
        ctx.settings = (max_length, scale, window, softcap)
        more, rows = _launch_settings("attend", q_THD, k_TGD, window, softcap), cu.numel() - 1
        _attention_kernel[(ceil_div(max_length, more["M"]), q_THD.shape[1], rows)](
            q_THD, k_TGD, v_TGD, out_THD, lse_HT, cu, q_THD.shape[0], scale, softcap or 1.0,
            q_THD.stride(0), k_TGD.stride(0), v_TGD.stride(0), **more,
        )  # fmt: skip
        ctx.save_for_backward(q_THD, k_TGD, v_TGD, out_THD, lse_HT, cu)
        return out_THD

    @staticmethod
    def backward(ctx: Any, dout_THD: Tensor) -> tuple[Tensor | None, ...]:
        q_THD, k_TGD, v_TGD, out_THD, lse_HT, cu = ctx.saved_tensors
        (tokens, heads, width), groups = q_THD.shape, k_TGD.shape[1]
        dout_THD = dout_THD.contiguous()
        # One tensor, so that join_columns finds the three gradients beside each other.
        grads = q_THD.new_empty(tokens, heads + 2 * groups, width)
        dq_THD, dk_TGD, dv_TGD = torch.split(grads, [heads, groups, groups], dim=1)
        delta_HT = torch.empty_like(lse_HT)
        max_length, scale, window, softcap = ctx.settings
        strides, rows = (q_THD.stride(0), k_TGD.stride(0), v_TGD.stride(0)), cu.numel() - 1
        more = _launch_settings("q", q_THD, k_TGD, window, softcap)
        _attention_backward_q_kernel[(ceil_div(max_length, more["M"]), heads, rows)](
            q_THD, k_TGD, v_TGD, out_THD, lse_HT, dout_THD, dq_THD, delta_HT, cu, tokens, scale,
            softcap or 1.0, *strides, dq_THD.stride(0), **more,
        )  # fmt: skip
        more = _launch_settings("kv", q_THD, k_TGD, window, softcap)
        parts = heads // groups if width > WIDE else 1
        both, part_stride = grads[:, heads:], 0
        if parts > 1:
            both_PT2GD = q_THD.new_empty(parts, tokens, 2 * groups, width)
            both, part_stride = both_PT2GD[0], both_PT2GD.stride(0)
        dk, dv = both[:, :groups], both[:, groups:]
        _attention_backward_kv_kernel[(ceil_div(max_length, more["N"]), groups * parts, rows)](
            q_THD, k_TGD, v_TGD, lse_HT, dout_THD, delta_HT, dk, dv, cu, tokens, scale,
            softcap or 1.0, *strides, dk.stride(0), dv.stride(0), part_stride, **more, PARTS=parts,
        )  # fmt: skip
        if parts > 1:
            torch.sum(both_PT2GD, 0, out=grads[:, heads:])
        return dq_THD, dk_TGD, dv_TGD, None, None, None, None, None


def _launch_settings(
    kernel: str, q_THD: Tensor, k_TGD: Tensor, window: int | None, softcap: float | None
) -> dict[str, Any]:
    """Return the named arguments of a launch; `kernel` is attend, q or kv."""
    heads, width = q_THD.shape[1:]
    block = max(16, 1 << (width - 1).bit_length())
    half = q_THD.dtype.itemsize == 2
    queries, keys, warps, stages = BLOCKS[max(block, 64)][kernel] if half else FP32_BLOCKS
    return {
        "GROUP": heads // k_TGD.shape[1], "H": heads, "WINDOW": window or 0,
        "CAPPED": softcap is not None, "D": width, "BLOCK_D": block, "M": queries, "N": keys,
        "num_warps": warps, "num_stages": stages,
    }  # fmt: skip


def _with_adjacent_heads(x_THD: Tensor) -> Tensor:
    """Return x as it lies where the heads of a token lie beside each other, else a copy."""
    return x_THD if x_THD.stride()[1:] == (x_THD.shape[2], 1) else x_THD.contiguous()

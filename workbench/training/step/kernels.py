# mypy: ignore-errors
"""The Triton kernels; triton_ops.py wraps them. Triton's language is not Python's typing.

What each saves is said there. All arithmetic is fp32; loads and stores are the tensors' dtypes.
"""

# T tokens, K inputs, N outputs, R rank, P projections of a group, S parts, V vocabulary

import triton
import triton.language as tl


@triton.jit
def mix(x):
    """masks.mix_once on uint32."""
    x = x ^ (x >> 15)
    x = x * tl.full((), 0x846CA68B, tl.uint32)
    return x ^ (x >> 14)


@triton.jit
def drawn(element, keys, DROP: tl.constexpr):
    """30 random bits an element: ten for each of up to three masks."""
    bits = element.to(tl.uint32)
    if DROP:
        first = tl.load(keys).to(tl.uint32)
        second = tl.load(keys + 1).to(tl.uint32)
        bits = mix(bits * (second | 1) + first)
    return bits


@triton.jit
def kept(bits, FIELD: tl.constexpr, THRESHOLD: tl.constexpr):
    return ((bits >> (10 * FIELD)) & 1023) >= THRESHOLD


@triton.jit
def masked(x, bits, FIELD: tl.constexpr, THRESHOLD: tl.constexpr, DROP: tl.constexpr):
    if DROP:
        x = tl.where(kept(bits, FIELD, THRESHOLD), x, 0.0)
    return x


@triton.jit
def tanh(x):
    """By its series where the other form would cancel digits."""
    square = x * x
    series = x * (1.0 - square * (1.0 / 3.0 - square * (2.0 / 15.0 - square * (17.0 / 315.0))))
    return tl.where(square < 0.04, series, 2.0 * tl.sigmoid(2.0 * x) - 1.0)


@triton.jit
def activated(gate, GELU: tl.constexpr):
    """(act(gate), its derivative): silu, or gelu by tanh."""
    if GELU:
        inner = 0.7978845608028654 * (gate + 0.044715 * gate * gate * gate)
        t = tanh(inner)
        slope = 0.7978845608028654 * (1.0 + 3.0 * 0.044715 * gate * gate)
        return 0.5 * gate * (1.0 + t), 0.5 * (1.0 + t) + 0.5 * gate * (1.0 - t * t) * slope
    s = tl.sigmoid(gate)
    return gate * s, s * (1.0 + gate * (1.0 - s))


@triton.jit
def gated(act, up):
    """act(gate) · up, rounded as the models round it."""
    return (act.to(up.dtype).to(tl.float32) * up.to(tl.float32)).to(up.dtype)


@triton.jit
def normal(x, rstd, w, GEMMA: tl.constexpr):
    """RMSNorm's output, rounded as the models round it."""
    value = x.to(tl.float32) * rstd
    if GEMMA:
        value *= 1.0 + w.to(tl.float32)
    else:
        value = value.to(x.dtype).to(tl.float32) * w.to(tl.float32)
    return value.to(x.dtype)


@triton.jit
def down(
    x, bits, a_RK, k, in_k, r, R, K, FIELD: tl.constexpr,
    THRESHOLD: tl.constexpr, DROP: tl.constexpr,
):  # fmt: skip
    inside = in_k[:, None] & (r < R)[None, :]
    a = tl.load(a_RK + r[None, :] * K + k[:, None], mask=inside, other=0.0)
    return tl.dot(masked(x, bits, FIELD, THRESHOLD, DROP), a, input_precision="ieee")


@triton.jit
def lora_down(
    x_TK, up_TK, made_TK, a_PRK, parts_SPTR, keys, T, K, R, k_each, x_stride, up_stride,
    THRESHOLD: tl.constexpr, DROP: tl.constexpr, P: tl.constexpr,
    GATED: tl.constexpr, GELU: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_R: tl.constexpr,
):  # fmt: skip
    """parts[s, p] = (mask_p · x) @ A_p^T over one stretch of K, for up to three p.

    GATED: x is the gate; what is read, and written to `made`, is act(x) · up.
    """
    t = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    split = tl.program_id(1)
    r = tl.arange(0, BLOCK_R)
    in_t = t < T
    first = split * k_each
    low0 = tl.zeros((BLOCK_T, BLOCK_R), dtype=tl.float32)
    low1 = tl.zeros((BLOCK_T, BLOCK_R), dtype=tl.float32)
    low2 = tl.zeros((BLOCK_T, BLOCK_R), dtype=tl.float32)
    for start in range(first, tl.minimum(first + k_each, K), BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        in_k = (k < K) & (k < first + k_each)
        at = t[:, None] * K + k[None, :]
        inside = in_t[:, None] & in_k[None, :]
        rows = t[:, None].to(tl.int64)
        x = tl.load(x_TK + rows * x_stride + k[None, :], mask=inside, other=0.0)
        if GATED:
            up = tl.load(up_TK + rows * up_stride + k[None, :], mask=inside, other=0.0)
            act, _ = activated(x.to(tl.float32), GELU)
            x = gated(act, up)
            tl.store(made_TK + at, x, mask=inside)
        bits = drawn(at, keys, DROP)
        low0 += down(x, bits, a_PRK, k, in_k, r, R, K, 0, THRESHOLD, DROP)
        if P > 1:
            a1 = a_PRK + R * K
            low1 += down(x, bits, a1, k, in_k, r, R, K, 1, THRESHOLD, DROP)
        if P > 2:
            a2 = a_PRK + 2 * R * K
            low2 += down(x, bits, a2, k, in_k, r, R, K, 2, THRESHOLD, DROP)
    inside = in_t[:, None] & (r < R)[None, :]
    to = parts_SPTR + split.to(tl.int64) * P * T * R + t[:, None] * R + r[None, :]
    tl.store(to, low0, mask=inside)
    if P > 1:
        tl.store(to + T * R, low1, mask=inside)
    if P > 2:
        tl.store(to + 2 * T * R, low2, mask=inside)


@triton.jit
def reduce_parts(
    parts, out, count, END0, END1, END2, SCALE: tl.constexpr, ADD: tl.constexpr,
    TILE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """out[p] (+)= SCALE · sum of parts, of which those of p end at END_p."""
    p = tl.program_id(1)
    first = tl.where(p == 0, 0, tl.where(p == 1, END0, END1))
    end = tl.where(p == 0, END0, tl.where(p == 1, END1, END2))
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < count
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    for start in range(first, end, TILE):
        s = start + tl.arange(0, TILE)
        each = s[:, None].to(tl.int64) * count + at[None, :]
        total += tl.sum(tl.load(parts + each, mask=(s < end)[:, None] & inside, other=0.0), 0)
    total *= SCALE
    out += p.to(tl.int64) * count
    if ADD:
        total += tl.load(out + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + at, total.to(out.dtype.element_ty), mask=inside)


@triton.jit
def up_backward(
    dy_TN, low_PTR, b_NR, grad_SNR, dlow_STR, T, N, R, dy_stride, end0, end1, rows_each,
    ADD: tl.constexpr, DLOW: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_R: tl.constexpr,
):  # fmt: skip
    """grad_B (+)= dy^T @ low in fp32; low carries the adapter's scaling already. And this block's
    share of dlow = dy @ B. dy is read once for both.
    """
    block, split = tl.program_id(0), tl.program_id(1)
    n = block * BLOCK_N + tl.arange(0, BLOCK_N)
    r = tl.arange(0, BLOCK_R)
    in_n, in_r = n < N, r < R
    inside = in_n[:, None] & in_r[None, :]
    low_PTR += ((block * BLOCK_N >= end0).to(tl.int64) + (block * BLOCK_N >= end1)) * T * R
    dlow_STR += block.to(tl.int64) * T * R
    if DLOW:
        b = tl.load(b_NR + n[:, None] * R + r[None, :], mask=inside, other=0.0)
    total = tl.zeros((BLOCK_N, BLOCK_R), dtype=tl.float32)
    first = split * rows_each
    for start in range(first, tl.minimum(first + rows_each, T), BLOCK_T):
        t = start + tl.arange(0, BLOCK_T)
        in_t = t < tl.minimum(first + rows_each, T)
        at = t[:, None].to(tl.int64) * dy_stride + n[None, :]
        at_low = t[:, None] * R + r[None, :]
        in_low = in_t[:, None] & in_r[None, :]
        dy = tl.load(dy_TN + at, mask=in_t[:, None] & in_n[None, :], other=0.0)
        low = tl.load(low_PTR + at_low, mask=in_low, other=0.0)
        total += tl.dot(tl.trans(dy), low, input_precision="ieee")
        if DLOW:
            tl.store(dlow_STR + at_low, tl.dot(dy, b, input_precision="ieee"), mask=in_low)
    to = grad_SNR + split.to(tl.int64) * N * R + n[:, None] * R + r[None, :]
    if ADD:
        total += tl.load(to, mask=inside, other=0.0)
    tl.store(to, total, mask=inside)


@triton.jit
def down_backward(
    x, bits, dlow_TR, a_RK, t, in_t, k, in_k, r, R, K, FIELD: tl.constexpr,
    SCALE: tl.constexpr, THRESHOLD: tl.constexpr, DROP: tl.constexpr,
    HAS_DX: tl.constexpr,
):  # fmt: skip
    """(share of dA, share of dx) of one projection on one tile."""
    in_r = r < R
    inside = in_t[:, None] & in_r[None, :]
    low = tl.load(dlow_TR + t[:, None] * R + r[None, :], mask=inside, other=0.0)
    delta = tl.zeros(x.shape, dtype=tl.float32)
    kept_x = masked(x, bits, FIELD, THRESHOLD, DROP)
    if HAS_DX:
        a = tl.load(
            a_RK + r[:, None] * K + k[None, :], mask=in_r[:, None] & in_k[None, :], other=0.0
        )
        delta = tl.dot(low, a, input_precision="ieee") * SCALE
        if DROP:
            delta = tl.where(kept(bits, FIELD, THRESHOLD), delta, 0.0)
    return tl.dot(tl.trans(low), kept_x, input_precision="ieee"), delta


@triton.jit
def lora_backward(
    x_TK, up_TK, weight_K, rstd_T, dx_TK, dlow_PTR, a_PRK, da_SPRK, keys, T, K, R, rows_each,
    x_stride, up_stride,
    SCALE: tl.constexpr, THRESHOLD: tl.constexpr, DROP: tl.constexpr,
    HAS_DX: tl.constexpr, ADD_DX: tl.constexpr, P: tl.constexpr,
    GATED: tl.constexpr, GELU: tl.constexpr, NORMED: tl.constexpr, GEMMA: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_R: tl.constexpr,
):  # fmt: skip
    """dx (+)= sum over p of mask_p · (dlow_p @ A_p) · SCALE; da[., p] = dlow_p^T @ (mask_p · x).

    x is read once for up to three projections. da still lacks the scale, s / (1 - dropout).
    GATED: x is the gate and what is read act(gate) · up; both become their gradients, instead of
    dx, which is read. NORMED: what is read is the norm's output, and x its input.
    """
    k = tl.program_id(0) * BLOCK_K + tl.arange(0, BLOCK_K)
    split = tl.program_id(1)
    r = tl.arange(0, BLOCK_R)
    in_k = k < K
    da0 = tl.zeros((BLOCK_R, BLOCK_K), dtype=tl.float32)
    da1 = tl.zeros((BLOCK_R, BLOCK_K), dtype=tl.float32)
    da2 = tl.zeros((BLOCK_R, BLOCK_K), dtype=tl.float32)
    if NORMED:
        w = tl.load(weight_K + k, mask=in_k, other=0.0)[None, :]
    first = split * rows_each
    for start in range(first, tl.minimum(first + rows_each, T), BLOCK_T):
        t = start + tl.arange(0, BLOCK_T)
        in_t = (t < T) & (t < first + rows_each)
        at = t[:, None] * K + k[None, :]
        inside = in_t[:, None] & in_k[None, :]
        at_x = t[:, None].to(tl.int64) * x_stride + k[None, :]
        x = tl.load(x_TK + at_x, mask=inside, other=0.0)
        if GATED:
            at_up = t[:, None].to(tl.int64) * up_stride + k[None, :]
            up = tl.load(up_TK + at_up, mask=inside, other=0.0)
            act, slope = activated(x.to(tl.float32), GELU)
            x = gated(act, up)
        if NORMED:
            rstd = tl.load(rstd_T + t, mask=in_t, other=0.0)[:, None]
            x = normal(x, rstd, w, GEMMA)
        bits = drawn(at, keys, DROP)
        part, dx = down_backward(
            x, bits, dlow_PTR, a_PRK, t, in_t, k, in_k, r, R, K, 0,
            SCALE, THRESHOLD, DROP, HAS_DX,
        )  # fmt: skip
        da0 += part
        if P > 1:
            part, more = down_backward(
                x, bits, dlow_PTR + T * R, a_PRK + R * K, t, in_t, k, in_k, r, R, K, 1,
                SCALE, THRESHOLD, DROP, HAS_DX,
            )  # fmt: skip
            da1 += part
            dx += more
        if P > 2:
            part, more = down_backward(
                x, bits, dlow_PTR + 2 * T * R, a_PRK + 2 * R * K, t, in_t, k, in_k, r, R,
                K, 2, SCALE, THRESHOLD, DROP, HAS_DX,
            )  # fmt: skip
            da2 += part
            dx += more
        if ADD_DX:
            dx += tl.load(dx_TK + at, mask=inside, other=0.0).to(tl.float32)
        if GATED:
            tl.store(x_TK + at_x, (dx * up.to(tl.float32) * slope).to(x.dtype), mask=inside)
            tl.store(up_TK + at_up, (dx * act).to(x.dtype), mask=inside)
        elif HAS_DX:
            tl.store(dx_TK + at, dx.to(dx_TK.dtype.element_ty), mask=inside)
    to = da_SPRK + (split * P * R + r[:, None]) * K + k[None, :]
    inside = (r < R)[:, None] & in_k[None, :]
    tl.store(to, da0, mask=inside)
    if P > 1:
        tl.store(to + R * K, da1, mask=inside)
    if P > 2:
        tl.store(to + 2 * R * K, da2, mask=inside)


@triton.jit
def nf4_dequantize(
    packed,
    scales_8bit,
    scale_code,
    super_scales,
    offset,
    table,
    out,
    scale_count,
    HALF_BLOCK: tl.constexpr,
    PER_SUPER: tl.constexpr,
    SCALES: tl.constexpr,
):
    """SCALES blocks of 2·HALF_BLOCK weights a program; the high nibble comes first."""
    s = tl.program_id(0).to(tl.int64) * SCALES + tl.arange(0, SCALES)
    inside = s < scale_count
    code = tl.load(scales_8bit + s, mask=inside, other=0)
    scale = tl.load(scale_code + code) * tl.load(
        super_scales + s // PER_SUPER, mask=inside, other=0
    )
    scale += tl.load(offset)
    b = s[:, None] * HALF_BLOCK + tl.arange(0, HALF_BLOCK)[None, :]
    byte = tl.load(packed + b, mask=inside[:, None], other=0)
    high = tl.load(table + (byte >> 4)) * scale[:, None]
    low = tl.load(table + (byte & 15)) * scale[:, None]
    both = tl.interleave(high, low)
    to = s[:, None] * (2 * HALF_BLOCK) + tl.arange(0, 2 * HALF_BLOCK)[None, :]
    tl.store(out + to, both.to(out.dtype.element_ty), mask=inside[:, None])


@triton.jit
def rms_norm(
    x, weight, out, rstd, width, inner, outer_stride, inner_stride, eps,
    GEMMA: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A row a program; x has them in two dimensions, the second `inner` long."""
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    inside = at < width
    x += row // inner * outer_stride + row % inner * inner_stride
    read = tl.load(x + at, mask=inside, other=0.0)
    value = read.to(tl.float32)
    inverse = tl.rsqrt(tl.sum(value * value, 0) / width + eps)
    tl.store(rstd + row, inverse)
    w = tl.load(weight + at, mask=inside, other=0.0)
    tl.store(out + row * width + at, normal(read, inverse, w, GEMMA), mask=inside)


@triton.jit
def rms_norm_backward(
    dy, x, weight, rstd, dx, width, inner, outer_stride, inner_stride,
    GEMMA: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """dy and dx are contiguous; x as in the forward pass."""
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    inside = at < width
    w = tl.load(weight + at, mask=inside, other=0.0).to(tl.float32)
    if GEMMA:
        w += 1.0
    inverse = tl.load(rstd + row)
    x += row // inner * outer_stride + row % inner * inner_stride
    unit = tl.load(x + at, mask=inside, other=0.0).to(tl.float32) * inverse
    wdy = tl.load(dy + row * width + at, mask=inside, other=0.0).to(tl.float32) * w
    mean = tl.sum(wdy * unit, 0) / width
    tl.store(
        dx + row * width + at,
        ((wdy - unit * mean) * inverse).to(dx.dtype.element_ty),
        mask=inside,
    )


@triton.jit
def glu(gate, up, out, width, gate_stride, up_stride, GELU: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < width
    g = tl.load(gate + row * gate_stride + at, mask=inside, other=0.0).to(tl.float32)
    u = tl.load(up + row * up_stride + at, mask=inside, other=0.0)
    act, _ = activated(g, GELU)
    tl.store(out + row * width + at, gated(act, u), mask=inside)


@triton.jit
def glu_backward(
    dy, gate, up, width, gate_stride, up_stride, GELU: tl.constexpr, BLOCK: tl.constexpr
):
    """gate and up become their gradients."""
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < width
    d = tl.load(dy + row * width + at, mask=inside, other=0.0).to(tl.float32)
    g = tl.load(gate + row * gate_stride + at, mask=inside, other=0.0).to(tl.float32)
    u = tl.load(up + row * up_stride + at, mask=inside, other=0.0).to(tl.float32)
    act, slope = activated(g, GELU)
    dgate, dup = (d * u * slope).to(gate.dtype.element_ty), (d * act).to(up.dtype.element_ty)
    tl.store(gate + row * gate_stride + at, dgate, mask=inside)
    tl.store(up + row * up_stride + at, dup, mask=inside)


@triton.jit
def rotate(
    x,
    cos,
    sin,
    out,
    H,
    x_stride_t,
    x_stride_h,
    out_stride_t,
    out_stride_h,
    SIGN: tl.constexpr,
    HALF: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """One token's heads, 2·HALF wide; out may be x."""
    t = tl.program_id(0).to(tl.int64)
    h = tl.program_id(1) * BLOCK_H + tl.arange(0, BLOCK_H)
    d = tl.arange(0, BLOCK_D)
    in_d = d < HALF
    inside = (h < H)[:, None] & in_d[None, :]
    c = tl.load(cos + t * 2 * HALF + d, mask=in_d, other=0.0).to(tl.float32)[None, :]
    s = tl.load(sin + t * 2 * HALF + d, mask=in_d, other=0.0).to(tl.float32)[None, :] * SIGN
    at = t * x_stride_t + h[:, None] * x_stride_h + d[None, :]
    left = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    right = tl.load(x + at + HALF, mask=inside, other=0.0).to(tl.float32)
    to = out + t * out_stride_t + h[:, None] * out_stride_h + d[None, :]
    tl.store(to, (left * c - right * s).to(out.dtype.element_ty), mask=inside)
    tl.store(to + HALF, (right * c + left * s).to(out.dtype.element_ty), mask=inside)


@triton.jit
def cross_entropy(
    logits,
    targets,
    nll,
    factor,
    V,
    softcap,
    IGNORE: tl.constexpr,
    CAPPED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One position: its loss, and over its logits their gradient times `factor`."""
    row = tl.program_id(0).to(tl.int64)
    logits += row * V
    target = tl.load(targets + row)
    at = tl.arange(0, BLOCK)
    if target == IGNORE:
        for start in range(0, V, BLOCK):
            zero = tl.zeros((BLOCK,), dtype=logits.dtype.element_ty)
            tl.store(logits + start + at, zero, mask=start + at < V)
        tl.store(nll + row, 0.0)
    else:
        # Before the reductions: after them, the warp that is first overwrites this very logit.
        own = tl.load(logits + target).to(tl.float32)
        if CAPPED:
            own = softcap * tanh(own / softcap)
        top = float("-inf")
        total = 0.0
        for start in range(0, V, BLOCK):
            z = tl.load(logits + start + at, mask=start + at < V, other=float("-inf")).to(
                tl.float32
            )
            if CAPPED:
                z = tl.where(start + at < V, softcap * tanh(z / softcap), float("-inf"))
            higher = tl.maximum(top, tl.max(z, 0))
            total = total * tl.exp(top - higher) + tl.sum(tl.exp(z - higher), 0)
            top = higher
        lse = top + tl.log(total)
        scale = tl.load(factor)
        for start in range(0, V, BLOCK):
            z = tl.load(logits + start + at, mask=start + at < V, other=0.0).to(tl.float32)
            slope = 1.0
            if CAPPED:
                t = tanh(z / softcap)
                z = softcap * t
                slope = 1.0 - t * t
            grad = (tl.exp(z - lse) - tl.where(start + at == target, 1.0, 0.0)) * slope * scale
            tl.store(logits + start + at, grad.to(logits.dtype.element_ty), mask=start + at < V)
        tl.store(nll + row, lse - own)

"""Candidates for a faster decode step: products of few rows, each ended by one kernel.

Not part of the product. A layer's four products are split over their inputs and leave their parts
in fp32; the kernel that sums a product's parts also adds the adapter's B and does what follows:
the residual sum and the next norm, rotary embeddings and the writing of keys and values, or the
gated activation. `decode_parts.py` compares them with what the decode path launches today.
"""

# B lanes, K inputs, M rows of weights with A below them, S parts of a sum, C columns of A,
# N outputs, H query heads, G key/value heads, D head width

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from workbench.training.decode.forward import FastForward
from workbench.training.decode.kernels.cached_attention import cached_attention
from workbench.training.step.kernels.norm import normalized_row
from workbench.training.step.kernels.triton_support import (
    ceil_div,
    jit,
    next_power_of_two,
    tl,
)


@jit
def _product_kernel(
    x_BK, w_MK, parts_SBM, B, M, K, k_each, x_stride,
    BLOCK_B: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Write one part of x @ w.T for a block of w's rows; w's rows are the rows of the tile."""
    block, split = tl.program_id(0), tl.program_id(1)
    m = block * BLOCK_M + tl.arange(0, BLOCK_M)
    b = tl.arange(0, BLOCK_B)
    k = split * k_each + tl.arange(0, BLOCK_K)
    from_w = w_MK + m[:, None].to(tl.int64) * K + k[None, :]
    from_x = x_BK + b[None, :] * x_stride + k[:, None]
    in_m, in_b = m[:, None] < M, b[None, :] < B
    sums_MB = tl.zeros((BLOCK_M, BLOCK_B), tl.float32)
    for _ in range(0, k_each, BLOCK_K):
        w = tl.load(from_w, mask=in_m, other=0.0, eviction_policy="evict_first")
        x = tl.load(from_x, mask=in_b, other=0.0)
        sums_MB += tl.dot(w, x, input_precision="ieee")
        from_w += BLOCK_K
        from_x += BLOCK_K
    to = parts_SBM + (split.to(tl.int64) * B + b[:, None]) * M + m[None, :]
    inside = (b[:, None] < B) & (m[None, :] < M)
    tl.store(to, tl.trans(sums_MB).to(parts_SBM.dtype.element_ty), mask=inside)


def split_product(
    x_BK: Tensor, w_MK: Tensor, *, splits: int, block_m: int, block_k: int, stages: int, warps: int
) -> Tensor:
    """Return parts_SBM, whose sum over S is x @ w.T; in fp32, where there are several.

    No splits: the product is torch's own. `splits` times `block_k` must divide K. Up to 128 lanes:
    one tile holds them all.
    """
    (lanes, width), rows = x_BK.shape, w_MK.shape[0]
    if splits == 0:
        return (x_BK @ w_MK.T)[None]
    k_each = width // splits
    if width % splits or k_each % block_k:
        raise ValueError(f"{width} inputs do not lie in {splits} parts of {block_k}")
    dtype = torch.float32 if splits > 1 else x_BK.dtype
    parts = torch.empty(splits, lanes, rows, dtype=dtype, device=x_BK.device)
    _product_kernel[(ceil_div(rows, block_m), splits)](
        x_BK, w_MK, parts, lanes, rows, width, k_each, x_BK.stride(0),
        max(16, next_power_of_two(lanes)), block_m, block_k, num_warps=warps, num_stages=stages,
    )  # fmt: skip
    return parts


@jit
def _summed(from_part, inside, part_stride, S: tl.constexpr):
    """Return the sum of a product's parts where `from_part` points into the first."""
    total = tl.load(from_part, mask=inside, other=0.0).to(tl.float32)
    for s in tl.static_range(1, S):
        total += tl.load(from_part + s * part_stride, mask=inside, other=0.0).to(tl.float32)
    return total


@jit
def _low_rank(row_B1, in_b, c, C, part_stride, kind, S: tl.constexpr):
    """Return low_BC, what the lanes' rows hold behind a product's outputs, rounded to `kind`."""
    inside = in_b[:, None] & (c < C)[None, :]
    return _summed(row_B1 + c[None, :], inside, part_stride, S).to(kind)


@jit
def _outputs(row_B1, in_b, low_BC, b_NC, n, in_n, c, C, part_stride, S: tl.constexpr):
    """Return the outputs n of some lanes: the sums of the parts, and B times low_BC."""
    inside = in_b[:, None] & in_n[None, :]
    total_BN = _summed(row_B1 + n[None, :], inside, part_stride, S)
    inside = in_n[None, :] & (c < C)[:, None]
    b_CN = tl.load(b_NC + n[None, :] * C + c[:, None], mask=inside, other=0.0)
    return total_BN + tl.dot(low_BC, b_CN, input_precision="ieee")


@jit
def _residual_norm_kernel(
    parts_SBM, b_CN, residual_BN, weight_N, sum_BN, out_BN, B, M, N, eps,
    S: tl.constexpr, C: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Add one lane's product to its residual stream, and write the norm of the sum."""
    lane = tl.program_id(0).to(tl.int64)
    n = tl.arange(0, BLOCK)
    inside = n < N
    row, stride = parts_SBM + lane * M, B * M
    at = lane * N + n
    read = tl.load(residual_BN + at, mask=inside, other=0.0)
    w = tl.load(weight_N + n, mask=inside, other=0.0)
    total = _summed(row + n, inside, stride, S)
    for c in tl.static_range(C):
        low = _summed(row + N + c, True, stride, S).to(read.dtype).to(tl.float32)
        total += tl.load(b_CN + c * N + n, mask=inside, other=0.0).to(tl.float32) * low
    # Rounded where the model's own code rounds: the product, then the sum.
    summed = (total.to(read.dtype).to(tl.float32) + read.to(tl.float32)).to(read.dtype)
    tl.store(sum_BN + at, summed, mask=inside)
    value = summed.to(tl.float32)
    inverse = tl.rsqrt(tl.sum(value * value, 0) / N + eps)
    tl.store(out_BN + at, normalized_row(summed, inverse, w, False), mask=inside)


def residual_norm(
    parts_SBM: Tensor, b_CN: Tensor, residual_BN: Tensor, weight_N: Tensor, eps: float, warps: int
) -> tuple[Tensor, Tensor]:
    """Return the product plus residual_BN, and the RMSNorm of that sum."""
    splits, lanes, rows = parts_SBM.shape
    columns, width = b_CN.shape
    sums, out = torch.empty_like(residual_BN), torch.empty_like(residual_BN)
    _residual_norm_kernel[(lanes,)](
        parts_SBM, b_CN, residual_BN, weight_N, sums, out, lanes, rows, width, eps,
        splits, columns, next_power_of_two(width), num_warps=warps,
    )  # fmt: skip
    return sums, out


@jit
def _heads_kernel(
    parts_SBM, b_NC, cos_BD, sin_BD, q_BHD, keys, values, slots_B, positions_B, B, M, N, C,
    slot_stride, group_stride,
    H: tl.constexpr, G: tl.constexpr, HALF: tl.constexpr, S: tl.constexpr,
    BLOCK_B: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Turn one head of some lanes; write queries to q, keys and values to the lanes' slots."""
    head = tl.program_id(0)
    b = (tl.program_id(1) * BLOCK_B + tl.arange(0, BLOCK_B)).to(tl.int64)
    d, c = tl.arange(0, HALF), tl.arange(0, BLOCK_C)
    in_b, in_d = b < B, d < HALF
    kind = q_BHD.dtype.element_ty
    row_B1, stride = parts_SBM + b[:, None] * M, B * M
    low_BC = _low_rank(row_B1 + N, in_b, c, C, stride, kind, S)
    n = head * 2 * HALF + d
    left = _outputs(row_B1, in_b, low_BC, b_NC, n, in_d, c, C, stride, S)
    right = _outputs(row_B1, in_b, low_BC, b_NC, n + HALF, in_d, c, C, stride, S)
    left, right = left.to(kind).to(tl.float32), right.to(kind).to(tl.float32)
    inside = in_b[:, None] & in_d[None, :]
    wave = b[:, None] * 2 * HALF + d[None, :]
    cos = tl.load(cos_BD + wave, mask=inside, other=1.0).to(tl.float32)
    sin = tl.load(sin_BD + wave, mask=inside, other=0.0).to(tl.float32)
    turned = head < H + G
    one = tl.where(turned, left * cos - right * sin, left).to(kind)
    two = tl.where(turned, right * cos + left * sin, right).to(kind)
    if head < H:
        to = q_BHD + (b[:, None] * H + head) * 2 * HALF + d[None, :]
        tl.store(to, one, mask=inside)
        tl.store(to + HALF, two, mask=inside)
    else:
        slot = tl.load(slots_B + b, mask=in_b, other=0) * slot_stride
        place = slot + tl.load(positions_B + b, mask=in_b, other=0) * 2 * HALF
        if turned:
            to = keys + place[:, None] + (head - H) * group_stride + d[None, :]
            tl.store(to, one, mask=inside)
            tl.store(to + HALF, two, mask=inside)
        else:
            to = values + place[:, None] + (head - H - G) * group_stride + d[None, :]
            tl.store(to, one, mask=inside)
            tl.store(to + HALF, two, mask=inside)


def heads_to_cache(
    parts_SBM: Tensor,
    b_NC: Tensor,
    cos_BD: Tensor,
    sin_BD: Tensor,
    keys_SGCD: Tensor,
    values_SGCD: Tensor,
    slots_B: Tensor,
    positions_B: Tensor,
    *,
    heads: int,
    dtype: torch.dtype,
) -> Tensor:
    """Return the turned queries q_BHD; keys and values of the lanes go to their slots."""
    splits, lanes, rows = parts_SBM.shape
    outputs, columns = b_NC.shape
    groups, width = keys_SGCD.shape[1], keys_SGCD.shape[3]
    q = torch.empty(lanes, heads, width, dtype=dtype, device=parts_SBM.device)
    _heads_kernel[(heads + 2 * groups, ceil_div(lanes, 16))](
        parts_SBM, b_NC, cos_BD, sin_BD, q, keys_SGCD, values_SGCD, slots_B, positions_B,
        lanes, rows, outputs, columns, keys_SGCD.stride(0), keys_SGCD.stride(1),
        heads, groups, width // 2, splits, 16, max(16, next_power_of_two(columns)), num_warps=4,
    )  # fmt: skip
    return q


@jit
def _gated_kernel(
    parts_SBM, b_NC, out_BN, B, M, N, C,
    S: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Write silu(gate) * up for a block of outputs of some lanes; up lies N behind gate."""
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    b = (tl.program_id(1) * BLOCK_B + tl.arange(0, BLOCK_B)).to(tl.int64)
    c = tl.arange(0, BLOCK_C)
    in_b, in_n = b < B, n < N
    kind = out_BN.dtype.element_ty
    row_B1, stride = parts_SBM + b[:, None] * M, B * M
    low_BC = _low_rank(row_B1 + 2 * N, in_b, c, C, stride, kind, S)
    gate = _outputs(row_B1, in_b, low_BC, b_NC, n, in_n, c, C, stride, S)
    up = _outputs(row_B1 + N, in_b, low_BC, b_NC + N * C, n, in_n, c, C, stride, S)
    gate, up = gate.to(kind).to(tl.float32), up.to(kind).to(tl.float32)
    active = (gate * tl.sigmoid(gate)).to(kind).to(tl.float32)
    inside = in_b[:, None] & in_n[None, :]
    tl.store(out_BN + b[:, None] * N + n[None, :], (active * up).to(kind), mask=inside)


def gated(parts_SBM: Tensor, b_NC: Tensor, dtype: torch.dtype) -> Tensor:
    """Return silu(gate) * up of a product whose outputs are gate and, behind it, up."""
    splits, lanes, rows = parts_SBM.shape
    both, columns = b_NC.shape
    out = torch.empty(lanes, both // 2, dtype=dtype, device=parts_SBM.device)
    _gated_kernel[(ceil_div(both // 2, 64), ceil_div(lanes, 16))](
        parts_SBM, b_NC, out, lanes, rows, both // 2, columns,
        splits, 16, 64, max(16, next_power_of_two(columns)), num_warps=4,
    )  # fmt: skip
    return out


# -- a whole layer of these


class FewLanes:
    """A FastForward whose layers compute steps of few lanes by the kernels above.

    For decoders like Llama's: two norms, q, k and v, gate and up, no biases, one adapter. Passes
    over prompts, and steps of more lanes, stay as they are. restore() takes the changes off.
    """

    def __init__(
        self, forward: FastForward, *, most: int = 64, how: Mapping[str, Mapping[str, int]]
    ) -> None:
        """Steps of up to `most` lanes; `how` has the tiles of each part, as split_product takes."""
        self._forward, self._most, self._how = forward, most, how
        self._groups = {id(one): group for group in forward.groups for one in group.modules}
        self._b_CN: dict[int, Tensor] = {}
        self._made: tuple[Tensor, Tensor] | None = None
        layers = list(forward.parts.layers)
        after = [layer.input_layernorm for layer in layers[1:]] + [forward.parts.decoder.norm]
        self._before: list[tuple[Any, Any]] = []
        for layer, norm in zip(layers, after, strict=True):
            self._set_forward(norm, self._norm(norm.forward))
            self._set_forward(layer, self._layer(layer, layer.forward, norm))

    def restore(self) -> None:
        """Give the modules back the forwards that they had."""
        for module, before in reversed(self._before):
            module.__dict__.pop("forward")
            if before is not None:
                module.__dict__["forward"] = before

    def _set_forward(self, module: Any, forward: Any) -> None:
        self._before.append((module, module.__dict__.get("forward")))
        module.__dict__["forward"] = forward

    def _norm(self, original: Any) -> Any:
        def forward(x: Tensor) -> Tensor:
            """Return the norm that the layer before has computed, where x is its output."""
            if self._made is not None and self._made[0] is x:
                return self._made[1]
            return original(x)  # type: ignore[no-any-return]

        return forward

    def _layer(self, layer: Any, original: Any, after: Any) -> Any:
        def forward(hidden: Tensor, *args: Any, **named: Any) -> Tensor:
            read = named["cached"][1]
            if read.cu is not None or hidden.shape[1] > self._most:
                return original(hidden, *args, **named)  # type: ignore[no-any-return]
            normed_BD = layer.input_layernorm(hidden)[0]
            made = self._compute(layer, hidden[0], normed_BD, after, read, named)
            self._made = made[0][None], made[1][None]
            return self._made[0]

        return forward

    def _compute(
        self, layer: Any, x_BD: Tensor, normed_BD: Tensor, after: Any, read: Any, named: Any
    ) -> tuple[Tensor, Tensor]:
        """Return (the layer's output, its norm by `after`)."""
        attention, mlp = layer.self_attn, layer.mlp
        keys, values = read.cache.of_layer(attention.layer_idx)
        cos_BD, sin_BD = (x[0].contiguous() for x in named["position_embeddings"])
        heads, dtype = self._forward.parts.config.num_attention_heads, x_BD.dtype
        q_BHD = heads_to_cache(
            *self._product("qkv", normed_BD, attention.q_proj), cos_BD, sin_BD, keys, values,
            read.slots_T, read.positions_T, heads=heads, dtype=dtype,
        )  # fmt: skip
        out_BHD = cached_attention(
            q_BHD, keys, values, read.slots_T, read.positions_T,
            scale=attention.scaling, window=None, softcap=None,
        )  # fmt: skip
        product = self._product("out", out_BHD.flatten(1), attention.o_proj, turned=True)
        norm = layer.post_attention_layernorm
        x_BD, normed_BD = residual_norm(*product, x_BD, norm.weight, norm.variance_epsilon, 8)
        product = self._product("gate-up", normed_BD, mlp.gate_proj)
        active_BF = gated(*product, dtype)
        product = self._product("down", active_BF, mlp.down_proj, turned=True)
        return residual_norm(*product, x_BD, after.weight, after.variance_epsilon, 8)

    def _product(
        self, part: str, x_BK: Tensor, module: Any, *, turned: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Return (parts_SBM, b_NC, or b_CN if turned) of a group's product, by its first module."""
        group = self._groups[id(module)]
        a_CK, b_NC = group._a_and_b()
        if turned and id(group) not in self._b_CN:
            self._b_CN[id(group)] = b_NC.T.contiguous()
        w_MK = group._kept
        if w_MK is None:
            w_MK = group._dequantise_into(group._workspace.take(group._product_shape), a_CK)
        b = self._b_CN[id(group)] if turned else b_NC
        return split_product(x_BK, w_MK, **self._how[part]), b

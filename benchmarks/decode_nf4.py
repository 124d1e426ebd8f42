"""A candidate for a faster decode step: a product of few rows with NF4 weights as they are.

Not part of the product. Each weight is read in 4 bits, with one scale for 64 of them, and becomes
the 16-bit value that dequantising gives, in registers: no copies stay on the card and none are
written. One launch multiplies with all projections that read one tensor and with the adapter's A,
and leaves parts in fp32 as decode_candidates.split_product does.
"""

# B lanes, K inputs, H half of them, N outputs of the group, C columns of A, M = N + C,
# S parts of a sum

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from workbench.training.step.kernels.triton_support import ceil_div, jit, next_power_of_two, tl

BLOCK = 64
"""Weights that share a scale, as bitsandbytes quantises."""


@dataclass(frozen=True, slots=True)
class PackedWeights:
    """The NF4 weights of projections that read one tensor, below each other, and A below them."""

    bytes_NH: Tensor
    """Two weights in a byte; the high nibble is the first."""
    scales_NG: Tensor
    """fp32, one for each 64 weights of a row."""
    table: Tensor
    """fp32, the 16 values of NF4."""
    a_CK: Tensor

    @classmethod
    def of(cls, weights: Sequence[Any], a_CK: Tensor) -> PackedWeights:
        """Return those of bitsandbytes' Params4bit, double-quantised."""
        from bitsandbytes.functional import dequantize_blockwise

        packed, scales = [], []
        for weight in weights:
            state = weight.quant_state
            rows, width = state.shape
            if state.blocksize != BLOCK or state.quant_type != "nf4":
                raise ValueError(f"{state.quant_type} in blocks of {state.blocksize}")
            packed.append(weight.data.view(rows, width // 2))
            found = state.absmax
            if state.nested:
                found = dequantize_blockwise(state.absmax, state.state2) + state.offset
            scales.append(found.float().view(rows, width // BLOCK))
        table = weights[0].quant_state.code.float().clone()
        return cls(torch.cat(packed), torch.cat(scales), table, a_CK.contiguous())


def _lookups() -> str:
    """Return PTX that looks up both values of each of four bytes, high nibbles first.

    The table begins at a multiple of 256 bytes, so that one byte selects a value. A load that
    Triton sees would be copied to shared memory first, as those of the weights are.
    """
    lines = ["mov.b64 {base, top}, $9"]
    lines += ["shr.b32 h, $8, 2", "and.b32 h, h, 0x3c3c3c3c"]
    lines += ["shl.b32 l, $8, 2", "and.b32 l, l, 0x3c3c3c3c"]
    for to in range(8):
        nibbles, byte = ("h", to) if to < 4 else ("l", to - 4)
        lines.append(f"prmt.b32 i, {nibbles}, base, {0x7650 + byte}")
        lines.append("mov.b64 a, {i, top}")
        lines.append(f"ld.global.nc.f32 ${to}, [a]")
    return f"{{ .reg .b32 i, h, l, base, top; .reg .u64 a; {'; '.join(lines)}; }}"


LOOKUPS = tl.constexpr(_lookups())


@jit
def _nf4_values(byte, table, IN_ASM: tl.constexpr):
    """Return NF4's values of high and low nibbles, in fp32."""
    if IN_ASM:
        high, low = tl.inline_asm_elementwise(
            LOOKUPS,
            "=f,=f,=f,=f,=f,=f,=f,=f,r,l,l,l,l",
            [byte, table.to(tl.uint64)],
            dtype=(tl.float32, tl.float32),
            is_pure=True,
            pack=4,
        )
    else:
        high, low = tl.load(table + (byte >> 4)), tl.load(table + (byte & 15))
    return high, low


@jit
def _nf4_product_kernel(
    x_BK, bytes_NH, scales_NG, table, a_CK, parts_SBM, B, N, C, K, k_each,
    BLOCK_B: tl.constexpr, BLOCK_M: tl.constexpr, PER_STEP: tl.constexpr, HALF: tl.constexpr,
    IN_ASM: tl.constexpr,
):  # fmt: skip
    """Write one part of the product for a block of rows: of W, or of A in the last blocks.

    x has the even inputs of a row first, then the odd ones: a byte's high nibble belongs to an even
    input and its low one to the next.
    """
    block, split = tl.program_id(0), tl.program_id(1)
    of_w = tl.cdiv(N, BLOCK_M)
    b = tl.arange(0, BLOCK_B)
    h = tl.arange(0, HALF)
    half = K // 2
    start = split * k_each // 2
    from_x = x_BK + b[None, :] * K + start + h[:, None]
    in_b = b[None, :] < B
    sums_MB = tl.zeros((BLOCK_M, BLOCK_B), tl.float32)
    kind = x_BK.dtype.element_ty
    row = block * BLOCK_M + tl.arange(0, BLOCK_M)
    if block < of_w:
        m, last = row, N
        in_m = m < N
        from_w = bytes_NH + m[:, None].to(tl.int64) * half + start + h[None, :]
        from_scale = scales_NG + m * (half // HALF) + start // HALF
        for _ in range(0, k_each, PER_STEP * 2 * HALF):
            for _ in tl.static_range(PER_STEP):
                byte = tl.load(from_w, mask=in_m[:, None], other=0, eviction_policy="evict_first")
                scale = tl.load(from_scale, mask=in_m, other=0.0)[:, None]
                even = tl.load(from_x, mask=in_b, other=0.0)
                odd = tl.load(from_x + half, mask=in_b, other=0.0)
                high, low = _nf4_values(byte, table, IN_ASM)
                high, low = (high * scale).to(kind), (low * scale).to(kind)
                sums_MB = tl.dot(high, even, sums_MB, input_precision="ieee")
                sums_MB = tl.dot(low, odd, sums_MB, input_precision="ieee")
                from_w += HALF
                from_scale += 1
                from_x += HALF
    else:
        m = row - of_w * BLOCK_M
        last = C
        in_m = m < C
        from_a = a_CK + m[:, None] * K + 2 * (start + h)[None, :]
        for _ in range(0, k_each, 2 * HALF):
            even = tl.load(from_x, mask=in_b, other=0.0)
            odd = tl.load(from_x + half, mask=in_b, other=0.0)
            high = tl.load(from_a, mask=in_m[:, None], other=0.0)
            low = tl.load(from_a + 1, mask=in_m[:, None], other=0.0)
            sums_MB = tl.dot(high, even, sums_MB, input_precision="ieee")
            sums_MB = tl.dot(low, odd, sums_MB, input_precision="ieee")
            from_a += 2 * HALF
            from_x += HALF
        m += N
        last += N
    to = parts_SBM + (split.to(tl.int64) * B + b[:, None]) * (N + C) + m[None, :]
    tl.store(to, tl.trans(sums_MB), mask=(b[:, None] < B) & (m[None, :] < last))


def evens_first(x_BK: Tensor) -> Tensor:
    """Return x_B2H: the even inputs of each row first, as nf4_product reads them."""
    lanes, width = x_BK.shape
    return x_BK.view(lanes, width // 2, 2).transpose(1, 2).contiguous()


def nf4_product(
    x_B2H: Tensor,
    w: PackedWeights,
    *,
    splits: int,
    block_m: int,
    per_step: int,
    stages: int,
    warps: int,
) -> Tensor:
    """Return parts_SBM in fp32, whose sum over S is x @ W.T and, behind it, x @ A.T.

    x has its even inputs first (`evens_first`), which what computes it could write so. `splits`
    times `per_step` blocks of 64 inputs must divide K. Up to 128 lanes. w.table begins at a
    multiple of 256 bytes, as every tensor of its own does on a GPU.
    """
    if x_B2H.is_cuda and w.table.data_ptr() % 256:
        raise ValueError("the table of NF4's values is not aligned")
    lanes, width = len(x_B2H), x_B2H[0].numel()
    rows, columns = len(w.bytes_NH), len(w.a_CK)
    k_each = width // splits
    if width % splits or k_each % (per_step * BLOCK):
        raise ValueError(f"{width} inputs do not lie in {splits} parts of {per_step} × {BLOCK}")
    parts = torch.empty(splits, lanes, rows + columns, dtype=torch.float32, device=x_B2H.device)
    blocks = ceil_div(rows, block_m) + ceil_div(columns, block_m)
    _nf4_product_kernel[(blocks, splits)](
        x_B2H, w.bytes_NH, w.scales_NG, w.table, w.a_CK, parts,
        lanes, rows, columns, width, k_each,
        max(16, next_power_of_two(lanes)), block_m, per_step, BLOCK // 2, x_B2H.is_cuda,
        num_warps=warps, num_stages=stages,
    )  # fmt: skip
    return parts

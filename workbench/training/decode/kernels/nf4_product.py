"""Products of a few tokens with 4-bit weights as they lie in memory, and the adapters' beside them.

A weight is looked up in registers, between its load and the product: of the 16 values of NF4
(Dettmers et al. 2023, arXiv 2305.14314, §3) one byte permutation finds four bytes at once. So a
step reads half a byte a weight, where unpacking first moves four and a half. A product is split
over its inputs, because a few tokens have too few outputs to fill a card; a second kernel adds the
parts, the adapters' B and the bias.
"""

# T tokens, K inputs, N outputs of all weights, C columns: ranks of all adapters, M = N + C,
# S parts of a sum, G blocks of weights that share a scale

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from workbench.training.step.kernels import triton_support
from workbench.training.step.kernels.triton_support import (
    ceil_div,
    jit,
    next_power_of_two,
    pipeline_stages,
    tl,
)
from workbench.training.step.lora.frozen_weight import scales_of

MOST_WEIGHTS = 4
"""Weights of a group at most: Qwen 3.5's gated delta layers have four."""
BLOCK_K = 64
"""Weights that share a scale, as bitsandbytes quantises by default."""
BLOCK_M = 128
"""Outputs of a program with 16 tokens at most; with more, half as many are faster."""
LEAST_PROGRAMS = 264
"""Programs that a product is split into, of BLOCK_M outputs: two for each of an H200's 132
processors, three for each of a 3090's 82. The number of parts is the same on every card and for
every number of tokens, so that sums have one order."""
FACTOR = 1.43675
"""The values of NF4 times this lie nearest to values of bf16: 0.085 % away (root mean square),
where they themselves are 0.143 % away. The scales are divided by it."""
VALUES = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
    -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
    0.24611230194568634, 0.33791524171229224, 0.44070982933044434, 0.5626170039176941,
    0.7229568362236023, 1.0,
)  # fmt: skip
"""NF4's values (bitsandbytes 0.50, functional.get_4bit_type("nf4"))."""


@jit
def _unpacked(
    byte_MJ, table, LOOKUP: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr
):  # fmt: skip
    """Return the values of packed weights, in the table's dtype; a high nibble is the first one.

    With LOOKUP, the PTX of `lookup_ptx`, by byte permutations; else by loads from the table.
    """
    kind = table.dtype.element_ty
    if LOOKUP == "":
        high = tl.load(table + (byte_MJ >> 4).to(tl.int32))
        low = tl.load(table + (byte_MJ & 15).to(tl.int32))
    else:
        pair = tl.inline_asm_elementwise(
            LOOKUP, "=r,=r,=r,=r,r", [byte_MJ], dtype=tl.int32, is_pure=True, pack=4
        )
        high = pair.to(tl.int16).to(kind, bitcast=True)
        low = (pair >> 16).to(tl.int16).to(kind, bitcast=True)
    return tl.reshape(tl.join(high, low), (BLOCK_M, BLOCK_K))


@jit
def _product_kernel(
    x_TK, w_0, w_1, w_2, w_3, a_CK, scales_GN, table, parts_STM, T, K, N, C, k_each, x_stride,
    block_1, block_2, block_3, block_a, first_1, first_2, first_3,
    LOOKUP: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Write one part of x @ w.T for rows of one weight, or of A; the rows of the tile are w's.

    Weight i begins with program block_i and output first_i, A with program block_a.
    """
    block, split = tl.program_id(0), tl.program_id(1)
    t, row = tl.program_id(2) * BLOCK_T + tl.arange(0, BLOCK_T), tl.arange(0, BLOCK_M)
    k0 = split * k_each
    k_end = tl.minimum(k0 + k_each, K)
    from_x = x_TK + t[None, :] * x_stride + (k0 + tl.arange(0, BLOCK_K))[:, None]
    in_t = t[None, :] < T
    sums_MT = tl.zeros((BLOCK_M, BLOCK_T), tl.float32)
    if block < block_a:
        is_1, is_2, is_3 = block >= block_1, block >= block_2, block >= block_3
        packed = tl.where(is_3, w_3, tl.where(is_2, w_2, tl.where(is_1, w_1, w_0)))
        first = tl.where(is_3, first_3, tl.where(is_2, first_2, tl.where(is_1, first_1, 0)))
        begin = tl.where(is_3, block_3, tl.where(is_2, block_2, tl.where(is_1, block_1, 0)))
        end = tl.where(is_3, N, tl.where(is_2, first_3, tl.where(is_1, first_2, first_1)))
        row += (block - begin) * BLOCK_M
        inside = row < end - first
        m = first + row
        half = tl.arange(0, BLOCK_K // 2)
        # Rows behind the last are read as the last: loads without masks are wider.
        read = tl.minimum(row, end - first - 1).to(tl.int64)
        from_w = packed + read[:, None] * (K // 2) + (k0 // 2 + half)[None, :]
        from_s = scales_GN + (k0 // BLOCK_K) * N + m
        for _ in range(k0, k_end, BLOCK_K):
            byte = tl.load(from_w)
            scale = tl.load(from_s, mask=inside, other=0.0)
            x = tl.load(from_x, mask=in_t, other=0.0)
            w = _unpacked(byte, table, LOOKUP, BLOCK_M, BLOCK_K)
            sums_MT += tl.dot(w, x, input_precision="ieee") * scale[:, None]
            from_w += BLOCK_K // 2
            from_s += N
            from_x += BLOCK_K
    else:
        row += (block - block_a) * BLOCK_M
        inside = row < C
        m = N + row
        from_a = a_CK + row[:, None] * K + (k0 + tl.arange(0, BLOCK_K))[None, :]
        # Without loads ahead of their turn, whose room in shared memory all programs would take.
        for _ in tl.range(k0, k_end, BLOCK_K, num_stages=1):
            a = tl.load(from_a, mask=inside[:, None], other=0.0)
            x = tl.load(from_x, mask=in_t, other=0.0)
            sums_MT += tl.dot(a, x, input_precision="ieee")
            from_a += BLOCK_K
            from_x += BLOCK_K
    to = parts_STM + (split.to(tl.int64) * T + t[None, :]) * (N + C) + m[:, None]
    tl.store(to, sums_MT, mask=inside[:, None] & in_t)


@jit
def _outputs_kernel(
    parts_STM, b_NC, others_AC, adapter_T, bias_N, out_TN, T, N, C, part_stride,
    S: tl.constexpr, ADAPTERS: tl.constexpr, BIAS: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Write the sum of the parts, plus B times the low-rank columns, plus the bias."""
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    t = tl.program_id(1) * BLOCK_T + tl.arange(0, BLOCK_T)
    in_t, in_n = t < T, n < N
    kind = out_TN.dtype.element_ty
    inside = in_t[:, None] & in_n[None, :]
    row_T1 = parts_STM + t.to(tl.int64)[:, None] * (N + C)
    total_TN = _summed(row_T1 + n[None, :], inside, part_stride, S)
    if ADAPTERS:
        adapter = tl.load(adapter_T + t, mask=in_t, other=0)
    for c0 in range(0, C, BLOCK_C):
        c = c0 + tl.arange(0, BLOCK_C)
        in_c = c < C
        own = in_t[:, None] & in_c[None, :]
        low_TC = _summed(row_T1 + N + c[None, :], own, part_stride, S)
        if ADAPTERS:
            other = tl.load(others_AC + adapter[:, None] * C + c[None, :], mask=own, other=1)
            low_TC = tl.where(other != 0, 0.0, low_TC)
        b_CN = tl.load(
            b_NC + n[None, :] * C + c[:, None], mask=in_n[None, :] & in_c[:, None], other=0.0
        )
        total_TN += tl.dot(low_TC.to(kind), b_CN, input_precision="ieee")
    if BIAS:
        total_TN += tl.load(bias_N + n, mask=in_n, other=0.0).to(tl.float32)[None, :]
    tl.store(out_TN + t.to(tl.int64)[:, None] * N + n[None, :], total_TN.to(kind), mask=inside)


@jit
def _summed(from_part, inside, stride, S: tl.constexpr):
    """Return the sum of S parts where `from_part` points into the first."""
    total = tl.load(from_part, mask=inside, other=0.0)
    for s in tl.static_range(1, S):
        total += tl.load(from_part + s * stride, mask=inside, other=0.0)
    return total


@cache
def lookup_ptx(dtype: torch.dtype) -> str:
    """Return the PTX that turns the 4 bytes of a register into 4 registers of two values each.

    A permutation takes three bits of a nibble as the place of a byte among eight. So the values'
    high and low bytes are each looked up in the lower and the upper half of the table, and the
    fourth bit takes one of both. Empty where a value has no two bytes.
    """
    if dtype.itemsize != 2:
        return ""
    bits = [int(v) & 0xFFFF for v in _table(dtype, "cpu").view(torch.int16)]
    lines = [
        "and.b32 place, $4, 0x77777777;",
        "shr.u32 half, $4, 1;",
        "lop3.b32 half, half, 0x44444444, 0x32103210, 0xEA;",  # (half & 0x4…) | 0x3210…
    ]
    for first, second in (("$0", "$1"), ("$2", "$3")):
        if first == "$2":
            lines += ["shr.u32 place, place, 16;", "shr.u32 half, half, 16;"]
        for name, shift in (("high", 8), ("low", 0)):
            word = [
                sum(((bits[at + i] >> shift) & 0xFF) << 8 * i for i in range(4))
                for at in range(0, 16, 4)
            ]
            lines += [
                f"prmt.b32 lower, {word[0]:#010x}, {word[1]:#010x}, place;",
                f"prmt.b32 upper, {word[2]:#010x}, {word[3]:#010x}, place;",
                f"prmt.b32 {name}, lower, upper, half;",
            ]
        # Found so far: the second value of a byte (its low nibble), the first one, and so on.
        lines += [f"prmt.b32 {first}, low, high, 0x4051;", f"prmt.b32 {second}, low, high, 0x6273;"]
    body = "\n".join(lines)
    return f"{{ .reg .b32 place, half, lower, upper, high, low;\n{body}\n}}"


@cache
def _table(dtype: torch.dtype, device: str) -> Tensor:
    """Return NF4's values times FACTOR."""
    return (torch.tensor(VALUES, dtype=torch.float64) * FACTOR).to(dtype).to(device)


def is_multipliable(packed: Sequence[Tensor], states: Sequence[Any], dtype: torch.dtype) -> bool:
    """Return whether Nf4Product takes weights with these QuantStates of bitsandbytes.

    On a card, `dtype` must have 16 bits.
    """
    return (
        len(packed) <= MOST_WEIGHTS
        and triton_support.is_usable(packed[0].device)
        and not (packed[0].is_cuda and dtype.itemsize > 2)
        and all(
            state.quant_type == "nf4"
            and state.blocksize == BLOCK_K
            and state.shape[1] % BLOCK_K == 0
            and torch.equal(state.code.cpu(), torch.tensor(VALUES))
            for state in states
        )
    )


class Nf4Product:
    """The product of a few tokens with weights that read one tensor, with adapters beside them."""

    def __init__(self, packed: Sequence[Tensor], states: Sequence[Any], dtype: torch.dtype) -> None:
        """Hold the weights' scales in fp32, a sixteenth of a byte a weight.

        For weights for which is_multipliable() is True; `dtype` is that of the tokens.
        """
        self._packed = [one.view(torch.uint8) for one in packed]
        self._widths = [int(state.shape[0]) for state in states]
        self._inputs = int(states[0].shape[1])
        each = [scales_of(state).view(int(state.shape[0]), -1).T for state in states]
        self._scales_GN = (torch.cat(each, dim=1) / FACTOR).contiguous()
        self._table = _table(dtype, str(self._scales_GN.device))
        self._lookup = lookup_ptx(dtype) if self._scales_GN.is_cuda else ""

    def multiply(
        self,
        x_TK: Tensor,
        a_CK: Tensor,
        b_NC: Tensor,
        bias_N: Tensor | None = None,
        others_AC: Tensor | None = None,
        adapter_T: Tensor | None = None,
    ) -> Tensor:
        """Return x @ wᵀ + (x @ Aᵀ) @ Bᵀ + bias, with all weights below each other.

        `others_AC` says for each adapter which columns are not its own, `adapter_T` whose each
        token is; None where all columns are every token's.
        """
        tokens, columns = x_TK.shape[0], a_CK.shape[0]
        parts = self._parts(x_TK.contiguous(), a_CK)
        outputs = sum(self._widths)
        out = x_TK.new_empty(tokens, outputs)
        masks = None
        if others_AC is not None and adapter_T is not None:
            masks = (others_AC.view(torch.uint8), adapter_T)
        block_c = min(64, max(16, next_power_of_two(columns)))
        _outputs_kernel[(ceil_div(outputs, 64), ceil_div(tokens, 16))](
            parts, b_NC, *(masks or (parts, parts)), parts if bias_N is None else bias_N, out,
            tokens, outputs, columns, parts.stride(0),
            parts.shape[0], masks is not None, bias_N is not None, 16, 64, block_c, num_warps=4,
        )  # fmt: skip
        return out

    def _parts(self, x_TK: Tensor, a_CK: Tensor) -> Tensor:
        """Return parts_STM, whose sum over S is x @ wᵀ and, behind it, x @ Aᵀ; in fp32."""
        (tokens, inputs), columns = x_TK.shape, a_CK.shape[0]
        outputs = sum(self._widths)
        block_t = min(128, max(16, next_power_of_two(tokens)))
        block_m = BLOCK_M if block_t == 16 else BLOCK_M // 2
        firsts, blocks = [0], [0]
        for width in self._widths:
            firsts.append(firsts[-1] + width)
            blocks.append(blocks[-1] + ceil_div(width, block_m))
        missing = MOST_WEIGHTS - len(self._widths)
        packed = [*self._packed, *self._packed[:1] * missing]
        each = [*firsts[1:-1], *[outputs] * missing]
        begins = [*blocks[1:-1], *[1 << 30] * missing]
        splits = part_count(self._widths, columns, inputs)
        k_each = ceil_div(inputs // BLOCK_K, splits) * BLOCK_K
        splits = ceil_div(inputs, k_each)
        parts = x_TK.new_empty(splits, tokens, outputs + columns, dtype=torch.float32)
        grid = (blocks[-1] + ceil_div(columns, block_m), splits, ceil_div(tokens, block_t))
        _product_kernel[grid](
            x_TK, *packed, a_CK, self._scales_GN, self._table, parts,
            tokens, inputs, outputs, columns, k_each, x_TK.stride(0), *begins, blocks[-1], *each,
            self._lookup, block_t, block_m, BLOCK_K,
            num_warps=4, num_stages=pipeline_stages(x_TK, 3),
        )  # fmt: skip
        return parts


def part_count(widths: Sequence[int], columns: int, inputs: int) -> int:
    """Return into how many parts a product with weights of these outputs is split."""
    blocks = sum(ceil_div(width, BLOCK_M) for width in widths) + ceil_div(columns, BLOCK_M)
    return max(1, min(ceil_div(LEAST_PROGRAMS, blocks), inputs // BLOCK_K))

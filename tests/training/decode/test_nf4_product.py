"""Products with 4-bit weights as they lie, against the same weights unpacked by bitsandbytes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.training.step.kernels.device import DEVICE, needs_triton, randn
from workbench.training.decode.kernels.nf4_product import (
    VALUES,
    Nf4Product,
    is_multipliable,
    lookup_ptx,
    part_count,
)

functional: Any = pytest.importorskip("bitsandbytes.functional")


def quantised(*shape: int, seed: int = 0, **how: Any) -> tuple[Tensor, Any]:
    """Return a weight in NF4 with double-quantised scales, and its QuantState."""
    how = {"compress_statistics": True, "quant_type": "nf4", **how}
    return functional.quantize_4bit(randn(*shape, seed=seed) / 16, **how)  # type: ignore[no-any-return]


def dense(weights: list[tuple[Tensor, Any]]) -> Tensor:
    return torch.cat([functional.dequantize_4bit(*one).float() for one in weights])


@needs_triton
@pytest.mark.parametrize("widths", [(320,), (128, 40, 8), (200, 130, 16, 24)])
@pytest.mark.parametrize(("tokens", "inputs", "rank"), [(1, 64, 0), (5, 448, 8), (33, 192, 72)])
def test_a_product_is_that_of_the_unpacked_weights(
    widths: tuple[int, ...], tokens: int, inputs: int, rank: int
) -> None:
    weights = [quantised(width, inputs, seed=i) for i, width in enumerate(widths)]
    packed, states = [one for one, _ in weights], [state for _, state in weights]
    assert is_multipliable(packed, states, torch.float32) or DEVICE.type == "cuda"
    x_TK, a_CK = randn(tokens, inputs, seed=5), randn(rank, inputs, seed=6)
    b_NC, bias_N = randn(sum(widths), rank, seed=7), randn(sum(widths), seed=8)
    want = x_TK @ dense(weights).T + (x_TK @ a_CK.T) @ b_NC.T
    product = Nf4Product(packed, states, torch.float32)
    got = product.multiply(x_TK, a_CK, b_NC)
    torch.testing.assert_close(got, want, rtol=2e-5, atol=2e-4)
    torch.testing.assert_close(product.multiply(x_TK, a_CK, b_NC, bias_N), got + bias_N)


@needs_triton
def test_scales_may_be_quantised_once_or_twice() -> None:
    x_TK, none = randn(3, 192), randn(0, 192)
    for twice in (True, False):
        packed, state = quantised(96, 192, compress_statistics=twice)
        got = Nf4Product([packed], [state], torch.float32).multiply(x_TK, none, randn(96, 0))
        torch.testing.assert_close(got, x_TK @ dense([(packed, state)]).T, rtol=2e-5, atol=2e-4)


@needs_triton
def test_a_token_gets_the_columns_of_its_own_adapter_alone() -> None:
    packed, state = quantised(96, 128)
    product = Nf4Product([packed], [state], torch.float32)
    x_TK, a_CK, b_NC = randn(4, 128), randn(24, 128, seed=1), randn(96, 24, seed=2)
    a_CK[8:16] = float("inf")  # of an adapter that none of the tokens has
    others = torch.ones(3, 24, dtype=torch.bool, device=DEVICE)
    for adapter in range(3):
        others[adapter, 8 * adapter : 8 * adapter + 8] = False
    which = torch.tensor([0, 2, 2, 0], device=DEVICE)
    got = product.multiply(x_TK, a_CK, b_NC, None, others, which)
    for token, adapter in enumerate(which.tolist()):
        own = slice(8 * adapter, 8 * adapter + 8)
        want = (
            x_TK[token] @ dense([(packed, state)]).T + (x_TK[token] @ a_CK[own].T) @ b_NC[:, own].T
        )
        torch.testing.assert_close(got[token], want, rtol=2e-5, atol=2e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_permutations_of_bytes_find_every_pair_of_values(dtype: torch.dtype) -> None:
    """The PTX, run by a reader of its four instructions, for all 256 bytes in each of 4 places."""
    table = (torch.tensor(VALUES, dtype=torch.float64) * 1.43675).to(dtype)
    bits = [int(value) & 0xFFFF for value in table.view(torch.int16)]
    for byte in range(256):
        word = byte | (byte ^ 0x5A) << 8 | (255 - byte) << 16 | (byte * 7 % 256) << 24
        got = run_ptx(lookup_ptx(dtype), word)
        for place in range(4):
            one = word >> 8 * place & 255
            assert got[place] == bits[one >> 4] | bits[one & 15] << 16, (byte, place)


def run_ptx(text: str, word: int) -> list[int]:
    """Return the registers $0 to $3 after these instructions (NVIDIA's PTX manual, §9.7)."""
    held = {"$4": word}

    def value(name: str) -> int:
        return held[name] if name in held else int(name, 0)

    for line in text.split("\n")[1:-1]:
        operation, rest = line.rstrip(";").split(" ", 1)
        to, *names = (name.strip() for name in rest.split(","))
        given = [value(name) for name in names]
        if operation == "and.b32":
            held[to] = given[0] & given[1]
        elif operation == "shr.u32":
            held[to] = given[0] >> given[1]
        elif operation == "lop3.b32":
            assert given[3] == 0xEA  # (a & b) | c
            held[to] = given[0] & given[1] | given[2]
        else:
            assert operation == "prmt.b32"
            pool = [given[i // 4] >> 8 * (i % 4) & 255 for i in range(8)]
            places = [given[2] >> 4 * i & 15 for i in range(4)]
            assert max(places) < 8  # an eighth would repeat a sign
            held[to] = sum(pool[place] << 8 * i for i, place in enumerate(places))
    return [held[f"${i}"] for i in range(4)]


def test_weights_of_other_kinds_are_left_to_the_unpacked_product() -> None:
    good = quantised(64, 128)
    others = [
        quantised(64, 128, blocksize=128),
        quantised(64, 128, quant_type="fp4"),
        quantised(64, 96),  # a scale's block ends within a row
    ]
    for packed, state in others:
        assert not is_multipliable([good[0], packed], [good[1], state], torch.bfloat16)
    assert not is_multipliable([good[0]] * 5, [good[1]] * 5, torch.bfloat16)


def test_products_are_split_until_they_fill_a_card() -> None:
    assert part_count([28_672], 32, 4_096) == 2
    assert part_count([4_096], 16, 14_336) == 8
    assert part_count([64], 0, 128) == 2  # no more than there are blocks of inputs

"""The down-projection's kernels against torch; on a card, or on a CPU under TRITON_INTERPRET=1."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from tests.training.step.kernels.device import DEVICE, needs_triton, randn
from workbench.training.step.kernels.gated_linear import gated_linear_reference
from workbench.training.step.kernels.lora_down import (
    GatedInput,
    NormedInput,
    lora_down,
    lora_down_backward,
    lora_down_backward_reference,
    lora_down_reference,
)
from workbench.training.step.kernels.masks import mask_keys
from workbench.training.step.kernels.norm import rms_norm

pytestmark = needs_triton


SHAPES = [(rank, count, 150, 300) for rank in (4, 16, 40) for count in (1, 2, 3, 4)]
"""Rank, projections, tokens and width."""
SHAPES += [(16, 3, 70, 1100), (200, 2, 40, 70)]
"""More columns than one program of the forward kernel takes, and smaller blocks in fp32."""


@pytest.mark.parametrize(("rank", "count", "tokens", "width"), SHAPES)
@pytest.mark.parametrize("p", [0.0, 0.25])
def test_low_rank_forward_and_backward(
    p: float, rank: int, count: int, tokens: int, width: int
) -> None:
    keys = mask_keys(torch.tensor(5), torch.tensor(3), torch.arange(4)).to(DEVICE)
    x_TK, dx_TK, a_PRK = (
        randn(tokens, width),
        randn(tokens, width, seed=1),
        randn(count, rank, width, seed=3),
    )
    dlow_PTR = randn(count, tokens, rank, seed=2)
    want_low = lora_down_reference(x_TK, a_PRK, keys, p, 2.0)
    want_da, more_dx = lora_down_backward_reference(x_TK, dlow_PTR, a_PRK, keys, p, 2.0)
    want_dx = dx_TK + more_dx
    low_PTR = lora_down(x_TK, a_PRK, keys, p, 2.0)
    torch.testing.assert_close(low_PTR, want_low, rtol=1e-4, atol=1e-4)
    grad = torch.full_like(a_PRK, float("nan"))
    more: tuple[Any, ...] = (dlow_PTR, a_PRK, grad, keys, p, 2.0)
    lora_down_backward(x_TK, dx_TK, *more, add=False, add_dx=True)
    torch.testing.assert_close(dx_TK, want_dx, rtol=1e-4, atol=1e-4)
    lora_down_backward(x_TK, dx_TK, *more, add=False, add_dx=False)
    torch.testing.assert_close(dx_TK, more_dx, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(grad, want_da, rtol=1e-4, atol=2e-4)
    lora_down_backward(x_TK, None, *more, add=True, add_dx=False)
    torch.testing.assert_close(grad, 2 * want_da, rtol=1e-4, atol=4e-4)
    lora_down_backward(x_TK, x_TK, *more, add=False, add_dx=False)  # in the input's place
    torch.testing.assert_close(x_TK, more_dx, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(grad, want_da, rtol=1e-4, atol=2e-4)


def test_inputs_as_wide_as_feed_forward_blocks() -> None:
    """Beyond 8,192 columns a program takes more tokens."""
    keys = mask_keys(torch.tensor(5), torch.tensor(3), torch.arange(4)).to(DEVICE)
    x_TK, a_PRK = randn(70, 8200), randn(1, 16, 8200, seed=3)
    want = lora_down_reference(x_TK, a_PRK, keys, 0.25, 2.0)
    torch.testing.assert_close(lora_down(x_TK, a_PRK, keys, 0.25, 2.0), want, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("p", [0.0, 0.25])
@pytest.mark.parametrize(
    ("kind", "rank", "tokens", "width"),
    [("apart", 8, 150, 300), ("halves", 8, 150, 300), ("halves", 40, 70, 300),
     ("apart", 16, 430, 600)],
)  # fmt: skip
def test_low_rank_kernels_through_a_gated_activation(
    kind: str, rank: int, tokens: int, width: int, p: float, gelu: bool
) -> None:
    """The last shape is of more tokens and columns than one program takes."""
    keys = mask_keys(torch.tensor(5), torch.tensor(3), torch.arange(4)).to(DEVICE)
    both = randn(tokens, 2 * width).requires_grad_()
    gate, up = both.chunk(2, 1)
    a_1RK, dlow_1TR, dx_TK = (
        randn(1, rank, width, seed=3),
        randn(1, tokens, rank, seed=2),
        randn(tokens, width),
    )
    x_TK = gated_linear_reference(gate, up, gelu=gelu)
    want_low = lora_down_reference(x_TK, a_1RK, keys, p, 2.0)
    want_grad, more = lora_down_backward_reference(x_TK, dlow_1TR, a_1RK, keys, p, 2.0)
    (want,) = torch.autograd.grad(x_TK, both, dx_TK + more)
    parts = [gate.detach(), up.detach()]
    if kind == "apart":
        parts = [part.clone() for part in parts]
    gated, made_TK = GatedInput(up_TK=parts[1], gelu=gelu), torch.full_like(dx_TK, math.nan)
    low_1TR = lora_down(parts[0], a_1RK, keys, p, 2.0, gated=gated, made_TK=made_TK)
    torch.testing.assert_close(made_TK, x_TK, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(low_1TR, want_low, rtol=1e-4, atol=1e-4)
    grad = torch.full_like(a_1RK, math.nan)
    lora_down_backward(
        parts[0], dx_TK, dlow_1TR, a_1RK, grad, keys, p, 2.0, add=False, add_dx=True, made=gated
    )
    torch.testing.assert_close(torch.cat(parts, 1), want, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(grad, want_grad, rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize("gemma", [False, True])
@pytest.mark.parametrize("count", [1, 4])
def test_low_rank_backward_reads_a_norms_input(count: int, gemma: bool) -> None:
    keys = mask_keys(torch.tensor(5), torch.tensor(3), torch.arange(4)).to(DEVICE)
    x_TK, weight_K = randn(150, 300), randn(300, seed=1)
    dlow_PTR, a_PRK = randn(count, 150, 8, seed=2), randn(count, 8, 300, seed=3)
    out_TK, rstd_T = rms_norm(x_TK, weight_K, eps=1e-5, gemma=gemma)
    norm = NormedInput(rstd_T=rstd_T, weight_K=weight_K, gemma=gemma)
    found = []
    for read_TK, made in ((out_TK, None), (x_TK, norm)):
        dx_TK, grad = (torch.full_like(like, math.nan) for like in (x_TK, a_PRK))
        lora_down_backward(
            read_TK, dx_TK, dlow_PTR, a_PRK, grad, keys, 0.25, 2.0,
            add=False, add_dx=False, made=made,
        )  # fmt: skip
        found.append((dx_TK, grad))
    assert all(torch.equal(want, got) for want, got in zip(*found, strict=True))

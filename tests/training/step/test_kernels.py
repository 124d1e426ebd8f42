"""The Triton kernels against torch; on a card, or on a CPU under TRITON_INTERPRET=1."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from workbench.training.step import triton_ops
from workbench.training.step.attention import KERNELS
from workbench.training.step.head import _plain
from workbench.training.step.masks import hashed_mask, keys_for

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
pytestmark = pytest.mark.skipif(
    not triton_ops.usable(DEVICE), reason="Triton needs a CUDA card or TRITON_INTERPRET=1"
)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    chance = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=chance).to(DEVICE)


def dropped(x_TK: Tensor, key_2: Tensor, p: float, field: int) -> Tensor:
    return x_TK * hashed_mask((x_TK.shape[0], x_TK.shape[1]), key_2, p, field) / (1 - p)


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("rank", [4, 16, 40])
@pytest.mark.parametrize("p", [0.0, 0.25])
def test_low_rank_forward_and_backward(p: float, rank: int, count: int) -> None:
    keys = keys_for(torch.tensor(5), torch.tensor(3), torch.arange(1)).to(DEVICE)
    x_TK, dx_TK, a_PRK = drawn(150, 300), drawn(150, 300, seed=1), drawn(count, rank, 300, seed=3)
    dlow_PTR = drawn(count, 150, rank, seed=2)
    kept = [dropped(x_TK, keys[0], p, field) for field in range(count)]
    want_low = torch.stack([x @ a.T for x, a in zip(kept, a_PRK, strict=True)]) * 2
    want_da = torch.stack([low.T @ x for low, x in zip(dlow_PTR, kept, strict=True)]) * 2
    each = enumerate(zip(dlow_PTR, a_PRK, strict=True))
    more_dx = 2 * sum(dropped(low @ a, keys[0], p, field) for field, (low, a) in each)
    want_dx = dx_TK + more_dx
    low_PTR = triton_ops.lora_down(x_TK, a_PRK, keys, p, 2.0)
    torch.testing.assert_close(low_PTR, want_low, rtol=1e-4, atol=1e-4)
    grad = torch.full_like(a_PRK, float("nan"))
    more: tuple[Any, ...] = (dlow_PTR, a_PRK, grad, keys, p, 2.0)
    triton_ops.lora_backward(x_TK, dx_TK, *more, add=False, add_dx=True)
    torch.testing.assert_close(dx_TK, want_dx, rtol=1e-4, atol=1e-4)
    triton_ops.lora_backward(x_TK, dx_TK, *more, add=False, add_dx=False)
    torch.testing.assert_close(dx_TK, more_dx, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(grad, want_da, rtol=1e-4, atol=2e-4)
    triton_ops.lora_backward(x_TK, None, *more, add=True, add_dx=False)
    torch.testing.assert_close(grad, 2 * want_da, rtol=1e-4, atol=4e-4)
    triton_ops.lora_backward(x_TK, x_TK, *more, add=False, add_dx=False)  # in the input's place
    torch.testing.assert_close(x_TK, more_dx, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(grad, want_da, rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("p", [0.0, 0.25])
@pytest.mark.parametrize("kind", ["apart", "halves"])
def test_low_rank_kernels_through_a_gated_activation(kind: str, p: float, gelu: bool) -> None:
    keys = keys_for(torch.tensor(5), torch.tensor(3), torch.arange(1)).to(DEVICE)
    both = drawn(150, 2 * 300).requires_grad_()
    gate, up = both.chunk(2, 1)
    a_1RK, dlow_1TR, dx_TK = drawn(1, 8, 300, seed=3), drawn(1, 150, 8, seed=2), drawn(150, 300)
    act = nn.functional.gelu(gate, approximate="tanh") if gelu else nn.functional.silu(gate)
    x_TK = act * up
    kept = dropped(x_TK, keys[0], p, 0)
    want_grad = 2 * (dlow_1TR[0].T @ kept)[None]
    more = 2 * dropped(dlow_1TR[0] @ a_1RK[0], keys[0], p, 0)
    (want,) = torch.autograd.grad(x_TK, both, dx_TK + more)
    parts = [gate.detach(), up.detach()]
    if kind == "apart":
        parts = [part.clone() for part in parts]
    gated, made_TK = triton_ops.Gated(up_TK=parts[1], gelu=gelu), torch.full_like(dx_TK, math.nan)
    low_1TR = triton_ops.lora_down(parts[0], a_1RK, keys, p, 2.0, gated=gated, made_TK=made_TK)
    torch.testing.assert_close(made_TK, x_TK, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(low_1TR[0], 2 * kept @ a_1RK[0].T, rtol=1e-4, atol=1e-4)
    grad = torch.full_like(a_1RK, math.nan)
    triton_ops.lora_backward(
        parts[0], dx_TK, dlow_1TR, a_1RK, grad, keys, p, 2.0, add=False, add_dx=True, made=gated
    )
    torch.testing.assert_close(torch.cat(parts, 1), want, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(grad, want_grad, rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize("gemma", [False, True])
@pytest.mark.parametrize("count", [1, 3])
def test_low_rank_backward_reads_a_norms_input(count: int, gemma: bool) -> None:
    keys = keys_for(torch.tensor(5), torch.tensor(3), torch.arange(1)).to(DEVICE)
    x_TK, weight_K = drawn(150, 300), drawn(300, seed=1)
    dlow_PTR, a_PRK = drawn(count, 150, 8, seed=2), drawn(count, 8, 300, seed=3)
    out_TK, rstd_T = triton_ops.normed(x_TK, weight_K, eps=1e-5, gemma=gemma)
    norm = triton_ops.Normed(rstd_T=rstd_T, weight_K=weight_K, gemma=gemma)
    found = []
    for read_TK, made in ((out_TK, None), (x_TK, norm)):
        dx_TK, grad = (torch.full_like(like, math.nan) for like in (x_TK, a_PRK))
        triton_ops.lora_backward(
            read_TK, dx_TK, dlow_PTR, a_PRK, grad, keys, 0.25, 2.0,
            add=False, add_dx=False, made=made,
        )  # fmt: skip
        found.append((dx_TK, grad))
    assert all(torch.equal(want, got) for want, got in zip(*found, strict=True))


@pytest.mark.parametrize("rank", [5, 40])
@pytest.mark.parametrize("sizes", [(96,), (9000,), (128, 64), (512, 256, 256), (96, 40)])
@pytest.mark.parametrize("lie", ["beside", "apart", "turned"])
def test_backward_of_b(lie: str, sizes: tuple[int, ...], rank: int) -> None:
    dys, low_PTR = drawn(150, sum(sizes)).split(sizes, 1), drawn(len(sizes), 150, rank, seed=1)
    if lie == "apart":
        dys = tuple(dy_TN.contiguous() for dy_TN in dys)
    elif lie == "turned":
        dys = tuple(dy_TN.T.contiguous().T for dy_TN in dys)
    b_NR = drawn(sum(sizes), rank, seed=2)
    each = list(zip(dys, low_PTR, b_NR.split(sizes), strict=True))
    want_grad = torch.cat([dy_TN.T @ low_TR for dy_TN, low_TR, _ in each])
    want_dlow = torch.stack([dy_TN @ b for dy_TN, _, b in each])
    grad = torch.full((sum(sizes), rank), float("nan"), device=DEVICE)
    for times, add in ((1, False), (2, True)):
        dlow = triton_ops.up_backward(list(dys), low_PTR, b_NR, grad, add=add)
        torch.testing.assert_close(dlow, want_dlow, rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(grad, times * want_grad, rtol=1e-4, atol=2e-4)


def test_nf4_dequantize_gives_the_values_of_bitsandbytes() -> None:
    functional: Any = pytest.importorskip("bitsandbytes.functional")
    weight = drawn(48, 704)
    packed, state = functional.quantize_4bit(weight, compress_statistics=True, quant_type="nf4")
    want = functional.dequantize_4bit(packed, state)
    got = triton_ops.nf4_dequantize(packed, state, torch.full_like(weight, float("nan")))
    torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("gemma", [False, True])
def test_rms_norm(gemma: bool) -> None:
    x, weight, dy = drawn(5, 9, 72).requires_grad_(), drawn(72, seed=1), drawn(5, 9, 72, seed=2)
    w = weight + 1 if gemma else weight
    want = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * w
    (want_dx,) = torch.autograd.grad(want, x, dy)
    got, _ = triton_ops.RmsNorm.apply(x, weight, 1e-5, gemma)
    (dx,) = torch.autograd.grad(got, x, dy)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(dx, want_dx, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("turned", [False, True], ids=["tokens first", "heads first"])
def test_rms_norm_of_heads_reads_them_where_they_lie(turned: bool) -> None:
    both, weight = drawn(1, 5, 3 * 16 + 8).requires_grad_(), drawn(16, seed=1)
    x = both[..., :48].view(1, 5, 3, 16)
    x = x.transpose(1, 2) if turned else x
    want = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * weight
    dy = drawn(*want.shape, seed=2)
    (want_dx,) = torch.autograd.grad(want, both, dy)
    got, _ = triton_ops.RmsNorm.apply(x, weight, 1e-5, False)
    assert got.grad_fn.saved_tensors[0].data_ptr() == both.data_ptr()
    assert (got.transpose(1, 2) if turned else got).is_contiguous()
    (dx,) = torch.autograd.grad(got, both, dy)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(dx, want_dx, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("kind", ["apart", "chunked", "one"])
def test_gated_linear(gelu: bool, kind: str) -> None:
    both = drawn(1, 11, 2 * 80).requires_grad_()
    gate, up = both.chunk(2, -1)
    if kind == "apart":
        gate, up = gate.contiguous(), up.contiguous()
    dy = drawn(1, 11, 80, seed=2)
    act = nn.functional.gelu(gate, approximate="tanh") if gelu else nn.functional.silu(gate)
    want_out = act * up
    (want,) = torch.autograd.grad(want_out, both, dy, retain_graph=True)
    pair = (both * 1, None) if kind == "one" else (gate, up)
    out = triton_ops.GatedLinear.apply(*pair, gelu)
    (got,) = torch.autograd.grad(out, both, dy)  # overwrites gate and up
    torch.testing.assert_close(out, want_out, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


def test_rotary() -> None:
    x = drawn(1, 13, 3, 16).transpose(1, 2).requires_grad_()
    angle = drawn(1, 13, 8, seed=1)
    cos, sin = (torch.cat([turn, turn], -1) for turn in (angle.cos(), angle.sin()))
    left, right = x.chunk(2, -1)
    want = x * cos[:, None] + torch.cat([-right, left], -1) * sin[:, None]
    dy = drawn(1, 13, 3, 16, seed=2).transpose(1, 2)
    (want_dx,) = torch.autograd.grad(want, x, dy, retain_graph=True)
    for in_place in (False, True):
        turned = x * 1  # strides as x has them
        got = triton_ops.Rotary.apply(turned, cos, sin, in_place)
        assert (got.data_ptr() == turned.data_ptr()) == in_place
        (dx,) = torch.autograd.grad(got, turned, dy)
        assert (dx.data_ptr() == dy.data_ptr()) == in_place
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(dx, want_dx, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("width", [16, 24, 72])
@pytest.mark.parametrize("window", [None, 20])
@pytest.mark.parametrize("softcap", [None, 2.0])
def test_attention_in_short_rows(softcap: float | None, window: int | None, width: int) -> None:
    cu = torch.tensor([0, 70, 72, 150, 151, 151], device=DEVICE)
    parts = drawn(151, 8 * width).requires_grad_()  # as they come out of one product
    q_THD, k_TGD, v_TGD = (
        x.view(151, -1, width) for x in parts.split([4 * width, 2 * width, 2 * width], dim=1)
    )
    grad = drawn(151, 4, width, seed=1)
    scale = width**-0.5
    want = KERNELS["dense"](
        q_THD, k_TGD, v_TGD, cu=cu, max_length=78, scale=scale, window=window, softcap=softcap
    )
    (want_grad,) = torch.autograd.grad(want, parts, grad, retain_graph=True)
    got = KERNELS["triton"](
        q_THD, k_TGD, v_TGD, cu=cu, max_length=78, scale=scale, window=window, softcap=softcap
    )
    grads = torch.autograd.grad(got, [q_THD, k_TGD, v_TGD], grad)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    together = triton_ops.beside([grad.flatten(1) for grad in grads])
    assert together is not None  # so that the projections go backward in one product
    torch.testing.assert_close(together, want_grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("softcap", [None, 3.0])
def test_cross_entropy(softcap: float | None) -> None:
    logits, targets = drawn(6, 200) * 4, torch.tensor([3, -100, 199, 0, -100, 7], device=DEVICE)
    factor = torch.tensor(0.25, device=DEVICE)
    want_nll, want_grad = _plain(logits, targets, factor, softcap)
    nll = triton_ops.cross_entropy(logits, targets, factor, softcap, -100)
    torch.testing.assert_close(nll, want_nll, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(logits, want_grad, rtol=1e-4, atol=1e-6)

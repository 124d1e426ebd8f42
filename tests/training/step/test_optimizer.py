"""The flat AdamW against torch's, its clipping, its skipped steps, its state."""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef

from workbench.training.step.optimizer.adamw import FlatAdamW
from workbench.training.step.optimizer.flat_optimizer import (
    FIRST_SCALE,
    GROWTH_INTERVAL,
    FlatOptimizer,
)
from workbench.training.step.optimizer.flat_parameters import FlatParameters
from workbench.training.step.optimizer.library_optimizers import (
    FlatLibraryOptimizer,
    TensorwiseAdamW,
)


def layers() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 3))


def flat_of(module: nn.Module, compute: torch.dtype = torch.float32) -> FlatParameters:
    return FlatParameters(list(module.named_parameters()), compute)


def fill_grads(flat: FlatParameters, seed: int, factor: float = 1.0) -> None:
    torch.manual_seed(seed)
    for param in flat.params:
        flat.grad(param).copy_(torch.randn(param.shape) * factor)


@pytest.mark.parametrize("clip", [None, 0.3, 100.0])
def test_it_updates_as_torch_does(clip: float | None) -> None:
    ours, plain = layers(), layers()
    flat = flat_of(ours)
    optimizer = FlatAdamW(flat, lr=0.01, weight_decay=0.1, max_grad_norm=clip)
    named = dict(plain.named_parameters())
    groups = [
        {"params": [p for n, p in named.items() if "bias" not in n], "weight_decay": 0.1},
        {"params": [p for n, p in named.items() if "bias" in n], "weight_decay": 0.0},
    ]
    reference = torch.optim.AdamW(groups, lr=0.01)
    for seed in range(5):
        fill_grads(flat, seed)
        for name, param in zip(flat.names, flat.params, strict=True):
            named[name].grad = flat.grad(param).clone()
        optimizer.step()
        norm = nn.utils.clip_grad_norm_(plain.parameters(), clip or math.inf)
        reference.step()
        torch.testing.assert_close(optimizer.norm, norm)
    for name, param in ours.named_parameters():
        torch.testing.assert_close(param, named[name], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_gradient_that_is_no_number_changes_nothing_and_is_counted(bad: float) -> None:
    module = layers()
    flat = flat_of(module)
    optimizer = FlatAdamW(flat, lr=0.01, max_grad_norm=0.3)
    fill_grads(flat, 0)
    optimizer.step()
    before = copy.deepcopy((flat.values, optimizer.state_dict()["state"]))
    for _ in range(2):
        flat.grads[3] = bad
        optimizer.step()
    assert torch.equal(flat.values, before[0])
    state = optimizer.state_dict()["state"]
    assert all(torch.equal(state[n], before[1][n]) for n in ("exp_avg", "exp_avg_sq", "step"))
    assert (float(optimizer.skipped), float(optimizer.skipped_in_a_row)) == (2.0, 2.0)
    fill_grads(flat, 1)
    optimizer.step()
    assert (float(optimizer.skipped), float(optimizer.skipped_in_a_row)) == (2.0, 0.0)
    assert bool(torch.isfinite(flat.values).all())


def test_the_loss_scale_divides_out_and_halves_when_it_overflows() -> None:
    scaled, plain = flat_of(layers()), flat_of(layers())
    with_scale = FlatAdamW(scaled, lr=0.01, max_grad_norm=0.3, loss_scaling=True)
    without = FlatAdamW(plain, lr=0.01, max_grad_norm=0.3)
    fill_grads(scaled, 0, FIRST_SCALE)
    fill_grads(plain, 0)
    with_scale.step()
    without.step()
    torch.testing.assert_close(scaled.values, plain.values)
    torch.testing.assert_close(with_scale.norm, without.norm)
    scaled.grads[0] = math.inf
    with_scale.step()
    assert float(with_scale.scale) == FIRST_SCALE / 2


def test_rows_that_overflow_at_any_loss_scale_leave_one_that_fp16_can_hold() -> None:
    flat = flat_of(layers())
    optimizer = FlatAdamW(flat, lr=0.01, loss_scaling=True)
    for seed in range(40):
        flat.grads[0] = math.inf
        optimizer.step()
        fill_grads(flat, seed, float(optimizer.scale))
        optimizer.step()
    assert float(optimizer.skipped) == 40
    gradient = torch.tensor(1e-4, dtype=torch.float16) * optimizer.scale.half()
    assert float(gradient) == pytest.approx(1e-4, rel=1e-2)


def test_the_loss_scale_doubles_after_many_good_steps_and_is_kept_in_the_state() -> None:
    flat = flat_of(layers())
    optimizer = FlatAdamW(flat, lr=0.01, loss_scaling=True)
    optimizer._flat_state["good_steps"].fill_(GROWTH_INTERVAL - 1)
    fill_grads(flat, 0)
    optimizer.step()
    assert float(optimizer.scale) == 2 * FIRST_SCALE
    resumed = FlatAdamW(flat_of(layers()), lr=0.01, loss_scaling=True)
    resumed.load_state_dict(optimizer.state_dict())
    assert float(resumed.scale) == 2 * FIRST_SCALE


def test_another_librarys_optimizer_clips_and_undoes_the_loss_scale() -> None:
    scaled, plain = flat_of(layers()), flat_of(layers())
    ours = FlatLibraryOptimizer(scaled, kind="sgd", lr=0.1, max_grad_norm=0.3, loss_scaling=True)
    reference = torch.optim.SGD(plain.params, lr=0.1)
    for seed in range(3):
        fill_grads(scaled, seed, FIRST_SCALE)
        fill_grads(plain, seed)
        plain.attach_grads(plain.params)
        nn.utils.clip_grad_norm_(plain.params, 0.3)
        ours.step()
        reference.step()
    torch.testing.assert_close(scaled.values, plain.values)


def test_its_state_goes_through_a_file_exactly() -> None:
    flat = flat_of(layers())
    optimizer = FlatAdamW(flat, lr=0.01, weight_decay=0.1)
    fill_grads(flat, 0)
    optimizer.step()
    file = io.BytesIO()
    torch.save({"weights": flat.values, "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    found = torch.load(file, weights_only=True)
    other = flat_of(layers())
    resumed = FlatAdamW(other, lr=0.5)
    other.values.copy_(found["weights"])
    resumed.load_state_dict(found["optimizer"])
    for one, opt in ((flat, optimizer), (other, resumed)):
        fill_grads(one, 1)
        opt.step()
    assert torch.equal(flat.values, other.values)
    assert resumed.param_groups[0]["lr"] == 0.01


def test_a_state_of_an_earlier_version_with_the_number_of_micro_steps_loads() -> None:
    optimizer = FlatAdamW(flat_of(layers()), lr=0.01)
    state = optimizer.state_dict()
    resumed = FlatAdamW(flat_of(layers()), lr=0.5)
    resumed.load_state_dict({**state, "state": {**state["state"], "micro_steps": 3}})
    assert resumed.param_groups[0]["lr"] == 0.01
    assert resumed.state_dict()["state"].keys() == state["state"].keys()


def test_a_state_of_another_shape_is_refused() -> None:
    small = FlatAdamW(flat_of(nn.Linear(2, 2)), lr=0.1)
    large = FlatAdamW(flat_of(nn.Linear(20, 20)), lr=0.1)
    with pytest.raises(ValueError, match="elements"):
        large.load_state_dict(small.state_dict())


def test_masters_stay_fp32_and_compute_copies_follow() -> None:
    module = layers()
    flat = flat_of(module, torch.bfloat16)
    with torch.no_grad():
        flat.params[0].fill_(1.001)
    flat.refresh()
    assert flat.params[0].dtype == torch.float32
    assert torch.equal(flat.value(flat.params[0]), flat.params[0].bfloat16())


def test_released_parameters_stay_where_they_are_and_all_else_goes() -> None:
    """Copies would need room on the card beside all that the last step took."""
    module = layers()
    before = copy.deepcopy(module.state_dict())
    flat = flat_of(module, torch.bfloat16)
    flat.attach_grads(flat.params)
    places = [param.data_ptr() for param in module.parameters()]
    rest = [StorageWeakRef(one.untyped_storage()) for one in (flat.grads, flat.compute)]  # type: ignore[no-untyped-call]
    flat.release()
    del flat
    assert [param.data_ptr() for param in module.parameters()] == places
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert all(one.expired() for one in rest)  # type: ignore[no-untyped-call]


def test_it_reports_the_bytes_of_its_moments_once_they_are_made() -> None:
    flat = flat_of(layers())
    moments = 8 * flat.values.numel()
    assert FlatAdamW(flat, lr=0.01).state_bytes() >= moments
    stock = FlatLibraryOptimizer(flat, kind="paged_adamw_32bit", lr=0.01)
    assert stock.state_bytes() < 100
    fill_grads(flat, 1)
    stock.step()
    assert stock.state_bytes() >= moments


@pytest.mark.parametrize(
    "make", [FlatAdamW, partial(FlatLibraryOptimizer, kind="adamw_8bit"), TensorwiseAdamW]
)
def test_each_steps_by_the_schedule_and_skips_a_gradient_that_is_no_number(
    make: Callable[..., FlatOptimizer],
) -> None:
    flat = flat_of(layers())
    optimizer = make(flat, lr=0.01, max_grad_norm=0.3)
    start = flat.values.clone()
    for rate, grad, moves in ((0.0, 1.0, False), (0.01, math.nan, False), (0.01, 1.0, True)):
        for group in optimizer.param_groups:
            group["lr"] = rate
        flat.grads.fill_(grad)
        optimizer.step()
        assert torch.equal(flat.values, start) != moves
    assert float(optimizer.skipped) == 1.0
    assert bool(torch.isfinite(flat.values).all())

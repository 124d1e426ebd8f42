"""Out of memory in a real trial: its own retries, its report, and that no loss changes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.training.trials import Bench, Log, plan, recipe
from workbench import fault_points
from workbench.attempts.events import Outcome
from workbench.training.model.base import ResidentBase

SETTINGS: dict[str, Any] = {
    "lora__dropout": 0.0,
    "train__epochs": 2,
    "train__max_steps": 7,
    "train__log_every": 1,
}
"""Seven steps of four rows, with a checkpoint at 4, and without dropout: its masks would
depend on how a batch is cut."""


@contextmanager
def holds(tokens: int, *, after: int = 0, scoring: int = 1 << 30) -> Iterator[None]:
    """A card that has room for so many tokens in a training forward from the `after`-th on, and for
    `scoring` in one without gradients."""
    seen = 0

    def look(module: nn.Module, inputs: Any) -> None:
        nonlocal seen
        if not isinstance(module, nn.Embedding):
            return
        trains = torch.is_grad_enabled()
        seen += trains
        if inputs[0].numel() > (tokens if trains else scoring) and (seen > after or not trains):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    hook = nn.modules.module.register_module_forward_pre_hook(look)
    try:
        yield
    finally:
        hook.remove()


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Log:
    """Return a whole trial that never ran out of memory."""
    return Bench(tmp_path_factory.mktemp("straight"), recipe(**SETTINGS)).run()


@pytest.fixture
def fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the file in which a fault is armed."""
    monkeypatch.setenv(fault_points.VARIABLE, str(tmp_path / "fault"))
    return tmp_path / "fault"


def warnings_of(log: Any) -> list[str]:
    return [row["text"] for row in log.of("log") if row["level"] == "warning"]


@pytest.mark.parametrize(
    "rung",
    [
        {"tokens_per_micro": 192},
        {"tokens_per_micro": 96, "recompute_layers": 5},
    ],
)
def test_losses_are_the_same_across_a_fallback_step(
    rung: dict[str, Any], straight: Log, tmp_path: Path
) -> None:
    climbing = Bench(tmp_path, recipe(**SETTINGS))
    with holds(150, after=6):
        first = climbing.run()
    assert (first.outcome, first.end["cause"]) == (Outcome.FAILED, "out_of_memory")
    climbing.plan = plan(**rung)
    second = climbing.run()
    assert second.outcome is Outcome.DONE
    assert min(second.losses) == 5, "from the checkpoint of step 4"
    losses = {**first.losses, **second.losses}
    assert set(losses) == set(range(1, 8))
    for step, (loss, norm) in straight.losses.items():
        assert losses[step][0] == pytest.approx(loss, rel=1e-6, abs=1e-6), step
        assert losses[step][1] == pytest.approx(norm, rel=1e-5), step
    assert second.scores["loss"] == pytest.approx(straight.scores["loss"], rel=1e-6)


@pytest.mark.parametrize(("after", "step"), [(0, 0), (6, 6)])
def test_an_attempt_reports_where_it_ran_out_of_memory_and_what_it_took(
    after: int, step: int, tmp_path: Path
) -> None:
    with holds(0, after=after):
        log = Bench(tmp_path, recipe(**SETTINGS)).run()
    assert log.end["stage"] == "training"
    assert log.end["step"] == step
    where = "in training" if step == 0 else f"in training at step {step}"
    assert where in log.end["reason"]
    assert "were taken, 1.0 GiB predicted" in log.end["reason"]


def test_a_passing_shortage_is_cured_by_emptying_the_card(straight: Log, tmp_path: Path) -> None:
    armed = [True]

    def once(module: nn.Module, inputs: Any) -> None:
        if isinstance(module, nn.Embedding) and armed and torch.is_grad_enabled():
            armed.clear()
            raise torch.OutOfMemoryError("CUDA out of memory")

    hook = nn.modules.module.register_module_forward_pre_hook(once)
    try:
        log = Bench(tmp_path, recipe(**SETTINGS)).run()
    finally:
        hook.remove()
    assert log.outcome is Outcome.DONE
    assert log.losses == straight.losses
    assert "out of memory in training at step 0: once more on an emptied card" in warnings_of(log)


def test_a_shortage_while_saving_loses_no_checkpoint(fault: Path, tmp_path: Path) -> None:
    bench = Bench(tmp_path, recipe(**SETTINGS, train__save_every=2))
    fault.write_text("checkpoint.filled=oom@2")
    log = bench.run()
    assert log.outcome is Outcome.DONE
    assert [row["step"] for row in log.of("checkpoint")] == [2, 4, 6, 7]
    assert "out of memory while the checkpoint of step 4 was written: once more" in warnings_of(log)


def test_scoring_takes_half_the_rows_at_a_time_from_then_on(tmp_path: Path) -> None:
    settings = recipe(**SETTINGS, evaluate__every=4)
    straight = Bench(tmp_path / "a", settings, plan=plan(eval_batch=8)).run()
    with holds(1 << 30, scoring=300):
        log = Bench(tmp_path / "b", settings, plan=plan(eval_batch=8)).run()
    assert log.outcome is Outcome.DONE
    told = [text for text in warnings_of(log) if "scoring" in text]
    assert told[0].startswith("out of memory scoring 8 rows at a time: 4 from now on")
    assert len(told) == len(set(told)), "each size once, not at every evaluation"
    assert log.scores["loss"] == pytest.approx(straight.scores["loss"], rel=1e-6)


def test_a_card_that_cannot_score_one_row_says_so(tmp_path: Path) -> None:
    with holds(1 << 30, scoring=0):
        log = Bench(tmp_path, recipe(**SETTINGS, evaluate__every=4)).run()
    assert (log.end["cause"], log.end["stage"]) == ("out_of_memory", "evaluating")
    assert "in evaluating at step 4" in log.end["reason"]


def test_the_plan_decides_how_many_rows_are_scored_at_once(tmp_path: Path) -> None:
    def most_tokens(rows: int) -> int:
        """Return the tokens of the largest pass of an attempt that scores so many at once."""
        sizes: set[int] = set()

        def look(module: nn.Module, inputs: Any) -> None:
            if isinstance(module, nn.Embedding) and not torch.is_grad_enabled():
                sizes.add(inputs[0].numel())

        hook = nn.modules.module.register_module_forward_pre_hook(look)
        try:
            folder = tmp_path / str(rows)
            folder.mkdir()
            Bench(folder, recipe(train__max_steps=1), plan=plan(eval_batch=rows)).run()
        finally:
            hook.remove()
        return max(sizes)

    longest = most_tokens(1)
    assert 2 * longest < most_tokens(3) <= 3 * longest


def test_the_base_is_released_so_that_the_next_attempt_finds_the_card_empty(tmp_path: Path) -> None:
    resident = ResidentBase()
    with holds(0):
        Bench(tmp_path, recipe(**SETTINGS)).run(resident=resident)
    assert resident.spec is None

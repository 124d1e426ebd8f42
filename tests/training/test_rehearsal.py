"""The rehearsal tries the worst batch first, once, and changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch import nn

from tests.training.test_oom_fallback import holds
from tests.training.trials import Bench, halt_at, plan, recipe
from workbench.attempts.events import Outcome
from workbench.fleet import Halt
from workbench.training.rehearsal import worst_batches

SETTINGS: dict[str, Any] = {
    "train__max_steps": 3,
    "train__log_every": 1,
    "evaluate__answer_pattern": r"^(\d+)",
    "evaluate__max_new_tokens": 4,
}


def phases(log: Any) -> list[str]:
    return [row["name"] for row in log.of("phase")]


@pytest.mark.parametrize(
    ("optimizer", "cut"),
    [
        ("adamw_torch", {}),
        ("paged_adamw_8bit", {"tokens_per_micro": 192, "recompute_layers": 5}),
    ],
)
def test_losses_and_weights_equal_those_of_a_trial_without_a_rehearsal(
    optimizer: str, cut: dict[str, Any], tmp_path: Path
) -> None:
    how = plan(optimizer=optimizer, **cut)
    without = Bench(tmp_path / "a", recipe(**SETTINGS), plan=how).run()
    log = Bench(tmp_path / "b", recipe(**SETTINGS), plan=how).run(rehearse=True)
    assert "rehearsing" in phases(log)
    assert "rehearsing" not in phases(without)
    assert log.losses == without.losses
    assert log.scores == without.scores
    weights = "trials/1/adapter/adapter_model.safetensors"
    assert (tmp_path / "a" / weights).read_bytes() == (tmp_path / "b" / weights).read_bytes()


def test_a_resumed_trial_that_rehearses_repeats_the_uninterrupted_one(tmp_path: Path) -> None:
    expected = Bench(tmp_path / "a", recipe(**SETTINGS)).run()
    broken = Bench(tmp_path / "b", recipe(**SETTINGS))
    first = broken.run(on=halt_at(1, Halt.YIELD))
    second = broken.run(rehearse=True)
    assert "rehearsing" in phases(second)
    assert {**first.losses, **second.losses} == pytest.approx(expected.losses, rel=1e-6)


def test_a_rehearsal_tries_the_longest_rows(tmp_path: Path) -> None:
    sizes: list[tuple[bool, int]] = []

    def look(module: nn.Module, inputs: Any) -> None:
        if isinstance(module, nn.Embedding):
            sizes.append((torch.is_grad_enabled(), inputs[0].numel()))

    hook = nn.modules.module.register_module_forward_pre_hook(look)
    try:
        Bench(tmp_path, recipe(**SETTINGS)).run(rehearse=True)
    finally:
        hook.remove()
    assert sizes[0] == (True, max(size for trains, size in sizes if trains))
    assert sizes[1] == (False, max(size for trains, size in sizes if not trains))
    # Answers come when the step is gone; beside it they would need more than the plan counts.
    assert sizes[2][0]


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (40, [(20, 15, 5, 8)]),  # the third row is cut to what there is room for
        (43, [(20, 15, 8, 8)]),
        (12, [(12, 15, 10, 8), (20, 15, 10, 8)]),  # the longest go alone, so as they are as well
    ],
)
def test_the_worst_batches_fill_a_micro_step(tokens: int, expected: list[Any]) -> None:
    lengths = [8, 20, 3, 10, 15]
    rows = Dataset.from_list(
        [{"input_ids": [7] * n, "labels": [7] * n, "length": n} for n in lengths]
    )
    made = worst_batches(rows, 4, tokens)
    assert [batch.lengths for batch in made] == expected
    assert made[0].cut(4, tokens)[0].tokens == tokens


def test_a_rehearsal_is_remembered_until_plan_or_rows_change(tmp_path: Path) -> None:
    bench = Bench(tmp_path, recipe(train__max_steps=1))
    told = [phases(bench.run(rehearse=True)).count("rehearsing")]
    bench.trial.rename(tmp_path / "first")
    told.append(phases(bench.run(rehearse=True)).count("rehearsing"))
    bench.trial.rename(tmp_path / "second")
    bench.plan = plan(tokens_per_micro=192)
    told.append(phases(bench.run(rehearse=True)).count("rehearsing"))
    bench.trial.rename(tmp_path / "third")
    bench.recipe = recipe(train__max_steps=1, data__max_rows=20)
    told.append(phases(bench.run(rehearse=True)).count("rehearsing"))
    assert told == [1, 0, 1, 1]


def test_out_of_memory_in_a_rehearsal_comes_before_any_training(tmp_path: Path) -> None:
    bench = Bench(tmp_path, recipe(**SETTINGS))
    with holds(200):
        log = bench.run(rehearse=True)
    assert log.outcome is Outcome.FAILED
    assert (log.end["cause"], log.end["stage"]) == ("out_of_memory", "rehearsing")
    assert not log.losses
    bench.plan = plan(tokens_per_micro=96)
    with holds(200):
        log = bench.run(rehearse=True)
    assert log.outcome is Outcome.DONE
    assert "rehearsing" in phases(log)


def test_a_request_to_yield_during_a_rehearsal_takes_effect_at_the_first_step(
    tmp_path: Path,
) -> None:
    def on(kind: str, data: dict[str, Any], control: Any) -> None:
        if kind == "phase" and data["name"] == "rehearsing":
            control.request_halt(Halt.YIELD)

    bench = Bench(tmp_path, recipe(**SETTINGS))
    log = bench.run(on=on, rehearse=True)
    assert log.outcome is Outcome.YIELDED
    assert log.end["step"] == 1
    assert "rehearsing" in phases(bench.run(rehearse=True)), "it had not gone well yet"


@pytest.mark.parametrize(("optimizer", "made"), [("adamw_torch", True), ("sgd", False)])
def test_a_rehearsal_leaves_room_for_the_optimizer_state(
    optimizer: str, made: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The flat AdamW allocates its state at once; reserving it again would exceed the memory."""
    plain, sizes = torch.empty, list[int]()

    def empty(*args: Any, **kwargs: Any) -> torch.Tensor:
        if kwargs.get("dtype") is torch.uint8 and isinstance(args[0], int):
            sizes.append(args[0])
        return plain(*args, **kwargs)

    monkeypatch.setattr(torch, "empty", empty)
    how = plan(optimizer=optimizer, buckets={"optimizer": 5_000})
    Bench(tmp_path, recipe(train__max_steps=1), plan=how).run(rehearse=True)
    assert sizes[0] == 0 if made else sizes[0] > 4_000

"""The best evaluated weights become the adapter, whatever happens to the trial on its way."""

from __future__ import annotations

import json
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.training.trials import Bench, Log, halt_at, recipe
from workbench.adapters import adapter_folder
from workbench.attempts.events import Outcome
from workbench.fleet import Halt
from workbench.training.checkpoints import checkpoint
from workbench.training.checkpoints.checkpoint import COMMIT, WEIGHTS, json_digest
from workbench.training.model.base import ResidentBase
from workbench.training.scoring import scores
from workbench.training.scoring.held_out_loss import score_rows
from workbench.training.step import Step
from workbench.training.step.kept import keeper

SETTINGS: dict[str, Any] = {
    "train__max_steps": 5,
    "train__learning_rate": 5e-2,
    "train__save_every": 1,
    "train__log_every": 1,
    "evaluate__every": 1,
}
"""Five steps at a rate so high that the held-out loss is lowest at step 3."""
BEST, LAST = 3, 5


def curve(*logs: Log) -> list[tuple[int, float]]:
    """Return step and held-out loss of each evaluation, in the order of the events."""
    rows = [row for log in logs for row in log.of("metric") if "eval_loss" in row["values"]]
    return [(row["step"], row["values"]["eval_loss"]) for row in rows]


def steps_on_disk(bench: Bench) -> list[str]:
    return sorted(path.name for path in bench.checkpoints.glob("step-*"))


def half_way(home: Path, **settings: Any) -> Bench:
    """Return a bench whose trial gave its card back before its last weights were evaluated."""
    bench = Bench(home, recipe(**{**SETTINGS, **settings}))
    assert bench.run(on=halt_at(BEST, Halt.YIELD)).end["step"] == BEST
    assert bench.run(on=halt_at(LAST, Halt.YIELD)).end["step"] == LAST
    return bench


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bench, Log]:
    bench = Bench(tmp_path_factory.mktemp("straight"), recipe(**SETTINGS))
    return bench, bench.run()


def test_the_step_with_the_lowest_held_out_loss_is_scored_and_kept(
    straight: tuple[Bench, Log],
) -> None:
    bench, log = straight
    losses = dict(curve(log))
    assert [step for step, _ in curve(log)] == [1, 2, BEST, 4, LAST]
    assert min(losses, key=lambda step: losses[step]) == BEST
    (score,) = log.of("score")
    assert (score["step"], score["values"]["loss"]) == (BEST, losses[BEST])
    assert log.outcome is Outcome.DONE
    assert log.end["step"] == LAST
    assert json.loads((bench.trial / "adapter/scores.json").read_text())["step"] == BEST
    assert f"step {BEST} has the lowest held-out loss" in log.of("log")[-1]["text"]


def test_the_step_is_gone_before_its_trial_is_scored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else its copies of weights and its optimizer would lie on the card beside the answers."""
    steps: list[weakref.ref[Step]] = []
    alive: list[bool] = []

    class Watched(Step):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            steps.append(weakref.ref(self))

    def look(kind: str, data: dict[str, Any], control: Any) -> None:
        if kind == "phase" and data["name"] == "evaluating":
            alive.append(steps[0]() is not None)

    monkeypatch.setattr(keeper, "Step", Watched)
    short = {"train__max_steps": 2, "evaluate__every": None}
    Bench(tmp_path, recipe(**{**SETTINGS, **short})).run(on=look)
    assert alive == [False]


def test_losses_of_the_kept_step_are_not_computed_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[int] = []

    def counted(*given: Any, **named: Any) -> Any:
        passes.append(len(given[1]))
        return score_rows(*given, **named)

    monkeypatch.setattr(scores, "score_rows", counted)
    short = {"train__max_steps": 2, "evaluate__every": 1}
    log = Bench(tmp_path, recipe(**{**SETTINGS, **short})).run()
    assert log.outcome is Outcome.DONE
    assert passes == [8, 8]


def test_the_adapter_holds_the_weights_of_that_step(straight: tuple[Bench, Log]) -> None:
    bench, _ = straight
    best = load_file(checkpoint.folder_of(bench.checkpoints, BEST) / WEIGHTS)
    last = load_file(checkpoint.folder_of(bench.checkpoints, LAST) / WEIGHTS)
    kept = load_file(bench.trial / "adapter" / adapter_folder.WEIGHTS)
    total = sum(float(weight.double().sum()) for weight in kept.values())
    assert total == pytest.approx(sum(float(one.double().sum()) for one in best.values()))
    assert total != pytest.approx(sum(float(one.double().sum()) for one in last.values()))


def test_the_best_checkpoint_stays_beside_the_newest(straight: tuple[Bench, Log]) -> None:
    assert steps_on_disk(straight[0]) == ["step-000003", "step-000004", "step-000005"]


def test_a_resumed_trial_keeps_the_same_weights_digit_by_digit(
    straight: tuple[Bench, Log], tmp_path: Path
) -> None:
    """The card is given back at steps whose evaluation is due, and just after the best one."""
    expected, bench = straight[1], Bench(tmp_path, recipe(**SETTINGS))
    logs = [bench.run(on=halt_at(step, Halt.YIELD)) for step in (1, BEST)]
    assert [log.end["step"] for log in logs] == [1, BEST]
    logs.append(bench.run(ResidentBase()))
    assert curve(*logs) == curve(expected)
    assert logs[-1].of("score") == expected.of("score")
    weights = f"adapter/{adapter_folder.WEIGHTS}"
    left, right = (load_file(one.trial / weights) for one in (straight[0], bench))
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_a_trial_that_is_stopped_later_keeps_its_best_weights(
    straight: tuple[Bench, Log], tmp_path: Path
) -> None:
    bench = Bench(tmp_path, recipe(**{**SETTINGS, "evaluate__every": BEST, "train__max_steps": 12}))
    log = bench.run(on=halt_at(4, Halt.FINISH))
    assert log.outcome is Outcome.STOPPED
    (score,) = log.of("score")
    losses = dict(curve(log))
    assert list(losses) == [BEST, LAST]
    assert score["step"] == min(losses, key=lambda step: losses[step]) == BEST


def test_finishing_a_paused_trial_compares_its_last_weights_with_the_best(tmp_path: Path) -> None:
    bench = half_way(tmp_path)
    log = bench.run(finish=True)
    assert [step for step, _ in curve(log)] == [LAST]
    assert (log.outcome, log.of("score")[0]["step"]) == (Outcome.STOPPED, BEST)


def test_a_damaged_best_checkpoint_is_reported_and_the_next_best_kept(tmp_path: Path) -> None:
    bench = half_way(tmp_path)
    path = checkpoint.folder_of(bench.checkpoints, BEST) / WEIGHTS
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    log = bench.run()
    assert log.outcome is Outcome.DONE
    assert log.of("score")[0]["step"] == 4
    [warning] = [row["text"] for row in log.of("log") if row["level"] == "warning"]
    assert "step-000003 is damaged" in warning
    assert "the next best one is used" in warning


def test_a_trial_that_diverges_keeps_its_best_weights(tmp_path: Path) -> None:
    """The loss that training began with is in the checkpoint; the test makes it small."""
    bench = Bench(tmp_path, recipe(**{**SETTINGS, "evaluate__every": BEST, "train__max_steps": 9}))
    bench.run(on=halt_at(4, Halt.YIELD))
    newest = checkpoint.newest_first(bench.checkpoints)[0]
    assert newest.name == "step-000005"
    body = json.loads((newest / COMMIT).read_text())
    del body["sha256"]
    body["window"]["start_loss"] = 0.01
    (newest / COMMIT).write_text(json.dumps({**body, "sha256": json_digest(body)}))
    log = bench.run()
    assert log.outcome is Outcome.DIVERGED, log.end
    assert log.of("score")[0]["step"] == log.end["step"] == 3
    assert "the checkpoint of step 3 was scored and kept" in log.end["hint"]
    assert log.of("adapter")


def test_the_last_weights_are_kept_where_the_recipe_says_so(tmp_path: Path) -> None:
    bench = Bench(tmp_path, recipe(**SETTINGS, train__keep="last"))
    log = bench.run()
    losses = dict(curve(log))
    assert losses[BEST] < losses[LAST]
    assert log.of("score")[0]["step"] == LAST
    assert log.scores["loss"] == losses[LAST]
    assert steps_on_disk(bench) == ["step-000004", "step-000005"]
    assert not [row for row in log.of("results") if not row["scored"]]

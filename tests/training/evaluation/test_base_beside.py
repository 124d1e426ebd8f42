"""The base beside a trial that trains: answered as in a pass of its own, and only once."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from tests.training.trials import DEMO_MODEL, Bench, Log, plan, recipe, shallow_model
from workbench.attempts.assignment import ANSWERS
from workbench.attempts.events import Outcome
from workbench.fleet import Halt
from workbench.fleet.trial_fence import allow_attempt
from workbench.training.control import Control
from workbench.training.model.base import ResidentBase

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*`is_gradient_checkpointing` is deprecated:FutureWarning"),
]
SETTINGS: dict[str, Any] = {
    "train__max_steps": 2,
    "train__learning_rate": 0.05,
    "evaluate__answer_pattern": r"^(\S+)",
    "evaluate__max_new_tokens": 4,
    "data__eval_rows": 4,
}
WHOLE: dict[str, Any] = {"model__name": DEMO_MODEL}
"""Its first layers alone give the same answer to all rows."""
On = Callable[[str, dict[str, Any], Control], None]


class Sweep:
    """Trials of one experiment on one bench: number 1 is the base."""

    def __init__(self, home: Path, *, rows_at_once: int = 3, **settings: Any) -> None:
        made = recipe(**{**SETTINGS, **settings})
        self.bench = Bench(home, made, plan=plan(eval_batch=rows_at_once))
        self.resident: ResidentBase | None = None
        self.base = home / "trials" / "1"
        self.base.mkdir(parents=True)

    def score_base(self) -> list[Any]:
        """Run the base's own attempt; return its scores and the results of its rows."""
        self.bench.kind, self.bench.number = "base", 1
        return results(self.bench, self.bench.run(self.resident))

    def train(self, number: int, *, beside: bool = True, on: On = lambda *_: None) -> Log:
        """Run a trial that trains; `beside`: the base is offered to it."""
        self.bench.kind, self.bench.number = "tune", number
        base = {"rows": "eval", "trial_folder": str(self.base), "live": None}
        return self.bench.run(self.resident, on=on, beside=[base] if beside else None)

    @property
    def answers(self) -> Path:
        return self.base / ANSWERS


def results(bench: Bench, log: Log) -> list[Any]:
    assert log.outcome is Outcome.DONE, log.end
    (file,) = (bench.trial / "results").glob("*.jsonl.gz")
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        return [log.scores, *map(json.loads, lines)]


def unfused_model(folder: Path) -> Path:
    """Save a tiny model of a family that decode/ does not know, with the demo's tokenizer."""
    shutil.copytree(shallow_model(), folder, ignore=shutil.ignore_patterns("*.safetensors"))
    vocab = json.loads((folder / "config.json").read_text())["vocab_size"]
    config = GPTNeoXConfig(
        vocab_size=vocab,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=256,
    )
    torch.manual_seed(0)
    GPTNeoXForCausalLM(config).save_pretrained(folder)
    return folder


def when_answering(act: Callable[[Control], None]) -> On:
    """Act as soon as the trial's answers are about to be generated."""

    def on(kind: str, data: dict[str, Any], control: Control) -> None:
        if kind == "phase" and data["detail"] == "answers":
            act(control)

    return on


@pytest.mark.parametrize("rows_at_once", [1, 3, 64], ids=["one lane", "few", "more than rows"])
def test_base_and_trial_have_the_scores_and_rows_of_passes_of_their_own(
    rows_at_once: int, tmp_path: Path
) -> None:
    apart = Sweep(tmp_path / "apart", rows_at_once=rows_at_once, **WHOLE)
    base = apart.score_base()
    trial = results(apart.bench, apart.train(2, beside=False))
    assert base[2:] != trial[2:]
    assert len({row["extracted"] for row in base[2:]}) > 1
    sweep = Sweep(tmp_path / "together", rows_at_once=rows_at_once, **WHOLE)
    assert results(sweep.bench, sweep.train(2)) == trial
    assert sweep.answers.exists()
    assert sweep.score_base() == base
    assert not sweep.answers.exists()


def test_the_bases_own_attempt_takes_the_answers_that_a_trial_left(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, **WHOLE)
    before = results(sweep.bench, sweep.train(2))
    left = json.loads(sweep.answers.read_bytes())
    left["rows"] = [[row, ids[:1], False] for row, ids, _ in left["rows"]]
    sweep.answers.write_text(json.dumps(left))
    rows = sweep.score_base()[2:]
    assert {row["tokens"] for row in rows} == {1}
    assert {row["tokens"] for row in before[2:]} != {1}


@pytest.fixture(scope="module")
def base_alone(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    return Sweep(tmp_path_factory.mktemp("alone"), **WHOLE).score_base()


@pytest.mark.parametrize("kept", [False, True], ids=["unscored", "its own rows are answered"])
def test_a_paused_trial_leaves_the_base_to_the_next(
    kept: bool, base_alone: list[Any], tmp_path: Path
) -> None:
    sweep = Sweep(tmp_path, **WHOLE)

    def pause(control: Control) -> None:
        def look(done: int, rows: int) -> None:
            if not kept or done >= rows / 2:
                control.request_halt(Halt.YIELD)

        control.rows_done = look

    paused = sweep.train(2, on=when_answering(pause))
    assert paused.outcome is Outcome.YIELDED
    assert not paused.of("score")
    assert not sweep.answers.exists()
    assert sweep.train(3).outcome is Outcome.DONE
    assert sweep.answers.exists()
    assert sweep.score_base() == base_alone


def test_of_two_trials_that_are_scored_at_once_one_answers_the_base(tmp_path: Path) -> None:
    sweep, asked = Sweep(tmp_path), dict[str, list[int]]()

    def count(name: str, control: Control, then: Callable[[], None] = lambda: None) -> None:
        asked[name] = []

        def look(done: int, rows: int) -> None:
            asked[name].append(rows)
            if len(asked[name]) == 1:
                then()

        control.rows_done = look

    def second() -> None:
        other = Sweep.__new__(Sweep)
        other.bench = Bench(sweep.bench.home, sweep.bench.recipe, plan=sweep.bench.plan)
        other.base, other.resident = sweep.base, ResidentBase()  # a worker of its own
        log = other.train(3, on=when_answering(lambda control: count("second", control)))
        assert log.outcome is Outcome.DONE, log.end

    first = sweep.train(2, on=when_answering(lambda control: count("first", control, second)))
    assert first.outcome is Outcome.DONE, first.end
    rows = len(json.loads(sweep.answers.read_bytes())["rows"])
    assert asked["first"][-1] == 2 * rows
    assert asked["second"][-1] == rows


def test_a_base_that_was_placed_by_itself_is_not_answered_again(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path)
    log = sweep.train(2, on=when_answering(lambda _: allow_attempt(sweep.base, 9)))
    assert log.outcome is Outcome.DONE
    assert not sweep.answers.exists()


def test_a_base_whose_folder_is_gone_costs_the_trial_nothing(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path)
    sweep.base.rmdir()
    assert sweep.train(2).outcome is Outcome.DONE
    assert not sweep.base.exists()


def test_a_trial_that_transformers_answers_leaves_the_base_alone(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path / "home", model__name=str(unfused_model(tmp_path / "model")))
    log = sweep.train(2)
    assert log.outcome is Outcome.DONE, log.end
    assert any("generated by transformers" in one["text"] for one in log.of("log"))
    assert not sweep.answers.exists()

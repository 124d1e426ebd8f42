"""The public Python API: its surface, what importing it costs, and what it does with an engine."""

from __future__ import annotations

import dataclasses
import inspect
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import workbench
from tests.cli.engines import Engine, recipe_file
from tests.support.waiting import wait_for
from workbench.home import Home

NAMES = {
    "BoardRow",
    "CardRow",
    "ChatSession",
    "Comparison",
    "EngineError",
    "EngineStatus",
    "EventRow",
    "Experiment",
    "FinalistRow",
    "ImportanceReport",
    "NewTrial",
    "NotThere",
    "Point",
    "Recipe",
    "RecipeError",
    "ScoreDifference",
    "State",
    "TrialDetail",
    "TrialRow",
    "Workbench",
    "WorkbenchError",
    "__version__",
}
METHODS = {
    "__init__": "(self, home: str | Path | None = None) -> None",
    "__enter__": "(self) -> Self",
    "__exit__": "(self, *_: object) -> None",
    "home": "(self) -> Path",
    "close": "(self) -> None",
    "experiments": "(self) -> list[Experiment]",
    "experiment": "(self, experiment: int | str) -> Experiment",
    "trials": "(self, experiment: int | str) -> list[TrialRow]",
    "trial": "(self, trial: int) -> TrialDetail",
    "board": "(self, experiment: int | str) -> list[BoardRow]",
    "verdict": "(self, experiment: int | str) -> str",
    "finalists": "(self, experiment: int | str) -> list[FinalistRow]",
    "compare": "(self, *trials: int) -> Comparison",
    "report": "(self, experiment: int | str, file: str | Path) -> Path",
    "importance": "(self, experiment: int | str) -> ImportanceReport",
    "series": "(self, trial: int, metric: str = 'loss', points: int = 200) -> list[Point]",
    "logs": "(self, trial: int, *, after: int = 0, limit: int = 1000) -> list[EventRow]",
    "cards": "(self) -> list[CardRow]",
    "submit": "(self, recipe: str | Path | Recipe, settings: Mapping[str, object] | None = None, "
    "*, warm_start: int | None = None) -> Experiment",
    "wait": "(self, experiment: int | str, *, timeout_s: float | None = None) -> Experiment",
    "hold": "(self, experiment: int | str | None = None) -> str",
    "release": "(self, experiment: int | str | None = None) -> str",
    "finals": "(self, experiment: int | str, *, top: int | None = None, seeds: int | None = None) "
    "-> str",
    "evaluate": "(self, adapters: int | str | Path | Sequence[int | str | Path], data: str | Path, "
    "settings: Mapping[str, object] | None = None, *, rows: int | None = None, "
    "name: str | None = None, same_base: bool = False) -> Experiment",
    "chat": "(self, *trials: int | None) -> ChatSession",
    "stop": "(self, trial: int) -> str",
    "kill": "(self, trial: int) -> str",
    "pause": "(self, trial: int) -> str",
    "resume": "(self, trial: int) -> str",
    "clone": "(self, trial: int, settings: Mapping[str, object] | None = None) -> NewTrial",
    "extend": "(self, trial: int, *, epochs: float | None = None, steps: int | None = None) "
    "-> NewTrial",
    "add": "(self, experiment: int | str, settings: Mapping[str, object]) -> NewTrial",
    "engine": "(self) -> EngineStatus",
    "start_engine": "(self, *, timeout_s: float = 60.0) -> None",
    "stop_engine": "(self, *, timeout_s: float = 120.0) -> None",
}
HEAVY = "('torch', 'ray', 'textual', 'transformers', 'trl', 'peft')"


def test_the_public_names_are_these() -> None:
    assert set(workbench.__all__) == NAMES
    assert {name for name in NAMES if hasattr(workbench, name)} == NAMES


def test_the_methods_and_their_signatures_are_these() -> None:
    found = {}
    for name, member in vars(workbench.Workbench).items():
        if name.startswith("_") and name not in METHODS:
            continue
        if isinstance(member, property):
            member = member.fget
        if inspect.isfunction(member):
            found[name] = str(inspect.signature(member)).replace('"', "'")
    strip = str.maketrans("", "", "'")
    assert {k: v.translate(strip) for k, v in found.items()} == {
        k: v.translate(strip) for k, v in METHODS.items()
    }


def test_every_public_method_and_type_is_documented() -> None:
    for name in NAMES - {"__version__"}:
        assert inspect.getdoc(getattr(workbench, name)), name
    for name in METHODS.keys() - {"__enter__", "__exit__"}:
        assert inspect.getdoc(getattr(workbench.Workbench, name)), name


def test_result_types_are_frozen() -> None:
    for name in NAMES:
        found = getattr(workbench, name)
        if dataclasses.is_dataclass(found):
            assert found.__dataclass_params__.frozen, name  # type: ignore[union-attr]


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="Workbanch"):
        workbench.Workbanch  # noqa: B018


def test_neither_the_import_nor_reading_loads_trainers_or_ray(tmp_path: Path) -> None:
    code = f"""
import sys, workbench
assert "workbench.service" not in sys.modules
with workbench.Workbench({str(tmp_path / "none")!r}) as bench:
    assert bench.experiments() == []
    assert bench.engine().state == "down"
print([name for name in {HEAVY} if name in sys.modules])
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_looking_creates_nothing(tmp_path: Path) -> None:
    with workbench.Workbench(tmp_path / "none") as bench:
        assert bench.experiments() == []
        assert bench.cards() == []
        with pytest.raises(workbench.NotThere):
            bench.board("demo")
    assert not (tmp_path / "none").exists()


# --- with an engine ---


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


@pytest.fixture
def bench(home: Home) -> Iterator[workbench.Workbench]:
    engine = Engine(home)
    engine.begin()
    with workbench.Workbench(home.root) as made:
        yield made
    engine.close()


def test_a_recipe_is_submitted_waited_for_and_ranked(
    bench: workbench.Workbench, tmp_path: Path
) -> None:
    experiment = bench.submit(recipe_file(tmp_path))
    ended = bench.wait(experiment.id, timeout_s=60)
    assert ended.counts == {"done": 1}
    best, base = bench.board("tiny")
    assert (best.rank, best.trial, base.rank) == (1, 2, None)
    assert (best.score_low or 1) < (best.score or 0) < (best.score_high or 0)
    assert best.vs_base is not None
    assert best.vs_base.low <= best.vs_base.difference <= best.vs_base.high
    assert bench.verdict("tiny").startswith("trial 2 is the only one with a score")
    assert [trial.id for trial in bench.trials("tiny")] == [2]
    assert bench.trial(2).trial.state is workbench.State.DONE
    assert bench.series(2, "loss")
    assert bench.logs(2)
    assert len(bench.cards()) == 2


def test_settings_change_the_recipe(bench: workbench.Workbench, tmp_path: Path) -> None:
    rates = {"train.learning_rate": [0.1, 0.2]}
    sweep = {"sweep.parameters": rates, "sweep.method": "grid", "lora.rank": 4}
    experiment = bench.submit(recipe_file(tmp_path), sweep)
    assert experiment.recipe["lora"]["rank"] == 4
    bench.wait(experiment.id, timeout_s=60)
    assert len(bench.trials(experiment.id)) == 2


def test_a_setting_that_is_text_is_taken_as_it_is(
    bench: workbench.Workbench, tmp_path: Path
) -> None:
    text = {"evaluate.answer_pattern": "#+ (.*)", "data.system": 'say "yes": or #no'}
    recipe = bench.submit(recipe_file(tmp_path), text).recipe
    assert recipe["evaluate"]["answer_pattern"] == "#+ (.*)"
    assert recipe["data"]["system"] == 'say "yes": or #no'


def test_settings_change_a_recipe_object_and_keep_its_sweep(
    bench: workbench.Workbench, tmp_path: Path
) -> None:
    from workbench.recipe import load_recipe

    path = recipe_file(tmp_path, sweep="{parameters: {train.learning_rate: [0.1, 0.2]}}")
    experiment = bench.submit(load_recipe(path), {"lora.rank": 4})
    assert experiment.recipe["lora"]["rank"] == 4
    assert experiment.recipe["sweep"]["parameters"]


def test_trials_are_paused_resumed_cloned_extended_added_and_stopped(
    bench: workbench.Workbench, tmp_path: Path
) -> None:
    experiment = bench.submit(recipe_file(tmp_path))
    bench.wait(experiment.id, timeout_s=60)
    clone = bench.clone(2, {"lora.rank": 4})
    assert (clone.experiment, clone.trial) == (experiment.id, 3)
    assert bench.add(experiment.id, {"lora.rank": 2}).trial == 4
    bench.wait(experiment.id, timeout_s=60)
    with pytest.raises(workbench.WorkbenchError) as refused:
        bench.stop(2)
    assert "trial 2" in str(refused.value)
    assert bench.clone(2, {"data.max_tokens": 32}).trial is None


SWEEP = {"sweep.parameters": {"train.learning_rate": [0.1, 0.2]}, "sweep.method": "grid"}


def test_trials_are_compared_reported_and_trained_again_as_finals(
    bench: workbench.Workbench, tmp_path: Path
) -> None:
    experiment = bench.submit(recipe_file(tmp_path), SWEEP)
    bench.wait(experiment.id, timeout_s=60)
    found = bench.compare(2, 3)
    assert found.settings == {"train.learning_rate": [0.1, 0.2]}
    assert found.scores[0].name == "exact_match"
    page = bench.report("tiny", tmp_path / "report.html")
    assert bench.verdict("tiny") in page.read_text(encoding="utf-8")
    assert bench.finalists("tiny") == []
    assert "final" in bench.finals("tiny", top=1, seeds=2)
    bench.wait(experiment.id, timeout_s=60)
    [finalist] = bench.finalists("tiny")
    assert (finalist.asked, len(finalist.seeds)) == (2, 2)
    assert finalist.shipped in finalist.trials


def test_adapters_are_scored_on_other_rows(bench: workbench.Workbench, tmp_path: Path) -> None:
    bench.wait(bench.submit(recipe_file(tmp_path), SWEEP).id, timeout_s=60)
    rows = tmp_path / "other.jsonl"
    rows.write_text('{"prompt": "1+2", "completion": "#### 3"}\n')
    pattern = {"evaluate.answer_pattern": "(3)"}
    experiment = bench.evaluate([2, 3], rows, pattern, rows=1, name="closer")
    assert experiment.name == "closer"
    assert experiment.recipe["evaluate"]["answer_pattern"] == "(3)"
    bench.wait(experiment.id, timeout_s=60)
    assert {row.settings.get("score.adapter") for row in bench.board("closer")} >= {2, 3}
    assert "of tiny" in bench.verdict("closer")
    with pytest.raises(workbench.NotThere, match="there is no file"):
        bench.evaluate(2, tmp_path / "none.jsonl")
    with pytest.raises(workbench.WorkbenchError, match="at least one adapter"):
        bench.evaluate([], rows)


def test_a_chat_of_a_trial_without_an_adapter_is_refused(
    bench: workbench.Workbench, tmp_path: Path
) -> None:
    bench.wait(bench.submit(recipe_file(tmp_path)).id, timeout_s=60)
    with pytest.raises(workbench.WorkbenchError, match="99"):
        bench.chat(99)


def test_a_wait_ends_where_only_a_person_can_go_on(
    bench: workbench.Workbench, tmp_path: Path
) -> None:
    experiment = bench.submit(recipe_file(tmp_path, max_steps="100000"))
    with pytest.raises(workbench.WorkbenchError, match="has not ended in"):
        bench.wait(experiment.id, timeout_s=0.5)
    wait_for(lambda: bench.trials(experiment.id), "it is prepared", 60)
    bench.pause(2)
    with pytest.raises(workbench.WorkbenchError, match="are paused"):
        bench.wait(experiment.id, timeout_s=60)
    bench.resume(2)
    bench.kill(2)
    assert bench.wait(experiment.id, timeout_s=60).counts == {"stopped": 1}


def test_a_refused_experiment_raises_its_reason(bench: workbench.Workbench, tmp_path: Path) -> None:
    experiment = bench.submit(recipe_file(tmp_path, name="refused"))
    with pytest.raises(workbench.WorkbenchError, match="no rows in train") as refused:
        bench.wait(experiment.id, timeout_s=60)
    assert refused.value.hint == "name a file with rows"


def test_mistakes_in_a_recipe_are_reported_before_anything_is_submitted(
    bench: workbench.Workbench, tmp_path: Path
) -> None:
    with pytest.raises(workbench.RecipeError, match=r"lora\.rnak"):
        bench.submit(recipe_file(tmp_path), {"lora.rnak": 4})
    assert bench.experiments() == []


def test_a_stopped_engine_is_not_started_by_a_change(
    home: Home, bench: workbench.Workbench, tmp_path: Path
) -> None:
    experiment = bench.submit(recipe_file(tmp_path))
    bench.wait(experiment.id, timeout_s=60)
    bench.stop_engine(timeout_s=60)
    assert bench.engine().state == "stopped"
    with pytest.raises(workbench.EngineError) as refused:
        bench.clone(2)
    assert "start_engine" in refused.value.hint

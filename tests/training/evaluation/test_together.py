"""Answers of several adapters in one pass: the same as one after another, and kept through ends."""

from __future__ import annotations

import gzip
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from tests.training.evaluation.plain_peft import save_plain
from tests.training.evaluation.test_score_run import evaluation, prepared_subject
from tests.training.trials import Bench, Log, plan, recipe, shallow_model, spec
from workbench.attempts.assignment import ANSWERS
from workbench.attempts.events import Outcome
from workbench.fleet import Halt
from workbench.recipe import shipped_file
from workbench.training.control import Control, Interrupted
from workbench.training.decode.generate import Generated
from workbench.training.evaluation.scored_adapter import BASE_ALONE, check_scored
from workbench.training.evaluation.together import AnswersTogether
from workbench.training.model.base import ResidentBase
from workbench.training.model.saved_adapter import load_saved
from workbench.training.scoring.generation import GenerationPlan

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*`is_gradient_checkpointing` is deprecated:FutureWarning"),
]
BASE = {"rows": "eval"}
SHORT: dict[str, Any] = {
    "evaluate__answer_pattern": r"^(\S+)",
    "evaluate__max_new_tokens": 4,
    "data__eval_rows": 2,
}
PROMPTS = {0: [5, 6, 7], 3: [8, 9], 4: [5] * 6}
HOW: dict[str, Any] = {"shrunk": lambda size: None, "fell_back": lambda reason: None}


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bench, list[dict[str, Any]]]:
    """Return a bench, and what its trials score: an adapter, the base, another one, and DoRA."""
    home = tmp_path_factory.mktemp("together")
    folders = [save_plain(home / "one"), save_plain(home / "two", r=6)]
    folders.append(save_plain(home / "dora", use_dora=True))
    bench = evaluation(home / "home", *folders)
    one, two, dora = ({**prepared_subject(bench, folder), **BASE} for folder in folders)
    return bench, [one, BASE, two, dora]


@pytest.fixture
def sources(adapters: tuple[Bench, list[dict[str, Any]]], tmp_path: Path) -> list[dict[str, Any]]:
    """Return what each trial scores, with a folder of its own."""
    found = []
    for number, source in enumerate(adapters[1]):
        (folder := tmp_path / str(number)).mkdir()
        found.append({**source, "trial_folder": str(folder)})
    return found


@pytest.fixture
def base() -> Iterator[nn.Module]:
    with ResidentBase().acquire(spec(path=str(shipped_file("workbench:demo/model")))) as model:
        yield model


def answers_of(
    base: nn.Module,
    sources: list[dict[str, Any]],
    *,
    control: Control | None = None,
    lanes: int = 5,
    ends: tuple[int, ...] = (),
) -> dict[int, Generated]:
    """Return the answers of the first, in one pass with those of the others."""
    own, *others = sources
    subject = check_scored(own, lambda *_, **__: None) if "folder" in own else BASE_ALONE
    folder = Path(own["trial_folder"])
    together = AnswersTogether(folder, subject, others, lanes=lanes, about={})
    together.check_beside(base)
    if subject.found is not None:
        together.model = load_saved(base, subject.found, subject.sha256)
    way = GenerationPlan(rows_at_once=2, most=6, ends=ends, pad_id=0, precision="fp32")
    return together.generate_rows(base, PROMPTS, way, control or Control(), **HOW)


def kept(source: dict[str, Any]) -> dict[int, list[int]] | None:
    file = Path(source["trial_folder"]) / ANSWERS
    if not file.exists():
        return None
    return {row: ids for row, ids, _ in json.loads(file.read_bytes())["rows"]}


@pytest.mark.parametrize("first", [0, 1], ids=["an adapter first", "the base first"])
def test_each_adapters_answers_are_those_that_it_gives_alone(
    first: int, sources: list[dict[str, Any]], adapters: tuple[Bench, list[dict[str, Any]]]
) -> None:
    resident, where = ResidentBase(), spec(path=str(shipped_file("workbench:demo/model")))
    alone = []
    for source in sources:
        with resident.acquire(where) as base:
            alone.append({r: one.ids for r, one in answers_of(base, [source]).items()})
    assert len({json.dumps(one, sort_keys=True) for one in alone}) == len(alone)
    order = [first, *(n for n in range(4) if n != first)]
    with resident.acquire(where) as base:
        own = answers_of(base, [sources[n] for n in order])
    assert {row: one.ids for row, one in own.items()} == alone[first]
    left = [kept(source) for source in sources]
    assert left[:3] == alone[:3]
    assert left[3] is None  # transformers and PEFT generate DoRA's, in its own attempt
    assert resident.spec == where  # its state could be restored


def test_what_was_finished_stays_when_the_card_is_given_back(
    base: nn.Module, sources: list[dict[str, Any]]
) -> None:
    control = Control()

    def stop(done: int, rows: int) -> None:
        assert rows == 9
        if done >= 3:
            control.request_halt(Halt.YIELD)

    control.rows_done = stop
    with pytest.raises(Interrupted):
        answers_of(base, sources[:3], control=control, lanes=3)
    done = [kept(source) for source in sources[:3]]
    assert done[0] is not None
    assert done[2] is None


def test_answers_to_another_question_are_not_taken(
    base: nn.Module, sources: list[dict[str, Any]]
) -> None:
    answers_of(base, [sources[1], sources[0]])
    file = Path(sources[1]["trial_folder"]) / ANSWERS
    left = json.loads(file.read_bytes())
    left["rows"][0][1] = [9]
    file.write_text(json.dumps(left))
    assert [9] in [one.ids for one in answers_of(base, [sources[1]]).values()]
    assert [9] not in [one.ids for one in answers_of(base, [sources[1]], ends=(5,)).values()]


def test_a_trial_takes_the_answers_that_another_pass_left_and_removes_them(
    adapters: tuple[Bench, list[dict[str, Any]]],
) -> None:
    bench, (one, base, two, _) = adapters
    bench.plan, resident = plan(eval_batch=3, eval_lanes=6), ResidentBase()
    alone = [run(bench, resident, number, score=source) for number, source in ((2, base), (3, two))]
    folders = {number: str(bench.home / "trials" / str(number)) for number in (2, 3)}
    beside = [{**base, "trial_folder": folders[2]}, {**two, "trial_folder": folders[3]}]
    first = run(bench, resident, 1, score=one, beside=beside)
    assert first == run(bench, resident, 4, score=one)
    assert not (bench.home / "trials" / "1" / ANSWERS).exists()
    for number, before in zip((2, 3), alone, strict=True):
        file = bench.home / "trials" / str(number) / ANSWERS
        assert file.exists()
        source = base if number == 2 else two
        assert run(bench, resident, number, score=source) == before
        assert not file.exists()


def run(bench: Bench, resident: ResidentBase, number: int, **given: Any) -> list[Any]:
    """Run one score trial; return its scores and the results of its rows."""
    bench.number = number
    log: Log = bench.run(resident, **given)
    assert log.outcome is Outcome.DONE, log.end
    (results,) = (bench.trial / "results").glob("*.jsonl.gz")
    with gzip.open(results, "rt", encoding="utf-8") as file:
        return [log.scores, *map(json.loads, file)]


def test_answers_of_a_base_whose_files_were_replaced_are_not_taken(tmp_path: Path) -> None:
    model, resident, keys = tmp_path / "model", ResidentBase(), []
    shutil.copytree(shallow_model(), model)
    made = recipe(model__name=str(model), **SHORT)
    bench = Bench(tmp_path / "home", made, plan=plan(eval_lanes=4), kind="base")
    waits = bench.home / "trials" / "2"
    waits.mkdir(parents=True)
    for replaced in (False, False, True):
        if replaced:
            os.utime(model / "model.safetensors", ns=(0, 0))
        log = bench.run(resident, beside=[{"rows": "eval", "trial_folder": str(waits)}])
        assert log.outcome is Outcome.DONE, log.end
        keys.append(json.loads((waits / ANSWERS).read_bytes())["key"])
    assert keys[0] == keys[1] != keys[2]

"""Results of single rows do not depend on the batch, the order or what ran before, and are kept."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from tests.training.trials import DEMO_MODEL, Bench, recipe, spec
from workbench import fault_points
from workbench.attempts.events import FailureCause, Outcome
from workbench.recipe import shipped_file
from workbench.recipe.schema import Evaluate
from workbench.store.answers import read_answers
from workbench.training import libraries
from workbench.training.control import Control
from workbench.training.dataset.prepared import load_prepared, prepare_data
from workbench.training.model.base import ResidentBase
from workbench.training.model.tokenizer import load_tokenizer
from workbench.training.scoring import results_writer
from workbench.training.scoring.answers import GeneratedAnswer, generate_answers
from workbench.training.scoring.held_out_loss import score_rows
from workbench.training.scoring.results_writer import is_kept, rows_digest, tokens_digest
from workbench.training.scoring.row_losses import RowLosses
from workbench.training.scoring.scores import Scorer

PATTERN = r"####\s*(\S+)"
HOW: dict[str, Any] = {"precision": "fp32", "control": Control()}


@pytest.fixture(scope="module")
def base() -> Iterator[Any]:
    """Return the whole demo: its first layers give the same answer to all rows."""
    libraries.import_libraries(threads=1)
    with ResidentBase().acquire(spec(path=str(shipped_file(DEMO_MODEL)))) as model:
        yield model


@pytest.fixture(scope="module")
def rows_tokenizer() -> Any:
    return load_tokenizer(spec().path, None)


@pytest.fixture(scope="module")
def held(rows_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    cache, made = tmp_path_factory.mktemp("rows"), recipe(data__eval_rows=16)
    return load_prepared(prepare_data(made, rows_tokenizer, cache, lambda *_: None))[1]


def losses(base: Any, rows: Dataset, batch_size: int) -> RowLosses:
    return score_rows(base, rows, pad_id=0, batch_size=batch_size, **HOW)


def answers(base: Any, rows: Dataset, tokenizer: Any, batch_size: int) -> list[GeneratedAnswer]:
    return generate_answers(
        base, rows, tokenizer, pattern=PATTERN, batch_size=batch_size, max_new_tokens=24, **HOW
    )


@pytest.fixture(scope="module")
def of_three(base: Any, held: Dataset, rows_tokenizer: Any) -> list[GeneratedAnswer]:
    """Return the answers that are generated three at a time."""
    return answers(base, held, rows_tokenizer, 3)


@pytest.mark.parametrize("batch_size", [1, 16])
def test_they_do_not_depend_on_the_batch_size(
    base: Any,
    held: Dataset,
    rows_tokenizer: Any,
    of_three: list[GeneratedAnswer],
    batch_size: int,
) -> None:
    few, many = losses(base, held, 3), losses(base, held, batch_size)
    assert few.nats == pytest.approx(many.nats, rel=1e-5)
    assert (few.right, few.targets) == (many.right, many.targets)
    assert answers(base, held, rows_tokenizer, batch_size) == of_three


def test_they_do_not_depend_on_the_order(
    base: Any, held: Dataset, rows_tokenizer: Any, of_three: list[GeneratedAnswer]
) -> None:
    turned = held.select(range(len(held) - 1, -1, -1))
    there, back = losses(base, held, 3), losses(base, turned, 3)
    assert there.nats == pytest.approx(back.nats[::-1], rel=1e-5)
    assert there.targets == back.targets[::-1]
    texts = [answer.text for answer in answers(base, turned, rows_tokenizer, 3)]
    assert texts[::-1] == [answer.text for answer in of_three]


def test_twice_gives_the_same_digits(
    base: Any, held: Dataset, rows_tokenizer: Any, of_three: list[GeneratedAnswer]
) -> None:
    assert losses(base, held, 3) == losses(base, held, 3)
    assert answers(base, held, rows_tokenizer, 3) == of_three


def test_an_answer_says_why_it_ended(held: Dataset, of_three: list[GeneratedAnswer]) -> None:
    assert len({answer.text for answer in of_three}) > 8
    for answer in of_three:
        assert answer.expected == held[answer.row]["answer"]
        assert (answer.ended_by, answer.tokens < 24) in {("end", True), ("length", False)}


# --- digests ---


def test_the_rows_digest_knows_rows_and_judging_and_not_the_tokens(held: Dataset) -> None:
    judged = Evaluate(answer_pattern=PATTERN)
    digest = rows_digest(held, judged)
    other_ids = held.map(lambda row: {"input_ids": [1, *row["input_ids"]]})
    assert rows_digest(other_ids, judged.model_copy(update={"every": 5, "samples": 9})) == digest
    assert rows_digest(held, Evaluate(answer_pattern=r"\d+")) != digest
    assert rows_digest(held.select(range(15)), judged) != digest
    assert rows_digest(held.select(range(15, -1, -1)), judged) != digest
    assert tokens_digest(other_ids) != tokens_digest(held)


def test_rows_without_a_question_are_known_by_their_tokens() -> None:
    row = {"question": "", "answer": "", "prompt_ids": [], "labels": [1, 2]}
    first, second = (Dataset.from_list([{**row, "input_ids": ids}]) for ids in ([1, 2], [1, 3]))
    assert rows_digest(first, Evaluate()) != rows_digest(second, Evaluate())


@pytest.mark.parametrize(("evaluations", "kept"), [(10, 10), (64, 64), (128, 96), (10_000, 295)])
def test_losses_of_many_evaluations_are_kept_in_part(evaluations: int, kept: int) -> None:
    assert sum(map(is_kept, range(1, evaluations + 1))) == kept


# --- a trial ---


def scored_recipe(**settings: Any) -> Any:
    scored = {"evaluate__answer_pattern": r"^(\d+)", "evaluate__max_new_tokens": 4}
    return recipe(**{"train__max_steps": 2, **scored, **settings})


def test_a_trial_keeps_the_result_of_every_row(tmp_path: Path) -> None:
    bench = Bench(tmp_path, scored_recipe(evaluate__every=1))
    log = bench.run()
    compared, *_, scored = log.of("results")
    assert (compared["step"], compared["scored"]) == (1, False)
    assert (scored["step"], scored["scored"], scored["rows"]) == (2, True, 8)
    assert len(scored["sha256"]) == 64
    found = read_answers(tmp_path, 1, scored["evaluation"])
    assert len(found) == 8
    targets = sum(row.targets for row in found)
    assert sum(row.loss_sum for row in found) / targets == pytest.approx(log.scores["loss"])
    right = [row.right for row in found]
    assert right.count(True) / 8 == log.scores["exact_match"]
    assert all(row.question and row.expected for row in found)
    names = {path.name for path in (bench.trial / "results").iterdir()}
    assert names >= {
        f"{scored['evaluation']}.jsonl.gz",
        f"{scored['evaluation']}.step-1.jsonl.gz",
    }


def test_the_base_and_a_trial_are_kept_under_one_digest(tmp_path: Path) -> None:
    bench = Bench(tmp_path, scored_recipe(), kind="base")
    [base] = bench.run().of("results")
    bench.kind = "tune"
    [tuned] = bench.run().of("results")
    assert (base["evaluation"], base["tokens"]) == (tuned["evaluation"], tuned["tokens"])
    assert base["sha256"] != tuned["sha256"]
    assert base["step"] == 0


def test_what_ran_before_on_the_base_changes_no_digit(tmp_path: Path) -> None:
    resident = ResidentBase()
    alone = Bench(tmp_path / "1", scored_recipe()).run(ResidentBase()).of("results")[0]
    Bench(tmp_path / "2", scored_recipe(lora__rank=16, train__seed=7)).run(resident)
    after = Bench(tmp_path / "3", scored_recipe()).run(resident).of("results")[0]
    assert after["sha256"] == alone["sha256"]


def test_a_full_disk_waits_for_room_and_leaves_no_partial_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(tmp_path, scored_recipe())
    monkeypatch.setenv(fault_points.VARIABLE, "results.before_rename=no_space")
    log = bench.run()
    assert log.outcome is Outcome.FAILED
    assert log.end["cause"] == FailureCause.DISK_FULL
    assert log.of("score") == []
    left = [
        path
        for path in tmp_path.rglob("*")
        if "results" in path.parts or "evaluations" in path.parts
    ]
    assert [path for path in left if path.is_file()] == []
    monkeypatch.delenv(fault_points.VARIABLE)
    assert bench.run().outcome is Outcome.DONE


def test_too_many_rows_are_scored_and_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results_writer, "MOST_ROWS", 7)
    log = Bench(tmp_path, scored_recipe(evaluate__every=1)).run()
    assert log.of("results") == []
    assert [line["text"] for line in log.of("log") if "no intervals" in line["text"]]
    assert log.scores["loss"] > 0


def test_foreign_text_is_kept_as_it_is(tmp_path: Path, write_rows: Any) -> None:
    rows = [{"question": f"\x1b[31m{n} {chr(0x202E)}", "answer": f"#### {n}"} for n in range(12)]
    path = write_rows(rows)
    settings = {"data__eval": None, "data__eval_rows": 4, "evaluate__answer_pattern": PATTERN}
    made = scored_recipe(data__train=str(path), **settings)
    [kept] = Bench(tmp_path, made).run().of("results")
    found = read_answers(tmp_path, 1, kept["evaluation"])
    assert all("\x1b[31m" in row.question for row in found)


def logging_scorer(base: Any, held: Dataset, evaluate: Evaluate, log: list[str]) -> Scorer:
    return Scorer(
        model=base,
        rows=held,
        tokenizer=None,
        evaluate=evaluate,
        precision="fp32",
        emit=lambda kind, *, durable=False, **data: log.append(data["text"]),
        control=Control(),
        rows_at_once=4,
    )


def test_a_pattern_that_is_too_slow_for_an_answer_is_a_warning(base: Any, held: Dataset) -> None:
    log: list[str] = []
    scorer = logging_scorer(base, held, Evaluate(answer_pattern="(a|aa)+$"), log)
    made = [
        GeneratedAnswer(row=n, text=text, right=False, scorable=True)
        for n, text in enumerate(("aaa", "a" * 60 + "b"))
    ]
    scorer.warn_of_slow_pattern(made[:1])
    assert log == []
    scorer.warn_of_slow_pattern(made)
    assert "took more than 0.5 s on 1 of 2 answers" in log[0]


def test_a_plan_for_fewer_rows_at_once_is_a_warning(base: Any, held: Dataset) -> None:
    log: list[str] = []
    scorer = logging_scorer(base, held, Evaluate(batch_size=8), log)
    scorer.warn_of_fewer_rows()
    assert "4 rows at a time, not 8" in log[0]
    assert "answers in a few rows" in log[0]
    scorer.rows_at_once = 8
    scorer.warn_of_fewer_rows()
    assert len(log) == 1

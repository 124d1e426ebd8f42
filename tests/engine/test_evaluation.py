"""Evaluations and test scores in the queue: scored, reused, stopped, and never chosen by."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.engine.test_control import ask
from tests.support.tick_contexts import PREPARED, Bench, cpu_card, gpu_card, make_bench, recipe
from workbench import fault_points
from workbench.adapters.subjects import read_subjects
from workbench.cli.export.merge import chosen_adapter
from workbench.scheduler.propose_trials import enqueue_trials
from workbench.scheduler.recover import requeue_all
from workbench.store.board import rank_adapters
from workbench.store.board_rows import BoardRow
from workbench.store.queries.history import read_past
from workbench.store.recovery.repair import differences_from_repair
from workbench.store.row_results import read_row_results
from workbench.store.rows import TrialRow, card_of
from workbench.store.score_trials import find_test_trials
from workbench.trial import Kind, State

MakeBench = Callable[..., Bench]
SWEEP = {"parameters": {"train.learning_rate": [0.01, 0.05, 0.1, 0.02, 0.03]}}
OTHER = {"data": {"train": "/d.jsonl", "eval": "/other.jsonl", "max_tokens": 64}}


def finish(bench: Bench, experiment: int) -> None:
    for _ in range(200):
        if bench.store.experiment(experiment).ended_utc:
            return
        bench.ticks()
    raise AssertionError("it never ended")


def evaluate(
    bench: Bench,
    *subjects: int | str,
    digest: str = "other",
    adapter: str = "a" * 64,
    rows: int = 2,
) -> int:
    """Ask for an evaluation, and queue it as if it had been prepared; return its id."""
    answer = ask(bench, "evaluate", recipe=recipe(**OTHER).model_dump(mode="json"),
                 subjects=list(subjects))  # fmt: skip
    assert answer.ok, answer.text
    id = int(answer.data["experiment"])
    found = [{"trial": one} if isinstance(one, int) else {"folder": one, "digest": adapter}
             for one in answer.data["subjects"]]  # fmt: skip
    data: dict[str, Any] = {**PREPARED["data"], "eval_rows": rows}  # type: ignore[dict-item]
    prepared = {**PREPARED, "data": data, "evaluation_digest": digest, "subjects": found}
    cards = [card_of(row) for row in bench.store.cards()]
    enqueue_trials(bench.context, bench.store.experiment(id), prepared, cards)
    return id


def score_trials(bench: Bench, experiment: int) -> list[TrialRow]:
    return [t for t in bench.store.trials(experiment) if t.kind is Kind.SCORE]


def board(bench: Bench, experiment: int) -> list[BoardRow]:
    return rank_adapters(bench.store, bench.store.experiment(experiment), bench.now)


def test_adapters_and_their_base_are_scored_in_an_experiment_of_their_own(
    bench_of: MakeBench,
) -> None:
    bench = bench_of()
    finish(bench, bench.submit(recipe(sweep=SWEEP)))
    id = evaluate(bench, 4, 3, "/some/folder")
    finish(bench, id)
    assert [t.settings["score.adapter"] for t in score_trials(bench, id)] == [4, 3, "/some/folder"]
    assert {t.state for t in score_trials(bench, id)} == {State.DONE}
    rows = board(bench, id)
    assert [row.kind for row in rows] == ["score", "score", "score", "base"]
    assert bench.store.experiment(id).counts == {"done": 3}
    [given] = [bench.context.assignment(a.id) for a in bench.store.attempts(rows[0].trial)]
    assert given.kind == "score"
    assert given.score is not None
    assert given.score["rows"] == "eval"
    assert given.recipe["data"]["eval"] == "/other.jsonl"


def test_no_trial_that_trains_joins_an_evaluation(bench_of: MakeBench) -> None:
    bench = bench_of()
    finish(bench, bench.submit(recipe(sweep=SWEEP)))
    id = evaluate(bench, 4)
    finish(bench, id)
    for verb, more in (
        ("add", {"settings": {"train.learning_rate": 1e-4}}),
        ("add", {"trials": 1}),
        ("finals", {}),
    ):
        answer = ask(bench, verb, experiment=id, **more)
        assert not answer.ok
        assert "is an evaluation: it trains nothing" in answer.text
    assert {t.kind for t in bench.store.trials(id)} == {Kind.SCORE, Kind.BASE}


def beside(bench: Bench, trial: int) -> list[Path]:
    """Return the folders of the trials that are answered beside the newest attempt of that one."""
    given = bench.context.assignment(bench.store.attempts(trial)[-1].id)
    return [Path(one["trial_folder"]) for one in given.beside or ()]


def test_adapters_that_wait_are_answered_in_one_pass(bench_of: MakeBench) -> None:
    bench = bench_of(gpu_card(0))
    finish(bench, bench.submit(recipe(sweep=SWEEP)))
    id = evaluate(bench, 4, 3, "/some/folder")
    (base,) = [t for t in bench.store.trials(id) if t.kind is Kind.BASE]
    scored = [one.id for one in score_trials(bench, id)]
    bench.until(State.STARTING, base.id)
    assert beside(bench, base.id) == [bench.context.home.trial(one) for one in scored]
    assert bench.store.attempts(base.id)[-1].plan["eval_lanes"] == 8  # of two rows each
    assert bench.store.trial(scored[0]).waiting == f"is answered beside trial {base.id}"
    finish(bench, id)
    assert [beside(bench, one) for one in scored[-1:]] == [[]]
    assert not bench.context.beside


def test_the_adapters_of_a_pass_are_shared_among_free_cards(bench_of: MakeBench) -> None:
    bench = bench_of(gpu_card(0), gpu_card(1))
    finish(bench, bench.submit(recipe(sweep=SWEEP)))
    id = evaluate(bench, 4, 3, 5, "/some/folder")
    (base,) = [t for t in bench.store.trials(id) if t.kind is Kind.BASE]
    one, two, three, four = (trial.id for trial in score_trials(bench, id))
    bench.until(State.STARTING, one)
    assert beside(bench, base.id) == [bench.context.home.trial(n) for n in (two, four)]
    assert beside(bench, one) == [bench.context.home.trial(three)]


def test_many_rows_fill_the_card_alone(bench_of: MakeBench) -> None:
    bench = bench_of(gpu_card(0))
    finish(bench, bench.submit(recipe(sweep=SWEEP)))
    id = evaluate(bench, 4, 3, rows=600)
    (base,) = [t for t in bench.store.trials(id) if t.kind is Kind.BASE]
    bench.until(State.STARTING, base.id)
    assert beside(bench, base.id) == []


def test_the_answer_names_the_rows_or_the_task_that_score(bench_of: MakeBench) -> None:
    bench = bench_of()
    finish(bench, bench.submit(recipe()))
    task = {"task": "/tasks/sums.yaml", "rank_by": "sums_acc"}
    for changes, named in (({}, "on other.jsonl"), ({"evaluate": task}, "by the task sums.yaml")):
        wanted = recipe(**OTHER, **changes).model_dump(mode="json")
        answer = ask(bench, "evaluate", recipe=wanted, subjects=[2])
        assert f"1 adapter and the base are scored {named}; the rows" in answer.text


def test_the_subjects_are_kept_beside_the_recipe(bench_of: MakeBench) -> None:
    bench = bench_of()
    finish(bench, bench.submit(recipe()))
    id = evaluate(bench, 2, "/some/folder", 2)
    subjects = read_subjects(bench.context.home.experiment(id))
    assert subjects is not None
    assert list(subjects.adapters) == [2, "/some/folder"]


def test_scores_on_the_same_rows_are_reused_and_survive_a_repair(bench_of: MakeBench) -> None:
    bench = bench_of()
    finish(bench, bench.submit(recipe(sweep=SWEEP)))
    first = evaluate(bench, 4, "/some/folder")
    finish(bench, first)
    again = evaluate(bench, 4, 3, "/some/folder")
    old, new = score_trials(bench, first), score_trials(bench, again)
    assert [t.state for t in new] == [State.DONE, State.QUEUED, State.DONE]
    assert [new[0].score, new[2].score] == [old[0].score, old[1].score]
    one, other = read_row_results(bench.store, [old[0].id, new[0].id])
    assert one.evaluation == other.evaluation
    assert any("are reused" in e.text for e in bench.store.events(trial=new[0].id))
    assert any("2 were scored on the same rows before" in e.text for e in bench.store.events())
    assert bench.store.experiment(again).base_trial == bench.store.experiment(first).base_trial
    finish(bench, again)
    assert differences_from_repair(bench.context.home) == []


def test_a_trials_own_scores_are_reused_for_its_own_held_out_rows(bench_of: MakeBench) -> None:
    bench = bench_of()
    finish(bench, bench.submit(recipe(sweep=SWEEP)))
    id = evaluate(bench, 4, digest="e")
    [trial] = score_trials(bench, id)
    assert trial.state is State.DONE
    assert trial.score == bench.store.trial(4).score


def test_an_export_of_an_evaluation_is_compared_with_its_own_scores(
    bench_of: MakeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = bench_of()
    monkeypatch.setenv("WORKBENCH_HOME", str(bench.context.home.root))
    finish(bench, bench.submit(recipe()))
    id = evaluate(bench, 2)
    finish(bench, id)
    [scored] = score_trials(bench, id)
    adapter = bench.context.home.trial(2) / "adapter"
    (adapter / "adapter_config.json").write_text("{}")
    (adapter / "scores.json").write_text(json.dumps({"values": {"exact_match": 0.123}}))
    assert chosen_adapter("2").own.values == {"exact_match": 0.123}
    assert chosen_adapter(str(scored.id)).own.values["exact_match"] == scored.score


def test_known_scores_are_reused_while_their_card_is_at_work(bench_of: MakeBench) -> None:
    bench = bench_of()
    finish(bench, bench.submit(recipe()))
    (scored_on,) = {attempt.card for attempt in bench.store.attempts(2)}
    other = bench.submit(recipe(sweep=SWEEP))
    while scored_on not in {attempt.card for attempt in bench.store.live_attempts()}:
        bench.ticks()
    [trial] = score_trials(bench, evaluate(bench, 2, digest="e"))
    assert trial.state is State.DONE
    assert trial.score == bench.store.trial(2).score
    finish(bench, other)
    assert differences_from_repair(bench.context.home) == []


def test_a_folder_that_changed_is_scored_again(bench_of: MakeBench) -> None:
    bench = bench_of()
    finish(bench, bench.submit(recipe()))
    finish(bench, evaluate(bench, "/some/folder"))
    id = evaluate(bench, "/some/folder", adapter="b" * 64)
    assert [t.state for t in score_trials(bench, id)] == [State.QUEUED]


@pytest.mark.parametrize(
    ("subjects", "says"),
    [
        ([1], "has no adapter of its own"),
        ([99], "no trial 99"),
        (["relative/folder"], "no absolute path"),
        ([True], "neither a trial's id nor a folder"),
        ([], "1 to 1,000 adapters"),
    ],
)
def test_what_is_no_adapter_is_refused(bench_of: MakeBench, subjects: list[Any], says: str) -> None:
    bench = bench_of()
    finish(bench, bench.submit(recipe()))
    given = recipe(**OTHER).model_dump(mode="json")
    answer = ask(bench, "evaluate", recipe=given, subjects=subjects)
    assert not answer.ok
    assert says in answer.text


def test_an_unfinished_trial_and_one_of_another_model_are_refused(bench_of: MakeBench) -> None:
    bench = bench_of()
    bench.submit(recipe())
    given = recipe(**OTHER).model_dump(mode="json")
    answer = ask(bench, "evaluate", recipe=given, subjects=[2])
    assert "has left no adapter to score (queued)" in answer.text
    assert "wait for its end" in answer.hint
    finish(bench, 1)
    given["model"]["name"] = "/another"
    answer = ask(bench, "evaluate", recipe=given, subjects=[2])
    assert "is for /m, not for /another" in answer.text


def test_an_evaluation_is_stopped_paused_and_resumed_like_other_work(bench_of: MakeBench) -> None:
    bench = bench_of(cpu_card(0))
    finish(bench, bench.submit(recipe(sweep=SWEEP)))
    id = evaluate(bench, 2, 3)
    one, other = score_trials(bench, id)
    assert ask(bench, "pause", trial=one.id).ok
    bench.until(State.PAUSED, one.id)
    assert "ends without a score" in ask(bench, "stop", trial=other.id).text
    bench.until(State.STOPPED, other.id)
    assert ask(bench, "resume", trial=one.id).ok
    bench.until(State.DONE, one.id)
    finish(bench, id)
    assert not ask(bench, "stop-experiment", experiment=id).ok


def test_a_score_trial_needs_less_than_training(bench_of: MakeBench) -> None:
    bench = bench_of(gpu_card(0))
    finish(bench, bench.submit(recipe(sweep=SWEEP)))
    id = evaluate(bench, 4)
    finish(bench, id)
    [scored] = bench.store.attempts(score_trials(bench, id)[0].id)
    [trained] = bench.store.attempts(4)
    assert 0 < scored.predicted_bytes < trained.predicted_bytes
    assert scored.plan["buckets"]["optimizer"] == 0


# --- test rows ---


def test_the_base_and_the_finalists_are_tested_once_at_the_end(bench_of: MakeBench) -> None:
    bench = bench_of()
    id = bench.submit(recipe(sweep=SWEEP), test_rows=20)
    finish(bench, id)
    tests = find_test_trials(bench.store, id)
    assert list(tests) == [None, 4, 3, 6]
    events = [e.kind for e in bench.store.events() if e.kind in ("test", "ended")]
    assert events == ["test", "ended"]
    bench.ticks(5)
    assert find_test_trials(bench.store, id) == tests
    scores = {row.trial: row.scores for row in board(bench, id)}
    assert [trial for trial, found in scores.items() if "test_exact_match" in found] == [4, 3, 6, 1]
    assert bench.store.experiment(id).counts == {"done": 5}


def test_test_scores_choose_nothing(bench_of: MakeBench) -> None:
    bench = bench_of()
    id = bench.submit(recipe(sweep=SWEEP), test_rows=20)
    finish(bench, id)
    tests = set(find_test_trials(bench.store, id).values())
    assert [row.trial for row in board(bench, id)] == [4, 3, 6, 5, 2, 1]
    assert not tests & {past.number for past in read_past(bench.store, id, "exact_match")}
    assert len(read_past(bench.store, id, "exact_match")) == 5


def test_the_adapters_that_ship_are_tested_after_finals(bench_of: MakeBench) -> None:
    bench = bench_of()
    finals = {"top": 1, "seeds": 3}
    id = bench.submit(recipe(sweep={**SWEEP, "finals": finals}), test_rows=20)
    finish(bench, id)
    [base, shipped] = find_test_trials(bench.store, id)
    assert base is None
    assert shipped is not None
    assert bench.store.trial(shipped).finals_of == 4


def test_a_test_that_was_stopped_is_not_repeated(bench_of: MakeBench) -> None:
    bench = bench_of(cpu_card(0))
    id = bench.submit(recipe(), test_rows=20)
    for _ in range(50):
        bench.ticks()
        if len(find_test_trials(bench.store, id)) == 2:
            break
    tests = find_test_trials(bench.store, id)
    assert ask(bench, "kill", trial=tests[2]).ok
    finish(bench, id)
    assert find_test_trials(bench.store, id) == tests


def test_a_new_finalist_is_tested_when_the_experiment_ends_again(bench_of: MakeBench) -> None:
    bench = bench_of()
    id = bench.submit(recipe(sweep=SWEEP), test_rows=20)
    finish(bench, id)
    answer = ask(bench, "add", experiment=id, settings={"train.learning_rate": 0.16})
    assert answer.ok, answer.text
    finish(bench, id)
    assert list(find_test_trials(bench.store, id)) == [None, 4, 3, 6, answer.data["trial"]]


@pytest.mark.parametrize("point", ["finalist_tests.before_commit", "finalist_tests.after_commit"])
def test_a_loop_killed_while_it_adds_tests_adds_them_once(
    point: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make_bench(tmp_path, [cpu_card(0)])
    id = bench.submit(recipe(sweep=SWEEP), test_rows=20)
    monkeypatch.setenv(fault_points.VARIABLE, f"{point}=raise")
    with pytest.raises(fault_points.InjectedFault):
        finish(bench, id)
    monkeypatch.delenv(fault_points.VARIABLE)
    requeue_all(bench.context, "the engine was restarted")
    finish(bench, id)
    assert len(score_trials(bench, id)) == 4
    assert len([e for e in bench.store.events() if e.kind == "ended"]) == 1
    bench.context.fleet.close()
    bench.store.close()


def test_without_test_rows_nothing_is_tested(bench_of: MakeBench) -> None:
    bench = bench_of()
    id = bench.submit(recipe(sweep=SWEEP))
    finish(bench, id)
    assert not score_trials(bench, id)

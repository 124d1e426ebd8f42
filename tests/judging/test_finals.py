"""The judged finals: means over new seeds, the adapter that ships, and what lost seeds cost."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from tests.judging.conftest import ROWS
from tests.support.row_results import made_up_answers, made_up_losses, put_rows
from tests.support.tick_contexts import Bench
from workbench.judging.finalists import finalists_of
from workbench.judging.finals import median_trial
from workbench.judging.judged_rows import BoardJudge
from workbench.store.board_rows import FinalistRow, JudgedBoard
from workbench.store.requests import drop_request
from workbench.trial import State

SEEDS = {5: (70, 78, 74), 4: (40, 42, 44)}
"""Right answers of each new seed, by finalist."""


def board_of(bench: Bench) -> JudgedBoard:
    return BoardJudge().judge_experiment(bench.store, 1, bench.now)


def score_as(bench: Bench, trial: int, right: int, *, rows: bool = True) -> None:
    """Make it as if so many answers of the trial were right."""
    bench.store.db.execute(
        "update scores set value = ? where trial = ? and name = 'exact_match'",
        (right / ROWS, trial),
    )
    if rows:
        losses = made_up_losses(1.0, ROWS, seed=trial)
        put_rows(bench.store, trial, losses=losses, right=made_up_answers(right, ROWS, seed=trial))


def run_finals(bench: Bench, top: int = 2, seeds: int = 3, *, rows: bool = True) -> list[int]:
    """Run the finals to their end; the ids of their trials, in the order of `SEEDS`."""
    drop_request(
        bench.context.home.requests, "finals", {"experiment": 1, "top": top, "seeds": seeds}
    )
    bench.ticks()
    while bench.store.experiment(1).ended_utc is None:
        bench.ticks()
    if not rows:  # as an older build left them
        bench.store.db.execute("delete from row_results")
    found = [t.id for t in bench.store.trials() if t.finals_of is not None]
    numbers = [right for ones in SEEDS.values() for right in ones[:seeds]]
    for trial, right in zip(found, numbers, strict=False):
        score_as(bench, trial, right, rows=rows)
    return found


def test_finals_rank_by_the_mean_of_the_new_seeds_alone(judged: Bench) -> None:
    ids = run_finals(judged)
    first, second = board_of(judged).finals
    assert (first.trial, second.trial) == (5, 4)
    assert (first.rank, second.rank) == (1, 2)
    # The finalist's own score, 80 of 96, was chosen: it is no part of the mean.
    assert first.mean == pytest.approx((70 + 78 + 74) / 3 / ROWS)
    assert first.trials == ids[:3]
    assert first.low is not None
    assert first.high is not None
    assert first.mean is not None
    assert first.low < first.mean < first.high
    assert len(set(first.seeds)) == 3
    assert second.vs_leader is not None
    assert second.vs_leader.difference == pytest.approx((126 - 222) / 3 / ROWS)
    assert first.tied_for_first
    assert not second.tied_for_first


def test_the_adapter_that_ships_is_that_of_the_median_seed(judged: Bench) -> None:
    ids = run_finals(judged)
    first = board_of(judged).finals[0]
    assert first.shipped == ids[2]  # 74 of 70, 78, 74
    assert first.adapter is not None
    assert first.adapter.endswith(f"trials/{ids[2]}/adapter")
    assert finalists_of(judged.store, 1) == [ids[2], ids[4]]


def test_of_an_even_number_of_seeds_the_lower_middle_one_ships() -> None:
    assert median_trial({7: 0.4, 8: 0.1, 9: 0.3, 10: 0.2}) == 10
    assert median_trial({7: 0.4}) == 7
    assert median_trial({}) is None


def test_the_verdict_speaks_of_the_finals(judged: Bench) -> None:
    ids = run_finals(judged)
    verdict = board_of(judged).verdict
    assert verdict.startswith("finals: trial 5 is best: exact match 0.77 [")
    assert "better than the other" in verdict
    assert "mean of 3 new seeds" in verdict
    assert f"the adapter that ships is trial {ids[2]}'s, of the median seed" in verdict


def test_while_finals_train_the_verdict_stays_that_of_the_sweep(judged: Bench) -> None:
    before = board_of(judged).verdict
    drop_request(judged.context.home.requests, "finals", {"experiment": 1, "top": 2, "seeds": 2})
    judged.ticks(2)
    board = board_of(judged)
    assert before in board.verdict
    assert board.verdict.endswith("finals: 0 of 4 trials have ended")
    assert [row.mean for row in board.finals] == [None, None]
    assert any(note.endswith("is queued") for row in board.finals for note in row.notes)


def test_seeds_that_failed_are_left_out_and_named(judged: Bench) -> None:
    ids = run_finals(judged)
    judged.store.db.execute(
        "update trials set state = 'failed', reason = 'out of memory' where id = ?", (ids[1],)
    )
    judged.store.db.execute("update trials set state = 'pruned' where id = ?", (ids[3],))
    judged.store.db.execute("update attempts set outcome = 'diverged' where trial = ?", (ids[3],))
    first, second = board_of(judged).finals
    assert first.trials == [ids[0], ids[2]]
    assert first.mean == pytest.approx((70 + 74) / 2 / ROWS)
    assert [note.split(" (")[1] for note in first.notes] == [
        f"trial {ids[1]}) failed: out of memory"
    ]
    assert [note.split(" (")[1] for note in second.notes] == [f"trial {ids[3]}) diverged"]
    verdict = board_of(judged).verdict
    assert "mean of 2 new seeds" in verdict
    assert "1 seed of trial 4 diverged" in verdict
    assert "1 seed of trial 5 did not finish" in verdict


def test_finals_without_any_score_leave_the_sweeps_verdict(judged: Bench) -> None:
    before = board_of(judged).verdict
    ids = run_finals(judged)
    marks = ",".join("?" * len(ids))
    judged.store.db.execute(f"update trials set state = 'failed' where id in ({marks})", ids)
    board = board_of(judged)
    assert board.verdict == f"{before}; none of the 6 trials of its finals has a score"
    assert finalists_of(judged.store, 1) == [5, 4]  # tied for first in the sweep


def test_without_results_by_row_the_means_stand_without_intervals(swept: Bench) -> None:
    ids = run_finals(swept, rows=False)
    board = board_of(swept)
    assert [row.mean for row in board.finals] == pytest.approx([222 / 3 / ROWS, 126 / 3 / ROWS])
    assert board.finals[0].low is None
    assert board.finals[0].shipped == ids[2]
    assert "trial 5 has the best exact_match in the finals, 0.771" in board.verdict


def test_finals_that_have_another_seed_are_judged_again(judged: Bench) -> None:
    run_finals(judged, seeds=2)
    judge = BoardJudge()
    before = judge.judge_experiment(judged.store, 1, judged.now).finals
    assert [len(row.seeds) for row in before] == [2, 2]
    run_finals(judged)
    after = judge.judge_experiment(judged.store, 1, judged.now).finals
    assert [len(row.seeds) for row in after] == [3, 3]
    assert after[0].mean != before[0].mean


def test_a_trial_that_came_after_the_finals_is_named_where_it_has_the_best_score(
    judged: Bench,
) -> None:
    run_finals(judged)
    settings = {"train.learning_rate": 0.05}
    drop_request(judged.context.home.requests, "add", {"experiment": 1, "settings": settings})
    judged.ticks()
    late = max(t.id for t in judged.store.trials())
    judged.until(State.DONE, late)
    score_as(judged, late, 90)
    assert (
        f"trial {late} has the best single score and was in no finals" in board_of(judged).verdict
    )


def test_a_row_of_the_finals_is_plain_data(judged: Bench) -> None:
    run_finals(judged)
    row: FinalistRow = board_of(judged).finals[0]
    assert {"trial", "settings", "seeds", "mean", "low", "high", "tied_for_first", "vs_leader"} <= (
        asdict(row).keys()
    )


def test_an_experiment_without_finals_names_the_trials_tied_for_first(judged: Bench) -> None:
    assert board_of(judged).finals == ()
    assert finalists_of(judged.store, 1) == [5, 4]

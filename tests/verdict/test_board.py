"""The verdict on a board: the leader, its ties, and what is and is not compared."""

import dataclasses
import math

import numpy as np
import pytest

from tests.verdict.made_up import answers, drawn_losses, first_right, losses
from workbench.verdict.board import judge_board
from workbench.verdict.types import BoardVerdict, RowResults


def judge_answers(*results: RowResults, base: RowResults | None = None) -> BoardVerdict:
    return judge_board(results, base, "exact_match", higher_is_better=True)


def judge_losses(*results: RowResults, base: RowResults | None = None) -> BoardVerdict:
    return judge_board(results, base, "loss", higher_is_better=False)


def test_who_is_clearly_behind_leaves_the_tie_group() -> None:
    verdict = judge_answers(first_right(1, 85), first_right(2, 84), first_right(3, 40))

    assert verdict.leader == 1
    assert [t for t, one in verdict.trials.items() if one.tied_for_first] == [1, 2]
    assert verdict.trials[1].better_than == {3}
    assert verdict.trials[2].better_than == {3}
    assert verdict.trials[1].vs_leader is None
    behind = verdict.trials[3].vs_leader
    assert behind is not None
    assert behind.difference == pytest.approx(-0.45)
    assert behind.significant


def test_differences_to_the_base_have_the_trials_sign() -> None:
    base = first_right(9, 20)
    verdict = judge_answers(first_right(1, 60), first_right(2, 55), base=base)

    gain = verdict.trials[2].vs_base
    assert gain is not None
    assert gain.difference == pytest.approx(0.35)
    assert 0 < gain.low < 0.35 < gain.high
    assert verdict.base is not None
    assert verdict.base.value == pytest.approx(0.2)
    assert 9 not in verdict.trials


def test_the_lowest_loss_leads() -> None:
    verdict = judge_losses(*(drawn_losses(trial, 1.0 - 0.05 * trial) for trial in range(1, 5)))

    assert verdict.leader == 4
    assert verdict.trials[4].better_than == {1, 2, 3}
    gap = verdict.trials[1].vs_leader
    assert gap is not None
    assert gap.difference > 0


def test_the_order_of_results_changes_no_digit() -> None:
    results = [drawn_losses(trial, 1.0 + 0.002 * trial) for trial in range(1, 8)]
    base = drawn_losses(0, 1.2)
    turned = results[3:] + results[:3]

    assert judge_losses(*results, base=base) == judge_losses(*turned, base=base)


def test_judging_twice_gives_the_same_digits() -> None:
    results = [drawn_losses(trial, 1.0) for trial in range(1, 6)]

    assert judge_losses(*results) == judge_losses(*results)


def test_results_on_other_rows_are_not_compared_and_a_note_says_so() -> None:
    other = answers(3, [1.0] * 10, evaluation="other rows")
    lower = answers(4, [0.0] * 10, evaluation="other rows")
    verdict = judge_answers(first_right(1, 90), first_right(2, 80), lower)

    assert verdict.trials[4].score.value == 0.0
    assert verdict.trials[4].vs_leader is None
    assert not verdict.trials[4].tied_for_first
    assert any("trial 4" in note and "other rows" in note for note in verdict.notes)
    assert judge_answers(other, first_right(1, 90)).leader == 3


def test_losses_of_other_tokens_are_refused() -> None:
    one = losses(1, [1.0] * 20)
    for other in (losses(2, [1.5] * 20, tokens="others"), losses(2, [1.5] * 20, [10] * 19 + [11])):
        verdict = judge_losses(one, other)

        assert verdict.trials[2].vs_leader is None
        assert any("other tokens" in note for note in verdict.notes)


def test_a_loss_that_is_no_number_is_left_out() -> None:
    verdict = judge_losses(drawn_losses(1, 1.0, 20), losses(2, [1.0] * 19 + [math.nan]))

    assert list(verdict.trials) == [1]
    assert verdict.leader == 1


def test_rows_that_some_result_lacks_are_left_out_of_comparisons_alone() -> None:
    lacking = answers(2, [1.0] * 50 + [math.nan] + [0.0] * 49)
    verdict = judge_answers(first_right(1, 80), lacking)

    assert verdict.trials[2].score.rows == 99
    assert verdict.trials[1].score.rows == 100
    gap = verdict.trials[2].vs_leader
    assert gap is not None
    assert gap.difference == pytest.approx(-29 / 99)
    assert any(note.startswith("1 row is left out") for note in verdict.notes)


def test_a_board_without_scores_has_no_leader() -> None:
    assert judge_answers().leader is None
    assert judge_answers(answers(1, [math.nan] * 5)).leader is None
    assert judge_losses(losses(1, [1.0] * 5, [0] * 5)).leader is None


def test_a_single_trial_is_tied_with_nobody_and_not_optimistic() -> None:
    verdict = judge_answers(first_right(1, 50))

    assert verdict.trials[1].tied_for_first
    assert verdict.optimism is None
    assert verdict.trials[1].better_than == frozenset()


def test_the_winner_of_equal_adapters_is_optimistic_and_more_so_of_more() -> None:
    random = np.random.default_rng(5)
    draws = [answers(n, (random.random(64) < 0.5).astype(float).tolist()) for n in range(1, 25)]
    few, many = judge_answers(*draws[:2]).optimism, judge_answers(*draws).optimism

    assert few is not None
    assert many is not None
    assert 0 < few < many < 0.3


def test_the_optimism_of_two_equal_adapters_is_that_of_the_larger_of_two_normals() -> None:
    # Each answers half of the 100 rows and they disagree on half: E max(X, Y) of two normals with
    # one mean is the standard deviation of their difference over the root of 2 pi.
    one = answers(1, [1.0] * 50 + [0.0] * 50)
    other = answers(2, [1.0] * 25 + [0.0] * 50 + [1.0] * 25)
    expected = math.sqrt(0.5 / 100) / math.sqrt(2 * math.pi)

    assert judge_answers(one, other).optimism == pytest.approx(expected, rel=0.06)


def test_checkpoints_that_were_chosen_from_add_to_the_optimism() -> None:
    results = [drawn_losses(trial, 1.0, 100, step=40) for trial in (1, 2, 3)]
    others = [drawn_losses(t, 1.0, 100, step=s) for t in (1, 2, 3) for s in (10, 20, 30)]
    alone = judge_losses(*results)
    among = judge_board(results, None, "loss", higher_is_better=False, checkpoints=others)

    assert alone.optimism is not None
    assert among.optimism is not None
    assert among.optimism > alone.optimism
    assert dataclasses.replace(among, optimism=None) == dataclasses.replace(alone, optimism=None)


def test_a_perplexity_is_the_exponential_of_the_loss() -> None:
    results = [drawn_losses(1, 1.0), drawn_losses(2, 0.9)]
    loss = judge_losses(*results)
    perplexity = judge_board(results, None, "perplexity", higher_is_better=False)

    there, here = loss.trials[2].score, perplexity.trials[2].score
    assert (here.value, here.low, here.high) == pytest.approx(
        (math.exp(there.value), math.exp(there.low), math.exp(there.high))
    )
    gap, loss_gap = perplexity.trials[1].vs_leader, loss.trials[1].vs_leader
    assert gap is not None
    assert loss_gap is not None
    assert gap.p == loss_gap.p
    assert gap.difference == pytest.approx(
        perplexity.trials[1].score.value - perplexity.trials[2].score.value
    )


def test_a_token_accuracy_stays_below_one_and_has_an_interval_even_there() -> None:
    nearly = np.r_[np.full(38, 10.0), 9.0, 3.0]
    for right in (nearly, np.full(40, 10.0)):
        result = RowResults(
            trial=1,
            evaluation="rows",
            tokens="tokens",
            step=1,
            targets=np.full(40, 10),
            sums={"token_accuracy": right},
        )
        score = judge_board([result], None, "token_accuracy", higher_is_better=True).trials[1].score

        assert 0.8 < score.low < score.high <= 1.0

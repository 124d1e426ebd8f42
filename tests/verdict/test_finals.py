"""The verdict on finals: means over seeds, both variances, and the adapter that ships."""

import dataclasses

import numpy as np
import pytest
from scipy import stats

from tests.verdict.made_up import answers, drawn_losses, first_right, losses
from workbench.verdict.finals import combine_variances, judge_finals
from workbench.verdict.types import FinalsVerdict, Interval, RowResults


def judge(finalists: dict[int, list[RowResults]], base: RowResults | None = None) -> FinalsVerdict:
    return judge_finals(finalists, "loss", higher_is_better=False, base=base)


def seeds(first: int, factors: list[float]) -> list[RowResults]:
    return [drawn_losses(first + n, factor) for n, factor in enumerate(factors)]


def test_finalists_rank_by_the_mean_over_their_seeds() -> None:
    verdict = judge({3: seeds(30, [0.8, 1.1, 1.1]), 5: seeds(50, [0.95, 0.95, 0.95])})

    assert verdict.board.leader == 5
    assert verdict.board.seeds == 3
    mean = np.mean(list(verdict.seed_scores[3].values()))
    assert verdict.board.trials[3].score.value == pytest.approx(mean)


def test_seeds_that_differ_widen_the_interval() -> None:
    still = judge({1: seeds(10, [1.0, 1.0, 1.0]), 2: seeds(20, [1.1, 1.1, 1.1])}).board
    shaken = judge({1: seeds(10, [0.8, 1.0, 1.2]), 2: seeds(20, [0.9, 1.1, 1.3])}).board

    narrow, wide = still.trials[2].vs_leader, shaken.trials[2].vs_leader
    assert narrow is not None
    assert wide is not None
    assert narrow.significant
    assert not wide.significant
    assert wide.high - wide.low > 3 * (narrow.high - narrow.low)
    assert shaken.trials[2].tied_for_first
    assert not still.trials[2].tied_for_first
    assert still.trials[1].better_than == {2}


def test_the_adapter_that_ships_is_the_median_seeds() -> None:
    verdict = judge({1: seeds(10, [1.2, 0.9, 1.0]), 2: seeds(20, [1.5, 1.5, 1.5])})

    assert verdict.shipped == 12
    assert verdict.medians[1] == 12


def test_of_an_even_number_the_one_with_the_lower_score_ships() -> None:
    verdict = judge({1: seeds(10, [1.3, 0.9, 1.1, 1.0])})

    assert verdict.shipped == 13


def test_one_seed_each_holds_row_noise_only() -> None:
    verdict = judge({1: seeds(10, [1.0]), 2: seeds(20, [1.1])})

    assert verdict.board.seeds == 1
    assert verdict.board.trials[2].vs_leader is not None


def test_the_base_has_no_seeds_and_is_compared_all_the_same() -> None:
    verdict = judge({1: seeds(10, [1.0, 1.01, 0.99])}, base=drawn_losses(9, 2.0))

    gain = verdict.board.trials[1].vs_base
    assert gain is not None
    assert gain.difference < -0.5
    assert gain.significant
    assert verdict.board.base is not None


def test_a_seed_on_other_rows_is_left_out_with_a_note() -> None:
    strange = losses(12, [1.0] * 200, evaluation="other rows")
    verdict = judge({1: [*seeds(10, [1.0, 1.0]), strange], 2: seeds(20, [1.1, 1.1])})

    assert list(verdict.seed_scores[1]) == [10, 11]
    assert any("12" in note for note in verdict.board.notes)


def test_finals_without_scores_ship_nothing() -> None:
    assert judge({}).shipped is None
    assert judge({1: []}).board.leader is None


def test_the_order_of_seeds_and_finalists_changes_no_digit() -> None:
    one, two = seeds(10, [1.0, 1.1, 0.9]), seeds(20, [1.0, 1.05, 0.95])

    assert judge({1: one, 2: two}) == judge({2: two[::-1], 1: one[::-1]})


def test_answers_that_are_all_right_still_have_an_interval() -> None:
    runs = {1: [first_right(n, 64, 64) for n in (10, 11, 12)]}
    score = judge_finals(runs, "exact_match", higher_is_better=True).board.trials[1].score

    assert score.low < score.value == score.high == 1.0


def test_a_token_accuracy_of_finals_stays_within_one_and_has_a_width() -> None:
    def interval(*hits: list[float]) -> Interval:
        runs = {1: [exact_tokens(10 + seed, found) for seed, found in enumerate(hits)]}
        verdict = judge_finals(runs, "token_accuracy", higher_is_better=True)
        return verdict.board.trials[1].score

    perfect = interval([10.0] * 64, [10.0] * 64)
    assert perfect.low < perfect.value == perfect.high == 1.0
    assert interval([10.0] * 64, [9.0] * 64).high == 1.0


def test_a_graded_score_of_finals_stays_within_one() -> None:
    runs = {1: [answers(10, [1.0, 0.9] * 8), answers(11, [0.5, 0.6] * 8)]}
    score = judge_finals(runs, "exact_match", higher_is_better=True).board.trials[1].score

    assert (score.low, score.high) == (0.0, 1.0)


def exact_tokens(trial: int, hits: list[float]) -> RowResults:
    """Return a result with so many of 10 target tokens of each row ranked first."""
    result = losses(trial, [1.0] * len(hits))
    return dataclasses.replace(result, sums={"token_accuracy": np.array(hits)})


def test_differences_of_shares_stay_within_what_shares_can_differ_by() -> None:
    runs = {1: [first_right(10, 64), first_right(11, 100)], 2: [first_right(20, 0)] * 2}
    gap = judge_finals(runs, "exact_match", higher_is_better=True).board.trials[2].vs_leader

    assert gap is not None
    assert gap.low == -1.0
    assert gap.high > -0.5


def test_a_perplexity_of_finals_is_the_mean_of_the_seeds_perplexities() -> None:
    runs = {1: seeds(10, [1.0, 1.2])}
    verdict = judge_finals(runs, "perplexity", higher_is_better=False)

    scores = list(verdict.seed_scores[1].values())
    assert verdict.board.trials[1].score.value == pytest.approx(np.mean(scores))
    loss = judge_finals(runs, "loss", higher_is_better=False)
    assert scores == pytest.approx(np.exp(list(loss.seed_scores[1].values())))


def test_the_residual_is_counted_once() -> None:
    row, seed, residual = np.array([4.0]), np.array([3.0]), np.array([1.0])

    assert combine_variances(row, seed, residual, 101, 4)[0][0] == 6.0


def test_degrees_of_two_variances_are_those_of_welchs_test() -> None:
    random = np.random.default_rng(4)
    rows, seeds = random.normal(size=40), random.normal(scale=0.3, size=5)
    expected = stats.ttest_ind(rows, seeds, equal_var=False).df
    row, seed = np.array([rows.var(ddof=1) / 40]), np.array([seeds.var(ddof=1) / 5])

    _, degrees = combine_variances(row, seed, np.zeros(1), 40, 4)

    assert degrees[0] == pytest.approx(expected)


def test_a_variance_is_never_below_its_larger_part() -> None:
    one, two = np.array([1.0]), np.array([2.0])

    assert combine_variances(one, two, np.array([1.5]), 64, 4)[0][0] == 2.0
    assert combine_variances(two, np.array([0.1]), np.array([0.5]), 64, 4)[0][0] == 1.6


def test_frozen_verdicts_hold_plain_numbers() -> None:
    """They are written as JSON: numpy's own numbers are not."""
    board = judge({1: seeds(10, [1.0, 1.1]), 2: seeds(20, [1.2, 1.1])}).board
    plain = dataclasses.asdict(board)["trials"]

    assert all(type(plain[trial]["score"]["low"]) is float for trial in plain)
    assert all(type(plain[trial]["tied_for_first"]) is bool for trial in plain)

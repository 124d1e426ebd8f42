"""The verdict's sentence: what it says for each kind of board, and where the best stands."""

import math

import pytest

from tests.verdict.made_up import answers, drawn_losses, first_right
from workbench.verdict.board import judge_board
from workbench.verdict.types import RowResults
from workbench.verdict.words import describe_verdict, edge_words

LOG_RANGE = {"min": 1e-5, "max": 1e-3, "log": True}


def sentence(
    *results: RowResults,
    base: RowResults | None = None,
    settings: dict[int, dict[str, object]] | None = None,
    space: dict[str, object] | None = None,
) -> str:
    base = base or first_right(0, 10)
    verdict = judge_board(results, base, "exact_match", higher_is_better=True)
    return describe_verdict(verdict, settings or {}, space)


def test_the_best_its_interval_its_ties_and_its_edge_stand_in_one_sentence() -> None:
    results = [first_right(5, 80), first_right(4, 79), first_right(3, 40), first_right(2, 30)]
    settings: dict[int, dict[str, object]] = {5: {"train.learning_rate": 1e-3}}

    assert sentence(*results, settings=settings, space={"train.learning_rate": LOG_RANGE}) == (
        "trial 5 is best: exact match 0.80 [0.71, 0.87]; better than 2 of 3; tied with trial 4; "
        "its learning rate is at the edge of the range: widen it; row noise only: one seed each"
    )


def test_a_board_where_nobody_can_be_told_apart_says_so() -> None:
    three = [first_right(trial, 50 + trial) for trial in (1, 2, 3)]

    assert sentence(*three).startswith("no trial stands out: all 3 are tied for first; trial 3 has")
    assert sentence(*three[:2]).startswith("no trial stands out: both are tied for first")


@pytest.mark.parametrize("others", [[], [first_right(2, 49), first_right(3, 48)]])
def test_a_leader_that_beats_nobody_says_nothing_of_values_beyond_its_own(
    others: list[RowResults],
) -> None:
    settings: dict[int, dict[str, object]] = {1: {"train.learning_rate": 1e-3}}
    space: dict[str, object] = {"train.learning_rate": LOG_RANGE}
    assert "edge" not in sentence(first_right(1, 50), *others, settings=settings, space=space)


def test_one_trial_alone_is_called_neither_best_nor_tied() -> None:
    assert sentence(first_right(1, 50)) == (
        "trial 1 is the only one with a score: exact match 0.50 [0.40, 0.60]"
    )


def test_a_board_without_scores_has_no_verdict_yet() -> None:
    assert sentence() == "no verdict yet: no trial has a score"


def test_two_trials_of_which_one_is_better_are_not_counted() -> None:
    assert "; better than the other;" in sentence(first_right(1, 90), first_right(2, 40))


def test_a_leader_that_does_not_beat_the_base_is_reported() -> None:
    results = [first_right(1, 50), first_right(2, 20)]

    assert "; not shown to differ from the base" in sentence(*results, base=first_right(0, 50))
    assert "; worse than the base" in sentence(*results, base=first_right(0, 90))
    verdict = judge_board(results, None, "exact_match", higher_is_better=True)
    assert "; not compared with the base, which has no score" in describe_verdict(verdict, {})


def test_a_trial_on_other_rows_is_not_one_of_those_that_were_beaten() -> None:
    elsewhere = answers(9, [0.0] * 50, evaluation="other rows")

    assert "better than the other;" in sentence(first_right(1, 90), first_right(2, 40), elsewhere)
    assert sentence(first_right(1, 90), elsewhere).startswith(
        "trial 1 has the best exact match 0.90 [0.83, 0.94]; no other trial has the same rows"
    )


def test_a_tied_leader_that_beats_nobody_is_not_called_best() -> None:
    """Enough rows to leave the third behind, too few for the stricter test of all pairs."""
    wrong = {1: 0, 2: 0, 3: 5}
    results = [
        answers(trial, [0.0] * count + [1.0] * (30 - count)) for trial, count in wrong.items()
    ]
    assert sentence(*results, base=answers(0, [0.0] * 30)).startswith(
        "trials 1 and 2 are tied for first; trial 1 has the best exact match 1.00 [0.89, 1.00]; "
        "better than none of the others by the stricter test of all pairs"
    )


def test_one_row_compares_nothing() -> None:
    said = sentence(answers(1, [1.0]), answers(2, [1.0]), base=answers(0, [0.0]))
    assert "a single row cannot compare trials" in said
    assert "no other trial has the same rows" not in said


def test_scores_of_different_rows_are_told() -> None:
    some = answers(1, [1.0] * 10 + [math.nan] * 30)
    said = sentence(some, answers(2, [1.0] * 30 + [0.0] * 10), base=answers(0, [0.0] * 40))
    assert "scores are of different rows" in said
    assert "different rows" not in sentence(first_right(1, 90), first_right(2, 40))


def test_many_ties_are_counted_and_not_named() -> None:
    results = [first_right(trial, 80) for trial in range(1, 8)]

    assert "; tied with 6 others;" in sentence(*results, first_right(8, 10))


def test_a_loss_over_few_rows_is_called_approximate() -> None:
    results = [drawn_losses(1, 1.0, 64), drawn_losses(2, 1.3, 64)]
    verdict = judge_board(results, None, "loss", higher_is_better=False)

    assert describe_verdict(verdict, {}).startswith("trial 1 is best: loss 1.")
    assert " [about " in describe_verdict(verdict, {})


@pytest.mark.parametrize(
    ("value", "parameter", "kind"),
    [
        (1e-3, LOG_RANGE, "range"),
        (1e-5, LOG_RANGE, "range"),
        (9.8e-4, LOG_RANGE, "range"),  # 1 % of the way on the logarithm
        (1e-4, LOG_RANGE, ""),
        (0.5, {"min": 0.0, "max": 1.0}, ""),
        (16, [8, 16], "list"),
        (16, [8, 16, 32], ""),
        (32, {"values": [8, 16, 32], "when": {}}, "list"),
        (16, [16], ""),
        ("cosine", ["linear", "cosine"], ""),
        (True, [True, False], ""),
        (None, [1, 2], ""),
    ],
)
def test_only_the_ends_of_ranges_and_lists_of_numbers_are_edges(
    value: object, parameter: object, kind: str
) -> None:
    words = edge_words({"train.learning_rate": value}, {"train.learning_rate": parameter})

    assert words == (f"its learning rate is at the edge of the {kind}: widen it" if kind else "")


def test_several_settings_at_their_edge_are_named_together() -> None:
    point: dict[str, object] = {"lora.rank": 64, "train.learning_rate": 1e-5, "train.epochs": 2}
    space: dict[str, object] = {
        "lora.rank": [16, 64],
        "train.learning_rate": LOG_RANGE,
        "train.epochs": [1, 2, 3],
    }

    assert edge_words(point, space) == (
        "its rank and learning rate are at the edge of what was tried: widen them"
    )


def test_adapters_from_elsewhere_are_called_by_their_names() -> None:
    results = [first_right(7, 90), first_right(8, 89), first_right(9, 88), first_right(10, 20)]
    verdict = judge_board(results, None, "exact_match", higher_is_better=True)
    names = {7: "trial 5 of demo", 8: "the folder mine", 9: "trial 4 of demo"}
    words = describe_verdict(verdict, {}, names=names)

    assert words.startswith("trial 5 of demo is best: exact match 0.90")
    assert "; tied with the folder mine and trial 4 of demo;" in words


def test_names_of_scores_from_elsewhere_reach_no_terminal_as_escapes() -> None:
    name = "\x1b[31mred"
    result = RowResults(
        trial=1,
        evaluation="rows",
        tokens="tokens",
        step=1,
        targets=first_right(1, 1).targets,
        means={name: first_right(1, 50).means["exact_match"]},
    )
    verdict = judge_board([result], None, name, higher_is_better=True)

    assert "\x1b" not in describe_verdict(verdict, {})

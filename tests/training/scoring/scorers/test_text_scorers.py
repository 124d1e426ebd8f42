"""The built-in scorers against published examples and against slow definitions."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.training.scoring.scorers.text_scorers import (
    common_length,
    exact_match,
    json_equality,
    rouge_l,
    squad_tokens,
    token_f1,
)

GUNMAN = "police killed the gunman"
TOKENS = st.lists(st.sampled_from("abcd"), max_size=7)


def test_exact_match_folds_white_space_and_numbers_and_nothing_else() -> None:
    assert exact_match("New  York\n", " New York") == 1.0
    assert exact_match("$1,000", "1000.0") == 1.0
    assert exact_match("New York", "new york") == 0.0


def test_f1_counts_the_tokens_that_both_answers_share() -> None:
    # Precision 2/3, recall 2/2, as SQuAD's script computes them.
    assert token_f1("The Eiffel Tower", "Eiffel Tower, Paris") == pytest.approx(0.8)
    assert token_f1("a cat", "The cat!") == 1.0
    assert token_f1("cat", "dog") == 0.0
    assert token_f1("cat cat", "cat") == pytest.approx(2 / 3)


def test_f1_takes_two_answers_without_tokens_as_equal_and_one_as_wrong() -> None:
    assert token_f1("the", "an") == 1.0
    assert token_f1("cat", "") == 0.0
    assert squad_tokens("The U.S. a  man") == ["us", "man"]


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        ("police kill the gunman", 0.75),
        ("the gunman kill police", 0.5),
        ("the gunman police killed", 0.5),
    ],
)
def test_rouge_l_gives_the_scores_of_lins_paper(answer: str, score: float) -> None:
    # Lin 2004, §3.1: S2, S3 and S4 against the reference S1, with beta 1.
    assert rouge_l(GUNMAN, answer) == pytest.approx(score)


def test_rouge_l_gives_the_score_of_the_package_rouge_score() -> None:
    # The example of its page, "The quick brown fox jumps over the lazy dog" against "The quick
    # brown dog jumps on the log.": 5 common words, precision 5/8, recall 5/9.
    fox = "The quick brown fox jumps over the lazy dog"
    assert rouge_l(fox, "The quick brown dog jumps on the log.") == pytest.approx(10 / 17)


def test_rouge_l_reads_words_of_other_scripts_and_needs_one() -> None:
    assert rouge_l("Grüße aus Köln", "grüße aus köln!") == 1.0
    assert rouge_l("...", "police") is None
    assert rouge_l("police", "...") == 0.0


@given(TOKENS, TOKENS)
def test_the_common_length_is_that_of_the_longest_subsequence_that_both_have(
    left: list[str], right: list[str]
) -> None:
    def subsequences(tokens: list[str]) -> set[tuple[str, ...]]:
        sizes = range(len(tokens) + 1)
        return {one for size in sizes for one in combinations(tokens, size)}

    shared = subsequences(left) & subsequences(right)
    assert common_length(left, right) == max(len(one) for one in shared)


@pytest.mark.parametrize(
    "answer",
    [
        '{"b": [1, 2.0], "a": "x"}',
        '{ "a": "\\u0078",\n "b": [1e0, 2] }',
        '```json\n{"a": "x", "b": [1, 2]}\n```',
    ],
)
def test_json_is_equal_whatever_the_order_of_keys_and_the_format_of_numbers(answer: str) -> None:
    assert json_equality('{"a": "x", "b": [1, 2]}', answer) == 1.0


@pytest.mark.parametrize(
    ("expected", "answer"),
    [
        ("[1, 2]", "[2, 1]"),
        ("1", "true"),
        ("0", "false"),
        ("1", '"1"'),
        ("12345678901234567890", "12345678901234567891"),
        ('{"a": 1}', '{"a": 1} and more'),
        ('{"a": 1}', '{"a": 1'),
        ("1", "NaN"),
        ("[]", "[" * 100_000),
    ],
)
def test_json_that_differs_or_is_none_is_wrong(expected: str, answer: str) -> None:
    assert json_equality(expected, answer) == 0.0


@pytest.mark.parametrize("expected", ["forty two", "", "NaN", "{'a': 1}"])
def test_a_row_whose_expected_answer_is_no_json_cannot_be_scored(expected: str) -> None:
    assert json_equality(expected, "1") is None

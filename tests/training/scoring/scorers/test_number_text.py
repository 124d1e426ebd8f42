"""Numbers of answers in one form: which texts are the same number, and which are not."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.training.scoring.scorers.extraction import extract_answer
from workbench.training.scoring.scorers.number_text import normalize_numbers

PATTERN = r"####\s*(\S+)"
DEMO_ROWS = Path(__file__).parents[4] / "workbench" / "demo" / "data" / "eval.jsonl"


@pytest.mark.parametrize(
    "text",
    [
        "1000",
        "1,000",
        "1000.0",
        "1000.",
        "$1,000",
        "$ 1,000.00",
        "1000 €",
        "+1000",
        "1e3",
        "1E+3",
        "1000%",
        "1,000 %",
        "1 000".replace(" ", "\u00a0"),
        "1 000".replace(" ", "\u202f"),
        " 1000\n",
    ],
)
def test_one_thousand_in_any_format_is_1000(text: str) -> None:
    assert normalize_numbers(text) == "1000"


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("−5", "-5"),
        ("-$5", "-5"),
        ("$-5.00", "-5"),
        ("-0", "0"),
        ("0.50", "0.5"),
        (".5", "0.5"),
        ("1e-3", "0.001"),
        ("10,00,000", "1000000"),
        ("12345678901234567890123456789012345.10", "12345678901234567890123456789012345.1"),
        ("1e999", "1e999"),
        ("9,999 apples", "9999 apples"),
    ],
)
def test_signs_points_and_separators_have_one_form(text: str, same: str) -> None:
    assert normalize_numbers(text) == same


@pytest.mark.parametrize(
    "text", ["007", "1,2", "3,14", "(1,2)", "1/2", "x−y", "1e9999", "nan", "inf", "1_000", "--5"]
)
def test_what_is_no_single_number_stays_as_it_is(text: str) -> None:
    assert normalize_numbers(text) == text


@given(
    st.decimals(
        allow_nan=False, allow_infinity=False, places=6, min_value=-(10**9), max_value=10**9
    )
)
def test_a_number_with_separators_equals_the_plain_one(number: object) -> None:
    assert normalize_numbers(f"{number:,}") == normalize_numbers(f"{number:f}")


@given(st.text(alphabet="0123456789.,-+eE$%−\u00a0 ax", max_size=30))
def test_the_form_of_a_form_is_itself(text: str) -> None:
    assert normalize_numbers(normalize_numbers(text)) == normalize_numbers(text)


def test_the_demo_is_extracted_as_before_numbers_had_one_form() -> None:
    for line in DEMO_ROWS.read_text().splitlines():
        answer = json.loads(line)["answer"]
        found = re.findall(PATTERN, answer)[-1]
        before = re.sub(r"(?<=\d),(?=\d)", "", found).strip()
        assert extract_answer(PATTERN, answer) == before


def test_the_last_match_counts_and_a_text_without_one_has_none() -> None:
    assert extract_answer(PATTERN, "#### 1\n#### 2") == "2"
    assert extract_answer(PATTERN, "two") is None

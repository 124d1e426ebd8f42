"""An answer pattern finds the same as Python's `re`, but in bounded time."""

from __future__ import annotations

import re
import time

import pytest

from workbench.training.scoring.scorers.extraction import (
    MATCH_SECONDS,
    compared_part,
    find_answer,
    is_too_slow,
)

SLOW = (r"(a|aa)+$", "a" * 60 + "b")
"""A pattern with the text on which it takes exponential time: half a million years with `re`."""


def test_a_pattern_that_backtracks_without_end_finds_nothing_in_bounded_time() -> None:
    before = time.process_time()
    assert find_answer(*SLOW) is None
    assert is_too_slow(*SLOW)
    assert compared_part(*SLOW) is None
    assert time.process_time() - before < 20 * MATCH_SECONDS


def test_the_same_pattern_finds_answers_where_it_is_quick() -> None:
    assert find_answer(SLOW[0], "so aaa") == "a"
    assert not is_too_slow(SLOW[0], "so aaa")


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (r"####\s*(\S+)", "#### 1\n#### 2"),
        (r"\\boxed{(.*)}", r"\boxed{12} and \boxed{3}"),
        (r"\\text{e}", r"\text{a} \text{e}"),
        (r"x{s", "xs x{s"),
        (r"[{e}]+", "a{e}"),
        (r"\d{2,3}", "1 22 3333"),
        (r"x{,2}y", "xxxy"),
        (r"\N{DIGIT ONE}{2}", "1 11"),
        (r"(a)|(b)", "b"),
        (r"(?i)answer: (\w+)", "ANSWER: Yes"),
        (r"(?s)<a>(.*?)</a>", "<a>1\n2</a>"),
        (r"(?m)^(\d+)$", "1\n22\nx3"),
        (r"(?P<n>\d)(?P=n)", "122"),
        (r"(?<=\$)\d++", "$12"),
        (r"\w+(?!.)", "a é"),
        (r"x*", "axx"),
    ],
)
def test_a_pattern_finds_what_python_finds(pattern: str, text: str) -> None:
    found = list(re.finditer(pattern, text))
    last = found[-1] if found else None
    expected = None if last is None else (last[1] if last.re.groups else last[0]) or ""
    assert find_answer(pattern, text) == expected

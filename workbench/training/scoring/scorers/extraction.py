"""The part of an answer that is compared: what evaluate.answer_pattern finds in it.

Some patterns take exponential time on some texts, `(a|aa)+$` for one, and a model may write any
text. Python's `re` cannot be ended, so patterns are matched by the package `regex`, which has a
limit and reads the same syntax but for braces.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

import regex  # type: ignore[import-untyped]

from workbench.text import safe_line
from workbench.training.scoring.scorers.number_text import fold_answer

MATCH_SECONDS = 0.5
"""Seconds of processor time that a pattern may take on one answer; most take microseconds."""
_BRACES = re.compile(r"\\N\{[^}]*\}|\\.|\{(?!\d*,?\d*\})", re.DOTALL)
"""Escapes, to be skipped, and braces that open no repetition."""


def find_answer(pattern: str, text: str) -> str | None:
    """Return the last match's first group, or the whole match, as it stands; None without a match.

    A group that took no part in the match gives an empty text. A text on which the pattern takes
    longer than MATCH_SECONDS has no match.
    """
    return _search(pattern, text)[0]


def is_too_slow(pattern: str, text: str) -> bool:
    """Return whether the pattern takes longer than MATCH_SECONDS on the text."""
    return _search(pattern, text)[1]


def pattern_problem(pattern: str, answers: Iterable[str]) -> str | None:
    """Return why the pattern cannot be matched with these answers, in words; None if it can."""
    try:
        slow = next((answer for answer in answers if is_too_slow(pattern, answer)), None)
    except regex.error as broken:  # `re` took it when the recipe was read
        return f"cannot be matched: {safe_line(broken, 200)}"
    if slow is None:
        return None
    return f"takes more than {MATCH_SECONDS} s on an expected answer ('{safe_line(slow, 60)}')"


def compared_part(pattern: str | None, text: str) -> str | None:
    """Return what exact match compares: what the pattern extracts, else the whole text.

    None where the text does not match the pattern.
    """
    return fold_answer(text) if pattern is None else extract_answer(pattern, text)


def extract_answer(pattern: str, text: str) -> str | None:
    """Return what `find_answer` finds in the form that exact match compares; None without a match.

    1,000 and 1000.0 are both extracted as 1000; see `number_text.fold_answer`.
    """
    found = find_answer(pattern, text)
    return None if found is None else fold_answer(found)


@lru_cache(maxsize=4_096)  # several scorers ask for the same answers
def _search(pattern: str, text: str) -> tuple[str | None, bool]:
    """Return what the pattern finds, and whether it ran out of time."""
    last = None
    try:
        for last in _compiled(pattern).finditer(text, timeout=MATCH_SECONDS):  # noqa: B007
            pass
    except TimeoutError:
        return None, True
    if last is None:
        return None, False
    return (last.group(1) if last.re.groups else last.group(0)) or "", False


@lru_cache(maxsize=64)
def _compiled(pattern: str) -> regex.Pattern:
    """Return the pattern as `re` reads it: to `regex`, braces as in `x{e}` allow for errors."""
    escaped = _BRACES.sub(lambda found: rf"\{found[0]}" if found[0] == "{" else found[0], pattern)
    return regex.compile(escaped, regex.VERSION0)

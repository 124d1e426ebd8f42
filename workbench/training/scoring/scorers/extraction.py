"""The part of an answer that is compared: what evaluate.answer_pattern finds in it."""

from __future__ import annotations

import re

from workbench.training.scoring.scorers.number_text import fold_answer


def find_answer(pattern: str, text: str) -> str | None:
    """Return the last match's first group, or the whole match, as it stands; None without a match.

    A group that took no part in the match gives an empty text.
    """
    last = None
    for last in re.finditer(pattern, text):  # noqa: B007
        pass
    if last is None:
        return None
    return (last.group(1) if last.re.groups else last.group(0)) or ""


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

"""The filter of trials: words, regular expressions, `!word`, `state:failed`, `lr>1e-4`, `exp:name`.

All terms must hold. A term is looked for in the row's text, as a regular expression where it is
one; `!` before it excludes what it matches. `state:`, `exp:`, `card:` and `trial:` look at one
field, and a comparison looks at a setting, the score, the loss, or another number of the row.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable

from tui.paint import line_text
from tui.widgets.lazy_rows import ListRow
from workbench import formatting
from workbench.service import TrialRow

Test = Callable[[TrialRow], bool]
_COMPARISON = re.compile(r"([\w.]+)(>=|<=|!=|>|<|=)(.+)")
_HOLDS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
    "=": operator.eq,
}
_NUMBERS: dict[str, Callable[[TrialRow], float | None]] = {
    "score": lambda row: row.score,
    "loss": lambda row: row.loss,
    "step": lambda row: row.step,
    "tok/s": lambda row: row.tokens_per_s,
    "peak": lambda row: None if row.peak_bytes is None else row.peak_bytes / (1 << 30),
    "tries": lambda row: row.attempts,
    "trial": lambda row: row.id,
}
_FIELDS: dict[str, Callable[[TrialRow], str]] = {
    "state": lambda row: f"{row.state} {formatting.state_word(row)}",
    "exp": lambda row: row.experiment_name,
    "experiment": lambda row: row.experiment_name,
    "card": lambda row: row.card or "",
    "trial": lambda row: str(row.id),
    "kind": lambda row: str(row.kind),
}


_TEXTS: dict[int, tuple[TrialRow, str]] = {}
"""The text of each trial's row as it was last: a filter is read again at each typed letter."""


def search_text(row: TrialRow) -> str:
    """Return the text in which the filter looks for its words, in lower case."""
    known = _TEXTS.get(row.id)
    if known is None or known[0] is not row:
        known = _TEXTS[row.id] = (row, _search_text(row))
    return known[1]


def _search_text(row: TrialRow) -> str:
    words = (formatting.trial_label(row), row.experiment_name, row.state, row.waiting, row.reason)
    brief = formatting.brief_settings(row.settings, short_keys=True)
    # Both forms of a key, so that `lr=0.001` and `learning_rate` are found alike.
    settings = f"{brief} {formatting.settings_line(row.settings)}"
    return f"{' '.join(words)} {settings} {row.card or ''}".lower()


class TrialFilter:
    """A filter that was read once and can be asked about many trials."""

    def __init__(self, text: str) -> None:
        self._tests = [_term(word) for word in text.split()]

    def matches(self, row: TrialRow) -> bool:
        """Return whether every term of the filter holds for the row."""
        return all(test(row) for test in self._tests)


def trial_matches(row: TrialRow, words: str) -> bool:
    """Return whether every term of the filter holds for the row."""
    return not words or TrialFilter(words).matches(row)


def rows_with(rows: Iterable[ListRow], words: str) -> list[ListRow]:
    """Return the rows in whose text all words or regular expressions are found; `!` excludes."""
    found = list(rows)
    for word in words.split():
        excludes = word.startswith("!") and len(word) > 1
        finds = text_finder(word[1:] if excludes else word)
        found = [row for row in found if finds(_row_text(row)) != excludes]
    return found


def _row_text(row: ListRow) -> str:
    lines = (cell for cell in row.cells if isinstance(cell, tuple))
    return " ".join((str(row.key), *map(line_text, lines))).lower()


def _term(word: str) -> Test:
    if word.startswith("!") and len(word) > 1:
        inner = _term(word[1:])
        return lambda row: not inner(row)
    field, colon, value = word.partition(":")
    if colon and value and field.lower() in _FIELDS:
        text_of, found = _FIELDS[field.lower()], text_finder(value)
        return lambda row: found(text_of(row).lower())
    if (compared := _COMPARISON.fullmatch(word)) is not None:
        return _comparison(word, *compared.groups())
    found = text_finder(word)
    return lambda row: found(search_text(row))


def text_finder(word: str) -> Callable[[str], bool]:
    """Return a test of text in lower case: a regular expression, or the word where it is none."""
    try:
        pattern = re.compile(word, re.IGNORECASE)
    except (re.error, RecursionError):
        plain = word.lower()
        return lambda text: plain in text
    return lambda text: pattern.search(text) is not None


def _comparison(word: str, name: str, sign: str, value: str) -> Test:
    wanted, found = _number(value), text_finder(re.escape(word))

    def test(row: TrialRow) -> bool:
        have = _value(row, name.lower())
        if isinstance(have, int | float) and wanted is not None:
            return _HOLDS[sign](float(have), wanted)
        if have is not None and sign in ("=", "!="):
            return (formatting.setting_text(have).lower() == value.lower()) == (sign == "=")
        # While a value is being typed, `lr=` and half of a word still find their text.
        return sign == "=" and found(search_text(row))

    return test


def _value(row: TrialRow, name: str) -> object:
    """Return the row's number or setting of that name: dotted, its last word, or the short one."""
    if name in _NUMBERS:
        return _NUMBERS[name](row)
    for key, value in row.settings.items():
        if name in (key, key.rpartition(".")[2], formatting.short_key(key)):
            return bool(value) if isinstance(value, bool) else value
    return None


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None

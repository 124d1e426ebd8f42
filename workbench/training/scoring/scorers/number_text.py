"""Numbers in answers, written in one form, so that 1,000 and 1000.0 compare as equal.

docs/scorers.md lists what counts as the same number.
"""

from __future__ import annotations

import re
from decimal import Decimal

# A comma before the last group of three digits, also behind groups of two (Indian: 1,00,000).
_THOUSANDS = re.compile(r"(?<=\d)[,\u00a0\u202f](?=(?:\d\d,){0,8}\d{3}(?!\d))")
_MINUS = re.compile(r"[\u2212\ufe63\uff0d](?=[\s$€£¥]*[\d.])")
_NUMBER = re.compile(
    r"(?P<before>[+-]?)\s*(?:[$€£¥]\s*)?(?P<after>[+-]?)"
    r"(?P<digits>(?:0|[1-9]\d*|(?=\.\d))(?:\.\d*)?(?:[eE][+-]?\d{1,3})?)"
    r"\s*(?:[$€£¥]|%)?",
    re.ASCII,
)
_PLAIN_DIGITS = 30
"""Zeros up to which a number is written without an exponent."""


def normalize_numbers(text: str) -> str:
    """Return `text` stripped, with its thousands separators removed and a plain minus sign.

    A text that is one number as a whole is written as plain digits: `$1,000.00` and `1e3` become
    `1000`, `−.50` becomes `-0.5`. Currency and percent signs are dropped. A number with a leading
    zero, such as `007`, stays as it is: it is rather a code. Takes time linear in the text.
    """
    plain = _MINUS.sub("-", _THOUSANDS.sub("", text)).strip()
    found = _NUMBER.fullmatch(plain)
    if found is None or (found["before"] and found["after"]):
        return plain
    return _plain_digits(Decimal(f"{found['before'] or found['after']}{found['digits']}"))


def fold_answer(text: str) -> str:
    """Return `text` in the form that exact match compares: one space for each run of white space,
    and numbers in one form."""
    return normalize_numbers(" ".join(text.split()))


def _plain_digits(number: Decimal) -> str:
    """Write a finite number without exponent, trailing zeros and a sign of zero.

    Decimal.normalize would round to 28 digits; this keeps all.
    """
    sign, digits, exponent = number.as_tuple()
    assert isinstance(exponent, int)  # the pattern lets neither infinity nor NaN pass
    text = "".join(map(str, digits)).lstrip("0")
    kept = text.rstrip("0")
    exponent += len(text) - len(kept)
    if not kept:
        return "0"
    before = "-" if sign else ""
    if 0 <= exponent <= _PLAIN_DIGITS:
        return f"{before}{kept}{'0' * exponent}"
    if -_PLAIN_DIGITS <= exponent < 0:
        padded = kept.rjust(1 - exponent, "0")
        return f"{before}{padded[:exponent]}.{padded[exponent:]}"
    return f"{before}{kept}e{exponent}"

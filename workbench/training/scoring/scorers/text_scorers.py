"""The built-in scorers: pure functions of an expected and a generated answer.

Each returns a share from 0 to 1, and None where the expected answer is nothing that it can score.
"""

from __future__ import annotations

import json
import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any, NoReturn

from workbench.training.scoring.scorers.number_text import fold_answer

TextScorer = Callable[[str, str], float | None]
"""A function of the expected and the generated answer."""


def exact_match(expected: str, answer: str) -> float | None:
    """Return 1 if both texts are equal after folding white space and numbers, else 0."""
    return float(fold_answer(expected) == fold_answer(answer))


# ── tokens ───────────────────────────────────────────────────────────────────────────────────

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def token_f1(expected: str, answer: str) -> float | None:
    """Return the F1 of the tokens that both texts share, as SQuAD 2.0 counts them.

    Lower case, without punctuation and English articles. Two texts without tokens are equal.
    Source: Rajpurkar et al. 2018, arXiv 1806.03822, and its evaluate-v2.0.py.
    """
    wanted, found = squad_tokens(expected), squad_tokens(answer)
    if not wanted or not found:
        return float(wanted == found)
    shared = (Counter(wanted) & Counter(found)).total()
    return 2 * shared / (len(wanted) + len(found))


def squad_tokens(text: str) -> list[str]:
    """Return the tokens of a text by the normalisation of SQuAD's evaluation script."""
    return _ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split()


# ── the longest common subsequence ───────────────────────────────────────────────────────────

_WORDS = re.compile(r"[^\W_]+")


def rouge_l(expected: str, answer: str) -> float | None:
    """Return the F-measure (beta 1) of ROUGE-L over the whole texts, without stemming.

    None where the expected answer holds no word. Words are runs of letters and digits of any
    script, in lower case; the package rouge-score keeps only a to z and 0 to 9.
    Source: Lin 2004, ROUGE: A Package for Automatic Evaluation of Summaries, §3.
    """
    wanted, found = (_WORDS.findall(text.lower()) for text in (expected, answer))
    if not wanted:
        return None
    return 2 * common_length(wanted, found) / (len(wanted) + len(found))


def common_length(left: Sequence[str], right: Sequence[str]) -> int:
    """Return the length of the longest common subsequence of two sequences of tokens.

    Each token of `right` costs some operations on integers with one bit for each token of `left`.
    Source: Hyyrö 2004, Bit-parallel LCS-length computation revisited, figure 3.
    """
    places: dict[str, int] = {}
    for index, token in enumerate(left):
        places[token] = places.get(token, 0) | 1 << index
    every = (1 << len(left)) - 1
    rest = every
    for token in right:
        matched = rest & places.get(token, 0)
        rest = (rest + matched | rest - matched) & every
    return len(left) - rest.bit_count()


# ── JSON ─────────────────────────────────────────────────────────────────────────────────────

_FENCE = re.compile(r"```(?:json)?[ \t]*\n(.*)\n[ \t]*```", re.DOTALL | re.IGNORECASE)


def json_equality(expected: str, answer: str) -> float | None:
    """Return 1 if both texts are the same JSON value, 0 if not; None if the expected is no JSON.

    The order of keys and the format of numbers do not matter (1, 1.0 and 1e0 are equal), the order
    of lists does. An answer may stand in one fenced code block.
    """
    try:
        wanted = parse_json(expected)
    except ValueError:
        return None
    try:
        return float(wanted == parse_json(answer))
    except ValueError:
        return 0.0


def parse_json(text: str) -> Any:
    """Return the JSON value of a text in a form whose equality is that of JSON.

    Numbers are Decimals, so that long ones stay exact; booleans become pairs with a tag, because in
    Python True equals 1. Raises ValueError for what is no JSON, including NaN
    and values nested too deeply.
    """
    fenced = _FENCE.fullmatch(text.strip())
    try:
        value = json.loads(
            fenced[1] if fenced else text,
            parse_int=Decimal,
            parse_float=Decimal,
            parse_constant=_refuse_constant,
        )
        return _with_tagged_booleans(value)
    except RecursionError as deep:
        raise ValueError("nested too deeply") from deep
    except ArithmeticError as huge:
        raise ValueError("a number that is out of range") from huge


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _with_tagged_booleans(value: Any) -> Any:
    if isinstance(value, bool):
        return ("boolean", value)
    if isinstance(value, list):
        return [_with_tagged_booleans(one) for one in value]
    if isinstance(value, dict):
        return {key: _with_tagged_booleans(one) for key, one in value.items()}
    return value


BUILT_IN_SCORERS: Mapping[str, TextScorer] = {
    "exact_match": exact_match,
    "f1": token_f1,
    "rouge_l": rouge_l,
    "json": json_equality,
}
"""The built-in scorers by the names that `evaluate.scorer` takes."""

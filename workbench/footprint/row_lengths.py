"""How long the rows are, once the data was prepared."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

DRAWN = 512
"""Rows of all sampled batches together, about."""


class Lengths(TypedDict):
    """As choose_plan takes them; None while nobody has read the rows."""

    longest: int | None
    """Tokens of the longest row that is trained on."""
    sample: Sequence[int] | None
    """Tokens of rows that stand for all: evenly spaced quantiles."""
    scored: int | None
    """Tokens of the longest held-out row, or of what is asked there."""


UNREAD: Lengths = {"longest": None, "sample": None, "scored": None}


def lengths_of(data: Mapping[str, Any]) -> Lengths:
    """What preparing the rows told of them; an older workbench told less."""
    longest, mean, scored = (data.get(f"{name}_length") for name in ("max", "mean", "eval_max"))
    sample = data.get("length_sample") or ([round(mean)] if mean else None)
    return {
        "longest": int(longest) if longest else None,
        "sample": sample,
        "scored": int(scored) if scored else None,
    }


def sampled_batches(sample: Sequence[int], rows: int, *, grouped: bool) -> list[list[int]]:
    """Optimizer batches of so many rows (DRAWN at most), as training draws them; always the same.

    `grouped`: rows of like length come together.
    """
    rows = min(rows, DRAWN)
    if len(set(sample)) == 1:
        return [[sample[0]] * rows]
    drawn = list(sample) * -(-max(DRAWN, rows) // len(sample))
    if grouped:
        drawn.sort(reverse=True)  # what is left over at the end are short ones
    else:
        random.Random(0).shuffle(drawn)
    return [drawn[at : at + rows] for at in range(0, len(drawn) - rows + 1, rows)]

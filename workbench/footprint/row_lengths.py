"""Lengths of the prepared rows, in tokens, and sampled batches of them."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

MOST_ROWS_PER_BIN = 64
"""Rows in one bin of `data.packing` at most, so that a step knows how many may come."""
SAMPLED_ROWS = 512
"""Rows of all sampled batches together, about."""


class Lengths(TypedDict):
    """Lengths of the rows, in tokens; None while nobody has read the rows."""

    longest: int | None
    """The longest row that is trained on."""
    sample: Sequence[int] | None
    """Evenly spaced quantiles of the rows that are trained on."""
    scored: int | None
    """The longest held-out row, or the longest question there."""


UNREAD: Lengths = {"longest": None, "sample": None, "scored": None}


def lengths_of(data: Mapping[str, Any]) -> Lengths:
    """Return the lengths in the report of a preparation; an older version reported fewer."""
    longest, mean, scored = (data.get(f"{name}_length") for name in ("max", "mean", "eval_max"))
    sample = data.get("length_sample") or ([round(mean)] if mean else None)
    return {
        "longest": int(longest) if longest else None,
        "sample": sample,
        "scored": int(scored) if scored else None,
    }


def sampled_batches(sample: Sequence[int], rows: int, *, grouped: bool) -> list[list[int]]:
    """Return batches of `rows` lengths (SAMPLED_ROWS at most), drawn as training draws them.

    The same arguments always give the same batches. `grouped` says that rows of similar length
    come together (data.group_by_length).
    """
    rows = min(rows, SAMPLED_ROWS)
    if len(set(sample)) == 1:
        return [[sample[0]] * rows]
    drawn = list(sample) * -(-max(SAMPLED_ROWS, rows) // len(sample))
    if grouped:
        drawn.sort(reverse=True)  # the rows left over at the end, which are dropped, are short
    else:
        random.Random(0).shuffle(drawn)
    return [drawn[at : at + rows] for at in range(0, len(drawn) - rows + 1, rows)]

"""How long the rows are, once the data was prepared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict


class Lengths(TypedDict):
    """As choose_plan takes them; None while nobody has read the rows."""

    longest: int | None
    """Tokens of the longest row that is trained on."""
    mean: float | None
    scored: int | None
    """Tokens of the longest held-out row, or of what is asked there."""


UNREAD: Lengths = {"longest": None, "mean": None, "scored": None}


def lengths_of(data: Mapping[str, Any]) -> Lengths:
    """What preparing the rows told of them; an older workbench told less."""
    longest, mean, scored = (data.get(f"{name}_length") for name in ("max", "mean", "eval_max"))
    return {
        "longest": int(longest) if longest else None,
        "mean": float(mean) if mean else None,
        "scored": int(scored) if scored else None,
    }

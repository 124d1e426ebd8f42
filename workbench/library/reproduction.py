"""Compares a trial that was run again with the first: rows, versions, losses and scores."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.store.rows import Experiment, Point


@dataclass(frozen=True, slots=True, kw_only=True)
class Reproduction:
    """Two runs of the same recipe, compared."""

    trial: int
    again: int
    """The trial that was run again."""
    same_rows: bool
    """True where both were prepared into the same rows, by their digests."""
    same_held_out: bool
    """True where both were scored on the same held-out rows in the same way."""
    steps: int
    """Steps at which both reported a loss."""
    max_loss_difference: float | None
    """The largest difference of training losses at the same step, in nats per target token."""
    score_differences: dict[str, float]
    """By score: that of the second run minus that of the first."""

    @property
    def is_exact(self) -> bool:
        """True where rows, losses and scores are the same to the last digit."""
        equal = not any(self.score_differences.values()) and not self.max_loss_difference
        return self.same_rows and self.same_held_out and self.steps > 0 and equal


def compare_runs(
    first: tuple[int, Experiment, Sequence[Point], Mapping[str, float | None]],
    second: tuple[int, Experiment, Sequence[Point], Mapping[str, float | None]],
) -> Reproduction:
    """Return the comparison of two trials, each with its experiment, losses and scores."""
    losses = [{point.step: point.low for point in run[2]} for run in (first, second)]
    shared = sorted(losses[0].keys() & losses[1].keys())
    apart = [abs(losses[0][step] - losses[1][step]) for step in shared]
    scores = {
        name: after - before
        for name, before in first[3].items()
        if before is not None and (after := second[3].get(name)) is not None
    }
    return Reproduction(
        trial=first[0],
        again=second[0],
        same_rows=_digest(first[1], "data", "digest") == _digest(second[1], "data", "digest"),
        same_held_out=_digest(first[1], "evaluation_digest")
        == _digest(second[1], "evaluation_digest"),
        steps=len(shared),
        max_loss_difference=max(apart, default=None),
        score_differences=scores,
    )


def changed_versions(adapter: Path, installed: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Return the libraries whose versions differ from those that the adapter was trained with.

    By name: the version then and the version now. Empty where the adapter does not tell.
    """
    try:
        then: dict[str, Any] = json.loads((adapter / "scores.json").read_bytes())["versions"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return {
        name: (str(version), installed[name])
        for name, version in then.items()
        if name in installed and installed[name] != version
    }


def _digest(experiment: Experiment, *keys: str) -> object:
    found: Any = experiment.prepared or {}
    for key in keys:
        found = found.get(key) if isinstance(found, dict) else None
    return found

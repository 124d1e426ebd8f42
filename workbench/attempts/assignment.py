"""The assignment of an attempt: everything that a worker needs, as plain data."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Self

AHEAD = "ahead"
"""The folder of a trial with answers that another trial's pass generated for it."""
ANSWERS = f"{AHEAD}/answers.json"
"""The file in a trial's folder with those answers; it is there once all of them are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """One attempt of a trial on a card.

    The scheduler writes it to `<folder>/assignment.json` before it sends it to the card's worker.
    """

    attempt: int
    """Id of the attempt. Ids only grow; a worker refuses one below the last it has seen."""
    trial: int
    experiment: int
    kind: str
    """A value of trial.Kind."""
    recipe: dict[str, Any]
    """A recipe.Recipe as JSON: the experiment's recipe with the trial's settings applied."""
    card: dict[str, Any]
    """A cards.Card as JSON."""
    plan: dict[str, Any]
    """A footprint.Plan as JSON."""
    folder: str
    """Folder attempts/<id>, with assignment.json, events.jsonl and traceback.txt."""
    trial_folder: str
    """Folder trials/<id>, with `checkpoints/step-000025/…` and `adapter/`."""
    experiment_folder: str
    """Folder experiments/<id>, with what was prepared once for all its trials."""
    finish: bool = False
    """True: do not train further; score the newest checkpoint, keep it as the adapter, and end as
    stopped."""

    warm: dict[str, Any] | None = None
    """Start from this adapter instead of a fresh one: {trial, folder, sha256}. `trial` is None for
    an adapter that is no trial's of this home."""
    finals_of: int | None = None
    """The finalist that the trial trains again with another seed; None for all other trials. Only
    `repair` reads it."""

    score: dict[str, Any] | None = None
    """The adapter that a score trial scores, and on which rows: {trial, folder, sha256, digest,
    step, rows}. `trial` is None for a folder of no trial, and `folder` too for the base alone;
    `rows` is eval or test."""

    beside: list[dict[str, Any]] | None = None
    """Trials of the experiment that wait and are scored on the same rows: their answers are
    generated in one pass with this trial's. Each is as in `score`, with `trial_folder`, and `live`,
    its live attempt by the fence at that time: a trial that is placed later answers by itself. A
    trial that trains may have its experiment's base here."""

    chat: list[dict[str, Any] | None] | None = None
    """The models of a chat: {trial, folder, sha256} of each adapter, and None for the base."""

    brought: dict[str, Any] | None = None
    """What was brought to another machine of a cluster: {model, rows}, the base's folder there
    (None for a base that ships) and the digest of the prepared rows. None on the head itself."""

    def to_json(self) -> dict[str, Any]:
        """Return the assignment as a JSON object, which shares its values."""
        return {one.name: getattr(self, one.name) for one in fields(self)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """Return the assignment of a JSON object. Raises TypeError for unknown or missing keys."""
        return cls(**data)

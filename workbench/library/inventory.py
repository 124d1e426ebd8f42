"""The adapters of a home: what each was made of, how it scored, and where it lies."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.adapters.adapter_folder import WEIGHTS
from workbench.adapters.lora_settings import CONFIG
from workbench.home import Home
from workbench.library.exports import read_exports
from workbench.library.marks import read_marks
from workbench.store.reader import Reader
from workbench.store.rows import Experiment


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterEntry:
    """One adapter that a trial of this home left."""

    trial: int
    experiment: str
    state: str
    base: str
    """The base's hub id, shipped name or folder, as the recipe names it."""
    revision: str | None
    """The commit of a hub model; None for a folder."""
    data_digest: str
    """Digest of the prepared rows that it was trained on; empty where none is known."""
    settings: dict[str, Any]
    """Settings that differ from the experiment's recipe."""
    rank_by: str
    score: float | None
    scores: dict[str, float | None]
    bytes: int
    """Size of its weights."""
    sha256: str
    """SHA-256 of its weights when they were saved."""
    made_utc: float
    folder: str
    present: bool
    """True where the folder holds weights of that size and a configuration."""
    tags: tuple[str, ...]
    note: str
    exports: list[dict[str, Any]]
    """What was made of it, with the scores after each export; see `exports`."""


def list_adapters(
    home: Home, reader: Reader, *, tags: Sequence[str] = (), experiment: int | None = None
) -> list[AdapterEntry]:
    """Return the adapters that trials left, the newest first; those with all `tags` alone."""
    known = {one.id: one for one in reader.experiments()}
    rows = {row["trial"]: row for row in reader.db.execute("select * from adapters")}
    scores: dict[int, dict[str, float | None]] = {}
    for trial, name, value in reader.db.execute("select trial, name, value from scores"):
        scores.setdefault(trial, {})[name] = value
    found = []
    for trial in reader.trials(experiment):
        if trial.id not in rows or trial.experiment not in known:
            continue
        row, marks = rows[trial.id], read_marks(home, trial.id, trial.created_utc)
        owner, folder = known[trial.experiment], home.root / str(row["path"])
        entry = AdapterEntry(
            trial=trial.id,
            experiment=owner.name,
            state=str(trial.state),
            base=str(owner.recipe.get("model", {}).get("name", "")),
            revision=_prepared(owner, "model", "revision") or None,
            data_digest=_prepared(owner, "data", "digest"),
            settings=trial.settings,
            rank_by=owner.rank_by,
            score=trial.score,
            scores=scores.get(trial.id, {}),
            bytes=int(row["bytes"]),
            sha256=str(row["sha256"]),
            made_utc=float(row["made_utc"]),
            folder=str(folder),
            present=_is_whole(folder, int(row["bytes"])),
            tags=marks.tags,
            note=marks.note,
            exports=read_exports(home, trial.id, trial.created_utc),
        )
        if set(tags) <= set(entry.tags):
            found.append(entry)
    return sorted(found, key=lambda one: -one.trial)


def _prepared(owner: Experiment, part: str, key: str) -> str:
    about = (owner.prepared or {}).get(part) or {}
    return str(about.get(key) or "")


def _is_whole(folder: Path, weights_bytes: int) -> bool:
    """Return True where the folder has a readable configuration and weights of this size."""
    try:
        json.loads((folder / CONFIG).read_bytes())
        return (folder / WEIGHTS).stat().st_size == weights_bytes
    except (OSError, ValueError):
        return False

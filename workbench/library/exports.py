"""Exports of a trial's adapter, with the scores after each: kept beside the trial's own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from workbench.home import Home
from workbench.library.marks import library_folder, writing_library
from workbench.machine.files import write_durably

MOST_KEPT = 50
"""Exports that are kept for one trial, the newest."""


def read_exports(home: Home, trial: int, created_utc: float) -> list[dict[str, Any]]:
    """Return the exports of the trial that was created at that time, oldest first."""
    try:
        stored = json.loads((library_folder(home) / "exports" / f"{trial}.json").read_bytes())
        return list(stored["exports"]) if stored["created_utc"] == created_utc else []
    except (OSError, ValueError, KeyError, TypeError):
        return []


def keep_export(home: Home, trial: int, created_utc: float, export: Mapping[str, Any]) -> None:
    """Add an export: `kind`, `path`, `made_utc`, and what was measured on it."""
    with writing_library(home):
        known = [*read_exports(home, trial, created_utc), dict(export)][-MOST_KEPT:]
        file = library_folder(home) / "exports" / f"{trial}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"created_utc": created_utc, "exports": known})
        write_durably(file, text.encode())

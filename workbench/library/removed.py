"""Records of what was removed: the store keeps its rows, so that numbers are never used again.

A record is one file in `library/removed/`, and writing it is the moment at which a trial is
removed: lists leave out what a record names. The folders are moved afterwards, and a command that
was killed between the two is finished by the next one (`trash.finish_moves`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from workbench.home import Home
from workbench.library.marks import library_folder
from workbench.machine.files import write_durably
from workbench.store.rows import NOTHING_HIDDEN, Hidden


class RecordState(StrEnum):
    """The stages of a removal."""

    REMOVED = "removed"
    """Its folders are in the trash, or on their way there."""
    RESTORING = "restoring"
    """Its folders are on their way back."""
    EMPTIED = "emptied"
    """Its folders were deleted for good, or are about to be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RemovalRecord:
    """One removal: which trials and folders, and how far it has got."""

    entry: str
    """Its name in the trash, for example `trial-7`."""
    kind: str
    """trial, experiment or prune."""
    about: str
    """A line for people."""
    trials: Mapping[int, float] = field(default_factory=dict)
    """Trials that lists leave out, each with the time at which it was created."""
    experiments: Mapping[int, float] = field(default_factory=dict)
    folders: tuple[str, ...] = ()
    """Folders that move, relative to the home."""
    bytes: int = 0
    removed_utc: float = 0.0
    state: RecordState = RecordState.REMOVED
    moved: bool = False
    """True once every folder is where the state says."""


def removed_folder(home: Home) -> Path:
    """Return the folder of the records."""
    return library_folder(home) / "removed"


def read_records(home: Home) -> list[RemovalRecord]:
    """Return every record, the newest removal first; a file that cannot be read is left out."""
    found = [_read(file) for file in removed_folder(home).glob("[!.]*.json")]
    known = [record for record in found if record is not None]
    return sorted(known, key=lambda one: (-one.removed_utc, one.entry))


def find_hidden(home: Home) -> Hidden:
    """Return what lists leave out by the records; what is being restored is no longer hidden."""
    trials: dict[int, float] = {}
    experiments: dict[int, float] = {}
    for record in read_records(home):
        if record.state is not RecordState.RESTORING:
            trials.update(record.trials)
            experiments.update(record.experiments)
    return Hidden(trials, experiments) if trials or experiments else NOTHING_HIDDEN


def hidden_stamp(home: Home) -> int:
    """Return a number that changes with the records; 0 where nothing was removed. Takes 5 µs."""
    try:
        return removed_folder(home).stat().st_mtime_ns
    except OSError:
        return 0


def write_record(home: Home, record: RemovalRecord, **changes: Any) -> RemovalRecord:
    """Write the record with the changes, durably, and return it."""
    new = replace(record, **changes)
    file = removed_folder(home) / f"{new.entry}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    write_durably(file, json.dumps(asdict(new), ensure_ascii=False).encode())
    return new


def forget_record(home: Home, record: RemovalRecord) -> None:
    """Delete the record of something that is back in its place."""
    (removed_folder(home) / f"{record.entry}.json").unlink(missing_ok=True)


def _read(file: Path) -> RemovalRecord | None:
    try:
        stored = json.loads(file.read_bytes())
        return RemovalRecord(
            entry=file.stem,
            kind=str(stored["kind"]),
            about=str(stored["about"]),
            trials={int(id): float(at) for id, at in stored["trials"].items()},
            experiments={int(id): float(at) for id, at in stored["experiments"].items()},
            folders=tuple(str(one) for one in stored["folders"]),
            bytes=int(stored["bytes"]),
            removed_utc=float(stored["removed_utc"]),
            state=RecordState(stored["state"]),
            moved=bool(stored["moved"]),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None

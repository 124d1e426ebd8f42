"""The trash of a home: removed folders, until they are restored or the trash is emptied.

Moving is a rename within the home. Each change first writes its record and then moves, so that a
kill leaves the old state or the new one, and `finish_moves` completes what was begun.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from workbench import fault_points
from workbench.errors import NotThere, UsageError
from workbench.home import Home
from workbench.library.marks import writing_library
from workbench.library.removed import (
    RecordState,
    RemovalRecord,
    forget_record,
    read_records,
    write_record,
)
from workbench.machine.files import sync_path
from workbench.text import safe_line


def trash_folder(home: Home) -> Path:
    """Return the folder of what can be restored."""
    return home.root / "trash"


def list_trash(home: Home) -> list[RemovalRecord]:
    """Return what can be restored, the newest removal first."""
    return [one for one in read_records(home) if one.state is RecordState.REMOVED]


def move_to_trash(home: Home, record: RemovalRecord) -> RemovalRecord:
    """Remove what the record names: from its writing on, lists leave it out.

    Raises UsageError where the trash has something of that name. The caller holds the library.
    """
    if any(one.entry == record.entry for one in read_records(home)):
        raise UsageError(
            f"{record.entry} was removed before", hint="`workbench trash ls` shows the trash"
        )
    write_record(home, record)
    fault_points.at("trash.after_record")
    return _finish(home, record)


def restore_from_trash(home: Home, entry: str) -> RemovalRecord:
    """Put a removal's folders back, show its trials in lists again, and return its record.

    Raises NotThere for a name that the trash does not have, and UsageError, with nothing changed,
    where something else lies in one of the places by now.
    """
    with writing_library(home):
        finish_moves(home)
        record = _find(home, entry)
        for name in record.folders:
            if (home.root / name).exists() and (_kept(home, record) / name).exists():
                raise UsageError(
                    f"{safe_line(home.root / name, 200)} exists again, so {record.entry} cannot "
                    "be put back",
                    hint="move that folder away, then restore again",
                )
        record = write_record(home, record, state=RecordState.RESTORING, moved=False)
        fault_points.at("trash.restoring")
        _finish(home, record)
    return record


def empty_trash(home: Home, entries: list[str] | None = None) -> list[RemovalRecord]:
    """Delete the folders of removals for good, of all of them by default; return their records.

    The records stay, so that the trials stay out of lists.
    """
    with writing_library(home):
        finish_moves(home)
        chosen = list_trash(home) if entries is None else [_find(home, one) for one in entries]
        for record in chosen:
            new = write_record(home, record, state=RecordState.EMPTIED, moved=False)
            fault_points.at("trash.emptying")
            _finish(home, new)
    return chosen


def finish_moves(home: Home) -> None:
    """Complete every removal, restoration and emptying that a killed command left half done.

    The caller holds the library.
    """
    for record in read_records(home):
        if not record.moved:
            _finish(home, record)


def _finish(home: Home, record: RemovalRecord) -> RemovalRecord:
    kept = _kept(home, record)
    if record.state is RecordState.EMPTIED:
        shutil.rmtree(kept, ignore_errors=True)
        if not record.trials and not record.experiments:  # nothing to leave out of lists
            forget_record(home, record)
            return record
    elif record.state is RecordState.RESTORING:
        for name in record.folders:
            _rename(kept / name, home.root / name)
        forget_record(home, record)
        shutil.rmtree(kept, ignore_errors=True)  # nothing but empty folders
        return record
    else:
        for name in record.folders:
            _rename(home.root / name, kept / name)
            fault_points.at("trash.between_moves")
    return write_record(home, record, moved=True)


def _rename(source: Path, target: Path) -> None:
    """Rename a folder unless that was done before; both lie in the home, on one disk."""
    if not source.exists() or target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    source.rename(target)
    for folder in (source.parent, target.parent):
        sync_path(folder)


def _kept(home: Home, record: RemovalRecord) -> Path:
    return trash_folder(home) / record.entry


def _find(home: Home, entry: str) -> RemovalRecord:
    """Return the removal of this name; a trial's id, or an experiment's name, does too."""
    known = list_trash(home)
    for record in known:
        if entry in (record.entry, record.about) or f"trial-{entry}" == record.entry:
            return record
    names = ", ".join(one.entry for one in known[:8]) or "nothing"
    raise NotThere(f"the trash has no {safe_line(entry, 80)}", hint=f"it holds {names}")

"""Tags and notes on trials, and experiments that are archived: one small file for each.

They lie in `library/` of the home and not in the database, which only the engine writes: a person
marks an adapter without an engine, and `workbench repair` loses none of it. A mark holds the time
at which its trial or experiment was created, so that it never passes to another one that got the
same number after a database was removed by hand.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from workbench.errors import EngineError, UsageError
from workbench.home import Home
from workbench.machine.files import write_durably
from workbench.machine.locks import Lock
from workbench.text import safe_line

_TAG = re.compile(r"[a-z0-9][a-z0-9._-]{0,39}\Z")
MOST_TAGS = 32
"""Tags of one trial."""
MOST_NOTE = 4_000
"""Characters of one note."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialMarks:
    """The words that a person put on one trial."""

    tags: tuple[str, ...] = ()
    """Sorted."""
    note: str = ""


NO_MARKS = TrialMarks()


def library_folder(home: Home) -> Path:
    """Return the folder of marks and of the records of what was removed."""
    return home.root / "library"


@contextmanager
def writing_library(home: Home) -> Iterator[None]:
    """Let no other command change the library inside the block.

    Raises EngineError where another one is changing it: each change takes milliseconds, except
    emptying the trash.
    """
    home.make()
    folder = library_folder(home)
    folder.mkdir(exist_ok=True)
    lock = Lock(folder / "lock")
    if not lock.take():
        raise EngineError(
            "another command is changing the library", hint="wait for it, then try again"
        )
    try:
        yield
    finally:
        lock.release()


def read_marks(home: Home, trial: int, created_utc: float) -> TrialMarks:
    """Return the marks of the trial that was created at that time; NO_MARKS where it has none."""
    stored = _read(_marks_file(home, trial))
    if stored.get("created_utc") != created_utc:
        return NO_MARKS
    tags = [str(tag) for tag in stored.get("tags", ()) if _TAG.match(str(tag))]
    return TrialMarks(tags=tuple(sorted(set(tags))), note=str(stored.get("note", "")))


def change_marks(
    home: Home,
    trial: int,
    created_utc: float,
    *,
    add: Iterable[str] = (),
    drop: Iterable[str] = (),
    note: str | None = None,
) -> TrialMarks:
    """Add and drop tags, replace the note unless `note` is None, and return the marks.

    Raises UsageError for a word that is no tag, too many tags, or too long a note.
    """
    added = {check_tag(tag) for tag in add}
    dropped = {check_tag(tag) for tag in drop}
    with writing_library(home):
        before = read_marks(home, trial, created_utc)
        tags = sorted((set(before.tags) | added) - dropped)
        if len(tags) > MOST_TAGS:
            raise UsageError(
                f"trial {trial} would have {len(tags)} tags", hint=f"{MOST_TAGS} are the most"
            )
        marks = TrialMarks(
            tags=tuple(tags), note=before.note if note is None else _checked_note(note)
        )
        _write(_marks_file(home, trial), {"created_utc": created_utc, **asdict(marks)})
    return marks


def check_tag(word: str) -> str:
    """Return the tag in lower case; raise UsageError for a word that cannot be one."""
    tag = word.strip().lower()
    if not _TAG.match(tag):
        raise UsageError(
            f"{safe_line(word, 60)} is no tag",
            hint="a tag has at most 40 letters, digits, dots, dashes and underscores",
        )
    return tag


def _checked_note(note: str) -> str:
    if len(note) > MOST_NOTE:
        raise UsageError(f"the note has {len(note)} characters", hint=f"{MOST_NOTE} are the most")
    return note.strip()


def archived_experiments(home: Home) -> Mapping[int, float]:
    """Return the archived experiments' ids, each with the time at which it was created."""
    stored = _read(_archive_file(home)).get("experiments", {})
    return {int(id): float(created) for id, created in dict(stored).items()}


def archive_experiment(home: Home, experiment: int, created_utc: float, *, archived: bool) -> None:
    """Archive an experiment, or take it back into the lists."""
    with writing_library(home):
        known = dict(archived_experiments(home))
        known.pop(experiment, None)
        if archived:
            known[experiment] = created_utc
        _write(_archive_file(home), {"experiments": known})


def _marks_file(home: Home, trial: int) -> Path:
    return library_folder(home) / "marks" / f"{trial}.json"


def _archive_file(home: Home) -> Path:
    return library_folder(home) / "archived.json"


def _read(file: Path) -> dict[str, Any]:
    """Return the file's object; an empty one where there is none, or none that can be read."""
    try:
        stored = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return {}
    return stored if isinstance(stored, dict) else {}


def _write(file: Path, what: Mapping[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    write_durably(file, json.dumps(what, ensure_ascii=False).encode())

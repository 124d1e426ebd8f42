"""Files that can be pruned: checkpoints of ended trials, and prepared rows that nothing names.

An adapter is never among them, nor what resumes a trial. Checkpoints of a trial that failed or
left no adapter are kept: they are all that it has.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from workbench.adapters.adapter_folder import WEIGHTS
from workbench.errors import NotThere
from workbench.home import Home
from workbench.library.marks import writing_library
from workbench.library.removed import RemovalRecord, read_records
from workbench.library.trash import finish_moves, move_to_trash
from workbench.library.usage import disk_bytes
from workbench.store.reader import Reader
from workbench.store.rows import Experiment
from workbench.text.quantities import plural
from workbench.trial import FINAL, State

_NOT_ROWS = "sources"
"""The folder of the data cache that remembers sources' digests; it is small."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrunableFolder:
    """A folder that no trial needs any more."""

    folder: str
    """Relative to the home."""
    why: str
    bytes: int


def find_prunable(
    home: Home, reader: Reader, experiments: Sequence[Experiment] | None = None
) -> list[PrunableFolder]:
    """Return what can be pruned, the largest first; of these experiments alone where given.

    Prepared rows, which experiments share, are looked at only where all experiments are.
    """
    chosen = reader.experiments() if experiments is None else experiments
    found = [one for experiment in chosen for one in _checkpoints(home, reader, experiment)]
    if experiments is None:
        found += _unused_rows(home, reader)
    return sorted(found, key=lambda one: (-one.bytes, one.folder))


def prune_folders(home: Home, found: Sequence[PrunableFolder], now_utc: float) -> RemovalRecord:
    """Move the folders to the trash as one entry, and return its record.

    Raises NotThere where there is nothing to prune.
    """
    if not found:
        raise NotThere("there is nothing to prune", hint="`workbench du` shows what takes space")
    with writing_library(home):
        finish_moves(home)
        stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime(now_utc))
        taken = {one.entry for one in read_records(home)}
        names = (f"prune-{stamp}{tail}" for tail in ("", *(f".{n}" for n in range(2, 1000))))
        return move_to_trash(
            home,
            RemovalRecord(
                entry=next(name for name in names if name not in taken),
                kind="prune",
                about=plural(len(found), "folder"),
                folders=tuple(one.folder for one in found),
                bytes=sum(one.bytes for one in found),
                removed_utc=now_utc,
            ),
        )


def _checkpoints(home: Home, reader: Reader, experiment: Experiment) -> list[PrunableFolder]:
    """Return the checkpoints of trials that left an adapter and that nothing continues from."""
    needed = {one.warm_trial for one in reader.trials(states=frozenset(State) - FINAL)}
    found = []
    for trial in reader.trials(experiment.id, FINAL):
        folder = home.trial(trial.id) / "checkpoints"
        kept = (home.trial(trial.id) / "adapter" / WEIGHTS).is_file()
        if kept and folder.is_dir() and trial.id not in needed:
            why = f"trial {trial.id} is {trial.state} and has its adapter"
            found.append(_prunable(home, folder, why))
    return found


def _unused_rows(home: Home, reader: Reader) -> list[PrunableFolder]:
    """Return the prepared rows that no listed experiment was prepared with.

    Nothing while an experiment is preparing: its rows are not named anywhere yet.
    """
    experiments = reader.experiments()
    if any(one.state == "preparing" for one in experiments) or not home.cache.is_dir():
        return []
    used = {str((one.prepared or {}).get("data", {}).get("digest")) for one in experiments}
    return [
        _prunable(home, folder, "no experiment uses these prepared rows")
        for folder in sorted(home.cache.iterdir())
        if folder.is_dir() and folder.name not in (*used, _NOT_ROWS)
    ]


def _prunable(home: Home, folder: Path, why: str) -> PrunableFolder:
    name = folder.relative_to(home.root).as_posix()
    return PrunableFolder(folder=name, why=why, bytes=disk_bytes([folder]))

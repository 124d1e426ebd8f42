"""Bytes that a home takes on its disk, by experiment and by kind."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from workbench.home import Home
from workbench.store.reader import Reader

KINDS = ("checkpoints", "adapters", "results", "attempts", "prepared")
"""The kinds that `du` counts for an experiment, in the order of its columns."""
_OF_TRIAL = {"checkpoints": "checkpoints", "adapter": "adapters"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ExperimentUsage:
    """The bytes of one experiment on the disk."""

    id: int
    name: str
    bytes: dict[str, int]
    """By kind, one of KINDS."""

    @property
    def total_bytes(self) -> int:
        """All kinds together."""
        return sum(self.bytes.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class HomeUsage:
    """The bytes of a home on the disk."""

    experiments: list[ExperimentUsage]
    """The largest first."""
    shared: dict[str, int] = field(default_factory=dict)
    """By folder or file of the home that belongs to no experiment: caches, logs, the trash, …"""

    @property
    def total_bytes(self) -> int:
        """The whole home."""
        return sum(one.total_bytes for one in self.experiments) + sum(self.shared.values())


def measure_usage(home: Home, reader: Reader | None) -> HomeUsage:
    """Return the bytes that the home takes; reads every folder's list of files once.

    Files with several names count once. A file that vanishes meanwhile counts as nothing.
    """
    seen: set[tuple[int, int]] = set()
    experiments = [] if reader is None else reader.experiments()
    used = [_experiment(home, reader, one.id, one.name, seen) for one in experiments if reader]
    shared: Counter[str] = Counter()
    for path in _entries(home.root):
        if path.name == "cache":
            for part in _entries(path):
                shared[f"cache/{part.name}"] += disk_bytes([part], seen)
        else:
            shared[_word(home, path)] += disk_bytes([path], seen)
    kept = {name: size for name, size in sorted(shared.items()) if size}
    return HomeUsage(experiments=sorted(used, key=lambda one: -one.total_bytes), shared=kept)


def _word(home: Home, path: Path) -> str:
    """Return the kind under which a part of the home counts: trials, attempts left over, …"""
    if path.name in ("trials", "attempts", "experiments"):
        return f"{path.name} of no listed experiment"
    if path.name.startswith(home.database.name):
        return "database"
    return path.name if path.is_dir() or path == home.reserve_file else "other files"


def _experiment(
    home: Home, reader: Reader, id: int, name: str, seen: set[tuple[int, int]]
) -> ExperimentUsage:
    sizes: Counter[str] = Counter(dict.fromkeys(KINDS, 0))
    sizes["prepared"] += disk_bytes([home.experiment(id)], seen)
    for trial in reader.trials(id):
        for path in _entries(home.trial(trial.id)):
            sizes[_OF_TRIAL.get(path.name, "results")] += disk_bytes([path], seen)
        folders = [home.attempt(one.id) for one in reader.attempts(trial.id)]
        sizes["attempts"] += disk_bytes(folders, seen)
    return ExperimentUsage(id=id, name=name, bytes=dict(sizes))


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def disk_bytes(paths: Iterable[Path], seen: set[tuple[int, int]] | None = None) -> int:
    """Return the bytes that files and folders take on the disk; links are not followed.

    `seen` holds device and inode of files that were counted, and is added to.
    """
    known = set[tuple[int, int]]() if seen is None else seen
    total = 0
    waiting = [os.fspath(path) for path in paths]
    while waiting:
        path = waiting.pop()
        try:
            about = os.lstat(path)
            if (about.st_dev, about.st_ino) in known:
                continue
            known.add((about.st_dev, about.st_ino))
            if stat.S_ISDIR(about.st_mode):
                waiting += [entry.path for entry in os.scandir(path)]
            else:
                total += about.st_blocks * 512  # the unit of st_blocks, whatever the disk's own is
        except OSError:
            continue
    return total

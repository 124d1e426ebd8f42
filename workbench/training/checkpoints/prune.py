"""Prune checkpoints: `python -m workbench.training.checkpoints.prune TRIALS BYTES`.

It reads a JSON list of trial ids from stdin, in the order in which they are pruned, and prints a
PruneResult as JSON. The newest checkpoint of a trial that verifies always stays, and so does the
one with the lowest held-out loss that verifies; where none verifies, all of them stay.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from workbench.errors import CheckpointError
from workbench.machine.processes import die_with_parent
from workbench.training.checkpoints import checkpoint

SHOWN = 8
"""Trials that a result names at most."""


@dataclass(slots=True)
class PruneResult:
    """The outcome of one pruning."""

    bytes: int = 0
    """Bytes of disk that were freed."""
    removed: int = 0
    """Checkpoints that were removed."""
    trials: list[int] = field(default_factory=list)
    """The first SHOWN trials whose checkpoints were removed."""


def prune_checkpoints(trials: Path, order: Iterable[int], need_bytes: int) -> PruneResult:
    """Remove checkpoints, the oldest first, until `need_bytes` are freed or none may be removed.

    `trials` is the folder that holds one folder for each trial; `order` says whose checkpoints go
    first. Each trial's newest and best checkpoints are verified, which reads them once.
    """
    done = PruneResult()
    for trial in order:
        for path in removable_checkpoints(trials / str(trial) / "checkpoints"):
            if done.bytes >= need_bytes:
                return done
            done.bytes += _remove(path)
            done.removed += 1
            if trial not in done.trials and len(done.trials) < SHOWN:
                done.trials.append(trial)
    return done


def removable_checkpoints(checkpoints: Path) -> list[Path]:
    """Return a trial's checkpoints that may be removed, in the order of their removal.

    First come those that were set aside as damaged, then those older than the newest verified one,
    from the oldest on, without the best one.
    """
    found = checkpoint.newest_first(checkpoints)
    aside = sorted((checkpoints / checkpoint.ASIDE).glob("step-*"))
    if not aside and len(found) < 2:
        return []
    for place, path in enumerate(found):
        try:
            checkpoint.verify(path)
        except CheckpointError:
            continue
        best = _best_path(checkpoints)
        return [*aside, *(one for one in reversed(found[place + 1 :]) if one != best)]
    return []


def _best_path(checkpoints: Path) -> Path | None:
    """Return the best checkpoint that verifies; unlike the worker, move no damaged one."""
    for one in checkpoint.best_first(checkpoints):
        with suppress(CheckpointError):
            return checkpoint.verify(one.path).path
    return None


def _remove(path: Path) -> int:
    """Remove a checkpoint and return the bytes of disk it took.

    It is renamed first, so that a reader at the same moment finds a whole checkpoint or none.
    """
    hidden = path.parent / f".{path.name}.gone"
    try:
        path.rename(hidden)
    except OSError:  # its trial runs and has removed the checkpoint itself
        return 0
    found = [file.stat() for file in hidden.iterdir() if file.is_file()]
    size = sum(one.st_blocks * 512 for one in found if one.st_nlink == 1)  # others are an adapter's
    shutil.rmtree(hidden, ignore_errors=True)
    return size


def main() -> None:
    """Prune as the arguments and stdin ask; end when the parent process ends."""
    die_with_parent()
    trials, need_bytes = Path(sys.argv[1]), int(sys.argv[2])
    order = [int(trial) for trial in json.loads(sys.stdin.read())]
    print(json.dumps(asdict(prune_checkpoints(trials, order, need_bytes))))


if __name__ == "__main__":
    main()

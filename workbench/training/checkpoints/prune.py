"""Prune checkpoints: `python -m workbench.training.checkpoints.prune TRIALS BYTES`.

On stdin the ids of trials, as JSON, in the order in which they give; on stdout what went. Of each
trial the newest checkpoint that verifies stays, and everything where none does.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from workbench.errors import CheckpointError
from workbench.machine.processes import die_with_parent
from workbench.training.checkpoints import checkpoint

SHOWN = 8


@dataclass(slots=True)
class Thinned:
    bytes: int = 0
    removed: int = 0
    trials: list[int] = field(default_factory=list)
    """The first few that gave."""


def thin(trials: Path, order: Iterable[int], need_bytes: int) -> Thinned:
    """Remove, oldest first, until so many bytes are free or nothing more may go."""
    done = Thinned()
    for trial in order:
        for path in spare(trials / str(trial) / "checkpoints"):
            if done.bytes >= need_bytes:
                return done
            done.bytes += _remove(path)
            done.removed += 1
            if trial not in done.trials and len(done.trials) < SHOWN:
                done.trials.append(trial)
    return done


def spare(checkpoints: Path) -> list[Path]:
    """What may go of a trial's: all that is older than its newest verified one, the oldest first,
    and before them what was set aside as damaged."""
    found = checkpoint.newest_first(checkpoints)
    aside = sorted((checkpoints / checkpoint.ASIDE).glob("step-*"))
    if not aside and len(found) < 2:
        return []
    for place, path in enumerate(found):
        try:
            checkpoint.verify(path)
        except CheckpointError:
            continue
        return [*aside, *reversed(found[place + 1 :])]
    return []


def _remove(path: Path) -> int:
    """Out of sight first: whoever looks meanwhile finds a whole checkpoint or none."""
    gone = path.parent / f".{path.name}.gone"
    try:
        path.rename(gone)
    except OSError:  # its trial runs, and tidied up itself
        return 0
    size = sum(file.stat().st_blocks * 512 for file in gone.iterdir() if file.is_file())
    shutil.rmtree(gone, ignore_errors=True)
    return size


def main() -> None:
    die_with_parent()
    trials, need_bytes = Path(sys.argv[1]), int(sys.argv[2])
    order = [int(trial) for trial in json.loads(sys.stdin.read())]
    print(json.dumps(asdict(thin(trials, order, need_bytes))))


if __name__ == "__main__":
    main()

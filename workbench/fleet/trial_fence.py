"""The fence of a trial: at most one attempt trains it and commits to it, whatever the loop does.

The loop may stand still, or be gone, between calling an attempt off and starting the next one; a
worker may accept a start long after it was sent. So workers do not rely on being told. The
scheduler names the live attempt in a file of the trial's folder before it starts that attempt, and
a worker compares before its first step and before everything it writes. A lock on a second file
makes the next attempt wait until the one before has ended, also in the middle of a commit.

The scheduler and the training wing call this module.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from workbench.machine.files import write_durably
from workbench.machine.locks import Lock

LIVE, LOCK = "live-attempt", "attempt.lock"
_DIGITS = 20
"""Fixed width of LIVE, so that it can be overwritten in place on a full disk."""


class Superseded(BaseException):
    """The attempt was called off or replaced, or its event file was removed; it ends without
    writing anything.

    No Exception, so that nothing on the way turns it into the end of a failed attempt.
    """


def allow_attempt(trial_folder: Path, attempt: int) -> None:
    """Make `attempt` the only one that may train this trial. Raises OSError on a full disk."""
    trial_folder.mkdir(parents=True, exist_ok=True)
    write_durably(trial_folder / LIVE, f"{attempt:{_DIGITS}d}\n".encode())


def live_attempt(trial_folder: Path) -> int | None:
    """Return the attempt that may train this trial, 0 where none may; None before the first one."""
    try:
        return _read_live(trial_folder / LIVE)
    except OSError:
        return None


def _read_live(file: Path) -> int | None:
    """Return the attempt that the file names; None where it is damaged. Raises OSError."""
    text = file.read_bytes().strip()
    return int(text) if text.isdigit() else None


def call_off(trial_folder: Path) -> None:
    """Allow no attempt of this trial until the next allow_attempt.

    Needs no room on the disk, unless a person removed the trial's folder.
    """
    try:
        with (trial_folder / LIVE).open("r+b") as file:
            file.write(f"{0:{_DIGITS}d}\n".encode())
    except FileNotFoundError:
        with suppress(OSError):  # an attempt takes a missing file for leave to train on
            allow_attempt(trial_folder, 0)


class TrialFence:
    """The view that one attempt has of its trial's fence.

    `placed` says that a scheduler placed the attempt: where the trial's folder is gone since, as
    after a kill, it is called off.
    """

    def __init__(self, trial_folder: Path, attempt: int, *, placed: bool = False) -> None:
        self._live = trial_folder / LIVE
        self._lock = Lock(trial_folder / LOCK)
        self._attempt = attempt
        self._placed = placed

    def check(self) -> None:
        """Raise Superseded unless this attempt is the live one; costs about 20 µs.

        A trial without the file counts as this attempt's own: it was not placed by a scheduler.
        """
        try:
            live = _read_live(self._live)
        except FileNotFoundError:
            if self._placed:
                raise Superseded(f"the trial of attempt {self._attempt} was removed") from None
            return
        if live is not None and live != self._attempt:
            raise Superseded(f"attempt {self._attempt} was replaced by {live or 'none'}")

    def take(self) -> bool:
        """Return True once no other attempt is at this trial; False while one is (after 0.1 s).

        Raises Superseded.
        """
        self._lock.path.parent.mkdir(parents=True, exist_ok=True)
        taken = self._lock.take()
        self.check()
        return taken

    def release(self) -> None:
        """Let the next attempt go on; does nothing where the lock is not held."""
        self._lock.release()

"""The event file of an attempt: numbered JSON lines, written by its worker and read by the loop.

A line is `{"n": 12, "t": 1763900000.1, "kind": "metric", …}`. Kinds and their further keys:

    started     pid, card, generation, plan, versions
    phase       name (preparing, loading, rehearsing, training, evaluating, saving, chatting),
                detail; steps (training: how many the whole trial has); from_step (loading: the
                step of the checkpoint that it resumes from)
    log         level, text
    metric      step, values {name: number}; from training also steps (of the whole trial) and,
                with a training loss, seconds_left until the attempt's end
    rows        done, rows (held-out rows that are scored now), seconds_left
    checkpoint  step, path, bytes
    score       subject (trial, base), values {name: number}, step
    results     evaluation, tokens (digests), step, scored, rows, sha256: the file of
                `results_file.results_path` is whole
    sample      question, expected, answer, right
    adapter     path, bytes, sha256
    end         outcome (done, stopped, yielded, failed, diverged), step, reason, hint; for a
                failure also cause (FailureCause) and stage, the activity that failed

Losses are nats per target token, times are seconds, rates are target and context tokens per second.
"""

from __future__ import annotations

import json
import math
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from workbench.text.redact import redact

MAX_LINE_BYTES = 1 << 20
READ_BYTES = 4 << 20
"""Most bytes read at once, so that a tick stays short however much a worker wrote."""


class FailureCause(StrEnum):
    """The cause of a failed attempt. It decides whether and how the trial is tried again.

    The values are stored in event files and in the database.
    """

    RECIPE = "recipe"
    """The recipe cannot work; another attempt would fail the same way."""
    DATA = "data"
    MODEL = "model"
    OUT_OF_MEMORY = "out_of_memory"
    """The card had too few bytes; the trial takes the next out-of-memory fallback."""
    CARD_MEMORY = "card_memory"
    """Other programs held memory of the card that the plan counts on; the trial is tried again
    unchanged."""
    HOST_MEMORY = "host_memory"
    """The machine's own memory was too full; the trial is tried again unchanged."""
    DISK_FULL = "disk_full"
    """The trial waits in the queue for room on the disk."""
    BUG = "bug"
    """An error that no code handles; the attempt's folder has its traceback."""


SHORT_OF_MEMORY = (
    FailureCause.OUT_OF_MEMORY,
    FailureCause.CARD_MEMORY,
    FailureCause.HOST_MEMORY,
)


class Outcome(StrEnum):
    """The outcome of an attempt. Workers write the first five, the loop writes the others."""

    DONE = "done"
    """Trained to its end and scored; the adapter is kept."""
    STOPPED = "stopped"
    """Ended early on request; the best or last checkpoint is scored and kept as the adapter."""
    YIELDED = "yielded"
    """Returned its card on request; a checkpoint is committed and nothing is scored."""
    FAILED = "failed"
    DIVERGED = "diverged"
    """The loss was not finite, or ten times its first value. The best evaluated checkpoint, or else
    the last one, is scored and kept, if there is one."""
    LOST = "lost"
    """The worker ended without writing an end."""
    CUT = "cut"
    """The engine ended during the attempt; written by the next loop."""
    KILLED = "killed"
    """A person ended the trial together with its worker."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptEnd:
    """The way an attempt ended: what its worker writes as `end`, and what the loop reads there."""

    outcome: Outcome
    step: int = 0
    """Optimizer steps that were done; 0 where it ended before the first."""
    reason: str = ""
    hint: str = ""
    cause: str = ""
    """A FailureCause, empty if the attempt did not fail. Old files may contain other values."""
    stage: str = ""
    """The phase in which a failed attempt ended, for example "training"."""


@dataclass(frozen=True, slots=True)
class Event:
    """One line of an event file."""

    n: int
    at_utc: float
    kind: str
    data: dict[str, Any]


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that is no event. It is stored with its error, and reading continues after it."""

    text: str
    error: str


class EventWriter:
    """A writer that appends to the file of one attempt, and continues the numbers found there.

    Threads may share it: training writes to it, and so does the thread that writes checkpoints.

    A torn last line of a killed writer is closed first, so that it damages no later line.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._clock = clock
        self._lock = threading.Lock()
        self._n = 0
        self._torn = False
        if path.exists():
            text = path.read_bytes()
            self._n = text.count(b"\n")
            self._torn = bool(text) and not text.endswith(b"\n")
        self._path = path
        self._file = path.open("ab", buffering=0)

    def write(self, kind: str, *, durable: bool = False, **data: Any) -> None:
        """Append one line, with secrets masked.

        `durable` waits until the line is on disk, as for checkpoints and ends. Raises OSError on a
        full disk; the next call starts on a new line.
        """
        with self._lock:
            self._n += 1
            # Times in milliseconds: finer digits are noise and fill the file.
            line = {"n": self._n, "t": round(self._clock(), 3), "kind": kind, **data}
            # Secrets are masked here, before they reach the disk, and not by each reader.
            text = redact(json.dumps(line, ensure_ascii=False))
            self._append(text.encode(errors="replace") + b"\n")
        if durable:  # without the lock: training's own lines do not wait for this
            os.fsync(self._file.fileno())

    def _append(self, line: bytes) -> None:
        """Write the whole line; a disk that becomes full may accept only the first part of it."""
        left = b"\n" + line if self._torn else line
        self._torn = True
        while left:
            left = left[self._file.write(left) or 0 :]
        self._torn = False

    def is_read(self) -> bool:
        """Return False where the file was removed or replaced: no reader sees what is written.

        Takes some microseconds.
        """
        try:
            return os.path.samestat(os.fstat(self._file.fileno()), self._path.stat())
        except OSError:
            return False

    def close(self) -> None:
        self._file.close()


def read_events(
    path: Path, offset: int, until: int | None = None
) -> tuple[list[Event | BadLine], int]:
    """Return the complete lines from byte `offset` on, and the offset after them.

    Reads at most READ_BYTES, and not beyond byte `until`. A file that is missing or unreadable
    counts as empty, because the loop learns from the worker's end that something is wrong.
    """
    try:
        with path.open("rb") as file:
            file.seek(offset)
            chunk = file.read(READ_BYTES if until is None else min(READ_BYTES, until - offset))
    except OSError:
        return [], offset
    end = chunk.rfind(b"\n") + 1
    if end == 0 and len(chunk) == READ_BYTES:  # one line is longer than a read: skip this part
        return [BadLine(_shown(chunk), "line too long")], offset + len(chunk)
    return [_parse(line) for line in chunk[:end].splitlines() if line], offset + end


def _parse(line: bytes) -> Event | BadLine:
    try:
        if len(line) > MAX_LINE_BYTES:
            raise ValueError("line too long")
        data = json.loads(line)
        event = Event(int(data.pop("n")), float(data.pop("t")), str(data.pop("kind")), data)
        if not math.isfinite(event.at_utc):
            raise ValueError("its time is not a finite number")
        return event
    except (
        ArithmeticError,
        AttributeError,
        KeyError,
        RecursionError,
        TypeError,
        ValueError,
    ) as bad:
        return BadLine(_shown(line), f"{type(bad).__name__}: {bad}")


def _shown(line: bytes) -> str:
    return line[:200].decode(errors="replace")

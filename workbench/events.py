"""An attempt's event file: numbered JSON lines, written by its worker, read by the loop.

Line: `{"n": 12, "t": 1763900000.1, "kind": "metric", …}`. Kinds and what they carry:

    started     pid, card, generation, plan, versions
    phase       name (preparing, loading, rehearsing, training, evaluating, saving), detail; steps
                (training: how many the whole trial has)
    log         level, text
    metric      step, values {name: number}
    checkpoint  step, path, bytes
    score       subject (trial, base), values {name: number}, step
    sample      question, expected, answer, right
    adapter     path, bytes, sha256
    end         outcome (done, stopped, yielded, failed, diverged), step, reason, hint; of a
                failure: cause, and stage, what it was doing

A loss is nats per target token, times are seconds, rates are target and context tokens per second.
"""

from __future__ import annotations

import json
import math
import os
import time
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from workbench.redact import redact

MAX_LINE_BYTES = 1 << 20
READ_BYTES = 4 << 20
"""Read in one go, so that a tick stays short whatever a worker wrote."""


class Outcome(StrEnum):
    DONE = "done"
    """Trained to its end, scored, adapter kept."""
    STOPPED = "stopped"
    """Asked to finish early: checkpoint scored, adapter kept."""
    YIELDED = "yielded"
    """Asked to give the card back: checkpoint committed, nothing scored."""
    FAILED = "failed"
    DIVERGED = "diverged"
    """Its loss was no number any more, or ten times what it began with; its last good checkpoint
    is scored and kept, where it has one."""
    LOST = "lost"
    """The worker went away; written by the loop, never by a worker."""
    CUT = "cut"
    """The engine went away under it; written by the next loop."""
    KILLED = "killed"
    """A person ended it with its worker; written by the loop."""


@dataclass(frozen=True, slots=True)
class Event:
    n: int
    at_utc: float
    kind: str
    data: dict[str, Any]


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that is no event; kept aside with its error, never a reason to stop."""

    text: str
    error: str


class EventWriter:
    """Appends to one attempt's file; numbers go on where a former writer left off."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._n = 0
        self._torn = False
        if path.exists():
            text = path.read_bytes()
            self._n = text.count(b"\n")
            self._torn = bool(text) and not text.endswith(b"\n")
        self._file = path.open("ab", buffering=0)

    def write(self, kind: str, *, durable: bool = False, **data: Any) -> None:
        """One line; `durable` waits until it is on disk (checkpoints and ends)."""
        self._n += 1
        line = {"n": self._n, "t": round(time.time(), 3), "kind": kind, **data}
        self._append(redact(json.dumps(line, ensure_ascii=False)).encode(errors="replace") + b"\n")
        if durable:
            os.fsync(self._file.fileno())

    def _append(self, line: bytes) -> None:
        """All of it, on a line of its own: a disk that fills up takes the first part only."""
        left = b"\n" + line if self._torn else line
        self._torn = True
        while left:
            left = left[self._file.write(left) or 0 :]
        self._torn = False

    def close(self) -> None:
        self._file.close()


def read_events(
    path: Path, offset: int, until: int | None = None
) -> tuple[list[Event | BadLine], int]:
    """Whole lines from byte `offset` on (up to byte `until`), and the offset behind them.

    A file that is missing or cannot be read is empty: its worker's end will tell.
    """
    try:
        with path.open("rb") as file:
            file.seek(offset)
            chunk = file.read(READ_BYTES if until is None else min(READ_BYTES, until - offset))
    except OSError:
        return [], offset
    end = chunk.rfind(b"\n") + 1
    if end == 0 and len(chunk) == READ_BYTES:  # one line longer than a read: set it aside
        return [BadLine(_shown(chunk), "line too long")], offset + len(chunk)
    return [_parse(line) for line in chunk[:end].splitlines() if line], offset + end


def _parse(line: bytes) -> Event | BadLine:
    try:
        if len(line) > MAX_LINE_BYTES:
            raise ValueError("line too long")
        data = json.loads(line)
        event = Event(int(data.pop("n")), float(data.pop("t")), str(data.pop("kind")), data)
        if not math.isfinite(event.at_utc):
            raise ValueError("its time is no time")
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

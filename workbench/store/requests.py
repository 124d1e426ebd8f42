"""Request files: how a front end asks the engine for something.

A request has an id of its own, so it survives any crash, and sending it twice is harmless.
"""

from __future__ import annotations

import json
import math
import re
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.errors import EngineError
from workbench.machine.files import write_durably
from workbench.text import safe_line

MAX_BYTES = 4 << 20
"""Bytes that a request may have; a recipe is some kilobytes."""
_ID = re.compile(r"[0-9a-z-]{1,64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One thing that a person asks of the engine."""

    id: str
    verb: str
    """submit, stop, pause, resume, kill, engine-stop, …; see docs/control.md."""
    args: dict[str, Any]
    sent_utc: float


@dataclass(frozen=True, slots=True)
class BadRequest:
    """A file that is no valid request; the loop moves it aside and answers it."""

    path: Path
    error: str


def drop_request(folder: Path, verb: str, args: dict[str, Any], id: str | None = None) -> str:
    """Write one request durably into `folder` and return its id.

    Ids begin with the time in milliseconds, so that requests sort by when they were sent. Raises
    EngineError where the file cannot be written.
    """
    sent = time.time()
    id = id or f"{int(sent * 1000):013d}-{uuid.uuid4().hex[:12]}"
    assert _ID.fullmatch(id)
    body = json.dumps({"id": id, "verb": verb, "args": args, "sent_utc": sent}).encode()
    try:
        write_durably(folder / f"{id}.json", body)
    except OSError as refused:
        raise EngineError(
            f"the request could not be written to {folder}: {refused.strerror}",
            hint="free space on that disk, or set WORKBENCH_HOME to a folder of yours",
        ) from refused
    return id


def scan_requests(folder: Path) -> list[tuple[Path, Request | BadRequest]]:
    """Return the files of all waiting requests, oldest first; none where there is no folder."""
    try:
        paths = sorted(p for p in folder.iterdir() if p.suffix == ".json" and p.name[0] != ".")
    except FileNotFoundError:
        return []
    return [(path, _read(path)) for path in paths]


def _read(path: Path) -> Request | BadRequest:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError("too large")
        data = json.loads(path.read_bytes())
        request = Request(
            id=str(data["id"]),
            verb=safe_line(data["verb"], 40),
            args=dict(data["args"]),
            sent_utc=float(data["sent_utc"]),
        )
        if request.id != path.stem or not _ID.fullmatch(request.id):
            raise ValueError("its id is not its name")
        if not math.isfinite(request.sent_utc):
            raise ValueError("its time is no time")
        return request
    except (OSError, ValueError, KeyError, TypeError, ArithmeticError, RecursionError) as broken:
        return BadRequest(path, f"{type(broken).__name__}: {broken}")

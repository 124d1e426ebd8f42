"""From an attempt's event file into the tables: rows and the offset behind them in one commit."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench import fault_points
from workbench.events import BadLine, Event, read_events
from workbench.store.rows import Attempt
from workbench.store.writer import Blocked, Store
from workbench.text import safe_line


@dataclass(frozen=True, slots=True)
class End:
    """What an attempt's `end` line says."""

    outcome: str
    step: int
    reason: str
    hint: str
    cause: str
    stage: str = ""
    """What it was doing when it failed."""


def ingest(store: Store, attempt: Attempt, file: Path, until: int | None = None) -> End | None:
    """Everything new in `file`, up to byte `until`; the attempt's end, when it has come.

    A line that raises is set aside as an event of its own, and never stops the loop.
    """
    events, offset = read_events(file, attempt.offset, until)
    if offset == attempt.offset:
        return None
    ends = []
    with store.writing():
        for event in events:
            try:
                if isinstance(event, BadLine):
                    raise ValueError(f"{event.error}: {event.text}")
                if event.kind == "end":
                    ends.append(_end(event.data))
                else:
                    _HANDLERS.get(event.kind, _unknown)(store, attempt, event)
            except Blocked:  # the disk's or a lock's fault, not the line's
                raise
            except Exception as broken:
                store.note(
                    "bad-line",
                    f"a line of attempt {attempt.id} was set aside: {safe_line(broken)}",
                    level="warning",
                    trial=attempt.trial,
                    attempt=attempt.id,
                )
        store.touch_attempt(attempt.id, offset=offset)
        fault_points.at("ingest.before_commit")
    return ends[-1] if ends else None


def _end(data: dict[str, Any]) -> End:
    return End(
        outcome=str(data["outcome"]),
        step=int(data.get("step") or 0),
        reason=str(data.get("reason") or ""),
        hint=str(data.get("hint") or data.get("mend") or ""),
        cause=str(data.get("cause") or ""),
        stage=str(data.get("stage") or ""),
    )


def _started(store: Store, attempt: Attempt, event: Event) -> None:
    store.touch_attempt(
        attempt.id,
        reported_utc=event.at_utc,
        pid=event.data.get("pid"),
        generation=event.data.get("generation"),
        plan=json.dumps(event.data.get("plan", attempt.plan)),
    )


def _phase(store: Store, attempt: Attempt, event: Event) -> None:
    told: dict[str, Any] = {"phase": safe_line(event.data["name"], 40)}
    if event.data.get("steps"):
        told["total_steps"] = int(event.data["steps"])
    store.touch_attempt(attempt.id, **told)


def _log(store: Store, attempt: Attempt, event: Event) -> None:
    level = event.data.get("level", "info")
    store.note(
        "log",
        str(event.data["text"]),
        level=level if level in ("debug", "info", "warning", "error") else "info",
        trial=attempt.trial,
        attempt=attempt.id,
        at_utc=event.at_utc,
    )


def _metric(store: Store, attempt: Attempt, event: Event) -> None:
    step = int(event.data["step"])
    values = _numbers(event.data["values"])
    store.put_metrics(attempt.trial, step, values)
    told: dict[str, Any] = {"last_step": step}
    for name in ("loss", "tokens_per_s"):
        if values.get(name) is not None:
            told[name] = values[name]
    if values.get("peak_bytes"):
        told["peak_bytes"] = int(values["peak_bytes"] or 0)
    store.touch_attempt(attempt.id, **told)


def _numbers(values: dict[str, Any]) -> dict[str, float | None]:
    """None for what is no finite number: JSON has no word for it, and no list could rank it."""
    numbers = {safe_line(k, 80): None if v is None else float(v) for k, v in values.items()}
    return {k: v if v is not None and math.isfinite(v) else None for k, v in numbers.items()}


def _checkpoint(store: Store, attempt: Attempt, event: Event) -> None:
    step = int(event.data["step"])
    store.put_checkpoint(attempt.trial, attempt.id, step)
    store.touch_attempt(attempt.id, last_step=step)  # the newest metric may be some steps older
    store.note(
        "checkpoint",
        f"checkpoint at step {step}",
        level="debug",
        trial=attempt.trial,
        attempt=attempt.id,
        at_utc=event.at_utc,
    )


def _score(store: Store, attempt: Attempt, event: Event) -> None:
    values = _numbers(event.data["values"])
    store.put_scores(attempt.trial, attempt.id, int(event.data.get("step") or 0), values)


def _sample(store: Store, attempt: Attempt, event: Event) -> None:
    store.put_sample(attempt.trial, attempt.id, event.n, event.data)


def _adapter(store: Store, attempt: Attempt, event: Event) -> None:
    data = event.data
    path = f"trials/{attempt.trial}/adapter"  # from the home, which may be moved
    if not str(data["path"]).endswith(path):
        path = safe_line(data["path"])
    store.put_adapter(
        attempt.trial, attempt.id, path, int(data["bytes"]), str(data["sha256"]), event.at_utc
    )


def _unknown(store: Store, attempt: Attempt, event: Event) -> None:
    raise ValueError(f"unknown kind {event.kind}")


_HANDLERS: dict[str, Callable[[Store, Attempt, Event], None]] = {
    "started": _started,
    "phase": _phase,
    "log": _log,
    "metric": _metric,
    "checkpoint": _checkpoint,
    "score": _score,
    "sample": _sample,
    "adapter": _adapter,
}

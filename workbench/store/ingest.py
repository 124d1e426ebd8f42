"""Event files read into the tables: rows, and the offset behind them, in one commit.

A loop that is killed in between reads the same lines again, and nothing is lost or doubled.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from workbench import fault_points
from workbench.attempts.events import AttemptEnd, BadLine, Event, Outcome, read_events
from workbench.attempts.results_file import (
    check_digest,
    file_digest,
    read_head,
    results_path,
)
from workbench.store import results
from workbench.store.row_results import put_row_results
from workbench.store.rows import AttemptRow
from workbench.store.writer import Blocked, Store
from workbench.text import safe_line


def ingest_events(
    store: Store, attempt: AttemptRow, file: Path, until: int | None = None
) -> AttemptEnd | None:
    """Take in what is new in the attempt's event file; return its end, when that has come.

    Reads on from the attempt's offset, at most `events.READ_BYTES`, and not beyond byte `until`.
    A line that cannot be used is noted as a warning and never stops the loop. Raises Blocked where
    the database cannot be written now; then nothing was taken in.
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
                    if peak := event.data.get("peak_bytes"):  # older workers write none
                        store.touch_attempt(attempt.id, peak_bytes=int(peak))
                elif event.kind == "results":
                    _results(store, attempt, event, home=file.parent.parent.parent)
                else:
                    _HANDLERS.get(event.kind, _unknown)(store, attempt, event)
            except Blocked:  # a full disk or a lock is not the line's fault
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


def _end(data: dict[str, Any]) -> AttemptEnd:
    return AttemptEnd(
        outcome=_outcome(data["outcome"]),
        step=int(data.get("step") or 0),
        reason=str(data.get("reason") or ""),
        hint=str(data.get("hint") or data.get("mend") or ""),
        cause=str(data.get("cause") or ""),
        stage=str(data.get("stage") or ""),
    )


def _outcome(word: object) -> Outcome:
    """Return the outcome of that name; an unknown one, which a later version may write, failed."""
    try:
        return Outcome(str(word))
    except ValueError:
        return Outcome.FAILED


def _started(store: Store, attempt: AttemptRow, event: Event) -> None:
    store.touch_attempt(
        attempt.id,
        reported_utc=event.at_utc,
        pid=event.data.get("pid"),
        generation=event.data.get("generation"),
        plan=json.dumps(event.data.get("plan", attempt.plan)),
    )


_UNTIMED = ("preparing", "loading", "evaluating")
"""Phases that begin without an estimate of their own of the attempt's end."""


def _rows(store: Store, attempt: AttemptRow, event: Event) -> None:
    store.touch_attempt(attempt.id, ends_utc=event.at_utc + float(event.data["seconds_left"]))


def _phase(store: Store, attempt: AttemptRow, event: Event) -> None:
    seen: dict[str, Any] = {"phase": safe_line(event.data["name"], 40)}
    if seen["phase"] in _UNTIMED:
        seen["ends_utc"] = None
    if event.data.get("steps"):
        seen["total_steps"] = int(event.data["steps"])
    if event.data.get("from_step") is not None:
        results.put_from_step(store, attempt.trial, attempt.id, int(event.data["from_step"]))
    store.touch_attempt(attempt.id, **seen)


def _log(store: Store, attempt: AttemptRow, event: Event) -> None:
    level = event.data.get("level", "info")
    store.note(
        "log",
        str(event.data["text"]),
        level=level if level in ("debug", "info", "warning", "error") else "info",
        trial=attempt.trial,
        attempt=attempt.id,
        at_utc=event.at_utc,
    )


def _metric(store: Store, attempt: AttemptRow, event: Event) -> None:
    """Record a metric row, with the attempt's newest step, loss, rate and estimated end."""
    step = int(event.data["step"])
    values = _numbers(event.data["values"])
    if text := _progress(store, attempt.id, step, values):
        store.note(
            "progress",
            text,
            level="debug",
            trial=attempt.trial,
            attempt=attempt.id,
            at_utc=event.at_utc,
        )
    results.put_metrics(store, attempt.trial, step, values)
    seen: dict[str, Any] = {"last_step": step}
    for name in ("loss", "tokens_per_s"):
        if values.get(name) is not None:
            seen[name] = values[name]
    if values.get("peak_bytes"):
        seen["peak_bytes"] = int(values["peak_bytes"] or 0)
    if (left_s := event.data.get("seconds_left")) is not None:
        seen["ends_utc"] = event.at_utc + float(left_s)
    store.touch_attempt(attempt.id, **seen)


PROGRESS_LINES = 20
"""Lines of training progress in a trial's log, besides one for each evaluation."""


def _progress(store: Store, attempt: int, step: int, values: dict[str, float | None]) -> str:
    """Return the log line of a metric row; empty where the log has one near this step already."""
    held_out, loss = values.get("eval_loss"), values.get("loss")
    if held_out is not None:
        return f"step {step}: held-out loss {held_out:.4g}"
    if loss is None:
        return ""
    # Earlier lines of the same file may have moved the attempt on, so its row is read again.
    last_step, total = store.db.execute(
        "select last_step, total_steps from attempts where id = ?", (attempt,)
    ).fetchone()
    if not total or PROGRESS_LINES * step // total == PROGRESS_LINES * last_step // total:
        return ""
    return f"step {step} of {total}: loss {loss:.4g}"


def _numbers(values: dict[str, Any]) -> dict[str, float | None]:
    """Return the values as floats; None for what is not finite, because JSON has no word for it."""
    numbers = {safe_line(k, 80): None if v is None else float(v) for k, v in values.items()}
    return {k: v if v is not None and math.isfinite(v) else None for k, v in numbers.items()}


def _checkpoint(store: Store, attempt: AttemptRow, event: Event) -> None:
    step = int(event.data["step"])
    results.put_checkpoint(store, attempt.trial, attempt.id, step)
    store.touch_attempt(attempt.id, last_step=step)  # its newest metric may be some steps older
    store.note(
        "checkpoint",
        f"checkpoint at step {step}",
        level="debug",
        trial=attempt.trial,
        attempt=attempt.id,
        at_utc=event.at_utc,
    )


def _score(store: Store, attempt: AttemptRow, event: Event) -> None:
    values = _numbers(event.data["values"])
    results.put_scores(store, attempt.trial, attempt.id, int(event.data.get("step") or 0), values)


def _sample(store: Store, attempt: AttemptRow, event: Event) -> None:
    results.put_sample(store, attempt.trial, attempt.id, event.n, event.data)


def _results(store: Store, attempt: AttemptRow, event: Event, *, home: Path) -> None:
    """Store the results of single rows that the worker wrote into a file of the trial's folder.

    A file that is gone, as after a kill, leaves nothing to store. Raises ValueError for one that
    is damaged, or that was replaced: a later attempt then reports it again.
    """
    evaluation, step = check_digest(event.data["evaluation"]), int(event.data["step"])
    scored = bool(event.data["scored"])
    path = results_path(home / "trials" / str(attempt.trial), evaluation, None if scored else step)
    try:
        if file_digest(path) != event.data["sha256"]:
            raise ValueError(f"{path.name} was changed after it was reported")
        head = read_head(path)
    except FileNotFoundError:
        return
    if (head.evaluation, head.step, head.scored) != (evaluation, step, scored):
        raise ValueError(f"{path.name} holds other results than its event says")
    put_row_results(store, attempt.trial, attempt.id, head)


def _adapter(store: Store, attempt: AttemptRow, event: Event) -> None:
    """Record the adapter that the trial left."""
    data = event.data
    path = f"trials/{attempt.trial}/adapter"  # relative to the home, which may be moved
    if not str(data["path"]).endswith(path):
        path = safe_line(data["path"])
    results.put_adapter(
        store,
        attempt.trial,
        attempt.id,
        path,
        int(data["bytes"]),
        str(data["sha256"]),
        event.at_utc,
    )


def _unknown(store: Store, attempt: AttemptRow, event: Event) -> None:
    raise ValueError(f"unknown kind {event.kind}")


_HANDLERS: dict[str, Callable[[Store, AttemptRow, Event], None]] = {
    "started": _started,
    "phase": _phase,
    "log": _log,
    "metric": _metric,
    "rows": _rows,
    "checkpoint": _checkpoint,
    "score": _score,
    "sample": _sample,
    "adapter": _adapter,
}

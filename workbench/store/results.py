"""Writes of what attempts report: metrics, checkpoints, scores, sample answers, adapters."""

from __future__ import annotations

import math
from typing import Any

from workbench.store.queries.metrics import BAND_STEPS
from workbench.store.writer import Store
from workbench.text import safe_text


def put_metrics(store: Store, trial: int, step: int, values: dict[str, float | None]) -> None:
    """Record metrics of one optimizer step; None is a value that is no finite number.

    A later attempt's value for the same step replaces an earlier one's.
    """
    band = step // BAND_STEPS
    with store.writing():
        for name, value in values.items():
            finite = value if value is not None and math.isfinite(value) else None
            row = (trial, name, step, finite)
            if store.db.execute("insert or ignore into metrics values (?, ?, ?, ?)", row).rowcount:
                _widen_band(store, trial, name, band, finite)
                continue
            # A replaced value may have been the band's lowest or highest: compute both again.
            store.db.execute("insert or replace into metrics values (?, ?, ?, ?)", row)
            store.db.execute(
                """insert or replace into metric_bands
                   select trial, name, ?, min(value), max(value) from metrics
                   where trial = ? and name = ? and step >= ? and step < ?""",
                (band, trial, name, band * BAND_STEPS, (band + 1) * BAND_STEPS),
            )


def _widen_band(store: Store, trial: int, name: str, band: int, value: float | None) -> None:
    """Take a new step's value into its band; SQLite's min and max of null and a number are null."""
    store.db.execute(
        # By name: of Python 3.12's first versions numbered ones want names, too.
        """insert into metric_bands values (:trial, :name, :band, :value, :value)
           on conflict do update set
           low = min(coalesce(low, :value), coalesce(:value, low)),
           high = max(coalesce(high, :value), coalesce(:value, high))""",
        {"trial": trial, "name": name, "band": band, "value": value},
    )


def put_checkpoint(store: Store, trial: int, attempt: int, step: int) -> None:
    """Record that a checkpoint after `step` optimizer steps was committed."""
    with store.writing():
        store.update_row("trials", trial, checkpoint_step=step)
        store.update_row("attempts", attempt, checkpoint_step=step)


def put_from_step(store: Store, trial: int, attempt: int, step: int) -> None:
    """Record the step that an attempt really resumes from; 0 where it starts from the beginning.

    Below the step that was planned, the newest checkpoint was damaged: it is no checkpoint of the
    trial any more.
    """
    if step >= store.attempt(attempt).from_step:
        return
    with store.writing():
        store.update_row("attempts", attempt, from_step=step, last_step=step)
        store.update_row("trials", trial, checkpoint_step=step or None)


def put_scores(
    store: Store, trial: int, attempt: int, step: int, values: dict[str, float | None]
) -> None:
    """Record a trial's scores by name; an earlier score of the same name is replaced."""
    with store.writing():
        for name, value in values.items():
            store.db.execute(
                "insert or replace into scores values (?, ?, ?, ?, ?)",
                (trial, name, value, step, attempt),
            )


def put_sample(store: Store, trial: int, attempt: int, n: int, sample: dict[str, Any]) -> None:
    """Record one sample answer, numbered `n`; those of the trial's earlier attempts go."""
    with store.writing():
        store.db.execute("delete from samples where trial = ? and attempt <> ?", (trial, attempt))
        store.db.execute(
            "insert or replace into samples values (?, ?, ?, ?, ?, ?, ?)",
            (
                trial,
                attempt,
                n,
                safe_text(sample.get("question", "")),
                safe_text(sample.get("expected", "")),
                safe_text(sample.get("answer", "")),
                sample.get("right"),
            ),
        )


def put_adapter(
    store: Store,
    trial: int,
    attempt: int,
    path: str,
    size_bytes: int,
    sha256: str,
    at_utc: float | None = None,
) -> None:
    """Record a trial's adapter; `path` is relative to the home, or absolute."""
    made = store.clock() if at_utc is None else at_utc
    with store.writing():
        store.db.execute(
            "insert or replace into adapters values (?, ?, ?, ?, ?, ?)",
            (trial, attempt, path, size_bytes, sha256, made),
        )

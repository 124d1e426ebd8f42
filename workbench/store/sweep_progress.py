"""The progress of sweeps, for the scheduler: asked before trials are proposed or a sweep ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workbench.store.decode import experiment_from_row
from workbench.store.reader import Reader
from workbench.store.rows import Experiment
from workbench.text import safe_text

if TYPE_CHECKING:
    from workbench.store.writer import Store


def searching_experiments(reader: Reader) -> list[Experiment]:
    """Return experiments whose sweep may still ask for trials, oldest first, without counts."""
    rows = reader.db.execute(
        "select * from experiments where searching and state = 'ready' order by id"
    )
    return [experiment_from_row(row, {}) for row in rows]


def count_active(reader: Reader, experiment: int) -> tuple[int, int]:
    """Return how many tuned trials of it hold a card, and how many are queued."""
    rows = reader.db.execute(
        """select state, count(*) from trials where experiment = ? and kind = 'tune'
           and state in ('queued', 'starting', 'running') group by 1""",
        (experiment,),
    )
    counts = {row[0]: int(row[1]) for row in rows}
    queued = counts.pop("queued", 0)
    return sum(counts.values()), queued


def has_unfinished(reader: Reader, experiment: int) -> bool:
    """Return True while one of its tuned trials may still move."""
    row = reader.db.execute(
        """select 1 from trials where experiment = ? and kind = 'tune'
           and state in ('queued', 'starting', 'running', 'paused') limit 1""",
        (experiment,),
    ).fetchone()
    return row is not None


def time_spent(reader: Reader, experiment: int, now: float) -> tuple[float | None, float]:
    """Return when its first attempt began (None: no attempt yet), and the card-seconds of all.

    The trial that scores its base is not counted: several experiments may share it.
    """
    row = reader.db.execute(
        """select min(a.started_utc), sum(coalesce(a.ended_utc, :now) - a.started_utc)
           from attempts a join trials t on t.id = a.trial
           where t.experiment = :experiment and t.kind = 'tune'""",
        {"experiment": experiment, "now": now},
    ).fetchone()
    return row[0], float(row[1] or 0.0)


def newly_ended(reader: Reader) -> list[int]:
    """Return experiments that have nothing to do any more and are not marked as ended yet."""
    rows = reader.db.execute(
        """select id from experiments e where ended_utc is null and (state = 'refused'
             or state = 'ready' and not searching and not exists (
               select 1 from trials t where (t.experiment = e.id or t.id = e.base_trial)
               and t.state in ('queued', 'starting', 'running', 'paused')))
           order by id"""
    )
    return [row[0] for row in rows]


def prune_unstarted(store: Store, experiment: int, reason: str) -> None:
    """Mark its queued tuned trials that never had a card as pruned; reconcile ends them."""
    with store.writing():
        store.db.execute(
            """update trials set pruned = ? where experiment = ? and state = 'queued'
               and kind = 'tune' and id not in (select trial from attempts)""",
            (safe_text(reason), experiment),
        )


def record_rung(store: Store, trial: int, rung: int, step: int, value: float | None) -> None:
    """Record that a trial reached an ASHA rung, with its held-out loss there (None: no number).

    A rung that was recorded before stays as it is, so that a resumed trial is not judged twice.
    """
    with store.writing():
        store.db.execute(
            "insert or ignore into rungs (trial, rung, step, value) values (?, ?, ?, ?)",
            (trial, rung, step, value),
        )

"""The progress of sweeps, for the scheduler: asked before trials are proposed or a sweep ends.

Trials of finals are no trials of the sweep: it neither waits for them nor pays for them.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
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
    """Return True while one of its sweep's tuned trials may still move."""
    row = reader.db.execute(
        """select 1 from trials where experiment = ? and kind = 'tune' and finals_of is null
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
           where t.experiment = :experiment and t.kind = 'tune' and t.finals_of is null""",
        {"experiment": experiment, "now": now},
    ).fetchone()
    return row[0], float(row[1] or 0.0)


def newly_ended(reader: Reader) -> list[int]:
    """Return experiments that have nothing to do any more and are not marked as ended yet."""
    rows = reader.db.execute(
        """select id from experiments e where ended_utc is null and (state = 'refused'
             or state = 'ready' and not searching and not exists (
               select 1 from trials t where (t.experiment = e.id or t.id = e.base_trial)
               and t.kind <> 'chat'
               and t.state in ('queued', 'starting', 'running', 'paused')))
           order by id"""
    )
    return [row[0] for row in rows]


def prune_unstarted(store: Store, experiment: int, reason: str) -> None:
    """Mark its queued tuned trials that never had a card as pruned; reconcile ends them."""
    with store.writing():
        store.db.execute(
            """update trials set pruned = ? where experiment = ? and state = 'queued'
               and kind = 'tune' and finals_of is null
               and id not in (select trial from attempts)""",
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


# --- finals ---


@dataclass(frozen=True, slots=True, kw_only=True)
class FinalsRequest:
    """Finals that are still to begin."""

    top: int
    """Number of settings that are trained again."""
    seeds: int
    """Trainings of each of them."""


def requested_finals(reader: Reader, experiment: Experiment) -> FinalsRequest | None:
    """Return the finals that the experiment is still to begin; None where there are none.

    They are those of its recipe, until a person has asked for others or they have begun.
    """
    stored = reader.fact(_finals_key(experiment.id))
    if stored is None:
        found = (experiment.recipe.get("sweep") or {}).get("finals")
    else:
        found = json.loads(stored or "null")
    return None if not found else FinalsRequest(top=int(found["top"]), seeds=int(found["seeds"]))


def request_finals(store: Store, experiment: int, finals: FinalsRequest | None) -> None:
    """Record which finals are still to begin; None for none, whatever the recipe says."""
    store.set_fact(_finals_key(experiment), json.dumps(asdict(finals)) if finals else "")


def _finals_key(experiment: int) -> str:
    return f"finals:{experiment}"


def swept_experiments(reader: Reader) -> list[Experiment]:
    """Return experiments that have not ended, and whose sweep has nothing to do any more.

    Oldest first, without counts.
    """
    rows = reader.db.execute(
        """select * from experiments e where ended_utc is null and state = 'ready'
           and not searching and not held and not exists (
             select 1 from trials t where t.experiment = e.id and t.kind = 'tune'
             and t.finals_of is null and t.state in ('queued', 'starting', 'running', 'paused'))
           order by id"""
    )
    return [experiment_from_row(row, {}) for row in rows]

"""Metrics of trials by optimizer step, for the sinks that copy them to other programs.

Each step comes once and whole: the newest step of a trial that has not ended is held back, because
its evaluation may still follow. A trial that resumes repeats the steps since its checkpoint; those
that were read before are not returned again.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from workbench.store.queries.metrics import metric_names
from workbench.store.reader import TRIALS, Reader
from workbench.store.rows import TrialRow

MOST_STEPS = 1_000
"""Steps that one call returns at most."""


class LoggedStep(NamedTuple):
    """The metrics of one optimizer step; numbers that are not finite are left out."""

    step: int
    values: dict[str, float]


def changed_trials(reader: Reader, since_utc: float, also: Collection[int] = ()) -> list[TrialRow]:
    """Return tuned trials that hold a card, have changed since then, or are in `also`."""
    marks = ",".join("?" * len(also))
    rows = reader.db.execute(
        f"""{TRIALS} where t.kind = 'tune' and (t.state in ('starting', 'running')
            or t.changed_utc >= ? or t.id in ({marks})) order by t.id""",
        (since_utc, *also),
    )
    return reader.cached_trials(rows)


def steps_after(reader: Reader, trial: TrialRow, after: int) -> list[LoggedStep]:
    """Return the complete steps behind step `after` in order, at most MOST_STEPS.

    Fewer than MOST_STEPS means that there are no more now.
    """
    found: dict[int, dict[str, float]] = {}
    last = None  # of the names that have more steps than were read, the one that was read least far
    for name in metric_names(reader, trial.id):
        rows = reader.db.execute(
            """select step, value from metrics where trial = ? and name = ? and step > ?
               order by step limit ?""",
            (trial.id, name, after, MOST_STEPS + 1),
        ).fetchall()
        for step, value in rows:
            values = found.setdefault(step, {})
            if value is not None:
                values[name] = value
        if len(rows) > MOST_STEPS:
            last = min(rows[-1][0], rows[-1][0] if last is None else last)
    steps = [LoggedStep(*one) for one in sorted(found.items()) if last is None or one[0] <= last]
    if len(steps) > MOST_STEPS:
        return steps[:MOST_STEPS]
    return steps if trial.state.final else steps[:-1]


def scores_of(reader: Reader, trial: int) -> dict[str, float]:
    """Return the trial's held-out scores by name."""
    rows = reader.db.execute(
        "select name, value from scores where trial = ? and value is not null", (trial,)
    )
    return {row["name"]: row["value"] for row in rows}

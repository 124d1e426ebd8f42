"""What became of an experiment's trials, as its search needs it."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

from workbench.events import Outcome
from workbench.store.reader import Reader
from workbench.store.rows import Experiment
from workbench.trial import State, up_is_better

CURVE = "eval_loss"
"""The metric that early stopping and the search look at while a trial runs."""
ENDED_EARLY = (Outcome.STOPPED, Outcome.DIVERGED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """One trial's settings and outcome."""

    number: int
    settings: dict[str, Any]
    state: State
    outcome: str | None
    """Of its newest attempt; events.Outcome."""
    score: float | None
    step: int | None
    """Of its newest evaluation of held-out loss."""
    eval_loss: float | None
    """There."""


def past(reader: Reader, experiment: int, objective: str) -> list[Past]:
    """Every tuned trial, in order. 1 ms for a hundred."""
    rows = reader.db.execute(
        """select t.number, t.settings, t.state, s.value as score, m.step, m.value as eval_loss,
                  (select outcome from attempts where trial = t.id order by id desc limit 1)
                  as outcome
           from trials t
           left join scores s on s.trial = t.id and s.name = :objective
           left join metrics m on m.trial = t.id and m.name = :curve and m.step =
             (select max(step) from metrics where trial = t.id and name = :curve)
           where t.experiment = :experiment and t.kind = 'tune' order by t.number""",
        {"experiment": experiment, "objective": objective, "curve": CURVE},
    )
    return [
        Past(
            number=row["number"],
            settings=json.loads(row["settings"]),
            state=State(row["state"]),
            outcome=row["outcome"],
            score=row["eval_loss"] if objective == CURVE else row["score"],
            step=row["step"],
            eval_loss=row["eval_loss"],
        )
        for row in rows
    ]


def curve(reader: Reader, trial: int) -> list[tuple[int, float | None]]:
    """Its held-out losses by step; None: not a number."""
    rows = reader.db.execute(
        "select step, value from metrics where trial = ? and name = ? order by step",
        (trial, CURVE),
    )
    return [(row[0], row[1]) for row in rows]


def finished_at(reader: Reader, experiment: int, step: int) -> list[float]:
    """Held-out losses that the experiment's finished trials had at `step`."""
    rows = reader.db.execute(
        """select m.value from trials t join metrics m
           on m.trial = t.id and m.name = :curve and m.step = :step
           where t.experiment = :experiment and t.state = 'done' and m.value is not null""",
        {"experiment": experiment, "step": step, "curve": CURVE},
    )
    return [row[0] for row in rows]


def rungs_of(reader: Reader, trial: int) -> int:
    """How many rungs it was judged at."""
    query = "select count(*) from rungs where trial = ?"
    return int(reader.db.execute(query, (trial,)).fetchone()[0])


def at_rung(reader: Reader, experiment: int, rung: int) -> list[float | None]:
    """What the experiment's trials had at that rung, those that came so far."""
    rows = reader.db.execute(
        """select r.value from rungs r join trials t on t.id = r.trial
           where t.experiment = ? and r.rung = ?""",
        (experiment, rung),
    )
    return [row[0] for row in rows]


def in_order_of_merit(reader: Reader, experiment: Experiment) -> list[dict[str, Any]]:
    """Settings of the trials that tell, the best first: those that finished, by score; then those
    that ended early, by how far they came and how well they stood there."""
    sign = -1.0 if up_is_better(experiment.rank_by) else 1.0
    told: list[tuple[tuple[float, ...], int, dict[str, Any]]] = []
    for one in past(reader, experiment.id, experiment.rank_by):
        if one.state is State.DONE and one.score is not None:
            told.append(((0, sign * one.score), one.number, one.settings))
        elif one.state in (State.PRUNED, State.FAILED) and one.outcome in ENDED_EARLY:
            loss = math.inf if one.eval_loss is None else one.eval_loss
            told.append(((1, -(one.step or 0), loss), one.number, one.settings))
    return [settings for _, _, settings in sorted(told, key=lambda one: one[:2])]

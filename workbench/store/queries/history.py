"""The outcomes of an experiment's trials, for its search and its early stopping."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

from workbench.attempts.events import Outcome
from workbench.store.reader import Reader
from workbench.store.rows import Experiment
from workbench.trial import State, outcome_word, up_is_better

CURVE = "eval_loss"
"""The metric that early stopping and the search compare while trials run: held-out loss."""
ENDED_EARLY = (Outcome.STOPPED, Outcome.DIVERGED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """One tuned trial's settings and outcome."""

    number: int
    settings: dict[str, Any]
    state: State
    reason: str
    """Why it ended, in words; empty for one that is done or unfinished."""
    outcome: str | None
    """The `events.Outcome` of its newest attempt; None while it has none."""
    score: float | None
    step: int | None
    """The optimizer step of its newest held-out evaluation."""
    eval_loss: float | None
    """Held-out loss there, in nats per target token; None also where it was no number."""


def read_past(reader: Reader, experiment: int, objective: str) -> list[Past]:
    """Return every tuned trial of the sweep by number, with its score by `objective`.

    Trials of finals are left out: they repeat settings that were chosen for their score.

    Where the objective is `eval_loss`, the newest held-out loss stands in for a score. Takes 1 ms
    for a hundred trials.
    """
    rows = reader.db.execute(
        """select t.number, t.settings, t.state, t.reason, s.value as score, m.step,
                  m.value as eval_loss,
                  (select outcome from attempts where trial = t.id order by id desc limit 1)
                  as outcome
           from trials t
           left join scores s on s.trial = t.id and s.name = :objective
           left join metrics m on m.trial = t.id and m.name = :curve and m.step =
             (select max(step) from metrics where trial = t.id and name = :curve)
           where t.experiment = :experiment and t.kind = 'tune' and t.finals_of is null
           order by t.number""",
        {"experiment": experiment, "objective": objective, "curve": CURVE},
    )
    return [
        Past(
            number=row["number"],
            settings=json.loads(row["settings"]),
            state=State(row["state"]),
            reason=row["reason"],
            outcome=row["outcome"],
            score=row["eval_loss"] if objective == CURVE else row["score"],
            step=row["step"],
            eval_loss=row["eval_loss"],
        )
        for row in rows
    ]


def loss_curve(reader: Reader, trial: int) -> list[tuple[int, float | None]]:
    """Return the trial's held-out losses as (step, loss); None where the loss was no number."""
    rows = reader.db.execute(
        "select step, value from metrics where trial = ? and name = ? order by step",
        (trial, CURVE),
    )
    return [(row[0], row[1]) for row in rows]


def finished_losses(reader: Reader, experiment: int, step: int) -> list[float]:
    """Return the held-out losses that the sweep's finished trials had at `step`."""
    rows = reader.db.execute(
        """select m.value from trials t join metrics m
           on m.trial = t.id and m.name = :curve and m.step = :step
           where t.experiment = :experiment and t.finals_of is null and t.state = 'done'
           and m.value is not null""",
        {"experiment": experiment, "step": step, "curve": CURVE},
    )
    return [row[0] for row in rows]


def count_rungs(reader: Reader, trial: int) -> int:
    """Return at how many ASHA rungs the trial was judged so far."""
    query = "select count(*) from rungs where trial = ?"
    return int(reader.db.execute(query, (trial,)).fetchone()[0])


def rung_losses(reader: Reader, experiment: int, rung: int) -> list[float | None]:
    """Return the held-out losses at one ASHA rung of all trials that reached it.

    None stands for a loss that was no number.
    """
    rows = reader.db.execute(
        """select r.value from rungs r join trials t on t.id = r.trial
           where t.experiment = ? and r.rung = ?""",
        (experiment, rung),
    )
    return [row[0] for row in rows]


def settings_by_merit(
    reader: Reader, experiment: Experiment
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Return the settings of trials that can be compared, best first, and the others by outcome.

    Finished trials come first, by score; then trials that ended early, by how many steps they
    made, and among equals by their held-out loss there. Left out are unfinished trials, failed
    ones, those without a score, and those that a person stopped: their step says nothing.
    """
    left_out: dict[str, int] = {}
    sign = -1.0 if up_is_better(experiment.rank_by) else 1.0
    ranked: list[tuple[tuple[float, ...], int, dict[str, Any]]] = []
    for one in read_past(reader, experiment.id, experiment.rank_by):
        if one.state is State.DONE and one.score is not None:
            ranked.append(((0, sign * one.score), one.number, one.settings))
        elif one.state in (State.PRUNED, State.FAILED) and one.outcome in ENDED_EARLY:
            loss = math.inf if one.eval_loss is None else one.eval_loss
            ranked.append(((1, -(one.step or 0), loss), one.number, one.settings))
        else:
            word = outcome_word(one.state, one.reason)
            left_out[word] = left_out.get(word, 0) + 1
    return [settings for _, _, settings in sorted(ranked, key=lambda one: one[:2])], left_out

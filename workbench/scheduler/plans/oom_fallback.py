"""Attempts that ran out of memory: what the store knows of them, and what becomes of the trial."""

from __future__ import annotations

from itertools import takewhile

from workbench.attempts.events import SHORT_OF_MEMORY, AttemptEnd, FailureCause
from workbench.footprint import Plan
from workbench.footprint.oom_fallback import FallbackStep, hardware_key
from workbench.scheduler.tick_context import TickContext
from workbench.store.queries import attempt_history
from workbench.store.rows import TrialRow, card_of
from workbench.trial import State

MOST_FALLBACKS = 24
"""Attempts in a row that may run out of memory. After them a trial fails even where fallback steps
are left, because something else must be wrong."""
MOST_WAITS = 6
"""The same for attempts that ended because other programs held the card's memory, or because the
machine itself had none left."""


def fallback_steps(context: TickContext, experiment: int) -> tuple[FallbackStep, ...]:
    """Return the experiment's attempts that ran out of memory on known cards, oldest first.

    They are read once in a tick.
    """
    if experiment not in context.fallback_steps:
        cards = context.cards_by_uuid()
        context.fallback_steps[experiment] = tuple(
            # By way of a Plan, since an older version may have stored fewer fields.
            FallbackStep(
                hardware=hardware_key(card_of(cards[uuid])),
                plan=Plan.from_json(plan).to_json(),
                stage=stage,
            )
            for uuid, plan, stage in attempt_history.out_of_memory_plans(context.store, experiment)
            if uuid in cards
        )
    return context.fallback_steps[experiment]


def state_after(context: TickContext, trial: TrialRow, end: AttemptEnd) -> tuple[State, str] | None:
    """Return the next state of a trial that ran out of memory and the reason for people.

    Returns None where its attempt ended for another cause. Writes an event where the trial is
    queued again.
    """
    if end.cause not in SHORT_OF_MEMORY:
        return None
    tries = context.store.attempts(trial.id)
    in_a_row = len(list(takewhile(lambda attempt: attempt.cause == end.cause, reversed(tries))))
    if in_a_row >= (MOST_FALLBACKS if end.cause == FailureCause.OUT_OF_MEMORY else MOST_WAITS):
        return State.FAILED, f"{end.reason}, {in_a_row} times in a row"
    since = f"from step {trial.checkpoint_step}" if trial.checkpoint_step else "from the start"
    how = (
        "with its next out-of-memory fallback, " if end.cause == FailureCause.OUT_OF_MEMORY else ""
    )
    why = f"{end.reason}; it goes on {how}{since}"
    context.store.note(
        end.cause.replace("_", "-"),
        f"trial {trial.id}: {why}",
        level="warning",
        trial=trial.id,
        experiment=trial.experiment,
    )
    return State.QUEUED, why

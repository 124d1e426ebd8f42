"""The end of an experiment: one event, and the user's own notification command."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from workbench.scheduler.evaluation.finalist_tests import add_test_scores
from workbench.scheduler.finals import finals_are_due
from workbench.scheduler.tick_context import TickContext
from workbench.store.board import rank_adapters
from workbench.store.board_rows import BoardRow
from workbench.store.queries import sweep_progress
from workbench.store.rows import Experiment
from workbench.trial import KILLED, State


def conclude(context: TickContext) -> None:
    """Report each experiment that has just ended.

    The end counts as reported before the command starts, so that a kill at any line reports it
    at most once. An experiment that continues because trials were added may end, and be
    reported, again.
    """
    notifier = context.notifier
    for name in notifier.failed() if notifier else ():
        text = f"notify.command failed for {name}; see {context.home.logs / 'notify.log'}"
        context.store.note("notify", text, level="warning")
    for id in sweep_progress.newly_ended(context.store):
        if notifier and notifier.busy:
            return
        experiment = context.store.experiment(id)
        if finals_are_due(context, experiment):  # the engine stops before it can begin them
            continue
        if add_test_scores(context, experiment):  # it has ended when they have
            continue
        rows = rank_adapters(context.store, experiment, context.store.clock())
        run = (
            notifier.ready(experiment.name, notification_data(experiment, rows))
            if notifier
            else None
        )
        with context.store.writing():
            context.store.mark_ended(id)
            context.store.note("ended", ending_text(experiment, rows), experiment=id)
        if run:
            run()


def ending_text(experiment: Experiment, rows: list[BoardRow]) -> str:
    """Return `experiment demo has ended: 6 done; best trial 9, exact_match 0.688`."""
    if experiment.state == "refused":
        return f"experiment {experiment.name} has ended: refused, {experiment.reason}"
    words, found = (*State, KILLED), experiment.outcomes
    counts = ", ".join(f"{found[word]} {word}" for word in words if found.get(word))
    best = next((row for row in rows if row.rank == 1), None)
    score = "" if best is None or best.score is None else f", {experiment.rank_by} {best.score:.3f}"
    winner = "" if best is None else f"; best trial {best.trial}{score}"
    return f"experiment {experiment.name} has ended: {counts or 'no trials'}{winner}"


def notification_data(experiment: Experiment, rows: list[BoardRow]) -> dict[str, Any]:
    """Return the data that the notification command reads as JSON on its stdin.

    `workbench.notification` adds the verdict to it: a tick must not wait for statistics.
    """
    return {
        "experiment": experiment.id,
        "name": experiment.name,
        "state": experiment.state,
        "reason": experiment.reason,
        "hint": experiment.hint,
        "mend": experiment.hint,  # the older name of `hint`, until 0.1.0
        "rank_by": experiment.rank_by,
        "counts": experiment.counts,
        "text": ending_text(experiment, []),  # the verdict names the best trial
        "board": [asdict(row) for row in rows],
    }

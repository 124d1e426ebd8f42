"""Scores on the test rows: once an experiment has ended, for its base and its finalists only.

They are never used to choose: search, ranking, finals and importance do not read them.
"""

from __future__ import annotations

from workbench import fault_points
from workbench.formatting import plural
from workbench.judging.finals import finalist_rows, read_finals
from workbench.scheduler.evaluation.scoring import score_settings
from workbench.scheduler.tick_context import TickContext
from workbench.store.board import rank_adapters
from workbench.store.rows import Experiment
from workbench.store.score_trials import find_test_trials, saved_adapter
from workbench.trial import Kind, State

MOST_FINALISTS = 3
"""Adapters that are tested where there were no finals: the best ones of the board."""


def add_test_scores(context: TickContext, experiment: Experiment) -> bool:
    """Queue the test scores that the experiment lacks; return True where any was added.

    Call it when nothing else of the experiment is left to do. An adapter is tested once, whatever
    becomes of that: a test that failed or was stopped is not repeated.
    """
    if not _has_test_rows(experiment):
        return False
    finalists = _finalists(context, experiment)
    there = find_test_trials(context.store, experiment.id)
    lacking = [adapter for adapter in (None, *finalists) if adapter not in there]
    if not finalists or not lacking:
        return False
    with context.store.writing():
        for adapter in lacking:
            context.add_trial(experiment.id, Kind.SCORE, score_settings(adapter, "test"))
        which = ", ".join(str(id) for id in finalists)
        text = f"experiment {experiment.name}: the base and the adapters of {_named(which)} are "
        text += f"scored on {plural(int(_test_rows(experiment)), 'test row')}"
        context.store.note("test", text, experiment=experiment.id)
        fault_points.at("finalist_tests.before_commit")
    fault_points.at("finalist_tests.after_commit")
    return True


def _named(ids: str) -> str:
    return f"trials {ids}" if "," in ids else f"trial {ids}"


def _has_test_rows(experiment: Experiment) -> bool:
    return experiment.state == "ready" and _test_rows(experiment) > 0


def _test_rows(experiment: Experiment) -> int:
    data = (experiment.prepared or {}).get("data") or {}
    return int(data.get("test_rows") or 0)


def _finalists(context: TickContext, experiment: Experiment) -> list[int]:
    """Return the trials whose adapters the verdict is about, best first.

    They are those that ship for each finalist where there were finals, else the best of the board.
    """
    rows = finalist_rows(experiment, read_finals(context.store, experiment.id), None)
    shipped = [row.shipped for row in rows if row.shipped is not None]
    if not shipped:
        board = rank_adapters(context.store, experiment, context.store.clock())
        ranked = [row for row in board if row.rank is not None and row.state is State.DONE]
        shipped = [row.trial for row in ranked if row.kind == Kind.TUNE][:MOST_FINALISTS]
    return [trial for trial in shipped if saved_adapter(context.store, trial) is not None]

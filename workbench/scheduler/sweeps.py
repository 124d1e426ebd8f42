"""Sweeps: ask for their next trials as cards become free; end those whose budget is spent.

Nothing waits for stragglers: trials that still run are in the history as running ones. The next
proposal depends on the store alone, so a restart changes nothing.
"""

from __future__ import annotations

from workbench import search
from workbench.attempts.events import Outcome
from workbench.errors import WorkbenchError
from workbench.recipe import Recipe
from workbench.scheduler.plans.planning import experiment_recipe
from workbench.scheduler.tick_context import TickContext
from workbench.search.history import Fate, PastTrial
from workbench.store import Blocked
from workbench.store.queries import sweep_progress
from workbench.store.queries.history import Past, read_past
from workbench.store.rows import Experiment
from workbench.text import safe_line
from workbench.trial import Kind, State

FAILURES_LIMIT = 5
"""Trials failed in a row, after which a sweep proposes no more: the next would fail too."""


def ask_for_more(context: TickContext) -> None:
    """Propose as many new trials as there are free cards, of every sweep that is not over."""
    for experiment in sweep_progress.searching_experiments(context.store):
        try:
            _advance(context, experiment)
        except Blocked:  # the disk's or a lock's fault, not the sweep's
            raise
        except Exception as broken:
            why = broken.what if isinstance(broken, WorkbenchError) else type(broken).__name__
            _end(context, experiment, f"{why}: {safe_line(broken)}", level="error")


def _advance(context: TickContext, experiment: Experiment) -> None:
    """Propose the next trials of a sweep, or end it where nothing is left to propose."""
    recipe = experiment_recipe(experiment)
    if why := budget_spent(context, experiment, recipe):
        _end(context, experiment, why, give_up=True)
        return
    if not search.is_one_by_one(recipe.sweep) and experiment.most_trials is None:
        if not sweep_progress.has_unfinished(
            context.store, experiment.id
        ):  # all were queued at once, to a budget's end
            _end(context, experiment, "all its trials have ended", level="debug")
        return
    if experiment.held:
        return
    # One at a time, each with fresh history: the next point depends on the one before.
    for _ in range(_trials_to_propose(context, experiment)):
        history = read_past(context.store, experiment.id, recipe.objective[0])
        if over := _why_over(experiment, history):
            _end(context, experiment, over[0], level=over[1])
            return
        number = context.store.next_number(experiment.id)
        point = search.next_point(recipe, number, [as_past_trial(one) for one in history])
        if point is None:
            _end(context, experiment, "every point of its space was tried")
            return
        context.add_trial(experiment.id, Kind.TUNE, point)


def _trials_to_propose(context: TickContext, experiment: Experiment) -> int:
    """Return how many trials to propose now.

    The later a trial is proposed, the more is known. One is always queued where none runs, so
    that it can say what it waits for.
    """
    live, queued = sweep_progress.count_active(context.store, experiment.id)
    free = sum(
        row.present and row.trial is None and not row.drained and not row.quarantined
        for row in context.cards
    )
    if experiment.max_parallel is not None:
        free = min(free, experiment.max_parallel - live)
    return max(free, 0 if live else 1) - queued


def _why_over(experiment: Experiment, history: list[Past]) -> tuple[str, str] | None:
    """Return why the sweep proposes no more trials, and the level of that event, or None."""
    most = experiment.most_trials
    if most is not None and len(history) >= most:
        return f"all its {most} trials are asked for", "debug"
    if len(history) >= search.MAX_TRIALS:
        return f"it has come to {search.MAX_TRIALS:,} trials", "warning"
    ended = [one for one in history if one.state.final]
    last = ended[-FAILURES_LIMIT:]
    if len(last) == FAILURES_LIMIT and all(_failed(one) for one in last):
        return f"its last {FAILURES_LIMIT} trials failed: no more are tried", "error"
    return None


def _failed(one: Past) -> bool:
    return one.state is State.FAILED and one.outcome != Outcome.DIVERGED


def budget_spent(context: TickContext, experiment: Experiment, recipe: Recipe) -> str:
    """Return in words which budget is spent; an empty string while some is left or none was set."""
    assert recipe.sweep is not None
    hours, gpu_hours = recipe.sweep.hours, recipe.sweep.gpu_hours
    if hours is None and gpu_hours is None:
        return ""
    began_utc, card_s = sweep_progress.time_spent(
        context.store, experiment.id, context.store.clock()
    )
    begun_s = 0.0 if began_utc is None else context.store.clock() - began_utc
    if hours is not None and begun_s >= hours * 3_600:
        return f"its budget of {hours:g} h is spent"
    if gpu_hours is not None and card_s >= gpu_hours * 3_600:
        return f"its budget of {gpu_hours:g} card-hours is spent"
    return ""


def _end(
    context: TickContext,
    experiment: Experiment,
    why: str,
    level: str = "info",
    *,
    give_up: bool = False,
) -> None:
    """End the sweep; with `give_up`, queued trials that have not begun end too."""
    with context.store.writing():
        context.store.set_searching(experiment.id, on=False, most_trials=experiment.most_trials)
        if give_up:
            sweep_progress.prune_unstarted(context.store, experiment.id, why)
        context.store.note(
            "search", f"experiment {experiment.name}: {why}", level=level, experiment=experiment.id
        )


def as_past_trial(one: Past) -> PastTrial:
    """Return a stored trial as the search sees it.

    A trial that diverged informs the search as much as one that was ended early.
    """
    fate: Fate = "running"
    early = one.state in (State.PRUNED, State.STOPPED) and one.eval_loss is not None
    if one.state is State.DONE and one.score is not None:
        fate = "scored"
    elif early or (one.state.final and one.outcome == Outcome.DIVERGED):
        fate = "ended_early"
    elif one.state.final:
        fate = "uninformative"
    return PastTrial(
        number=one.number,
        settings=one.settings,
        fate=fate,
        score=one.score,
        step=one.step,
        eval_loss=one.eval_loss,
    )

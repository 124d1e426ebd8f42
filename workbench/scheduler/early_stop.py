"""Early stopping: each trial is judged at each evaluation of its held-out loss.

`reconcile` calls `judge_trial` in the commit that takes a trial's new events in, so that each
evaluation is judged once, wherever the loop is killed. Only `trials.pruned` is written here;
`reconcile` ends the trial, which is scored and keeps its adapter.
"""

from __future__ import annotations

from workbench.formatting import plural
from workbench.recipe.schema import EarlyStop
from workbench.scheduler.tick_context import TickContext
from workbench.search import stopping
from workbench.store.queries import sweep_progress
from workbench.store.queries.history import count_rungs, finished_losses, loss_curve, rung_losses
from workbench.store.rows import AttemptRow, TrialRow
from workbench.trial import Kind


def judge_trial(context: TickContext, trial: TrialRow, attempt: AttemptRow) -> None:
    """Mark the trial as pruned where its newest evaluation says that it should end.

    `attempt` is its live attempt, read after the new events. Trials of finals run to their end,
    because their scores are averaged. Costs one look-up where the experiment stops nothing early.
    """
    rule = _rule(context, trial.experiment)
    swept = trial.kind is Kind.TUNE and trial.finals_of is None
    if rule is None or not swept or trial.pruned or not attempt.total_steps:
        return
    losses = loss_curve(context.store, trial.id)
    if not losses:
        return
    stop, every = rule
    why = _why(context, trial, stop, stop.first_step(every, attempt.total_steps), losses)
    if why and losses[-1][0] < attempt.total_steps:
        context.store.mark_pruned(trial.id, why)


def _rule(context: TickContext, experiment: int) -> tuple[EarlyStop, int] | None:
    """Return the experiment's early-stop rule and its steps between evaluations; None without one.

    Remembered in the context, because a recipe never changes.
    """
    if experiment not in context.early_stops:
        recipe = context.store.experiment(experiment).recipe
        stop = (recipe.get("sweep") or {}).get("early_stop")
        every = recipe["evaluate"]["every"]
        whole = stop is not None and every is not None
        context.early_stops[experiment] = (EarlyStop.model_validate(stop), every) if whole else None
    return context.early_stops[experiment]


def _why(
    context: TickContext, trial: TrialRow, rule: EarlyStop, first: int, losses: stopping.Curve
) -> str:
    """Return in words why the trial should end now; an empty string while it continues."""
    step, loss = losses[-1]
    if rule.method == "asha":
        return _halving(context, trial, rule.reduction, first, losses)
    if step < first:
        return ""
    at = f"at step {step} its held-out loss"
    shown = "is no number" if loss is None else f"{loss:.4g}"
    if rule.method == "median":
        finished = finished_losses(context.store, trial.experiment, step)
        if stopping.is_behind_median(losses, finished, rule.trials):
            return f"median: {at} {shown} is behind half of the {len(finished)} finished trials"
    elif rule.method == "patience":
        if stopping.is_out_of_patience(losses, rule.evaluations, rule.improvement):
            lower = f"lower by more than {rule.improvement:g}" if rule.improvement else "lower"
            last = plural(rule.evaluations, "evaluation")
            return f"patience: {at} {shown}; {last} in a row not {lower} than the best before"
    elif rule.above is not None and (loss is None or loss > rule.above):
        return f"threshold: {at} {shown} is above {rule.above:g}"
    return ""


def _halving(
    context: TickContext, trial: TrialRow, reduction: int, first: int, losses: stopping.Curve
) -> str:
    """Record every rung that the trial has newly reached, and compare it with earlier trials there.

    Returns in words why the trial should end; an empty string while it continues.
    """
    judged = count_rungs(context.store, trial.id)
    rungs = list(stopping.rungs_reached(losses, first, reduction))
    for rung, (step, value) in enumerate(rungs[judged:], start=judged):
        sweep_progress.record_rung(context.store, trial.id, rung, step, value)
        others = rung_losses(context.store, trial.experiment, rung)
        if not stopping.survives_rung(value, others, reduction):
            shown = "no number" if value is None else f"{value:.4g}"
            best = max(1, len(others) // reduction)
            return (
                f"asha: rung {rung + 1} (step {step}), held-out loss {shown} is not among the "
                f"best {best} of {len(others)}"
            )
    return ""

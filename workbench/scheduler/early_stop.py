"""End trials that are not worth their card: judged at each evaluation of held-out loss.

Called in the commit that takes a trial's new events in, so that each evaluation is judged once,
wherever we are killed. Here only `trials.pruned` is written; `settle` ends the trial, which is
scored and keeps its adapter.
"""

from __future__ import annotations

from workbench.recipe.schema import EarlyStop
from workbench.scheduler.tick_context import TickContext
from workbench.search import stopping
from workbench.store.history import at_rung, curve, finished_at, rungs_of
from workbench.store.rows import Attempt, TrialRow
from workbench.trial import Kind


def judge(context: TickContext, trial: TrialRow, attempt: Attempt) -> None:
    """Whether the trial goes on, after what `attempt` has just told. One look-up where its
    experiment stops nothing early."""
    rule = _rule(context, trial.experiment)
    if rule is None or trial.pruned or trial.kind is Kind.BASE or not attempt.total_steps:
        return
    told = curve(context.store, trial.id)
    if not told:
        return
    stop, every = rule
    why = _why(context, trial, stop, stop.first_step(every, attempt.total_steps), told)
    if why and told[-1][0] < attempt.total_steps:
        context.store.prune(trial.id, why)


def _rule(context: TickContext, experiment: int) -> tuple[EarlyStop, int] | None:
    """The experiment's, and its steps between evaluations. Remembered: a recipe never changes."""
    if experiment not in context.early_stops:
        recipe = context.store.experiment(experiment).recipe
        stop = (recipe.get("sweep") or {}).get("early_stop")
        every = recipe["evaluate"]["every"]
        whole = stop is not None and every is not None
        context.early_stops[experiment] = (EarlyStop.model_validate(stop), every) if whole else None
    return context.early_stops[experiment]


def _why(
    context: TickContext, trial: TrialRow, rule: EarlyStop, first: int, told: stopping.Curve
) -> str:
    """Why it is to end now, in words; empty while it goes on."""
    step, loss = told[-1]
    if rule.method == "asha":
        return _halving(context, trial, rule.reduction, first, told)
    if step < first:
        return ""
    at = f"at step {step} its held-out loss"
    shown = "is no number" if loss is None else f"{loss:.4g}"
    if rule.method == "median":
        finished = finished_at(context.store, trial.experiment, step)
        if stopping.behind_the_median(told, finished, rule.trials):
            return f"median: {at} {shown} is behind half of the {len(finished)} finished trials"
    elif rule.method == "patience":
        if stopping.out_of_patience(told, rule.evaluations, rule.improvement):
            return f"patience: {at} {shown} is the {rule.evaluations}th in a row that got no lower"
    elif rule.above is not None and (loss is None or loss > rule.above):
        return f"threshold: {at} {shown} is above {rule.above:g}"
    return ""


def _halving(
    context: TickContext, trial: TrialRow, reduction: int, first: int, told: stopping.Curve
) -> str:
    """Each rung it has newly come to: taken down, and judged among those who came there before."""
    judged = rungs_of(context.store, trial.id)
    rungs = list(stopping.reached(told, first, reduction))
    for rung, (step, value) in enumerate(rungs[judged:], start=judged):
        context.store.put_rung(trial.id, rung, step, value)
        others = at_rung(context.store, trial.experiment, rung)
        if not stopping.goes_on(value, others, reduction):
            shown = "no number" if value is None else f"{value:.4g}"
            best = max(1, len(others) // reduction)
            return (
                f"asha: rung {rung + 1} (step {step}), held-out loss {shown} is not among the "
                f"best {best} of {len(others)}"
            )
    return ""

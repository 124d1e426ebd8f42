"""The untrained base of a sweep: its rows are answered in the pass that scores a trial.

Every trial that trains is offered the base while it waits, and the first that is scored answers its
rows in the lanes that its own leave free: no pass of its own, and no step captured for it. The
answers are left in the base's folder, where its own attempt finds them and computes the losses. The
offer costs nothing where the trial is paused, killed or fails: the next one has it too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from workbench.attempts.assignment import ANSWERS
from workbench.machine.cards import Card, is_elsewhere
from workbench.scheduler.plans.oom_fallback import fallback_steps
from workbench.scheduler.plans.remembered_plans import trial_recipe
from workbench.scheduler.tick_context import TickContext
from workbench.store.queries.fair_share import base_goes_beside
from workbench.store.rows import Experiment, TrialRow
from workbench.trial import DesiredState, Kind

ANSWERED_ALIKE = {"model", "data", "evaluate"}
"""Sections of a recipe on which the base's answers depend."""


def waiting_bases(
    context: TickContext,
    queued: Sequence[TrialRow],
    known: Mapping[int, Experiment],
    running: Mapping[int, int],
) -> list[TrialRow]:
    """Return the queued bases that wait for a trial in whose pass they are answered.

    They are placed after everything else: a card that nothing takes scores the base by itself. A
    base goes in its turn where its answers are there already, and where its experiment has nothing
    that runs (`running` counts that) or is going to train.
    """
    trains = {one.experiment for one in queued if one.kind is Kind.TUNE} | set(running)
    return [
        one
        for one in queued
        if one.kind is Kind.BASE
        and one.experiment in trains
        and _may_wait(context, one, known[one.experiment])
    ]


def _may_wait(context: TickContext, base: TrialRow, experiment: Experiment) -> bool:
    """Return whether a trial's pass may answer the base, as far as the base is concerned.

    Not where a person moved it, or after an attempt of the experiment ran out of memory.
    """
    moved = base.rank is not None or base.desired_card is not None
    if moved or base.desired_state is not DesiredState.RUN or not base_goes_beside(experiment):
        return False
    answered = (context.home.trial(base.id) / ANSWERS).exists()
    return not answered and not fallback_steps(context, experiment.id)


def base_beside(
    trial: TrialRow, experiment: Experiment, card: Card, bases: Sequence[TrialRow]
) -> list[TrialRow]:
    """Return the one of the waiting `bases` whose rows a trial may answer when it is scored.

    None for a trial that does not train or has other rows or another model than the base, and on
    another machine of a cluster, which has no files of other trials.
    """
    if trial.kind is not Kind.TUNE or is_elsewhere(card.uuid):
        return []
    mine = [one for one in bases if one.experiment == trial.experiment]
    return [one for one in mine if _is_answered_alike(trial, one, experiment)]


def _is_answered_alike(trial: TrialRow, base: TrialRow, experiment: Experiment) -> bool:
    one, other = (trial_recipe(each, experiment) for each in (trial, base))
    return one.model_dump(include=ANSWERED_ALIKE) == other.model_dump(include=ANSWERED_ALIKE)

"""Queued trials onto free cards: in turn, each on the smallest card that takes it."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

from workbench import fault_points
from workbench.assignment import Assignment
from workbench.errors import EngineError, WorkbenchError
from workbench.fleet import Phase
from workbench.footprint import Plan
from workbench.footprint.oom_fallback import kind_of, words
from workbench.footprint.worst_case import bears_on_bytes
from workbench.machine.cards import Card
from workbench.machine.files import fresh_folder, write_durably
from workbench.machine.locks import holder
from workbench.recipe import Recipe, apply_settings
from workbench.scheduler.guards import card_guards
from workbench.scheduler.guards.disk import DISK_LOW
from workbench.scheduler.planning import plan_for, record
from workbench.scheduler.tick_context import (
    BRAKE,
    CARDS_PROBLEM,
    HELD,
    TickContext,
    assignment_file,
)
from workbench.store.fair_share import take_turns
from workbench.store.rows import CardRow, Experiment, TrialRow, card_of
from workbench.text import safe_line
from workbench.trial import DesiredState, Kind, State

LOOK_AHEAD, OF_EACH = {False: 128, True: 512}, {False: 16, True: 256}
"""Queued trials looked at in one tick, and of one experiment: a tick stays short, and none that
waits for one card keeps others from theirs. Further where a card is free (True)."""
PLANS_A_TICK = 24
"""New plans made in one tick, at 2 to 12 ms each; the rest of the queue waits for the next."""
PLANS_KEPT = 8_192
ROOM_STEP_BYTES = 1 << 26
"""How finely a card's free bytes are told apart: they never stand still."""


def place(context: TickContext) -> None:
    hold = _hold(context)
    if hold:
        context.store.wait_all(hold)
        return
    if len(context.plans) > PLANS_KEPT:
        context.plans.clear()
    enough = len(context.plans) + PLANS_A_TICK
    busy = {row.uuid: _busy(context, row) for row in context.cards}
    free = {row.uuid: row for row in context.cards if not busy[row.uuid]}
    card_guards.stagger(context, free, busy)
    running = context.store.running_by_experiment()
    known = {id: context.store.experiment(id) for id in running}
    full = {id: limit for id in known if (limit := known[id].max_parallel) and running[id] >= limit}
    waits: dict[int, str] = {}
    stuck: dict[str, str] = {}
    any_free = bool(free)
    queued = context.store.queue(LOOK_AHEAD[any_free], of_each=OF_EACH[any_free], without=full)
    known |= {
        id: context.store.experiment(id) for id in {t.experiment for t in queued} - set(known)
    }
    turns = take_turns(context.store, context.store.clock(), queued, known, running)
    for trial in turns:
        if len(context.plans) >= enough:
            break
        if trial.experiment in full:
            continue
        experiment = known[trial.experiment]
        like = _like(trial)
        if like in stuck:  # no card became free since the one before it
            waits[trial.id] = stuck[like]
            continue
        chosen = _choose(context, trial, experiment, free)
        if chosen is None:
            waits[trial.id] = reason = _reasons(context, trial, experiment, busy)
            if reason:
                stuck[like] = reason
            continue
        card, plan = chosen
        _start(context, trial, experiment, card, plan)
        turns.placed(trial)
        del free[card.uuid]
        card_guards.stagger(context, free, busy)
        running[experiment.id] = running.get(experiment.id, 0) + 1
        if (limit := experiment.max_parallel) and running[experiment.id] >= limit:
            full[experiment.id] = limit
    _tell(context, waits, full)


def _like(trial: TrialRow) -> str:
    """Equal for trials of which each takes the cards that the others take."""
    settings = {key: value for key, value in trial.settings.items() if bears_on_bytes(key)}
    return json.dumps([trial.experiment, trial.desired_card, settings], sort_keys=True)


def _tell(context: TickContext, waits: dict[int, str], full: dict[int, int]) -> None:
    """What every queued trial waits for, in one commit; an empty reason: it can run nowhere."""
    store = context.store
    with store.writing():
        for experiment, limit in full.items():
            store.wait_experiment(experiment, f"its experiment runs {limit} at once at most")
        for trial, reason in waits.items():
            store.wait_for(trial, reason)
        held = store.held()
        for experiment in held:
            store.wait_experiment(experiment, "its experiment is held")
        store.wait_rest(waits, {*full, *held}, "waits its turn")


def _hold(context: TickContext) -> str:
    """Why nothing at all is placed now; empty when something may be."""
    if context.stopping:
        return "the engine is stopping"
    brake = context.store.fact(BRAKE)
    if brake:
        return brake
    if context.store.fact(HELD):
        return "the queue is held; `workbench release` lets it go on"
    if not any(row.present for row in context.cards):
        return context.store.fact(CARDS_PROBLEM) or "no card has been seen yet"
    if low := context.store.fact(DISK_LOW):
        return low
    return "" if context.fleet_ready() else "Ray is starting"


def _busy(context: TickContext, row: CardRow) -> str:
    """Why this card takes no trial now; empty when it does."""
    if not row.present:
        return "gone"
    if row.quarantined:
        return f"quarantined ({row.quarantined})"
    if row.drained:
        return "drained"
    if row.problem:
        return row.problem
    if row.trial is not None:
        return f"runs trial {row.trial}"
    if row.guard:
        return row.guard
    report = context.reports.get(row.uuid)
    if report is not None and report.phase in (Phase.BUSY, Phase.GONE):
        return "its worker is not free yet"
    if report is None and (pid := holder(context.home.card_lock(row.uuid, row.kind))) is not None:
        return f"is in the hands of process {pid}"  # an old worker's, or another home's
    return ""


def _choose(
    context: TickContext, trial: TrialRow, experiment: Experiment, free: dict[str, CardRow]
) -> tuple[Card, Plan] | None:
    """The smallest free card that takes it, with its plan."""
    allowed = [row for row in free.values() if trial.desired_card in (None, row.uuid)]
    for row in sorted(allowed, key=lambda r: (card_of(r).usable_bytes, r.uuid)):
        card = card_of(row)
        with suppress(WorkbenchError):
            free_bytes, cut = _free_bytes(context, row), _cut(context, trial, card)
            return card, _plan(context, trial, experiment, card, free_bytes, cut)
    return None


def _reasons(
    context: TickContext, trial: TrialRow, experiment: Experiment, busy: dict[str, str]
) -> str:
    """What it waits for; a trial that no card we know could ever take fails instead.

    A card that is gone for now may come back: its driver did not load, its riser is loose.
    """
    if trial.desired_card is not None:
        return (
            f"waits for {trial.desired_card}: {busy.get(trial.desired_card) or 'too little free'}"
        )
    able = [row for row in context.cards if _ever(context, trial, experiment, row)]
    reason = None if able else _nowhere(context, trial, experiment)
    if reason is not None:
        context.store.move(
            trial.id,
            State.QUEUED,
            State.FAILED,
            by="place",
            why=reason.what,
            reason=reason.what,
            hint=reason.hint,
        )
    reasons = "; ".join(f"{row.uuid} {busy[row.uuid] or 'has too little free'}" for row in able)
    return f"waits for a card: {reasons}" if reasons else ""


def _ever(context: TickContext, trial: TrialRow, experiment: Experiment, row: CardRow) -> bool:
    """True when this card could take the trial if it were all its own."""
    try:
        _plan(context, trial, experiment, card_of(row), None)
    except WorkbenchError:
        return False
    return True


def _nowhere(
    context: TickContext, trial: TrialRow, experiment: Experiment
) -> WorkbenchError | None:
    """What the roomiest card says when asked for all of it."""
    rows = [row for row in context.cards if row.present]
    roomiest = max(rows, key=lambda row: card_of(row).usable_bytes)
    try:
        _plan(context, trial, experiment, card_of(roomiest), None)
    except WorkbenchError as reason:
        return reason
    return None


def _free_bytes(context: TickContext, row: CardRow) -> int | None:
    """What NVML says is free, plus what our own idle worker there gives back."""
    if row.kind != "cuda" or row.free_bytes is None:
        return None
    foreign = sum(int(process.get("bytes") or 0) for process in row.processes)
    if row.uuid in context.reports:
        return max(row.free_bytes, row.total_bytes - foreign)
    return row.free_bytes


def trial_recipe(trial: TrialRow, experiment: Experiment) -> Recipe:
    """The experiment's recipe with what was resolved once and this trial's own settings."""
    recipe = Recipe.model_validate_json(json.dumps({**experiment.recipe, "sweep": None}))
    return apply_settings(recipe, {**experiment.resolved, **trial.settings})


def _plan(
    context: TickContext,
    trial: TrialRow,
    experiment: Experiment,
    card: Card,
    free_bytes: int | None,
    cut: int | None = None,
) -> Plan:
    """Remembered for each trial's settings, cut, card and room, which is rounded down. `cut`: as
    choose_plan has it; whether there is a plan does not depend on it.

    DoesNotFit, UsageError, or what an older workbench's recipe, or a strange model, led to.
    """
    room = None if free_bytes is None else free_bytes // ROOM_STEP_BYTES * ROOM_STEP_BYTES
    settings = json.dumps(trial.settings, sort_keys=True)
    key = (experiment.id, settings, cut, card, room, *record(context, experiment.id))
    if key not in context.plans:
        try:
            recipe = trial_recipe(trial, experiment)
            context.plans[key] = plan_for(context, recipe, experiment, card, room, cut)
        except WorkbenchError as refused:
            context.plans[key] = refused.with_traceback(None)
        except Exception as broken:
            context.plans[key] = EngineError(
                f"it cannot be planned: {type(broken).__name__}: {safe_line(broken)}",
                hint="submit its recipe again",
            )
    found = context.plans[key]
    if isinstance(found, WorkbenchError):  # a new one: each raising makes a traceback longer
        raise type(found)(found.what, hint=found.hint)
    assert isinstance(found, Plan)
    return found


def warm_start(context: TickContext, trial: TrialRow) -> dict[str, Any] | None:
    """The adapter it starts from: {trial, folder, sha256}; None for a fresh one."""
    source = trial.warm_trial
    if source is None:
        return None
    folder = str(context.home.trial(source) / "adapter")
    return {"trial": source, "folder": folder, "sha256": context.store.adapter_sha256(source)}


def _cut(context: TickContext, trial: TrialRow, card: Card) -> int | None:
    """Tokens of a micro-step in the attempt before, where that was on such a card: what goes on
    from a checkpoint draws the same masks, whatever else is free now. Else None."""
    tries = context.store.attempts(trial.id) if trial.checkpoint_step else []
    cards = [card_of(row) for row in context.cards if tries and row.uuid == tries[-1].card]
    if not cards or kind_of(cards[0]) != kind_of(card):
        return None
    return Plan.from_json(tries[-1].plan).tokens_per_micro


def _start(
    context: TickContext, trial: TrialRow, experiment: Experiment, card: Card, plan: Plan
) -> None:
    """Attempt, assignment and move in one commit; sending it is settle's to repeat."""
    store, home = context.store, context.home
    fault_points.at("place.before_row")
    with store.writing():
        attempt = store.add_attempt(
            trial.id, card.uuid, plan.to_json(), plan.predicted_bytes, trial.checkpoint_step or 0
        )
        given = Assignment(
            attempt=attempt,
            trial=trial.id,
            experiment=experiment.id,
            kind=Kind(trial.kind),
            recipe=trial_recipe(trial, experiment).model_dump(mode="json"),
            card=card.to_json(),
            plan=plan.to_json(),
            folder=str(home.attempt(attempt)),
            trial_folder=str(home.trial(trial.id)),
            experiment_folder=str(home.experiment(experiment.id)),
            finish=trial.desired_state is DesiredState.STOP or bool(trial.pruned),
            warm=warm_start(context, trial),
        )
        fresh_folder(home.attempt(attempt))  # else another database's attempt would speak for it
        write_durably(assignment_file(home, attempt), json.dumps(given.to_json()).encode())
        why = f"fits {card.uuid} with {plan.predicted_bytes / 2**30:.1f} GiB, {words(plan)}"
        store.move(trial.id, State.QUEUED, State.STARTING, by="place", why=why)
        store.steer_trial(trial.id, desired_card=None)
        fault_points.at("place.before_commit")
    fault_points.at("place.after_commit")
    context.fleet.start(card, given)
    fault_points.at("place.after_start")

"""Placement: queued trials get free cards, by fair share, each on the smallest card that fits."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from itertools import chain
from typing import Any

from workbench import fault_points
from workbench.attempts.assignment import Assignment
from workbench.attempts.events import Outcome
from workbench.errors import WorkbenchError
from workbench.fleet import Phase, Report
from workbench.fleet.trial_fence import allow_attempt
from workbench.footprint import Plan
from workbench.footprint.oom_fallback import hardware_key
from workbench.footprint.plan import summarize_plan
from workbench.formatting import describe_programs, plural
from workbench.machine.cards import Card, is_elsewhere
from workbench.machine.files import fresh_folder, write_durably
from workbench.machine.locks import lock_holder
from workbench.scheduler.evaluation.base_beside import base_beside, waiting_bases
from workbench.scheduler.evaluation.scoring import (
    chat_models,
    score_source,
    scored_beside,
)
from workbench.scheduler.evaluation.together import forget_ended, left_to_wait, plan_together
from workbench.scheduler.experiment_folder import restore_folder
from workbench.scheduler.guards import idle_programs, start_gap
from workbench.scheduler.guards.disk import DISK_LOW
from workbench.scheduler.plans.remembered_plans import (
    PLANS_A_TICK,
    PLANS_KEPT,
    could_take,
    like_key,
    no_card_error,
    remembered_plan,
    trial_recipe,
)
from workbench.scheduler.tick_context import (
    BRAKE,
    CARDS_PROBLEM,
    HELD,
    TickContext,
    assignment_file,
)
from workbench.scheduler.unequal_cards import order_by_size
from workbench.scheduler.workers.near_bases import FreeCards, base_of
from workbench.scheduler.workers.warm_workers import warm_workers
from workbench.store import trial_queue
from workbench.store.queries.fair_share import take_turns
from workbench.store.rows import CardRow, Experiment, TrialRow, card_of
from workbench.trial import DesiredState, Kind, State

LOOK_AHEAD, OF_EACH = {False: 128, True: 512}, {False: 16, True: 256}
"""Queued trials examined in one tick, and of one experiment; the larger numbers apply while a card
is free (True). A tick stays short, and no trial that waits for one card delays the others.
"""

REASONS_SHOWN = 16
"""Cards that the reason of a trial which waits speaks of one by one."""


def place(context: TickContext) -> None:
    """Give free cards to queued trials, and record what every other one waits for."""
    hold = _nothing_placed_because(context)
    if hold:
        trial_queue.explain_all(context.store, hold)
        return
    if len(context.plans) > PLANS_KEPT:
        context.plans.clear()
    enough = len(context.plans) + PLANS_A_TICK
    busy = {row.uuid: _busy_reason(context, row) for row in context.cards}
    free = {row.uuid: row for row in context.cards if not busy[row.uuid]}
    start_gap.stagger_starts(context, free, busy)
    cards = FreeCards(context, free)
    running = trial_queue.running_counts(context.store)
    known = {id: context.store.experiment(id) for id in running}
    full = {id: limit for id in known if (limit := known[id].max_parallel) and running[id] >= limit}
    forget_ended(context)
    placed: set[int] = set()
    waits: dict[int, str] = {}
    stuck: dict[str, str] = {}
    any_free = bool(free)
    queued = trial_queue.first_queued(
        context.store, LOOK_AHEAD[any_free], of_each=OF_EACH[any_free], without=full
    )
    known |= {
        id: context.store.experiment(id) for id in {t.experiment for t in queued} - set(known)
    }
    queued = order_by_size(context, queued, known) if free else queued
    bases = waiting_bases(context, queued, known, running)
    first = [one for one in queued if one not in bases]
    turns = take_turns(context.store, context.store.clock(), first, known, running)
    # Each placement changes whose turn is next, so `turns` is consumed while it is updated.
    for trial in chain(turns, bases):
        if len(context.plans) >= enough:
            break
        if trial.experiment in full:
            continue
        experiment = known[trial.experiment]
        if leader := context.beside.get(trial.id):
            waits[trial.id] = f"is answered beside trial {leader}"
            continue
        like = like_key(trial)
        # A sweep queues hundreds of like trials; planning each for each card takes seconds.
        if like in stuck:  # no card became free since the one before it
            waits[trial.id] = stuck[like]
            continue
        chosen = _choose(context, trial, experiment, cards)
        if chosen is None:
            waits[trial.id] = reason = _wait_reason(context, trial, experiment, busy)
            if reason:
                stuck[like] = reason
            continue
        card, plan = chosen
        room = _free_bytes(context, free[card.uuid])
        mine = [one for one in queued if one.experiment == experiment.id]
        left = left_to_wait(context, mine, placed | {trial.id}, len(free))
        plan, others = plan_together(context, trial, experiment, card, plan, room, left)
        others = others or base_beside(trial, experiment, card, bases)
        start_gap.note_start(context, free[card.uuid])
        _start(context, trial, experiment, card, plan, others)
        turns.placed(trial)
        placed.add(trial.id)
        del free[card.uuid]
        start_gap.stagger_starts(context, free, busy)
        running[experiment.id] = running.get(experiment.id, 0) + 1
        if (limit := experiment.max_parallel) and running[experiment.id] >= limit:
            full[experiment.id] = limit
    _record_waits(context, waits, full)
    warm_workers(context, free.values())


def _record_waits(context: TickContext, waits: dict[int, str], full: dict[int, int]) -> None:
    """Store what every queued trial waits for, in one commit.

    An empty reason in `waits` means that the trial fits no card; `full` is experiment → its
    limit.
    """
    store = context.store
    with store.writing():
        for experiment, limit in full.items():
            trial_queue.explain_experiment(
                store, experiment, f"its experiment runs {limit} at once at most"
            )
        for trial, reason in waits.items():
            trial_queue.explain_trial(store, trial, reason)
        held = trial_queue.held_experiments(store)
        for experiment in held:
            trial_queue.explain_experiment(store, experiment, "its experiment is held")
        trial_queue.explain_others(store, waits, {*full, *held}, "waits its turn")


def _nothing_placed_because(context: TickContext) -> str:
    """Return why nothing at all is placed now; an empty string when something may be."""
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


def _busy_reason(context: TickContext, row: CardRow) -> str:
    """Return why this card takes no trial now; an empty string when it does."""
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
    if report is not None and _is_working(context, report):
        return "its worker is not free yet"
    if (
        report is None
        and (pid := lock_holder(context.home.card_lock(row.uuid, row.kind))) is not None
    ):
        return f"is in the hands of process {pid}"  # an old worker's, or another home's
    return ""


def _is_working(context: TickContext, report: Report) -> bool:
    """Return False for a worker that can be given a trial: it is idle, or its attempt has written
    its end since it reported.

    In the second case it may still refuse, and `reconcile` sends the trial again.
    """
    if report.phase is not Phase.BUSY or report.attempt is None:
        return report.phase in (Phase.BUSY, Phase.GONE)
    outcome = context.store.attempt(report.attempt).outcome
    ended = outcome in (Outcome.DONE, Outcome.STOPPED, Outcome.YIELDED)
    return not ended or is_elsewhere(report.card)  # files of a card elsewhere may be on their way


def _choose(
    context: TickContext, trial: TrialRow, experiment: Experiment, free: FreeCards
) -> tuple[Card, Plan] | None:
    """Return the first free card that fits the trial, with its plan; None where none does."""
    for row, card in free.nearest_first(trial, experiment):
        if trial.desired_card not in (None, row.uuid):
            continue
        if trial.kind == Kind.CHAT and is_elsewhere(row.uuid):
            continue  # the files of a chat are exchanged in the home itself
        with suppress(WorkbenchError):
            free_bytes, cut = _free_bytes(context, row), _previous_cut(context, trial, card)
            return card, remembered_plan(context, trial, experiment, card, free_bytes, cut)
    return None


def _wait_reason(
    context: TickContext, trial: TrialRow, experiment: Experiment, busy: dict[str, str]
) -> str:
    """Return what the trial waits for; a trial that fits no card we know fails instead.

    A card that is absent for now counts as known, because it may come back: its driver did not
    load, its riser is loose.
    """
    base = base_of(trial, experiment)[0]
    if trial.desired_card is not None:
        wanted = [row for row in context.cards if row.uuid == trial.desired_card]
        free = [_lack(context, row, base) for row in wanted] or ["it is unknown"]
        return f"waits for {trial.desired_card}: {busy.get(trial.desired_card) or free[0]}"
    takes: dict[tuple[object, ...], bool] = {}  # cards of one kind take the same trials
    able = []
    for row in context.cards:
        kind = (row.kind, row.name, row.total_bytes, row.cap_bytes, row.capability)
        if kind not in takes:
            takes[kind] = could_take(context, trial, experiment, row)
        able += [row] * takes[kind]
    reason = None if able else no_card_error(context, trial, experiment)
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
    reasons = "; ".join(
        f"{row.uuid} {busy[row.uuid] or f'has {_lack(context, row, base)}'}"
        for row in able[:REASONS_SHOWN]
    )
    more = len(able) - REASONS_SHOWN
    reasons += f"; and {plural(more, 'more card')}" if more > 0 else ""
    return f"waits for a card: {reasons}" if reasons else ""


def _lack(context: TickContext, row: CardRow, base: str) -> str:
    """Return what keeps a trial with that base from a card that is free."""
    if not context.fleet.has_room(row.uuid, base):
        return "no room for the base on its machine's disk"
    return _too_little_free(context, row)


def _too_little_free(context: TickContext, row: CardRow) -> str:
    """Return `too little free`, with the idle programs that hold the rest where there are any."""
    idle = idle_programs.idle_programs(row, context.config().guards)
    beside = f" beside {describe_programs(idle)}" if idle else ""
    return f"too little free{beside}"


def _free_bytes(context: TickContext, row: CardRow) -> int | None:
    """Return the bytes of the card that a plan may use: those that NVML reports as free and those
    that our own idle worker there can release, less what idle programs may grow by; None where
    there is nothing to measure (a CPU card).
    """
    if row.kind != "cuda" or row.free_bytes is None:
        return None
    free_bytes = row.free_bytes
    if row.uuid in context.reports:
        foreign = sum(int(process.get("bytes") or 0) for process in row.processes)
        free_bytes = max(free_bytes, row.total_bytes - foreign)
    return idle_programs.left_beside(row, context.config().guards, free_bytes)


def warm_start(context: TickContext, trial: TrialRow) -> dict[str, Any] | None:
    """Return the adapter to start from: {trial, folder, sha256}; None for a fresh one."""
    source = trial.warm_trial
    if source is None:
        return None
    folder = str(context.home.trial(source) / "adapter")
    return {"trial": source, "folder": folder, "sha256": context.store.adapter_sha256(source)}


def _previous_cut(context: TickContext, trial: TrialRow, card: Card) -> int | None:
    """Return the tokens of a micro-step in the attempt before, where it ran on such a card.

    A trial that continues from a checkpoint then draws the same dropout masks, whatever else is
    free now. None where there is no checkpoint, or where the card is of another kind.
    """
    tries = context.store.attempts(trial.id) if trial.checkpoint_step else []
    cards = [card_of(row) for row in context.cards if tries and row.uuid == tries[-1].card]
    if not cards or hardware_key(cards[0]) != hardware_key(card):
        return None
    return Plan.from_json(tries[-1].plan).tokens_per_micro


def _start(
    context: TickContext,
    trial: TrialRow,
    experiment: Experiment,
    card: Card,
    plan: Plan,
    others: Sequence[TrialRow],
) -> None:
    """Store attempt, assignment and move in one commit, then send the attempt to its worker.

    The answers of `others` are generated in the same pass. Where sending fails, `reconcile` repeats
    it.
    """
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
            finals_of=trial.finals_of,
            score=score_source(context, trial, experiment),
            beside=scored_beside(context, others, experiment),
            chat=chat_models(context, trial),
        )
        # Before anything can be sent: from here on no earlier attempt may write to this trial.
        allow_attempt(home.trial(trial.id), attempt)
        fresh_folder(home.attempt(attempt))  # else another database's attempt would speak for it
        restore_folder(home.experiment(experiment.id), experiment)
        write_durably(assignment_file(home, attempt), json.dumps(given.to_json()).encode())
        why = (
            f"fits {card.uuid} with {plan.predicted_bytes / 2**30:.1f} GiB, {summarize_plan(plan)}"
        )
        store.move(trial.id, State.QUEUED, State.STARTING, by="place", why=why)
        store.steer_trial(trial.id, desired_card=None)
        fault_points.at("place.before_commit")
    if trial.kind is not Kind.TUNE:  # a base may still go by itself
        context.beside |= {one.id: trial.id for one in others}
    fault_points.at("place.after_commit")
    context.fleet.start(card, given)
    fault_points.at("place.after_start")

"""Placement: queued trials get free cards, by fair share, each on the smallest card that fits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from itertools import chain

from workbench.errors import WorkbenchError
from workbench.footprint import Plan
from workbench.footprint.oom_fallback import hardware_key
from workbench.machine.cards import Card, is_elsewhere
from workbench.scheduler.evaluation.base_beside import base_beside, waiting_bases
from workbench.scheduler.evaluation.together import forget_ended, left_to_wait, plan_together
from workbench.scheduler.guards import idle_programs, start_gap
from workbench.scheduler.placement.near_bases import FreeCards
from workbench.scheduler.placement.unequal_cards import order_by_size
from workbench.scheduler.placement.wait_reasons import (
    able_cards,
    busy_reason,
    reason_to_place_nothing,
    wait_for_any,
    wait_for_one,
)
from workbench.scheduler.plans.remembered_plans import (
    PLANS_A_TICK,
    PLANS_KEPT,
    like_key,
    no_card_error,
    remembered_plan,
)
from workbench.scheduler.start_attempt import start_attempt
from workbench.scheduler.tick_context import TickContext
from workbench.scheduler.workers.warm_workers import warm_workers
from workbench.store import trial_queue
from workbench.store.queries.fair_share import take_turns
from workbench.store.rows import CardRow, Experiment, TrialRow, card_of
from workbench.trial import Kind, State

LOOK_AHEAD, OF_EACH = {False: 128, True: 512}, {False: 16, True: 256}
"""Queued trials examined in one tick, and of one experiment; the larger numbers apply while a card
is free (True). A tick stays short, and no trial that waits for one card delays the others.
"""


def place(context: TickContext) -> None:
    """Give free cards to queued trials, and record what every other one waits for."""
    hold = reason_to_place_nothing(context)
    if hold:
        trial_queue.explain_all(context.store, hold)
        return
    if len(context.plans) > PLANS_KEPT:
        context.plans.clear()
    most_plans = len(context.plans) + PLANS_A_TICK
    forget_ended(context)
    placing = _Placing(context)
    # Each placement changes whose turn is next, so the turns are consumed while they are updated.
    for trial in placing.in_turn():
        if len(context.plans) >= most_plans:
            break
        if trial.experiment not in placing.full:
            placing.place_or_wait(trial)
    _record_waits(context, placing.waits, placing.full)
    warm_workers(context, placing.free.values())


class _Placing:
    """The cards and queued trials of one tick, as each placement changes them."""

    def __init__(self, context: TickContext) -> None:
        self._context = context
        self._busy = {row.uuid: busy_reason(context, row) for row in context.cards}
        """The reason why each card takes no trial; an empty text for those that are free."""
        self.free = {row.uuid: row for row in context.cards if not self._busy[row.uuid]}
        start_gap.stagger_starts(context, self.free, self._busy)
        self._cards = FreeCards(context, self.free)
        self._running = trial_queue.running_counts(context.store)
        self._known = {id: context.store.experiment(id) for id in self._running}
        self.full: dict[int, int] = {}
        """Experiments that run as many trials as they may, with that limit."""
        for experiment in self._known.values():
            self._note_full(experiment)
        self.waits: dict[int, str] = {}
        """The reason for which each trial waits that had its turn and got no card."""
        self._stuck: dict[str, str] = {}
        """The same for all trials that are alike."""
        self._placed: set[int] = set()
        self._queued = self._first_queued()
        self._bases = waiting_bases(context, self._queued, self._known, self._running)
        first = [one for one in self._queued if one not in self._bases]
        store = context.store
        self._turns = take_turns(store, store.clock(), first, self._known, self._running)

    def in_turn(self) -> Iterator[TrialRow]:
        """Yield the queued trials in the order of their turns.

        Bases that may be answered beside others come last.
        """
        return chain(self._turns, self._bases)

    def place_or_wait(self, trial: TrialRow) -> None:
        """Give the trial a card, or note what it waits for."""
        if leader := self._context.beside.get(trial.id):
            self.waits[trial.id] = f"is answered beside trial {leader}"
            return
        like = like_key(trial)
        # A sweep queues hundreds of like trials; planning each for each card takes seconds.
        if like in self._stuck:  # no card became free since the one before it
            self.waits[trial.id] = self._stuck[like]
            return
        experiment = self._known[trial.experiment]
        chosen = _choose(self._context, trial, experiment, self._cards)
        if chosen is not None:
            self._place(trial, experiment, *chosen)
            return
        self.waits[trial.id] = reason = self._wait_reason(trial, experiment)
        if reason:
            self._stuck[like] = reason

    def _wait_reason(self, trial: TrialRow, experiment: Experiment) -> str:
        """Return what the trial waits for; one that fits no card fails, and waits for nothing."""
        context = self._context
        if trial.desired_card is not None:
            return wait_for_one(context, trial, experiment, self._busy)
        able = able_cards(context, trial, experiment)
        if not able and (refusal := no_card_error(context, trial, experiment)) is not None:
            what = refusal.what
            context.store.move(
                trial.id,
                State.QUEUED,
                State.FAILED,
                by="place",
                why=what,
                reason=what,
                hint=refusal.hint,
            )
        return wait_for_any(context, trial, experiment, able, self._busy)

    def _first_queued(self) -> list[TrialRow]:
        """Return the trials that are looked at in this tick, and learn of their experiments."""
        store, any_free = self._context.store, bool(self.free)
        queued = trial_queue.first_queued(
            store, LOOK_AHEAD[any_free], of_each=OF_EACH[any_free], without=self.full
        )
        new = {trial.experiment for trial in queued} - set(self._known)
        self._known |= {id: store.experiment(id) for id in new}
        return order_by_size(self._context, queued, self._known) if any_free else queued

    def _place(self, trial: TrialRow, experiment: Experiment, card: Card, plan: Plan) -> None:
        """Start the trial on the card, with the trials that are answered beside it."""
        context, row = self._context, self.free[card.uuid]
        room = _free_bytes(context, row)
        mine = [one for one in self._queued if one.experiment == experiment.id]
        left = left_to_wait(context, mine, self._placed | {trial.id}, len(self.free))
        plan, others = plan_together(context, trial, experiment, card, plan, room, left)
        others = others or base_beside(trial, experiment, card, self._bases)
        start_gap.note_start(context, row)
        start_attempt(context, trial, experiment, card, plan, others)
        self._turns.placed(trial)
        self._placed.add(trial.id)
        del self.free[card.uuid]
        start_gap.stagger_starts(context, self.free, self._busy)
        self._running[experiment.id] = self._running.get(experiment.id, 0) + 1
        self._note_full(experiment)

    def _note_full(self, experiment: Experiment) -> None:
        limit = experiment.max_parallel
        if limit and self._running.get(experiment.id, 0) >= limit:
            self.full[experiment.id] = limit


def _record_waits(context: TickContext, waits: dict[int, str], full: dict[int, int]) -> None:
    """Store what every queued trial waits for, in one commit.

    An empty reason in `waits` means that the trial fits no card; `full` holds the limit of each
    experiment that has reached it.
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
            plan = remembered_plan(
                context,
                trial,
                experiment,
                card,
                _free_bytes(context, row),
                _previous_tokens_per_micro(context, trial, card),
            )
            return card, plan
    return None


def _free_bytes(context: TickContext, row: CardRow) -> int | None:
    """Return the bytes of the card that a plan may use; None for a CPU card, which reports none.

    They are those that NVML reports as free and those that our own idle worker there can release,
    less what idle programs may grow by.
    """
    if row.kind != "cuda" or row.free_bytes is None:
        return None
    free_bytes = row.free_bytes
    if row.uuid in context.reports:
        foreign = sum(int(process.get("bytes") or 0) for process in row.processes)
        free_bytes = max(free_bytes, row.total_bytes - foreign)
    return idle_programs.left_beside(row, context.config().guards, free_bytes)


def _previous_tokens_per_micro(context: TickContext, trial: TrialRow, card: Card) -> int | None:
    """Return the tokens of a micro-step in the attempt before, where it ran on such a card.

    A trial that continues from a checkpoint then draws the same dropout masks, whatever else is
    free now. None where there is no checkpoint, or where the card is of another kind.
    """
    tries = context.store.attempts(trial.id) if trial.checkpoint_step else []
    cards = [card_of(row) for row in context.cards if tries and row.uuid == tries[-1].card]
    if not cards or hardware_key(cards[0]) != hardware_key(card):
        return None
    return Plan.from_json(tries[-1].plan).tokens_per_micro

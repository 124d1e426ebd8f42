"""The context of a tick: the store, the fleet, and the newest reports of workers and cards."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workbench.attempts.assignment import Assignment
from workbench.fleet import Fleet, Phase, Report
from workbench.footprint.oom_fallback import FallbackStep
from workbench.home import Home
from workbench.machine.cards import is_elsewhere
from workbench.machine.files import free_bytes, fresh_folder
from workbench.machine.processes import belongs_to_unit
from workbench.machine.resources import available_memory, total_memory
from workbench.recipe.schema import EarlyStop
from workbench.scheduler.children.checkpoint_pruner import CheckpointPruner
from workbench.scheduler.children.notifier import Notifier
from workbench.scheduler.children.preparer import Preparer
from workbench.scheduler.guards.card_samples import see_sample, without_nameless
from workbench.scheduler.guards.idle_programs import Rests
from workbench.store import Store
from workbench.store.rows import AttemptRow, CardRow, card_of
from workbench.text import safe_line
from workbench.trial import Kind
from workbench.user_config import ConfigWatch

STOPPING = "stopping"
"""Fact: the engine was asked to stop; holds the time, UTC seconds."""
HELD = "held"
"""Fact: a person holds the queue, so that nothing new is placed; empty otherwise."""
BRAKE = "brake"
"""Fact: why nothing new is placed after repeated crashes; empty when all is well."""

CARDS_PROBLEM = "cards-problem"
"""Fact: why the list of cards is unavailable, in words; empty when it is known."""


@dataclass(slots=True, kw_only=True)
class TickContext:
    """The state that the steps of a tick share; one for each loop."""

    home: Home
    store: Store
    fleet: Fleet
    preparer: Preparer
    sample: Callable[[], list[dict[str, Any]] | None]
    """Returns rows for the cards table when there is a new sample, else None."""
    notifier: Notifier | None = None
    """Starts the user's notification command; None where nobody is notified."""
    keeper: int | None = None
    """Pid of the keeper of this loop; a stop meant for an earlier keeper is ignored."""
    fleet_ready: Callable[[], bool] = lambda: True
    """Returns whether the fleet can be asked: False while Ray starts."""
    disk_free: Callable[[Path], int] = free_bytes
    """Returns the free bytes of the disk that holds a path."""
    host_memory: Callable[[], tuple[int, int]] = lambda: (available_memory(), total_memory())
    """Returns the bytes of the machine's memory that are available, and all of it."""
    config: ConfigWatch = field(default_factory=ConfigWatch)
    """The user's configuration, read again where its file has changed."""

    # Read in each tick.
    reports: dict[str, Report] = field(default_factory=dict)
    """The newest report of each card's worker, by the card's UUID."""
    cards: list[CardRow] = field(default_factory=list)
    fallback_steps: dict[int, tuple[FallbackStep, ...]] = field(default_factory=dict)
    """By experiment, what ran out of memory."""
    measured: int | None = None
    """The newest attempt with a measured peak; None until it is read in this tick."""

    # Kept from tick to tick. A loop that starts again begins without it.
    unsendable: dict[int, str] = field(default_factory=dict)
    """Attempts whose assignment cannot be read, each with the reason; `recover` places their trials
    again.
    """
    metered: dict[str, CardRow] = field(default_factory=dict)
    """Cards as they were when their energy was last recorded, by UUID. The time in which no loop
    ran is recorded for nobody.
    """
    rests: Rests = field(default_factory=dict)
    """Since when each program of other users is idle, by card and pid."""
    warmed: set[tuple[int, str]] = field(default_factory=set)
    """Experiments and cards for which a worker was started ahead; see `warm_workers`."""
    held_bases: dict[str, tuple[int, tuple[str, str]]] = field(default_factory=dict)
    """By card, its worker's last attempt and that attempt's base; see `near_bases`."""
    had_worker: bool = False
    """Whether any worker was seen since the loop started."""
    spare_has_room: bool = False
    """Whether the machine's memory allowed a spare worker when it was last asked."""
    pruned_utc: float = 0.0
    """Time of the last request to prune checkpoints, UTC seconds."""
    reserve_freed_bytes: int = 0
    """Bytes of the reserve file that were released and not yet reported."""
    beside: dict[int, int] = field(default_factory=dict)
    """By score trial that waits, the running one beside which its answers are generated. A loop
    that starts again may have them generated twice, on two cards."""
    early_stops: dict[int, tuple[EarlyStop, int] | None] = field(default_factory=dict)
    """By experiment, the early-stop rule and its steps between evaluations."""
    plans: dict[tuple[object, ...], object] = field(default_factory=dict)
    """Plans and refusals by what they depend on; see `remembered_plans`."""
    factors: tuple[object, dict[tuple[object, ...], float]] | None = None
    """Correction factors from measured peaks, and the newest attempt in them (measured_peaks)."""
    pruner: CheckpointPruner = field(init=False)
    _by_uuid: tuple[object, dict[str, CardRow]] = (None, {})

    def __post_init__(self) -> None:
        self.pruner = CheckpointPruner(self.home)

    def cards_by_uuid(self) -> dict[str, CardRow]:
        """Return the cards by UUID; made again where `cards` was read again."""
        if self._by_uuid[0] is not self.cards:
            self._by_uuid = (self.cards, {row.uuid: row for row in self.cards})
        return self._by_uuid[1]

    def refresh(self) -> None:
        """Read the newest reports of workers and cards."""
        self.fallback_steps.clear()
        self.measured = None
        self.reports = self.fleet.observe() if self.fleet_ready() else {}
        seen = self.sample()
        if seen is not None:
            foreign = [self._without_ours(card) for card in seen]
            see_sample(self.store, self.metered, self.rests, foreign)
        self.cards = self.store.cards()

    def _without_ours(self, card: dict[str, Any]) -> dict[str, Any]:
        """Return a card's sample without the processes that are the workbench's own."""
        if is_elsewhere(card["uuid"]):  # its machine has left its own out; pids differ there
            return card
        ours = {r.pid for r in self.reports.values() if r.phase is not Phase.GONE}
        processes = card.get("processes", [])
        foreign = [
            p for p in processes if p.get("pid") not in ours and not belongs_to_unit(p.get("pid"))
        ]
        report = self.reports.get(card["uuid"])
        if report is not None and report.phase is not Phase.GONE and len(foreign) == len(processes):
            foreign = without_nameless(foreign)
        return {**card, "processes": foreign}

    @property
    def stopping(self) -> bool:
        """True while the engine checkpoints what runs, because it was asked to stop."""
        return bool(self.store.fact(STOPPING))

    def add_trial(
        self,
        experiment: int,
        kind: Kind,
        settings: dict[str, Any],
        *,
        warm_trial: int | None = None,
        finals_of: int | None = None,
    ) -> int:
        """Add a queued trial with an empty folder, in one commit, and return its id.

        It gets the experiment's next number, the base 0. `warm_trial` and `finals_of` are those of
        `Store.add_trial`.
        """
        with self.store.writing():
            number = 0 if kind is Kind.BASE else self.store.next_number(experiment)
            trial = self.store.add_trial(experiment, number, kind, settings, warm_trial, finals_of)
            fresh_folder(self.home.trial(trial))
        return trial

    def start(self, attempt: AttemptRow) -> None:
        """Send the attempt to its card's worker; may be repeated."""
        row = next((row for row in self.cards if row.uuid == attempt.card), None)
        if row is None or not self.fleet_ready():
            return
        try:
            given = self.assignment(attempt.id)
        except (OSError, ValueError, TypeError) as damaged:
            self.unsendable[attempt.id] = f"its assignment cannot be read: {safe_line(damaged)}"
            return
        self.fleet.start(card_of(row), given)

    def assignment(self, attempt: int) -> Assignment:
        """Return the assignment as it was written when the attempt was placed."""
        return Assignment.from_json(json.loads(assignment_file(self.home, attempt).read_text()))


def assignment_file(home: Home, attempt: int) -> Path:
    """Return the path of the attempt's assignment."""
    return home.attempt(attempt) / "assignment.json"


def events_file(home: Home, attempt: int) -> Path:
    """Return the path of the attempt's event file, which only its worker writes."""
    return home.attempt(attempt) / "events.jsonl"

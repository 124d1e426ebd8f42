"""What every part of a tick has before it: the store, the fleet, and what was seen this time."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workbench.assignment import Assignment
from workbench.fleet import Fleet, Phase, Report
from workbench.footprint.oom_fallback import Fall
from workbench.home import Home
from workbench.machine.files import free_bytes
from workbench.machine.processes import of_unit
from workbench.recipe.schema import EarlyStop
from workbench.scheduler.children.checkpoint_pruner import Thinner
from workbench.scheduler.children.notifier import Notifier
from workbench.scheduler.children.preparer import Preparer
from workbench.scheduler.guards.card_guards import see_sample, without_nameless
from workbench.store import Store
from workbench.store.rows import Attempt, CardRow, card_of
from workbench.text import safe_line
from workbench.user_config import ConfigWatch

STOPPING = "stopping"
"""Fact: the engine was asked to stop; holds the time, seconds since the epoch."""
HELD = "held"
"""Fact: a person holds the queue, nothing new is placed; empty when it goes on."""
BRAKE = "brake"
"""Fact: nothing new is placed, and why; empty when all is well."""

CARDS_PROBLEM = "cards-problem"
"""Fact: why the cards cannot be told, in words; empty when they can."""


@dataclass(slots=True, kw_only=True)
class TickContext:
    home: Home
    store: Store
    fleet: Fleet
    preparer: Preparer
    sample: Callable[[], list[dict[str, Any]] | None]
    """Rows for the cards table when there is a new sample, else None."""
    notifier: Notifier | None = None
    keeper: int | None = None
    """The process that keeps this loop; a stop meant for an earlier one is not obeyed."""
    fleet_ready: Callable[[], bool] = lambda: True
    disk_free: Callable[[Path], int] = free_bytes
    reports: dict[str, Report] = field(default_factory=dict)
    cards: list[CardRow] = field(default_factory=list)
    unsendable: dict[int, str] = field(default_factory=dict)
    """Attempts whose assignment cannot be read, and why; `rescue` places their trials anew."""
    config: ConfigWatch = field(default_factory=ConfigWatch)
    metered: dict[str, CardRow] = field(default_factory=dict)
    """Cards as they were when their energy was last billed; of this loop, so that the time in which
    none looked is billed to nobody."""
    thinner: Thinner = field(init=False)
    thinned_utc: float = 0.0
    ballast_freed: int = 0
    """Given up on a full disk, and not told yet."""
    early_stops: dict[int, tuple[EarlyStop, int] | None] = field(default_factory=dict)
    """Remembered by `early_stop`: each experiment's rule, and its steps between evaluations."""
    plans: dict[tuple[object, ...], object] = field(default_factory=dict)
    """Remembered by `place`: planning is pure, and the queue asks the same again and again."""

    falls: dict[int, tuple[Fall, ...]] = field(default_factory=dict)
    """By experiment, what ran out of memory; read anew in each tick that asks."""

    def __post_init__(self) -> None:
        self.thinner = Thinner(self.home)

    measured: int | None = None
    """The newest attempt with a measured peak; asked for once in a tick."""
    factors: tuple[object, dict[tuple[object, ...], float]] | None = None
    """What measured peaks correct predictions by, and up to which attempt; see residuals.py."""

    def look(self) -> None:
        """Take in what workers and cards say now."""
        self.falls.clear()
        self.measured = None
        self.reports = self.fleet.observe() if self.fleet_ready() else {}
        seen = self.sample()
        if seen is not None:
            see_sample(self, [self._without_ours(card) for card in seen])
        self.cards = self.store.cards()

    def _without_ours(self, card: dict[str, Any]) -> dict[str, Any]:
        ours = {r.pid for r in self.reports.values() if r.phase is not Phase.GONE}
        processes = card.get("processes", [])
        foreign = [p for p in processes if p.get("pid") not in ours and not of_unit(p.get("pid"))]
        report = self.reports.get(card["uuid"])
        if report is not None and report.phase is not Phase.GONE and len(foreign) == len(processes):
            foreign = without_nameless(foreign)
        return {**card, "processes": json.dumps(foreign)}

    @property
    def stopping(self) -> bool:
        return bool(self.store.fact(STOPPING))

    def start(self, attempt: Attempt) -> None:
        """Send the attempt to its card's worker, again if need be."""
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
        """As it was written when the attempt was placed."""
        return Assignment.from_json(json.loads(assignment_file(self.home, attempt).read_text()))


def assignment_file(home: Home, attempt: int) -> Path:
    return home.attempt(attempt) / "assignment.json"


def events_file(home: Home, attempt: int) -> Path:
    return home.attempt(attempt) / "events.jsonl"

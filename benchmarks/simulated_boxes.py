"""A simulated cluster for `scale.py --boxes`: the real scheduler and store, and workers that train
nothing. They write the event files that a head has when its couriers have brought them home.

Time is simulated: from one tick to the next pass its CPU time and the pause between two ticks, so
that what else the machine does changes nothing.
"""

from __future__ import annotations

import os
import random
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from workbench.attempts.assignment import Assignment
from workbench.attempts.events import EventWriter
from workbench.engine import BOXES_EVERY_S, TICK_S
from workbench.fleet.inline_fleet import InlineFleet
from workbench.home import Home
from workbench.machine.cards import machine_of
from workbench.scheduler import TickContext, tick
from workbench.scheduler.children.preparer import Preparer
from workbench.store import Store, card_table

METRIC_EVERY_S = 2.0
SAVE_EVERY_S = 20.0
LOAD_S, HELD_LOAD_S = 8.0, 0.5
"""Seconds until a trial trains: with the base read from disk, and with the base of the one before.
"""
SAMPLE_EVERY_S = 2.0
NAMES = ("loss", "grad_norm", "learning_rate", "tokens_per_s", "peak_bytes")
GIB = 1 << 30


class Clock:
    """The simulated time, which every part reads."""

    now = 1_000_000.0


class PlayedWorker:
    """A worker of one card: `play` writes what a real one would have written by now."""

    every: dict[str, PlayedWorker] = {}  # noqa: RUF012
    lasts_s = 60.0
    latencies_s: list[float] = []  # noqa: RUF012
    """Seconds between the end of each trial and the start of the next one on its card."""

    def __init__(self, card: dict[str, Any], generation: int, home: str) -> None:
        self.given: Assignment | None = None
        self.last_attempt: int | None = None
        self.base: str | None = None
        self.loads = 0
        self._ended: float | None = None
        self.every[card["uuid"]] = self

    def start(self, assignment: dict[str, Any]) -> dict[str, Any]:
        given = Assignment.from_json(assignment)
        if self.given is not None or given.attempt <= (self.last_attempt or 0):
            return {"ok": given.attempt == self.last_attempt, "reason": "busy"}
        if self._ended is not None:
            self.latencies_s.append(Clock.now - self._ended)
        name = given.recipe["model"]["name"]
        held, self.base = self.base == name, name
        self.loads += not held
        self.given, self.last_attempt = given, given.attempt
        self.events = EventWriter(Path(given.folder) / "events.jsonl", clock=lambda: Clock.now)
        self.events.write("started", pid=os.getpid(), generation=1, plan=given.plan)
        self._begin = Clock.now + (HELD_LOAD_S if held else LOAD_S)
        # Each differs by up to a tenth, so that they do not all end at once.
        self._lasts_s = self.lasts_s * random.Random(given.trial).uniform(0.9, 1.1)
        self._step = 0
        return {"ok": True}

    def play(self) -> None:
        """Write the metrics, checkpoints and the end that are due."""
        if self.given is None or Clock.now < self._begin:
            return
        due = int(min(Clock.now - self._begin, self._lasts_s) / METRIC_EVERY_S)
        for step in range(self._step + 1, due + 1):
            values = dict.fromkeys(NAMES, 2.0 / step)
            left_s = self._lasts_s - step * METRIC_EVERY_S
            self.events.write("metric", step=step, values=values, seconds_left=left_s)
            if step % int(SAVE_EVERY_S / METRIC_EVERY_S) == 0:
                self.events.write("checkpoint", step=step, path="", bytes=1 << 20)
        self._step = due
        if Clock.now - self._begin >= self._lasts_s:
            self._end()

    def _end(self) -> None:
        assert self.given is not None
        values = {"loss": 1.0 + self.given.trial % 97 / 97, "exact_match": 0.5}
        self.events.write("score", subject=self.given.kind, values=values, step=self._step)
        if self.given.kind == "tune":
            self.events.write("adapter", path="", bytes=10, sha256="0" * 64)
        self.events.write("end", outcome="done", step=self._step, reason="", hint="")
        self.events.close()
        self.given, self._ended = None, Clock.now

    def halt(self, attempt: int, how: str) -> None:
        pass

    def report(self) -> dict[str, Any]:
        attempt = self.given.attempt if self.given else None
        told = {"phase": "busy" if self.given else "idle", "attempt": attempt, "base": self.base}
        return {**told, "last_attempt": self.last_attempt, "pid": os.getpid()}

    def close(self) -> None:
        pass


class PlayedFleet(InlineFleet):
    """A fleet whose machines have a base once a trial of theirs has had it."""

    def __init__(self, home: str, store: Store) -> None:
        dotted = f"{PlayedWorker.__module__}:PlayedWorker"
        super().__init__(home, partial(card_table.next_generation, store), worker=dotted)
        self.sent: set[tuple[str, str]] = set()

    def has_base(self, card: str, base: str) -> bool:
        return (machine_of(card), base) in self.sent

    def start(self, card: Any, assignment: Assignment) -> None:
        self.sent.add((machine_of(card.uuid), str(assignment.recipe["model"]["name"])))
        super().start(card, assignment)


@dataclass
class Machines:
    """The cards of all boxes as samples: each box is read every SAMPLE_EVERY_S, at its own time."""

    boxes: int
    cards: int
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    read: dict[int, float] = field(default_factory=dict)
    recorded: float = 0.0

    def __call__(self) -> list[dict[str, Any]] | None:
        due = [n for n in range(self.boxes) if Clock.now - self.read.get(n, 0) >= SAMPLE_EVERY_S]
        for box in due:
            offset = 0.0 if box in self.read else box / self.boxes * SAMPLE_EVERY_S
            self.read[box] = Clock.now - offset
            for number in range(self.cards):
                row = self._card(box, number)
                self.rows[row["uuid"]] = row
        if Clock.now - self.recorded < BOXES_EVERY_S:  # as the loop's CardWatch
            return None
        self.recorded = Clock.now
        return [dict(row) for row in self.rows.values()]

    def _card(self, box: int, number: int) -> dict[str, Any]:
        uuid = f"box-{box:02}:GPU-{box:02x}{number:02x}"
        worker = PlayedWorker.every.get(uuid)
        busy = worker is not None and worker.given is not None
        known = self.rows.get(uuid, {"energy_j": 0.0})
        return {
            "uuid": uuid,
            "kind": "cuda",
            "name": "NVIDIA GeForce RTX 4090",
            "capability": "8.9",
            "total_bytes": 24 * GIB,
            "free_bytes": 8 * GIB if busy else 24 * GIB,
            "utilisation": 97 if busy else 0,
            "temperature_c": 60.0 + number,
            "power_w": 300.0 if busy else 20.0,
            "power_limit_w": 350.0,
            "energy_j": known["energy_j"] + SAMPLE_EVERY_S * (300.0 if busy else 20.0),
            "processes": [],
            "problem": "",
        }


def make_context(home: Home, boxes: int, cards: int) -> TickContext:
    """Return the context of a head with so many boxes, their cards seen once."""
    store = Store(home.database, clock=lambda: Clock.now)
    context = TickContext(
        home=home,
        store=store,
        fleet=PlayedFleet(str(home.root), store),
        preparer=Preparer(home),
        sample=Machines(boxes, cards),
    )
    context.refresh()
    return context


def play(context: TickContext, lasts_s: float) -> None:
    """Tick until every trial has ended, and print what the ticks took."""
    PlayedWorker.lasts_s = lasts_s
    began, began_s = Clock.now, time.perf_counter()
    took, spent, busy = [], [], 0
    while unfinished(context):
        for worker in list(PlayedWorker.every.values()):
            worker.play()
        before, cpu = time.perf_counter(), time.process_time()
        tick(context)
        took.append(time.perf_counter() - before)
        spent.append(time.process_time() - cpu)
        busy += sum(worker.given is not None for worker in PlayedWorker.every.values())
        Clock.now += TICK_S + spent[-1]
    print_times("tick, on the wall", [1_000 * one for one in took], "ms")
    print_times("tick, our CPU", [1_000 * one for one in spent], "ms")
    ramp = [1_000 * one for one in spent[: int(20 / TICK_S)]]
    print_times("  of them the first 20 s, in which all cards start", ramp, "ms")
    late = sum(one > TICK_S for one in spent)
    print(f"{'  of more CPU time than the period of 250 ms':<58} {late:>8} of {len(took):,}")
    print_times("a card's pause between two trials", PlayedWorker.latencies_s, "s")
    loads = sum(worker.loads for worker in PlayedWorker.every.values())
    share = busy / len(took) / len(PlayedWorker.every)
    print(f"{'cards busy on average, ends of the sweep included':<58} {100 * share:>8.1f} %")
    print(f"{'bases loaded':<58} {loads:>8,}")
    simulated, real = Clock.now - began, time.perf_counter() - began_s
    print(f"{'simulated':<58} {simulated:>8.0f} s in {real:.0f} s")


def unfinished(context: TickContext) -> bool:
    query = "select exists (select 1 from trials where state in ('queued', 'starting', 'running'))"
    return bool(context.store.db.execute(query).fetchone()[0])


def print_times(name: str, values: list[float], unit: str) -> None:
    cuts = statistics.quantiles(values, n=100)
    figures = [("median", cuts[49]), ("p95", cuts[94]), ("p99", cuts[98]), ("worst", max(values))]
    shown = "  ".join(f"{word} {value:.2f}" for word, value in figures)
    print(f"{name:<58} {shown}  {unit}", flush=True)


def sizes(home: Home) -> Iterator[tuple[str, int]]:
    """Yield what lies in the home, in bytes."""
    yield "database", home.database.stat().st_size
    yield "journal", (home.root / "journal.jsonl").stat().st_size
    every: Callable[[str], int] = lambda folder: sum(  # noqa: E731
        path.stat().st_size for path in (home.root / folder).rglob("*") if path.is_file()
    )
    for folder in ("attempts", "experiments", "trials"):
        yield folder, every(folder)

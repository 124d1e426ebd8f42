"""A store with realistic contents, written by the store's own methods and legal moves.

python -m tests.tui.filled FOLDER        # then: WORKBENCH_HOME=FOLDER workbench
"""

from __future__ import annotations

import json
import math
import os
import random
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.row_results import made_up_answers, made_up_losses, put_rows
from workbench.footprint import Plan
from workbench.home import Home
from workbench.machine.locks import Lock
from workbench.store import card_table, results, trial_queue
from workbench.store.rows import CARD_SLOTS
from workbench.store.writer import Store
from workbench.trial import DesiredState, Kind, State
from workbench.user_config import Guards

NOW = 1_763_900_000.0
"""The frozen time of the tests: 2025-11-23, 12:13:20 UTC."""
ROWS = 64
"""Held-out rows of each experiment."""
GIB = 1 << 30
CARDS = (
    ("GPU-6f1a2b3c-0d4e-4f5a-8b6c-7d8e9fa0b1c2", "NVIDIA GeForce RTX 4090", 24, "8.9"),
    ("GPU-a02b9c1d-2e3f-4a5b-9c6d-7e8f90a1b2c3", "NVIDIA GeForce RTX 3090", 24, "8.6"),
    ("GPU-c77d4e5f-6a7b-4c8d-8e9f-0a1b2c3d4e5f", "NVIDIA GeForce RTX 3090", 24, "8.6"),
    ("GPU-19be8f70-1a2b-4c3d-9e4f-5a6b7c8d9e0f", "Tesla T4", 15, "7.5"),
)
QUEUED, RESUMED, FAILED = 16, 14, 20
"""Trials of the home: one that waits and has done nothing, one that runs again, one that failed."""
HERE_4090, HERE_3090, THERE_3090, HERE_T4 = (card[0] for card in CARDS)

SUPPORT: dict[str, object] = {
    "name": "llama3-8b-support",
    "model": {"name": "meta-llama/Meta-Llama-3-8B", "quantization": "nf4", "precision": "auto"},
    "data": {"train": "support/train.jsonl", "eval": "support/eval.jsonl", "max_tokens": 1024},
    "lora": {"rank": 16, "alpha": 16.0, "dropout": 0.05},
    "train": {"epochs": 1.0, "batch_size": 4, "learning_rate": 2e-4, "save_every": 25},
}
DEMO: dict[str, object] = {
    "name": "demo",
    "model": {"name": "workbench:demo/model", "quantization": "nf4", "precision": "auto"},
    "data": {"train": "workbench:demo/data/train.jsonl", "max_tokens": 128},
    "lora": {"rank": 8, "alpha": 16.0},
    "train": {"epochs": 1.0, "batch_size": 8, "learning_rate": 1e-3, "save_every": 10},
}


@dataclass
class Clock:
    """The clock by which the store dates its rows."""

    at: float

    def __call__(self) -> float:
        return self.at


class Filler:
    """A writer of rows as the engine would write them, each at its own time in the past."""

    def __init__(self, home: Home, now: float) -> None:
        home.make()
        self.now = now
        self.clock = Clock(now)
        self.store = Store(home.database, clock=self.clock)
        self.notes: list[tuple[float, str, str, dict[str, Any]]] = []

    def note(self, kind: str, text: str, **about: Any) -> None:
        """Keep an event back, so that `write_notes` can write all in the order of their times."""
        self.notes.append((self.clock.at, kind, text, about))

    def write_notes(self) -> None:
        for at_utc, kind, text, about in sorted(self.notes, key=lambda note: note[0]):
            self.store.note(kind, text, at_utc=at_utc, **about)

    def set(self, ago_s: float) -> None:
        self.clock.at = self.now - ago_s

    def experiment(self, recipe: dict[str, object], rank_by: str, ago_s: float) -> int:
        self.set(ago_s)
        id = self.store.add_experiment(recipe, rank_by)
        self.note("submitted", f"experiment {recipe['name']} was submitted", experiment=id)
        return id

    def start(
        self, trial: int, card: str, ago_s: float, *, predicted: float, from_step: int = 0
    ) -> int:
        """Move a trial from QUEUED to STARTING, with its attempt."""
        self.set(ago_s)
        plan = _plan(card, int(predicted * GIB))
        self.store.move(trial, State.QUEUED, State.STARTING, by="place", why=f"fits {_name(card)}")
        return self.store.add_attempt(
            trial, card, plan.to_json(), plan.predicted_bytes, from_step=from_step
        )

    def run(self, trial: int, attempt: int, ago_s: float, total: int) -> None:
        """Move a trial from STARTING to RUNNING, as after its worker's first report."""
        self.set(ago_s)
        self.store.touch_attempt(
            attempt, reported_utc=self.clock.at, total_steps=total, phase="training", pid=4242
        )
        self.store.move(
            trial, State.STARTING, State.RUNNING, by="reconcile", why="its worker reported"
        )
        self.log(trial, attempt, "the base is resident: nf4, its adapter on 224 projections")

    def train(
        self,
        trial: int,
        attempt: int,
        steps: range,
        curve: tuple[float, float, float],
        *,
        rate: float,
        peak: float,
        seed: int,
    ) -> None:
        """Write metric rows; `curve` is the start, the floor, and the steps of the decay."""
        dice = random.Random(seed)
        loss = 0.0
        for step in steps:
            fall = math.exp(-step / curve[2])
            loss = curve[1] + (curve[0] - curve[1]) * fall + dice.gauss(0, 0.035)
            values: dict[str, float | None] = {
                "loss": loss,
                "grad_norm": 0.3 + abs(dice.gauss(0, 0.2)) + fall,
                "learning_rate": 2e-4,
                "tokens_per_s": rate * (1 + dice.gauss(0, 0.02)),
                "peak_bytes": peak * GIB * (1 - 0.08 * fall),
            }
            if step % 50 == 0:
                values["eval_loss"] = loss + 0.06
            results.put_metrics(self.store, trial, step, values)
        row = next(one for one in self.store.attempts(trial) if one.id == attempt)
        pace_s = (self.now - row.started_utc) / (steps[-1] - row.from_step)
        self.store.touch_attempt(
            attempt,
            ends_utc=self.now + ((row.total_steps or 0) - steps[-1]) * pace_s,
            last_step=steps[-1],
            loss=loss,
            tokens_per_s=rate,
            peak_bytes=int(peak * GIB),
            energy_wh=0.11 * len(steps),
        )

    def checkpoint(self, trial: int, attempt: int, step: int, ago_s: float) -> None:
        self.set(ago_s)
        results.put_checkpoint(self.store, trial, attempt, step)
        self.note(
            "checkpoint",
            f"checkpoint at step {step}",
            level="debug",
            trial=trial,
            attempt=attempt,
        )

    def log(self, trial: int, attempt: int, text: str, level: str = "info") -> None:
        self.note("log", text, level=level, trial=trial, attempt=attempt)

    def end(
        self,
        trial: int,
        attempt: int,
        after: State,
        ago_s: float,
        *,
        outcome: str,
        why: str,
        scores: dict[str, float | None] | None = None,
        reason: str = "",
        hint: str = "",
        step: int = 0,
    ) -> None:
        """Move a trial from RUNNING to `after`, end its attempt, and keep adapter and scores."""
        self.set(ago_s)
        if scores:
            results.put_scores(self.store, trial, attempt, step, scores)
            self.rows(trial, scores)
            results.put_adapter(
                self.store, trial, attempt, f"trials/{trial}/adapter", 84_000_000, "0" * 64
            )
        self.store.end_attempt(attempt, outcome, reason)
        self.store.move(
            trial, State.RUNNING, after, by="reconcile", why=why, reason=reason, hint=hint
        )

    def rows(self, trial: int, scores: dict[str, float | None]) -> None:
        """Keep the results of ROWS held-out rows that give these scores."""
        match = scores.get("exact_match")
        right = None if match is None else made_up_answers(round(match * ROWS), ROWS, seed=trial)
        losses = made_up_losses(scores["loss"] or 0.0, ROWS, seed=trial)
        put_rows(self.store, trial, losses=losses, right=right)

    def samples(
        self, trial: int, attempt: int, kept: tuple[tuple[str, str, str, int], ...]
    ) -> None:
        for n, (question, expected, answer, right) in enumerate(kept, start=1):
            results.put_sample(
                self.store,
                trial,
                attempt,
                n,
                {"question": question, "expected": expected, "answer": answer, "right": right},
            )


def _name(card: str) -> str:
    return next(f"{name.rpartition('NVIDIA ')[2]}" for uuid, name, *_ in CARDS if uuid == card)


def _plan(card: str, predicted: int) -> Plan:
    small = card == HERE_T4
    fixed = {
        "base in 4 bits": int(4.06 * GIB),
        "rest in 16 bits": int(1.96 * GIB),
        "logits": int(0.98 * GIB),
        "adapter": int(0.31 * GIB),
        "optimizer": int(0.16 * GIB),
        "context and slack": int(0.9 * GIB),
    }
    return Plan(
        precision="fp16" if small else "bf16",
        attention="sdpa" if small else "flash_attention_2",
        attention_why="a T4 has no Flash Attention 2" if small else "sm_80 or newer",
        optimizer="paged_adamw_8bit",
        rows_per_step=4,
        tokens_per_micro=2_048,
        longest=512,
        recompute_layers=12 if small else 0,
        layers=32,
        predicted_bytes=predicted,
        buckets={**fixed, "activations": predicted - sum(fixed.values())},
    )


def fill(home: Home, now: float = NOW) -> None:
    """Three experiments with trials in every state, four cards, curves, scores, a history."""
    filler = Filler(home, now)
    with filler.store.writing():
        _cards(filler)
        _demo(filler)
        _support(filler)
        _others(filler)
        filler.write_notes()
    filler.store.close()
    _history(home, now)


def _history(home: Home, now: float) -> None:
    """Write the last day of the cards: nights of work, an hour without readings, and the load."""
    load = dict.fromkeys((HERE_4090, THERE_3090), (15.2, 97, 71, 402))
    load |= {HERE_3090: (15.9, 99, 85, 347), HERE_T4: (5.6, 88, 61, 64)}
    lines = []
    for ago in range(24 * 60, 0, -1):
        if 600 <= ago < 660:
            continue
        wave = 0.55 + 0.45 * math.sin(ago / 31)
        cards = {
            uuid: [util * wave, int(used * GIB * (wave > 0.3)), power * wave, 38 + heat * wave / 2]
            for uuid, (used, util, heat, power) in load.items()
        }
        lines.append(json.dumps({"minute": int(now // 60) - ago, "cards": cards}))
    home.card_history.write_text("\n".join(lines) + "\n")


def _cards(filler: Filler) -> None:
    filler.set(2)
    load = ((15.2, 97, 71, 402), (15.9, 99, 85, 347), (6.4, 12, 52, 118), (5.6, 88, 61, 64))
    card_table.record_cards(
        filler.store,
        [
            {
                "uuid": uuid,
                "kind": "cuda",
                "name": name,
                "total_bytes": gib * GIB,
                "capability": capability,
                "free_bytes": int((gib - used) * GIB),
                "utilisation": util,
                "temperature_c": heat,
                "power_w": power,
                "power_limit_w": 70 if uuid == HERE_T4 else 350,
                "xid_watch": int(uuid != HERE_T4),
            }
            for (uuid, name, gib, capability), (used, util, heat, power) in zip(
                CARDS, load, strict=True
            )
        ],
    )
    slots = {uuid: (number, f"0000:{number:02x}:00.0") for number, (uuid, *_) in enumerate(CARDS)}
    filler.store.set_fact(CARD_SLOTS, json.dumps(slots))
    blender = {"pid": 7311, "bytes": int(5.2 * GIB), "name": "blender", "draws": False}
    guard = "in use by pid 7311 (blender, 5.2 GiB)"
    card_table.update_card(filler.store, HERE_T4, processes=json.dumps([blender]), guard=guard)
    card_table.update_card(
        filler.store, HERE_3090, heat="warm", guard="cools: at 85 °C, takes trials again at 76 °C"
    )
    filler.store.set_fact("guards", Guards().model_dump_json())


def _demo(filler: Filler) -> None:
    """Write an experiment of yesterday: six adapters and the base, all done."""
    demo = filler.experiment(DEMO, "exact_match", 26 * 3_600)
    store = filler.store
    base = store.add_trial(demo, 0, Kind.BASE, {})
    store.mark_ready(demo, {}, {}, base)
    points = [(rate, rank) for rate in (3e-4, 1e-3, 3e-3) for rank in (4, 16)]
    trials = [
        store.add_trial(demo, n, Kind.TUNE, {"train.learning_rate": rate, "lora.rank": rank})
        for n, (rate, rank) in enumerate(points, start=1)
    ]
    found = (0.34375, 0.5, 0.71875, 0.84375, 0.65625, 0.28125)
    began = 25.9 * 3_600
    attempt = filler.start(base, HERE_T4, began, predicted=8.7)
    filler.run(base, attempt, began - 5, 0)
    filler.end(
        base,
        attempt,
        State.DONE,
        began - 20,
        outcome="done",
        why="scored",
        scores={"exact_match": 0.03125, "loss": 2.61},
    )
    for n, (trial, score) in enumerate(zip(trials, found, strict=True)):
        began = 25.8 * 3_600 - n * 130
        attempt = filler.start(trial, HERE_T4, began, predicted=8.7)
        filler.run(trial, attempt, began - 4, 60)
        filler.train(
            trial,
            attempt,
            range(5, 61, 5),
            (2.6, 1.4 - score, 18),
            rate=5_400 + 37 * n,
            peak=1.1,
            seed=n,
        )
        filler.checkpoint(trial, attempt, 60, began - 110)
        filler.end(
            trial,
            attempt,
            State.DONE,
            began - 121 - n,
            outcome="done",
            why="trained to its end and scored",
            scores={"exact_match": score, "loss": 1.44 - score},
            step=60,
        )


def _support(filler: Filler) -> None:
    """Write an experiment of today: some trials done, three live, three queued."""
    support = filler.experiment(SUPPORT, "loss", 3.1 * 3_600)
    store = filler.store
    base = store.add_trial(support, 0, Kind.BASE, {})
    store.mark_ready(support, {}, {}, base)
    filler.note("ready", "experiment llama3-8b-support: 12 trials queued", experiment=support)
    points = [(rate, rank) for rate in (1e-4, 2e-4, 5e-4) for rank in (8, 16, 32, 64)]
    ids = [
        store.add_trial(support, n, Kind.TUNE, {"train.learning_rate": rate, "lora.rank": rank})
        for n, (rate, rank) in enumerate(points, start=1)
    ]
    began = 3 * 3_600
    attempt = filler.start(base, HERE_4090, began, predicted=9.0)
    filler.run(base, attempt, began - 20, 0)
    filler.end(
        base,
        attempt,
        State.DONE,
        began - 200,
        outcome="done",
        why="scored",
        scores={"loss": 1.873},
    )
    _ended(filler, ids)
    _live(filler, ids)
    _waiting(filler, ids)


def _ended(filler: Filler, ids: list[int]) -> None:
    done = ((ids[0], HERE_4090, 1.031, 2_410.0), (ids[1], HERE_3090, 0.974, 1_630.0))
    for n, (trial, card, score, rate) in enumerate(done):
        began = 2.9 * 3_600 - 60 * n
        attempt = filler.start(trial, card, began, predicted=15.1)
        filler.run(trial, attempt, began - 26, 600)
        filler.train(
            trial, attempt, range(5, 601, 5), (2.4, score - 0.05, 90), rate=rate, peak=14.8, seed=n
        )
        filler.checkpoint(trial, attempt, 600, began - 3_300)
        filler.samples(trial, attempt, _SAMPLES)
        filler.end(
            trial,
            attempt,
            State.DONE,
            began - 3_420 - 700 * n,
            outcome="done",
            why="trained to its end and scored",
            scores={"loss": score},
            step=600,
        )
    _pruned(filler, ids[8])
    _failed(filler, ids[11])
    _stopped(filler, ids[3])


def _pruned(filler: Filler, trial: int) -> None:
    began = 2.7 * 3_600
    attempt = filler.start(trial, THERE_3090, began, predicted=15.1)
    filler.run(trial, attempt, began - 30, 600)
    filler.train(
        trial, attempt, range(5, 151, 5), (2.4, 1.52, 40), rate=1_640.0, peak=14.8, seed=31
    )
    filler.end(
        trial,
        attempt,
        State.PRUNED,
        began - 900,
        outcome="stopped",
        why="behind the median at step 150",
        scores={"loss": 1.581},
        reason="behind the median of its experiment at step 150",
        step=150,
    )


def _failed(filler: Filler, trial: int) -> None:
    began = 2.3 * 3_600
    attempt = filler.start(trial, THERE_3090, began, predicted=16.2)
    filler.run(trial, attempt, began - 30, 600)
    filler.train(trial, attempt, range(5, 41, 5), (2.4, 2.2, 40), rate=1_580.0, peak=15.9, seed=41)
    filler.log(trial, attempt, "loss is NaN at step 42", level="error")
    filler.end(
        trial,
        attempt,
        State.FAILED,
        began - 240,
        outcome="failed",
        why="its loss became NaN at step 42",
        reason="its loss became NaN at step 42",
        hint="lower train.learning_rate, or raise train.warmup",
    )
    filler.note(
        "failed",
        f"trial {trial} failed: its loss became NaN at step 42",
        level="error",
        trial=trial,
    )


def _stopped(filler: Filler, trial: int) -> None:
    began = 2.1 * 3_600
    attempt = filler.start(trial, THERE_3090, began, predicted=15.6)
    filler.run(trial, attempt, began - 30, 600)
    filler.train(
        trial, attempt, range(5, 301, 5), (2.4, 1.06, 90), rate=1_610.0, peak=15.2, seed=51
    )
    filler.checkpoint(trial, attempt, 300, began - 1_500)
    filler.store.set_desired_state(trial, DesiredState.STOP)
    filler.end(
        trial,
        attempt,
        State.STOPPED,
        began - 1_560,
        outcome="stopped",
        why="a person asked",
        scores={"loss": 1.117},
        reason="stopped by you",
        step=300,
    )


def _live(filler: Filler, ids: list[int]) -> None:
    first = filler.start(ids[4], HERE_4090, 2_300, predicted=15.1)
    filler.run(ids[4], first, 2_274, 600)
    filler.train(ids[4], first, range(5, 421, 5), (2.4, 0.9, 75), rate=2_390.0, peak=14.9, seed=61)
    filler.checkpoint(ids[4], first, 400, 110)
    filler.log(ids[4], first, "held-out loss at step 400: 0.981")
    filler.set(9)
    filler.log(ids[4], first, "checkpoint of step 400 verified, 2 kept")

    lost = filler.start(ids[5], THERE_3090, 2_900, predicted=15.1)
    filler.run(ids[5], lost, 2_870, 600)
    filler.train(ids[5], lost, range(5, 131, 5), (2.4, 0.87, 70), rate=1_610.0, peak=15.0, seed=71)
    filler.checkpoint(ids[5], lost, 125, 2_100)
    filler.set(2_000)
    filler.store.end_attempt(lost, "lost", "its worker went away")
    filler.store.move(ids[5], State.RUNNING, State.QUEUED, by="recover", why="its worker went away")
    filler.note(
        "lost",
        f"trial {ids[5]}: its worker went away; it resumes at step 125",
        level="warning",
        trial=ids[5],
    )
    again = filler.start(ids[5], HERE_3090, 1_950, predicted=15.1, from_step=125)
    filler.run(ids[5], again, 1_920, 600)
    filler.train(
        ids[5], again, range(130, 321, 5), (2.4, 0.87, 70), rate=1_605.0, peak=15.4, seed=72
    )
    filler.checkpoint(ids[5], again, 300, 150)
    filler.set(4)
    filler.log(ids[5], again, "gradient norm 4.1 was clipped to 0.3 at step 318", level="warning")


def _waiting(filler: Filler, ids: list[int]) -> None:
    store = filler.store
    began = 1.5 * 3_600
    paused = filler.start(ids[2], THERE_3090, began, predicted=15.6)
    filler.run(ids[2], paused, began - 30, 600)
    filler.train(ids[2], paused, range(5, 206, 5), (2.4, 1.0, 80), rate=1_600.0, peak=15.3, seed=81)
    filler.checkpoint(ids[2], paused, 205, 3_300)
    store.set_desired_state(ids[2], DesiredState.PAUSE)
    filler.set(3_280)
    store.end_attempt(paused, "yielded", "paused by you")
    store.move(
        ids[2],
        State.RUNNING,
        State.PAUSED,
        by="reconcile",
        why="a person asked",
        reason="paused by you",
    )
    filler.start(ids[6], THERE_3090, 14, predicted=15.1)
    busy = f"{HERE_4090} runs trial 13; {HERE_3090} runs trial 14; {THERE_3090} runs trial 15"
    trial_queue.explain_trial(store, ids[7], f"waits for a card: {busy}")
    trial_queue.explain_trial(store, ids[9], "its experiment runs 3 at once at most")
    trial_queue.explain_trial(store, ids[10], "its experiment runs 3 at once at most")


def _others(filler: Filler) -> None:
    bad = {**SUPPORT, "name": "qwen-tickets"}
    refused = filler.experiment(bad, "loss", 1_900)
    filler.store.mark_refused(
        refused,
        "tickets.jsonl:17: unknown chat role 'custmer'",
        "write user, assistant or system in that row",
    )
    filler.note(
        "refused",
        "experiment qwen-tickets was refused: tickets.jsonl:17: unknown chat role 'custmer'",
        level="error",
        experiment=refused,
    )
    filler.experiment({**SUPPORT, "name": "mistral-7b-support"}, "loss", 6)


_SAMPLES = (
    (
        "My invoice of March was charged twice. What now?",
        "billing/duplicate-charge",
        "billing/duplicate-charge",
        1,
    ),
    ("The app logs me out every few minutes since the update.", "app/session", "app/login", 0),
    ("Can I move my number to another contract?", "contract/port", "contract/port", 1),
)


@contextmanager
def engine_running(home: Home) -> Iterator[None]:
    """Hold the locks that keeper and loop hold, and tick once, as a running engine does.

    The tick lies a day ahead: it stays a fresh one however slow the machine is.
    """
    locks = (Lock(home.keeper_lock), Lock(home.loop_lock))
    for lock in locks:
        assert lock.take()
    home.tick.touch()
    ahead = time.time() + 86_400
    os.utime(home.tick, (ahead, ahead))
    try:
        yield
    finally:
        for lock in locks:
            lock.release()


@contextmanager
def engine_stopping(home: Home) -> Iterator[None]:
    """Hold the keeper's lock while the engine counts as stopped, as a keeper does that ends Ray."""
    lock = Lock(home.keeper_lock)
    assert lock.take()
    home.stopped.touch()
    try:
        yield
    finally:
        lock.release()


def main(folder: str) -> None:
    home = Home(Path(folder).absolute())
    if not home.database.exists():
        fill(home, time.time())
    with engine_running(home):
        while True:
            home.tick.touch()
            filler = Filler(home, time.time())
            _cards(filler)
            filler.store.close()
            time.sleep(2)


if __name__ == "__main__":
    main(sys.argv[1])

"""What a large home costs: `python benchmarks/scale.py`. Needs no GPU, 1 GB of disk, five minutes.

200 experiments with 10,000 trials between them, 200 of which are done with 50,000 metric points
each (10 million): what a listing and a tick take, and what the real engine's loop holds in memory.
Median, first and worst of nine on the wall, and the median of our own CPU time: what else the
machine does is in the former only.

`--boxes 64` plays a cluster instead: 64 machines with `--cards` 8 each and 10,000 trials of
`--seconds` 30, until all have ended: what ticks take, how long cards wait, how the store grows.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import simulated_boxes

from workbench.cli import main as command
from workbench.fleet.inline_fleet import InlineFleet
from workbench.home import Home
from workbench.recipe import Recipe
from workbench.scheduler import TickContext, tick
from workbench.scheduler.children.preparer import Preparer
from workbench.scheduler.propose_trials import enqueue_trials
from workbench.service import Service
from workbench.showcase.play import LLAMA_8B
from workbench.store import Store, card_table, results
from workbench.store.queries.metrics import BAND_STEPS
from workbench.store.recovery.backup import back_up
from workbench.store.recovery.damage import look_through
from workbench.store.rows import card_of
from workbench.trial import State

EXPERIMENTS, TRIALS, POINTS, CARDS, TURNS = 200, 50, 50_000, 8, 9
BASES = 4
"""Different bases of a played cluster's experiments."""
NAMES = ("loss", "grad_norm", "learning_rate", "tokens_per_s", "peak_bytes")
PREPARED = {
    "ok": True,
    "model": {"path": "/m", "revision": None, "config": LLAMA_8B, "model_type": "llama"},
    "data": {"folder": "/d", "digest": "d", "train_rows": 10, "eval_rows": 2},
    "evaluation_digest": "e",
    "notes": [],
}


class Sitting:
    """A worker that takes an attempt and never ends it."""

    def __init__(self, card: dict[str, Any], generation: int, home: str) -> None:
        self.attempt: int | None = None

    def start(self, assignment: dict[str, Any]) -> dict[str, Any]:
        self.attempt = self.attempt or assignment["attempt"]
        return {"ok": self.attempt == assignment["attempt"], "reason": "busy"}

    def halt(self, attempt: int, how: str) -> None:
        pass

    def report(self) -> dict[str, Any]:
        phase = "busy" if self.attempt else "idle"
        told = {"phase": phase, "attempt": self.attempt, "last_attempt": self.attempt}
        return {**told, "pid": os.getpid()}

    def close(self) -> None:
        pass


def card(index: int, gib: int) -> dict[str, Any]:
    told = {"uuid": f"cpu-{index}", "kind": "cpu", "name": "CPU card", "processes": []}
    return {**told, "total_bytes": gib << 30}


def recipe(number: int, model: str = "/m") -> Recipe:
    rates = [round(1e-4 * (1 + n / 10), 6) for n in range(TRIALS // 2)]
    return Recipe.model_validate_json(
        json.dumps(
            {
                "name": f"experiment-{number}",
                "model": {"name": model},
                "data": {"train": "/d.jsonl"},
                "sweep": {"parameters": {"train.learning_rate": rates, "lora.rank": [8, 16]}},
            }
        )
    )


def submit(context: TickContext, wanted: Recipe) -> None:
    store = context.store
    id = store.add_experiment(wanted.model_dump(mode="json"), wanted.rank_by)
    context.home.experiment(id).mkdir(parents=True)
    enqueue_trials(context, store.experiment(id), PREPARED, [card_of(row) for row in store.cards()])


def fill(context: TickContext) -> None:
    store = context.store
    for number in range(EXPERIMENTS):
        submit(context, recipe(number))
    firsts = [
        row[0]
        for row in store.db.execute(
            "select min(id) from trials where kind = 'tune' group by experiment"
        )
    ]
    steps = POINTS // len(NAMES)
    for trial in firsts:
        attempt = store.add_attempt(trial, f"gone-{trial}", {"precision": "bf16"}, 1 << 30, 0)
        with store.writing():
            store.db.execute(
                """insert into metrics with recursive n(i) as
                     (select 1 union all select i + 1 from n where i < ?)
                   select ?, j.value, i, (i * 2654435761 % 1000) / 100.0
                   from n, json_each(?) j""",
                (steps, trial, json.dumps(NAMES)),
            )
            store.db.execute(
                f"""insert into metric_bands select trial, name, step / {BAND_STEPS},
                    min(value), max(value) from metrics where trial = ? group by 1, 2, 3""",
                (trial,),
            )
            store.touch_attempt(attempt, last_step=steps, total_steps=steps, tokens_per_s=900.0)
            results.put_scores(store, trial, attempt, steps, {"loss": trial / 1e4})
            store.end_attempt(attempt, "done", "")
            for before, after, by in (
                (State.QUEUED, State.STARTING, "place"),
                (State.STARTING, State.DONE, "reconcile"),
            ):
                store.move(trial, before, after, by=by, why="filled")


def measured(name: str, work: Callable[[], object], turns: int = TURNS) -> None:
    took, spent = [], []
    for _ in range(turns):
        began, cpu = time.perf_counter(), _cpu_s()
        work()
        took.append((time.perf_counter() - began) * 1_000)
        spent.append((_cpu_s() - cpu) * 1_000)
    line = f"{name:<58} {statistics.median(took):8.1f} ms  first {took[0]:8.1f}"
    print(f"{line}  worst {max(took):8.1f}  cpu {statistics.median(spent):8.1f}", flush=True)


def _cpu_s() -> float:
    """Ours and our children's."""
    told = os.times()
    return time.process_time() + told.children_user + told.children_system


def quiet(*words: str) -> Callable[[], None]:
    def run() -> None:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            assert command(list(words)) == 0

    return run


def child(*words: str) -> Callable[[], None]:
    def run() -> None:
        line = [sys.executable, "-m", "workbench", *words]
        subprocess.run(line, check=True, capture_output=True)

    return run


def desk_of(home: Home, gib: int) -> TickContext:
    store = Store(home.database)
    dotted = f"{Sitting.__module__}:Sitting"
    context = TickContext(
        home=home,
        store=store,
        fleet=InlineFleet(
            str(home.root), partial(card_table.next_generation, store), worker=dotted
        ),
        preparer=Preparer(home),
        sample=lambda: [card(n, gib) for n in range(CARDS)],
    )
    context.refresh()
    return context


def listings(home: Home) -> None:
    service = Service(home)
    measured("snapshot, as the screen takes it", service.snapshot)
    measured("the same, when nothing changed", service.version)
    measured("workbench ls, in this process", quiet("ls"))
    measured("workbench ls, as a command", child("ls"))
    measured("workbench ls --all, in this process", quiet("ls", "--all"))
    measured("workbench ls --all --json, in this process", quiet("ls", "--all", "--json"))
    measured("board of 50 trials", lambda: service.board(1))
    measured("a trial's page", lambda: service.trial(2))
    measured("its loss, 50,000 / 5 points into 400 columns", lambda: service.series(2, "loss", 400))


def ticks(home: Home) -> None:
    for words, gib in (("8 cards that run a trial each", 24), ("8 cards too full for any", 2)):
        context = desk_of(home, gib)
        if gib == 2:  # gone for now: nothing fails, everything waits
            context.store.db.execute("update cards set drained = 1, total_bytes = 24 << 30")
            context.sample = lambda: None
            words = "8 drained cards"
            for attempt in context.store.live_attempts():
                context.store.end_attempt(attempt.id, "cut", "")
                context.store.move(
                    attempt.trial,
                    context.store.trial(attempt.trial).state,
                    State.QUEUED,
                    by="recover",
                    why="x",
                )
            context.refresh()
        measured(f"tick, {words}: the first ten", partial(tick, context), 10)
        measured(f"tick, {words}: the next fifty", partial(tick, context), 50)
        context.fleet.close()
        context.store.close()


def _drain(home: Home) -> None:
    """Every card that the engine is going to see."""
    store = Store(home.database)
    card_table.record_cards(store, [{**card(n, 24), "processes": "[]"} for n in range(CARDS)])
    store.db.execute("update cards set drained = 1")
    store.close()


def engine(home: Home) -> None:
    """The real one, its cards drained, so that it holds everything and starts nothing."""
    service = Service(home)
    os.environ["WORKBENCH_CARDS"] = "cpu:24GiB,cpu:24GiB"
    service.start_engine()
    try:
        service.wait_for_engine(running=True, timeout_s=90)
        pid = json.loads(home.runtime.read_text())["loop"]["pid"]
        for _ in range(6):
            time.sleep(5)
            told = dict(
                line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
            )
        kib = {key: int(told[key].split()[0]) for key in ("VmRSS", "VmHWM")}
        print(
            f"{'memory of the loop after 30 s':<58} {kib['VmRSS'] / 1024:9.1f} MiB, "
            f"highest {kib['VmHWM'] / 1024:.1f}"
        )
        used = sum(int(n) for n in Path(f"/proc/{pid}/stat").read_text().split()[13:15])
        print(f"{'its CPU seconds so far':<58} {used / os.sysconf('SC_CLK_TCK'):9.1f}")
    finally:
        service.stop_engine()
        service.wait_for_engine(running=False, timeout_s=120)


def play_boxes(home: Home, options: argparse.Namespace) -> None:
    """The cluster of `--boxes`, on a home of its own."""
    context = simulated_boxes.make_context(home.make(), options.boxes, options.cards)
    for number in range(options.trials // TRIALS):
        submit(context, recipe(number, f"/base-{number % BASES}"))
    counts = f"{options.boxes} boxes x {options.cards} cards, {options.trials:,} trials"
    print(f"{counts} of {options.seconds} s with {BASES} bases", flush=True)
    before = dict(simulated_boxes.sizes(home))
    simulated_boxes.play(context, options.seconds)
    context.store.close()
    for name, size in simulated_boxes.sizes(home):
        grown = (size - before[name]) / options.trials / 1024
        print(f"{name:<58} {size / (1 << 20):>8.1f} MiB, {grown:.2f} KiB a trial")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, default=Path("/tmp/workbench-scale"))
    parser.add_argument("--keep", action="store_true", help="use what an earlier call left there")
    parser.add_argument("--no-engine", action="store_true")
    parser.add_argument("--boxes", type=int, default=0, help="play a cluster of so many machines")
    parser.add_argument("--cards", type=int, default=8, help="cards of each of them")
    parser.add_argument("--trials", type=int, default=EXPERIMENTS * TRIALS)
    parser.add_argument("--seconds", type=float, default=30.0, help="length of a played trial")
    options = parser.parse_args()
    os.environ["WORKBENCH_HOME"] = str(options.home)
    if not options.keep:
        shutil.rmtree(options.home, ignore_errors=True)
    home = Home(options.home)
    if options.boxes:
        play_boxes(home, options)
        return
    if not home.database.exists():
        context = desk_of(home.make(), 24)
        began = time.perf_counter()
        fill(context)
        print(f"filled in {time.perf_counter() - began:.0f} s")
        context.store.close()
    home.stopped.touch()
    store = Store(home.database)
    for table in ("experiments", "trials", "metrics"):
        rows = store.db.execute(f"select count(*) from {table}").fetchone()[0]
        print(f"{table:<58} {rows:>12,}")
    size = home.database.stat().st_size
    print(
        f"{'database, journal':<58} {size >> 20:>9,} MiB, "
        f"{(home.root / 'journal.jsonl').stat().st_size >> 20} MiB"
    )
    measured("looking through all of it", lambda: look_through(store.db, home.database, 600), 3)
    store.close()
    measured("opening it as the engine does", lambda: Store(home.database).close(), 3)
    measured("a backup", lambda: back_up(home.database, home.backups), 3)
    listings(home)
    ticks(home)
    _drain(home)
    if not options.no_engine:
        engine(home)


if __name__ == "__main__":
    main()

"""Measures what a search finds: `python benchmarks/search.py record`, then `replay`, then `live`.

record   trains a 6 × 6 grid (learning rate × rank) on the demo model, every trial to its end, and
         writes its held-out curves to benchmarks/results/search-grid.json. Goes on where it was
         interrupted. About 25 minutes on two cores.
replay   runs grid, random, TPE, each with and without ASHA, on that table over ten seeds: the
         engine's own functions, two cards, no training. Seconds.
live     one TPE + ASHA sweep of the same space through a real engine and Ray, on two CPU cards,
         held against the table. Some minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workbench import search
from workbench.attempts.assignment import Assignment
from workbench.cli.trials.follow import follow_experiment
from workbench.footprint import plan_trial
from workbench.home import Home
from workbench.machine.cards import Card
from workbench.recipe import Recipe, apply_settings, find_recipe, load_recipe
from workbench.recipe.schema import EarlyStop
from workbench.search import PastTrial, stopping
from workbench.search.history import Fate
from workbench.service import Service

TABLE = Path(__file__).parent / "results" / "search-grid.json"
RATES = [5e-4, 1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2]
RANKS = [2, 4, 8, 16, 32, 64]
STEPS, EVERY = 100, 4
CHANGES = [
    "sweep=null",
    f"train.max_steps={STEPS}",
    f"train.save_every={STEPS}",
    f"evaluate.every={EVERY}",
    "evaluate.answer_pattern=null",
    "evaluate.samples=0",
]
"""The demo, scored by held-out loss alone: generating answers would take as long as training."""


def record(out: Path) -> None:
    recipe = load_recipe(find_recipe("demo"), CHANGES)
    table: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {"trials": []}
    done = {(one["learning_rate"], one["rank"]) for one in table["trials"]}
    with tempfile.TemporaryDirectory(prefix="wb-search-") as folder:
        trainer = Trainer(recipe, Path(folder))
        for rate in RATES:
            for rank in RANKS:
                if (rate, rank) in done:
                    continue
                began = time.monotonic()
                curve = trainer.curve({"train.learning_rate": rate, "lora.rank": rank})
                took = round(time.monotonic() - began, 1)
                found = {"learning_rate": rate, "rank": rank, "curve": curve, "seconds": took}
                table["trials"].append(found)
                table["steps"], table["every"], table["changes"] = STEPS, EVERY, CHANGES
                out.write_text(json.dumps(table, indent=1) + "\n")
                print(f"lr {rate:g} rank {rank}: {curve[-1][1]:.4f} in {took} s", flush=True)


class Trainer:
    """Real trials, one after another, in this process: no engine, no Ray."""

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        from workbench.training import libraries
        from workbench.training.memory.card_memory import Meter
        from workbench.training.model.base import ResidentBase
        from workbench.training.prepare import prepare_experiment

        libraries.silence_loggers()
        libraries.import_libraries(threads=1)
        self.recipe, self.folder = recipe, folder
        self.card = Card(uuid="cpu-0", kind="cpu", name="CPU", total_bytes=8 << 30)
        self.experiment = folder / "experiments" / "1"
        self.experiment.mkdir(parents=True)
        (self.experiment / "recipe.json").write_text(recipe.model_dump_json())
        cache = folder / "cache" / "data"
        self.prepared = prepare_experiment(self.experiment, cache, lambda *_: None)
        self.resident, self.meter, self.number = ResidentBase(), Meter(self.card), 0

    def curve(self, settings: dict[str, Any]) -> list[tuple[int, float]]:
        """(step, held-out loss) from first to last."""
        from workbench.training.control import Control
        from workbench.training.trial_run import run_attempt

        self.number += 1
        recipe = apply_settings(self.recipe, settings)
        plan = plan_trial(recipe, self.prepared["model"]["config"], self.card)
        told: list[tuple[int, float]] = []

        def emit(kind: str, *, durable: bool = False, **data: Any) -> None:
            if kind == "metric" and "eval_loss" in data["values"]:
                told.append((data["step"], round(data["values"]["eval_loss"], 5)))
            if kind == "end" and data["outcome"] == "failed":
                print(f"  {data['reason']}", flush=True)

        run_attempt(
            Assignment(
                attempt=self.number,
                trial=self.number,
                experiment=1,
                kind="tune",
                recipe=recipe.model_dump(mode="json"),
                card=self.card.to_json(),
                plan=plan.to_json(),
                folder=str(self.folder / "attempts" / str(self.number)),
                trial_folder=str(self.folder / "trials" / str(self.number)),
                experiment_folder=str(self.experiment),
            ),
            resident=self.resident,
            meter=self.meter,
            emit=emit,
            control=Control(),
        )
        return told


# ── replay ───────────────────────────────────────────────────────────────────────────────────

CARDS, SEEDS = 2, range(10)
REDUCTION = 3


@dataclass
class Course:
    """One trial of a replayed sweep."""

    number: int
    settings: dict[str, Any]
    whole: list[tuple[int, float]]
    told: list[tuple[int, float]] = field(default_factory=list)
    cut: bool = False

    @property
    def over(self) -> bool:
        return self.cut or len(self.told) == len(self.whole)

    def tried(self) -> PastTrial:
        step, loss = self.told[-1] if self.told else (None, None)
        fate: Fate = "running" if not self.over else "ended_early" if self.cut else "scored"
        return PastTrial(
            number=self.number,
            settings=self.settings,
            fate=fate,
            score=loss if fate == "scored" else None,
            step=step,
            eval_loss=loss,
        )


def replay(
    table: dict[str, Any], method: str, trials: int, seed: int, first: int | None, reduction: int
) -> tuple[float, int]:
    """Best held-out loss among its adapters, and optimizer steps of all its trials. `first`: the
    first rung of its early stopping, if any."""
    curves = {(t["learning_rate"], t["rank"]): t["curve"] for t in table["trials"]}
    sweep = {
        "method": method,
        "trials": trials,
        "seed": seed,
        "parameters": {"train.learning_rate": RATES, "lora.rank": RANKS},
    }
    recipe = swept_recipe(sweep)
    queue = search.initial_points(recipe) if method == "grid" else []
    dice = random.Random(seed)  # which card is the faster one
    dice.shuffle(queue)
    begun: list[Course] = []
    live: list[Course] = []
    rungs: dict[int, list[float | None]] = {}
    while True:
        while len(live) < CARDS and len(begun) < trials:
            number = len(begun) + 1
            point = (
                queue[number - 1]
                if method == "grid"
                else search.next_point(recipe, number, [one.tried() for one in begun])
            )
            if point is None:
                break
            whole = curves[point["train.learning_rate"], point["lora.rank"]]
            begun.append(Course(number, point, [(s, v) for s, v in whole]))
            live.append(begun[-1])
        if not live:
            break
        one = dice.choice(live)
        one.told.append(one.whole[len(one.told)])
        if first is not None and len(one.told) < len(one.whole):
            before = len(list(stopping.rungs_reached(one.told[:-1], first, reduction)))
            rungs_reached = list(stopping.rungs_reached(one.told, first, reduction))
            for rung, (_, value) in list(enumerate(rungs_reached))[before:]:
                rungs.setdefault(rung, []).append(value)
                one.cut = one.cut or not stopping.survives_rung(value, rungs[rung], reduction)
        if one.over:
            live.remove(one)
    return min(c.told[-1][1] for c in begun), sum(c.told[-1][0] for c in begun)


def swept_recipe(sweep: dict[str, Any]) -> Recipe:
    plain = load_recipe(find_recipe("demo"), CHANGES)
    return Recipe.model_validate({**plain.model_dump(), "sweep": sweep})


def replay_all(path: Path) -> None:
    table = json.loads(path.read_text())
    best = min(t["curve"][-1][1] for t in table["trials"])
    whole = table["steps"] * len(table["trials"])
    print(f"the grid's best loss {best:.4f}; all of it takes {whole:,} steps\n")
    print(
        "| search | trials | best loss, median (worst) | within 1 % | steps, median | of the grid |"
    )
    print("|---|---|---|---|---|---|")
    late = EarlyStop(reduction=REDUCTION).first_step(table["every"], table["steps"])
    for method, trials, first in (
        ("grid", 36, None),
        ("random", 12, None),
        ("tpe", 12, None),
        ("random", 24, None),
        ("tpe", 24, None),
        ("grid", 36, EVERY),
        ("tpe", 36, EVERY),
        ("grid", 36, late),
        ("random", 16, late),
        ("tpe", 16, late),
        ("tpe", 24, late),
    ):
        found = [replay(table, method, trials, seed, first, REDUCTION) for seed in SEEDS]
        losses, steps = [loss for loss, _ in found], statistics.median(s for _, s in found)
        near = sum(loss <= best * 1.01 for loss in losses)
        name = method + (f" + asha, first rung at {first}" if first else "")
        print(
            f"| {name} | {trials} | {statistics.median(losses):.4f} ({max(losses):.4f}) "
            f"| {near} of {len(losses)} | {steps:,.0f} | {steps / whole:.0%} |",
            flush=True,
        )


# ── live ─────────────────────────────────────────────────────────────────────────────────────

LIVE_TRIALS = 16


def live(path: Path) -> None:
    table = json.loads(path.read_text())
    best = min(t["curve"][-1][1] for t in table["trials"])
    sweep = {
        "method": "tpe",
        "trials": LIVE_TRIALS,
        "parameters": {"train.learning_rate": RATES, "lora.rank": RANKS},
        "early_stop": {"method": "asha", "reduction": REDUCTION},
    }
    with tempfile.TemporaryDirectory(prefix="wb-live-") as folder:
        os.environ["WORKBENCH_CARDS"] = "cpu:8GiB,cpu:8GiB"
        service = Service(Home(Path(folder) / "home"))
        service.start_engine()
        service.wait_for_engine(running=True, timeout_s=120)
        began = time.monotonic()
        try:
            answer = service.wait_for_answer(service.submit(swept_recipe(sweep)), 120)
            experiment = follow_experiment(
                service, int(answer.data["experiment"]), lambda line: print(line)
            )
            _, rows = service.board(experiment.id)
            trials = service.trials(experiment.id)
        finally:
            service.stop_engine()
            service.wait_for_engine(running=False, timeout_s=120)
        scores = [row.score for row in rows if row.kind == "tune" and row.score is not None]
        steps = sum(t.step for t in trials if t.kind == "tune")
        states = Counter(str(t.state) for t in trials if t.kind == "tune")
        whole = table["steps"] * len(table["trials"])
        print(
            f"live: {dict(states)}; best loss {min(scores):.4f} (the grid's: {best:.4f}); "
            f"{steps:,} steps, {steps / whole:.0%} of the grid's; "
            f"{time.monotonic() - began:.0f} s"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["record", "replay", "live"])
    parser.add_argument("--table", type=Path, default=TABLE)
    given = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    {"record": record, "replay": replay_all, "live": live}[given.what](given.table)


if __name__ == "__main__":
    main()

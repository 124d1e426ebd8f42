"""What a search costs and finds: `python benchmarks/search.py record`, then `replay`, then `live`.

record   trains a 6 × 6 grid (learning rate × rank) on the demo model, every trial to its end, and
         writes its held-out curves to benchmarks/results/search-grid.json. Goes on where it was
         interrupted. About 20 minutes on two idle cores.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from workbench.assignment import Assignment
from workbench.cards import Card
from workbench.footprint import choose_plan
from workbench.recipe import Recipe, apply_settings, find_recipe, load_recipe

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
        from workbench.training.base import Resident
        from workbench.training.memory import Meter
        from workbench.training.prepare import prepare_experiment

        libraries.hush()
        libraries.warm(threads=1)
        self.recipe, self.folder = recipe, folder
        self.card = Card(uuid="cpu-0", kind="cpu", name="CPU", total_bytes=8 << 30)
        self.experiment = folder / "experiments" / "1"
        self.experiment.mkdir(parents=True)
        (self.experiment / "recipe.json").write_text(recipe.model_dump_json())
        cache = folder / "cache" / "data"
        self.prepared = prepare_experiment(self.experiment, cache, lambda *_: None)
        self.resident, self.meter, self.number = Resident(), Meter(self.card), 0

    def curve(self, settings: dict[str, Any]) -> list[tuple[int, float]]:
        """(step, held-out loss) from first to last."""
        from workbench.training.control import Control
        from workbench.training.trial_run import run

        self.number += 1
        recipe = apply_settings(self.recipe, settings)
        plan = choose_plan(recipe, self.prepared["model"]["config"], self.card)
        told: list[tuple[int, float]] = []

        def emit(kind: str, *, durable: bool = False, **data: Any) -> None:
            if kind == "metric" and "eval_loss" in data["values"]:
                told.append((data["step"], round(data["values"]["eval_loss"], 5)))
            if kind == "end" and data["outcome"] == "failed":
                print(f"  {data['reason']}", flush=True)

        run(
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["record"])
    parser.add_argument("--out", type=Path, default=TABLE)
    given = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    record(given.out)


if __name__ == "__main__":
    main()

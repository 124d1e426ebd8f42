"""Measure the time from `start` to the first optimizer step on a warm worker.

The base is resident and the data is prepared, as for every trial of a sweep but the first.

    python benchmarks/start.py [--shape 8b] [--trials 4]
    python benchmarks/start.py --rehearse     (a tiny model on a CPU card)

It runs trials of two steps one after another through the worker's own code, in one process. The
first trial loads the base; for the others, which differ in their learning rate, the seconds until
the first step's loss was read back from the card are printed. The longest rows are not rehearsed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")  # as a worker has it

import torch
from capped import assigned, prepare, the_card, write_rows
from nf4_model import write_shaped_model

from workbench.attempts.assignment import Assignment
from workbench.footprint import plan_trial
from workbench.footprint.row_lengths import lengths_of
from workbench.recipe.schema import Recipe
from workbench.training import libraries
from workbench.training.control import Control
from workbench.training.memory.card_memory import Meter
from workbench.training.model.base import ResidentBase
from workbench.training.trial_run import run_attempt


def main() -> int:
    options = parse()
    shape = "tiny" if options.rehearse else options.shape
    write_shaped_model(options.model, shape, "cpu" if options.rehearse else "cuda")
    card = the_card(24, rehearse=options.rehearse)
    libraries.import_libraries(threads=2 if card.kind == "cpu" else None)
    home = Path(tempfile.mkdtemp(prefix="wb-start-"))
    write_rows(options.model, home / "rows.jsonl", 512)
    meter, resident, taken = Meter(card), ResidentBase(), []
    for trial in range(1, options.trials + 1):
        recipe = recipe_of(options, home, learning_rate=1e-4 * trial)
        prepared = prepare(home, recipe)
        lengths = lengths_of(prepared["data"])
        plan = plan_trial(recipe, prepared["model"]["config"], card, lengths=lengths)
        given = assigned(home, trial, recipe, card, plan)
        seconds = first_step(given, resident, meter)
        print(f"trial {trial}: {in_words(seconds)}", flush=True)
        taken.append(seconds["step 1"])
    name = torch.cuda.get_device_name() if card.kind == "cuda" else "cpu"
    print(f"{shape} on {name}: {statistics.median(taken[1:]):.2f} s from start to the first step "
          f"(median of {len(taken) - 1}; the first, with loading: {taken[0]:.1f} s)")  # fmt: skip
    return 0


def first_step(given: Assignment, resident: ResidentBase, meter: Meter) -> dict[str, float]:
    """Run one trial and return the seconds from `start` to each phase and to the first step."""
    began = time.perf_counter()
    seconds: dict[str, float] = {}

    def emit(kind: str, *, durable: bool = False, **data: Any) -> None:
        now = time.perf_counter() - began
        if kind == "phase":
            seconds.setdefault(data["name"], now)
        if kind == "metric" and "loss" in data["values"]:
            seconds.setdefault(f"step {data['step']}", now)

    run_attempt(given, resident=resident, meter=meter, emit=emit, control=Control(), rehearse=False)
    return seconds


def in_words(seconds: dict[str, float]) -> str:
    return ", ".join(f"{name} {at:.2f} s" for name, at in seconds.items())


def recipe_of(options: argparse.Namespace, home: Path, *, learning_rate: float) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "start",
            "model": {"name": str(options.model)},
            "data": {
                "train": str(home / "rows.jsonl"), "eval_rows": 8, "max_tokens": 512,
                "loss_on": "all", "chat_template": "never",
            },
            "train": {"learning_rate": learning_rate, "max_steps": 2, "log_every": 1},
        }
    )  # fmt: skip


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", default="8b")
    parser.add_argument("--trials", type=int, default=4)
    parser.add_argument("--model", type=Path, default=Path("/tmp/shaped-llama-3-8b"))
    parser.add_argument("--rehearse", action="store_true", help="a tiny model on a CPU card")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

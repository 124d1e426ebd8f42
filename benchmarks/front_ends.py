"""Measures the waits at the keyboard: `python benchmarks/front_ends.py`. Needs no GPU.

Medians of nine: commands as child processes (CPU seconds of the child), a plan, and a chart of
eight curves at 120 × 30.
"""

from __future__ import annotations

import math
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

from tui.chart import Curve, draw_curves
from workbench.footprint import named_config, plan_trial
from workbench.machine.cards import Card
from workbench.recipe import apply_settings, find_recipe, load_recipe
from workbench.store.rows import Point

TURNS = 9


def command(*words: str) -> Callable[[], float]:
    def spend() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "workbench", *words], capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    return spend


def timed(work: Callable[[], object]) -> Callable[[], float]:
    def spend() -> float:
        began = time.perf_counter()
        work()
        return time.perf_counter() - began

    return spend


def main() -> None:
    recipe = load_recipe(find_recipe("llama3-8b-qlora"))
    tight = apply_settings(recipe, {"train.gradient_checkpointing": "auto"})
    config = named_config(recipe.model.name)
    assert config is not None
    card = Card(uuid="GPU-x", kind="cuda", name="8 GB", total_bytes=9 << 30, capability=(8, 6))
    long = tuple(Point(step=s, low=math.sin(s), high=math.sin(s) + 0.1) for s in range(400))
    curves = [Curve(str(n), n, long) for n in range(8)]
    rows = {
        "workbench --version, CPU s": command("--version"),
        "workbench recipes, CPU s": command("recipes"),
        "workbench plan llama3-8b-qlora, CPU s": command("plan", "llama3-8b-qlora"),
        "plan_trial, s": timed(lambda: plan_trial(tight, config, card)),
        "chart of eight curves, s": timed(lambda: draw_curves(curves, 120, 30)),
    }
    print(f"{'what':<40} median of {TURNS}")
    for name, spend in rows.items():
        print(f"{name:<40} {statistics.median(spend() for _ in range(TURNS)):.4f}")


if __name__ == "__main__":
    os.environ.setdefault("WORKBENCH_HOME", "/tmp/workbench-front-ends")
    main()

"""Measure how long a board is judged, by the number of trials, with 500 held-out rows each.

    python benchmarks/verdict.py

Prints the median of three runs in seconds and the process's greatest memory so far, for answers and
for losses.
"""

from __future__ import annotations

import resource
import statistics
import time

import numpy as np

from workbench.verdict.board import judge_board
from workbench.verdict.types import RowResults

ROWS = 500
TRIALS = (6, 24, 100, 300, 1_000)
RUNS = 3


def made_up(trials: int) -> list[RowResults]:
    """Return results of equal adapters, whose rows are hard or easy for all of them alike."""
    dice = np.random.default_rng(0)
    ease_N = dice.normal(size=ROWS)
    return [
        RowResults(
            trial=trial,
            evaluation="e",
            tokens="t",
            step=1,
            targets=np.full(ROWS, 20),
            sums={"loss": 20 * np.exp(0.6 * dice.normal(size=ROWS) - ease_N)},
            means={"exact_match": (dice.random(ROWS) < 1 / (1 + np.exp(-ease_N))).astype(float)},
        )
        for trial in range(trials)
    ]


def measure_seconds(results: list[RowResults], score: str, *, higher_is_better: bool) -> float:
    """Return the seconds that one judgement takes; the first result stands for the base."""
    began = time.perf_counter()
    judge_board(results, results[0], score, higher_is_better=higher_is_better)
    return time.perf_counter() - began


def main() -> None:
    for trials in TRIALS:
        results = made_up(trials)
        for score, up in (("exact_match", True), ("loss", False)):
            took_s = statistics.median(
                measure_seconds(results, score, higher_is_better=up) for _ in range(RUNS)
            )
            peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1_024
            print(f"{trials:>5} trials  {score:<11}  {took_s:6.2f} s  {peak_mib:5.0f} MiB")


if __name__ == "__main__":
    main()

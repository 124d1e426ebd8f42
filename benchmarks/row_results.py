"""Results of single held-out rows at scale: `python benchmarks/row_results.py [TRIALS] [ROWS]`.

Fills a database with the results of TRIALS trials (10,000) on ROWS rows (500): losses that differ
from trial to trial as those of adapters do, tokens ranked first, and answers right or wrong. Prints
the bytes of one trial's arrays for several encodings, the size of the database, and the median
time of reading 24 and 100 trials, each in a new process's first read and again. About a minute.
"""

from __future__ import annotations

import resource
import statistics
import sys
import tempfile
import time
import zlib
from array import array
from collections.abc import Callable
from pathlib import Path

import numpy as np

from workbench.attempts.results_file import (
    ResultsHead,
    file_digest,
    read_head,
    results_path,
    write_results,
)
from workbench.store import Reader, Store
from workbench.store.row_results import pack_arrays, put_row_results, read_row_results
from workbench.trial import Kind

IN_EXPERIMENT = 100
ANSWER = "She buys 4 boxes of 12 pencils, so she has 4 * 12 = 48 pencils. " * 4 + "#### 48"


def results_of(rng: np.random.Generator, rows: int, hard: np.ndarray) -> ResultsHead:
    targets = (20 + 180 * hard).astype(int)
    losses = targets * hard * np.exp(0.3 * rng.standard_normal(rows))
    right = rng.random(rows) < np.exp(-2 * hard)
    return ResultsHead(
        evaluation="e" * 32,
        tokens="f" * 32,
        step=100,
        scored=True,
        targets=targets.tolist(),
        sums={
            "loss": losses.tolist(),
            "token_accuracy": rng.binomial(targets, 0.8).astype(float).tolist(),
        },
        means={"exact_match": right.astype(float).tolist()},
    )


def print_encodings(head: ResultsHead) -> None:
    numbers: list[list[float]] = [*head.sums.values()]
    numbers += [[float(v or 0) for v in values] for values in head.means.values()]
    plain = array("i", head.targets).tobytes() + b"".join(array("d", n).tobytes() for n in numbers)
    single = array("i", head.targets).tobytes() + b"".join(array("f", n).tobytes() for n in numbers)
    ways: dict[str, Callable[[], bytes]] = {
        "float64": lambda: plain,
        "float64, zlib 1": lambda: zlib.compress(plain, 1),
        "float64, zlib 6 (stored so)": lambda: pack_arrays(head),
        "float64, zlib 9": lambda: zlib.compress(plain, 9),
        "float32, zlib 6": lambda: zlib.compress(single, 6),
    }
    for name, way in ways.items():
        print(f"  {name:30} {len(way()):8,} bytes  {median_ms(way, 200):8.3f} ms")


def median_ms(work: Callable[[], object], times: int) -> float:
    taken = []
    for _ in range(times):
        began = time.process_time()
        work()
        taken.append(time.process_time() - began)
    return 1e3 * statistics.median(taken)


def fill(path: Path, trials: int, rows: int) -> list[ResultsHead]:
    """Fill the database and return some of the results in it."""
    rng = np.random.default_rng(0)
    hard = np.minimum(rng.gamma(1.0, 0.5, rows), 5.0)
    kept: list[ResultsHead] = []
    store = Store(path, journal=False)
    store.db.execute("pragma synchronous = off")
    for at in range(0, trials, IN_EXPERIMENT):
        with store.writing():
            experiment = store.add_experiment({"name": f"e{at}"}, "exact_match")
            for number in range(1, IN_EXPERIMENT + 1):
                trial = store.add_trial(experiment, number, Kind.TUNE, {})
                attempt = store.add_attempt(trial, "cpu-0", {}, 1, 0)
                store.end_attempt(attempt, "done", "")
                head = results_of(rng, rows, hard)
                put_row_results(store, trial, attempt, head)
                kept = [*kept[-9:], head]
    store.close()
    return kept


def main(trials: int = 10_000, rows: int = 500) -> None:
    with tempfile.TemporaryDirectory(prefix="wb-rows-") as folder:
        database = Path(folder) / "workbench.db"
        began = time.process_time()
        kept = fill(database, trials, rows)
        filled_s = time.process_time() - began
        print(f"one trial, {rows} rows:")
        print_encodings(kept[0])
        lines = [
            {"row": n, "text": ANSWER, "extracted": "48", "right": True, "tokens": 90,
             "ended_by": "end"}
            for n in range(rows)
        ]  # fmt: skip
        write = median_ms(lambda: write_results(Path(folder), kept[0], lines), 20)
        file = results_path(Path(folder), kept[0].evaluation)
        print(f"its file with texts: {file.stat().st_size:,} bytes, written in {write:.1f} ms")
        take_in = median_ms(lambda: (file_digest(file), read_head(file)), 50)
        print(f"the loop's reading of the file: {take_in:.2f} ms")
        size = database.stat().st_size
        print(f"{trials:,} trials: {size / 2**20:.0f} MiB, filled in {filled_s:.0f} s of CPU")
        reader = Reader.open(database)
        for count in (24, 100):
            ids = range(trials // 2 + 1, trials // 2 + 1 + count)
            taken = median_ms(lambda ids=ids: read_row_results(reader, ids), 20)  # type: ignore[misc]
            print(f"reading {count} trials: {taken:.1f} ms")
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"resident at most: {most:.0f} MiB")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))

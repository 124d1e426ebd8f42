"""Measure the screen on the wire and at the keyboard: `python benchmarks/tui.py`. Needs no GPU.

It runs the real screen in pseudo-terminals whose other end answers as xterm does, and writes
`benchmarks/results/tui.json` with `--write`: a list of `what`, `size`, `trials`, `value`, `must`,
`unit`. Bytes do not depend on what else the machine does; seconds do, so the load is printed.

    python benchmarks/tui.py                      everything, about ten minutes
    python benchmarks/tui.py --only keys idle     some parts
    python benchmarks/tui.py --tree /tmp/old      the screen of another checkout
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))  # the homes and the terminal are of tests/

from scale import desk_of
from scale import fill as fill_large

from tests.support.engine_ticks import ticking_engine
from tests.support.pty_app import COMMAND, IGNORING, PtyApp
from tests.tui import filled
from workbench.home import Home
from workbench.trial import Kind

RESULTS = Path(__file__).parent / "results" / "tui.json"
SIZES = ((160, 50), (120, 40), (80, 24))
AFTER_KEY_S = 0.25
SLOW_LINE = 10_000.0
"""Bytes per second of the slow line."""


class Bench:
    """The homes, the options and the results of one call."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options, self.folder = options, folder
        self.rows: list[dict[str, Any]] = []

    def note(
        self, what: str, value: float, must: float | None, unit: str, size: str, trials: int
    ) -> None:
        """Keep and print one result."""
        value = round(value, 3)
        row = {"what": what, "size": size, "trials": trials, "value": value}
        self.rows.append({**row, "must": must, "unit": unit})
        mark = "" if must is None or value <= must else "  <-- misses"
        print(f"{what:<58} {size:>7} {trials:>6} {value:>11,} {unit:<6} must {must}{mark}")

    def open(self, home: Path, size: tuple[int, int], **options: Any) -> PtyApp:
        """Open the screen of `home`."""
        columns, rows = size
        # As where the workbench is installed: its modules are compiled.
        env = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(self.folder / "bytecode")}
        return PtyApp(home, columns=columns, rows=rows, env=env, cwd=self.options.tree, **options)

    def settled(self, home: Path, size: tuple[int, int], **options: Any) -> PtyApp:
        """Open the screen of `home` and wait until it has drawn everything."""
        app = self.open(home, size, **options)
        app.read_until(lambda: b"Dashboard" in app.seen)
        app.read_until_quiet(1.5)
        return app

    def home(self, kind: str) -> Path:
        """Return a home of that kind, made at its first use."""
        root = self.folder / kind
        if kind == "live":  # its trials have gone on since the last call
            shutil.rmtree(root, ignore_errors=True)
        if not root.exists():
            HOMES[kind](Home(root))
        return root


def write_busy(home: Home) -> None:
    """Fill `home` with trials in every state, two of them running."""
    filled.fill(home, time.time())


def write_quiet(home: Home) -> None:
    """Fill `home` with trials that ended yesterday, so that nothing on the screen changes."""
    filler = filled.Filler(home, time.time())
    with filler.store.writing():
        filled._cards(filler)
        filled._demo(filler)
        filler.write_notes()
    filler.store.close()


def write_424(home: Home) -> None:
    """Fill `home` with 424 trials."""
    write_busy(home)
    filler = filled.Filler(home, time.time())
    with filler.store.writing():
        filler.set(3_000)
        id = filler.experiment({**filled.SUPPORT, "name": "grid"}, "loss", 3_000)
        have = filler.store.db.execute("select count(*) from trials").fetchone()[0]
        for n in range(424 - have):
            rate, rank = 1e-5 * (n + 1), 8 + n % 4
            settings: dict[str, object] = {"train.learning_rate": rate, "lora.rank": rank}
            filler.store.add_trial(id, n + 1, Kind.TUNE, settings)
    filler.store.close()


def write_large(home: Home) -> None:
    """Fill `home` with 10,000 trials and 10 million points."""
    context = desk_of(home.make(), 24)
    fill_large(context)
    context.store.close()
    home.stopped.touch()


HOMES: dict[str, Callable[[Home], None]] = {
    "busy": write_busy,
    "live": write_busy,
    "quiet": write_quiet,
    "424": write_424,
    "large": write_large,
}


def named(size: tuple[int, int]) -> str:
    return f"{size[0]}×{size[1]}"


def measure_keys(bench: Bench) -> None:
    """Measure the bytes that follow a cursor key, a scrolled line, and the first screen."""
    home = bench.home("busy")
    with ticking_engine(home):
        for size in SIZES:
            with bench.settled(home, size) as app:
                if size == SIZES[0]:
                    bench.note("first screen", len(app.seen), 25_000, "bytes", named(size), 20)
                taken = [key_bytes(app, b"j" if n % 2 else b"k") for n in range(2, 12)]
                bench.note(
                    "cursor key on Dashboard, until 250 ms after it",
                    statistics.median(taken),
                    600,
                    "bytes",
                    named(size),
                    20,
                )
    with ticking_engine(bench.home("424")), bench.settled(bench.home("424"), SIZES[0]) as app:
        app.send(b"2")
        app.read_until_quiet(1.5)
        app.send(b"j" * 60)
        app.read_until_quiet(1.5)
        taken = [key_bytes(app, b"j") for _ in range(10)]
        what = "`j` at the bottom edge of Trials"
        bench.note(what, statistics.median(taken), 2_500, "bytes", named(SIZES[0]), 424)


def key_bytes(app: PtyApp, key: bytes) -> int:
    """Return the bytes until 250 ms after a key, a second after whatever came before it."""
    app.read_until_quiet(0.9, 3)
    app.send(key)
    return len(app.read_for(AFTER_KEY_S))


def measure_idle(bench: Bench) -> None:
    """Measure the bytes per second while nothing changes, and while two trials run."""
    home = bench.home("quiet")
    with ticking_engine(home), bench.settled(home, SIZES[0]) as app:
        app.read_for(3)
        sent = len(app.read_for(20)) / 20
        bench.note("nothing changes", sent, 0, "B/s", named(SIZES[0]), 7)
    home = bench.home("live")
    with ticking_engine(home, live=True), bench.settled(home, SIZES[0]) as app:
        app.read_for(3)
        sent = len(app.read_for(20)) / 20
        bench.note("two live trials, a step a second", sent, 2_000, "B/s", named(SIZES[0]), 20)


def measure_slow(bench: Bench) -> None:
    """Measure a line of 10 KB/s: when the screen is there, and how views follow their keys."""
    home, size = bench.home("busy"), SIZES[0]
    with ticking_engine(home), bench.open(home, size, bytes_per_s=SLOW_LINE) as app:
        app.read_until(lambda: b"llama3-8b" in app.seen)
        began = app.began_s
        app.read_until_quiet(0.4, 40)
        taken = time.monotonic() - 0.4 - began
        bench.note("10 KB/s: first screen whole after", taken, 3, "s", named(size), 20)
        first, whole = [], []
        for turn in range(20):
            app.read_until_quiet(0.4, 40)
            app.send(b"2563456124"[turn % 10 : turn % 10 + 1])
            began = time.monotonic()
            while not app.read(10):
                pass
            first.append(time.monotonic() - began)
            whole.append(first[-1] + app.read_until_quiet(0.3, 40))
        bench.note("10 KB/s: key to first rows, p95", p95(first), 1, "s", named(size), 20)
        bench.note("10 KB/s: key to whole view, p95", p95(whole), 2.5, "s", named(size), 20)


def p95(values: Sequence[float]) -> float:
    return sorted(values)[int(0.95 * (len(values) - 1) + 0.5)]


def key_times(app: PtyApp, keys: int) -> list[float]:
    """Return the milliseconds from each of some cursor keys to the bytes that answer it."""
    dice, taken = random.Random(4711), []
    for n in range(keys):
        app.read_until_quiet(0.15 + dice.random() * 0.1, 3)
        app.send(b"j" if n % 8 < 6 else b"k")
        began = time.perf_counter()
        while not app.read(5):
            pass
        taken.append((time.perf_counter() - began) * 1_000)
    return taken


def measure_large(bench: Bench) -> None:
    """Measure keys, rest and a repaint over 10,000 trials, and keys over 424."""
    home = bench.home("large")
    size = SIZES[0]
    with ticking_engine(home), bench.settled(home, size) as app:
        taken = key_times(app, 40)
        bench.note("cursor key, p50", statistics.median(taken), 20, "ms", named(size), 10_000)
        bench.note("cursor key, p95", p95(taken), 50, "ms", named(size), 10_000)
        app.read_for(3)
        before, seconds = app.cpu_s(), 20
        app.read_for(seconds)
        spent = 100 * (app.cpu_s() - before) / seconds
        bench.note("CPU at rest", spent, 2, "%", named(size), 10_000)
    with ticking_engine(bench.home("424")), bench.settled(bench.home("424"), (80, 24)) as app:
        taken = key_times(app, 60)
        bench.note("cursor key, p95", p95(taken), 50, "ms", "80×24", 424)


def measure_repaint(bench: Bench) -> None:
    """Measure a repaint of Dashboard over 10,000 trials, in a process of its own."""
    home = bench.home("large")
    with ticking_engine(home), bench.settled(home, SIZES[0], code=REPAINT) as app:
        app.read_until(lambda: b"repaint took" in app.seen)
        took = app.seen.partition(b"repaint took ")[2].split()[0]
        bench.note("one repaint, CPU", float(took), 20, "ms", named(SIZES[0]), 10_000)


REPAINT = """
import statistics, sys, time
from tui import app as shown
spent = []
class Timed(shown.WorkbenchApp):
    CSS_PATH = str(__import__("pathlib").Path(shown.__file__).parent / "workbench.tcss")
    def _tick(self):
        began = time.thread_time()
        super()._tick()
        spent.append((time.thread_time() - began) * 1_000)
        if len(spent) == 12:
            self.exit(0)
shown.WorkbenchApp = Timed
shown.run_app()
print("repaint took", statistics.median(spent), flush=True)
time.sleep(1)
"""


def measure_hang_ups(bench: Bench) -> None:
    """Measure how long the process outlives its terminal, hang-ups ignored."""
    home, taken = bench.home("busy"), []
    dice = random.Random(4711)
    with ticking_engine(home, live=True):
        for _ in range(bench.options.hang_ups):
            with bench.open(home, SIZES[0], code=IGNORING) as app:
                app.read_until(lambda app=app: b"Dashboard" in app.seen)  # type: ignore[misc]
                app.read_for(dice.random() * 1.5)
                if dice.random() < 0.5:
                    app.send(dice.choice([b"j" * 9, b"2", b"q", b"45", b"?"]))
                app.hang_up()
                began = time.monotonic()
                with contextlib.suppress(Exception):
                    app.process.wait(20)
                taken.append(time.monotonic() - began)
    size, slow = named(SIZES[0]), sum(one > 1 for one in taken)
    bench.note(f"hang-ups of {len(taken)} outlived by over 1 s", slow, 0, "", size, 20)
    bench.note("hang-up to the end of the process, worst", max(taken), 1, "s", size, 20)


def measure_start(bench: Bench) -> None:
    """Measure the first paint: its seconds and the CPU time until then."""
    home, wall, spent = bench.home("busy"), [], []
    with ticking_engine(home):
        for _ in range(11):
            with bench.open(home, SIZES[0], code=COMMAND) as app:
                app.read_until(lambda app=app: b"Dashboard" in app.seen)  # type: ignore[misc]
                wall.append(time.monotonic() - app.began_s)
                spent.append(app.cpu_s())
    bench.note("first paint, median", statistics.median(wall), 0.5, "s", named(SIZES[0]), 20)
    bench.note("first paint, CPU", statistics.median(spent), 0.5, "s", named(SIZES[0]), 20)


PARTS: dict[str, Callable[[Bench], None]] = {
    "keys": measure_keys,
    "idle": measure_idle,
    "slow": measure_slow,
    "large": measure_large,
    "repaint": measure_repaint,
    "hang-ups": measure_hang_ups,
    "start": measure_start,
}


def write_results(rows: Sequence[dict[str, Any]]) -> None:
    """Write the results; rows of parts that were not measured now stay as they are."""

    def name(row: dict[str, Any]) -> tuple[str, str, int]:
        return (row["what"], row["size"], row["trials"])

    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    found = {name(row): row for row in (*kept, *rows)}
    RESULTS.write_text(json.dumps(list(found.values()), indent=1, ensure_ascii=False) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--hang-ups", type=int, default=200)
    parser.add_argument("--tree", type=Path, help="measure the screen of this checkout")
    parser.add_argument("--homes", type=Path, help="keep the homes in this folder")
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.name}")
    options = parser.parse_args()
    folder = options.homes or Path(tempfile.mkdtemp(prefix="workbench-tui-"))
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPU cores")
    bench = Bench(options, folder)
    for part in options.only:
        PARTS[part](bench)
    if options.write:
        write_results(bench.rows)
    if options.homes is None:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()

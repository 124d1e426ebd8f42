"""The load of a machine's processor and memory under an engine, at rest and while cards train."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from cards_lab import Lab, Report

from workbench.machine.processes import find_marked

MEASURED_S = 10.0
"""Seconds for which a load is measured."""


def at_rest(lab: Lab, report: Report) -> None:
    """Measure the CPU share of every process while nothing runs, and of an open screen."""
    share = _cpu_shares(lab, {})
    report.check("CPU percent of one core at rest", sum(share.values()) < 100, share)


def while_training(lab: Lab, report: Report, trials: list[int]) -> None:
    """Measure the CPU share and the memory of the workers of these live trials, and the ticks."""
    live = {f"worker of card {n}": lab.live(trial) for n, trial in enumerate(trials)}
    workers = {name: one.pid for name, one in live.items() if one is not None and one.pid}
    pauses: list[float] = []
    watch = threading.Thread(target=_watch_ticks, args=(lab.service.home.tick, pauses))
    watch.start()
    share = _cpu_shares(lab, workers)
    watch.join()
    report.figures["CPU percent of one core while all train"] = share
    memory = {name: round(_own_bytes(pid) / 2**30, 2) for name, pid in workers.items()}
    report.figures["GiB of the machine's memory"] = memory
    report.figures["s between two ticks, most"] = round(max(pauses, default=0.0), 2)
    report.figures["s between two ticks, on average"] = round(sum(pauses) / len(pauses), 2)


def _cpu_shares(lab: Lab, workers: Mapping[str, int]) -> dict[str, float]:
    """Return percent of one core: the loop, the rest of the engine, a screen, and each worker."""
    runtime = json.loads(lab.service.home.runtime.read_text())
    loop = int(runtime["loop"]["pid"])
    engine = [*find_marked(str(runtime["unit"])), int(runtime["keeper"]["pid"])]
    with _screen(lab) as screen:
        time.sleep(3.0)
        pids = {*engine, *workers.values(), screen}
        before = {pid: _cpu_s(pid) for pid in pids}
        time.sleep(MEASURED_S)
        spent = {pid: 100 * (_cpu_s(pid) - before[pid]) / MEASURED_S for pid in pids}
    named = {"loop": loop, "screen": screen, **workers}
    rest = sum(share for pid, share in spent.items() if pid not in named.values())
    shares = {name: spent.get(pid, 0.0) for name, pid in named.items()}
    return {name: round(share, 2) for name, share in {**shares, "Ray and the rest": rest}.items()}


@contextmanager
def _screen(lab: Lab) -> Iterator[int]:
    """Run the screen in a terminal of its own, whose output is read; yield its pid."""
    env = {**os.environ, "WORKBENCH_HOME": str(lab.service.home.root), "TERM": "xterm-256color"}
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "workbench"]
    shown = subprocess.Popen(command, env=env, stdin=slave, stdout=slave, stderr=slave)
    os.close(slave)
    reading = threading.Thread(target=_read_to_end, args=(master,))
    reading.start()
    try:
        yield shown.pid
    finally:
        shown.kill()
        shown.wait()
        reading.join()
        os.close(master)


def _read_to_end(terminal: int) -> None:
    with suppress(OSError):  # EIO: the program behind it has ended
        while os.read(terminal, 1 << 16):
            pass


def _watch_ticks(tick: Path, pauses: list[float]) -> None:
    """Append the seconds between the loop's ticks, as its file's times tell them."""
    until, last = time.monotonic() + MEASURED_S, tick.stat().st_mtime
    while time.monotonic() < until:
        now = tick.stat().st_mtime
        if now != last:
            pauses.append(now - last)
            last = now
        time.sleep(0.01)


def _own_bytes(pid: int) -> int:
    """Return the bytes of a process, with its share of what it shares with others (PSS)."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:"))


def _cpu_s(pid: int) -> float:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0.0
    fields = stat[stat.rindex(")") + 2 :].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

"""Faults at named points, for tests and the soak: nothing happens unless WORKBENCH_FAULT arms one.

WORKBENCH_FAULT="checkpoint.before_rename=kill@2,worker.step=hang"
    each process, when it comes by for the second time; so does everything it starts
WORKBENCH_FAULT=/a/file
    what stands in that file while it is there, in the same words: the first process to whom it
    happens takes the file away (`/a/file.fired` says who), so that its successor is spared
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from workbench.errors import UsageError

VARIABLE = "WORKBENCH_FAULT"

POINTS = {
    "process_requests.before_commit": "scheduler/process_requests.py",
    "process_requests.after_commit": "scheduler/process_requests.py",
    "ingest.before_commit": "store/ingest.py",
    "ingest.after_commit": "scheduler/reconcile.py",
    "reconcile.after_halt": "scheduler/reconcile.py",
    "recover.before_commit": "scheduler/recover.py",
    "recover.after_commit": "scheduler/recover.py",
    "propose_trials.before_commit": "scheduler/propose_trials.py",
    "propose_trials.after_commit": "scheduler/propose_trials.py",
    "place.before_row": "scheduler/place.py",
    "place.before_commit": "scheduler/place.py",
    "place.after_commit": "scheduler/place.py",
    "place.after_start": "scheduler/place.py",
    "engine.before_stopped": "engine.py",
    "sampler.asking": "machine/sampler.py",
    "prepare.before_result": "training/prepare.py",
    "worker.report": "training/worker.py",
    "worker.loading": "training/attempt.py",
    "worker.step": "training/trainer.py",
    "worker.evaluating": "training/scoring/held_out_loss.py",
    "checkpoint.filled": "training/checkpoints/checkpoint.py",
    "checkpoint.before_rename": "training/checkpoints/checkpoint.py",
    "checkpoint.after_rename": "training/checkpoints/checkpoint.py",
    "adapter.before_rename": "training/model/adapter.py",
    "adapter.after_rename": "training/model/adapter.py",
}
"""Every point, and the one file of workbench/ that has it."""


class Injected(RuntimeError):
    """What `raise` raises: an error that nobody foresaw."""


def at(point: str, file: Path | None = None) -> None:
    """Do here what is armed; `file` is what `truncate` cuts. Costs half a microsecond unarmed."""
    source = os.environ.get(VARIABLE)
    if source:
        _come_by(point, file, source)


def armed(source: str) -> dict[str, tuple[str, int]]:
    """point → (action, at which passage); UsageError for what is no point, action or number."""
    found = {}
    for one in filter(None, (part.strip() for part in source.replace("\n", ",").split(","))):
        point, _, told = one.partition("=")
        action, _, passage = told.partition("@")
        if point not in POINTS:
            raise UsageError(f"{VARIABLE}: {point} is no point", hint=f"one of {', '.join(POINTS)}")
        if action not in ACTIONS or not (passage or "1").isdecimal():
            known = ", ".join(ACTIONS)
            raise UsageError(f"{VARIABLE}: cannot do {told}", hint=f"one of {known}, with @2 or so")
        found[point] = (action, int(passage or 1))
    return found


def check() -> None:
    """UsageError when what is armed in the environment makes no sense."""
    _armed_now(os.environ.get(VARIABLE, ""))


def _armed_now(source: str) -> dict[str, tuple[str, int]]:
    if not source.startswith("/"):
        return armed(source)
    try:
        return armed(Path(source).read_text())
    except FileNotFoundError:
        return {}


_passed: Counter[tuple[str, str, int]] = Counter()


def _come_by(point: str, file: Path | None, source: str) -> None:
    if point not in POINTS:
        raise UsageError(f"{point} is not among the points of workbench/fault_points.py")
    found = _armed_now(source).get(point)
    if found is None:
        return
    action, passage = found
    _passed[point, action, passage] += 1
    if _passed[point, action, passage] == passage and _is_ours(source, point):
        ACTIONS[action](file)


def _is_ours(source: str, point: str) -> bool:
    """False where another process took the fault first."""
    if not source.startswith("/"):
        return True
    fired = Path(f"{source}.fired")
    try:
        os.rename(source, fired)
    except FileNotFoundError:
        return False
    fired.write_text(f"{point} {os.getpid()}\n")
    _passed.clear()
    return True


def _kill(_: Path | None) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _raise(_: Path | None) -> None:
    raise Injected("a fault was injected here")


def _hang(_: Path | None) -> None:
    while True:
        time.sleep(3600)


def _no_space(_: Path | None) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _out_of_memory(_: Path | None) -> None:
    raise MemoryError("out of memory, injected here")


def _truncate(file: Path | None) -> None:
    assert file is not None, "this point names no file"
    os.truncate(file, file.stat().st_size // 2)


def _truncate_and_kill(file: Path | None) -> None:
    _truncate(file)
    _kill(file)


def _cuda_illegal_access(_: Path | None) -> None:
    torch: Any = sys.modules["torch"]  # only where somebody trains
    nowhere = torch._C._construct_storage_from_data_pointer(
        1 << 44, torch.device("cuda:0"), 1 << 10
    )
    torch.empty(0, device="cuda").set_(nowhere).sum().item()


def _cuda_out_of_memory(_: Path | None) -> None:
    torch: Any = sys.modules["torch"]
    torch.empty(1 << 50, dtype=torch.uint8, device="cuda")


ACTIONS: dict[str, Callable[[Path | None], None]] = {
    "kill": _kill,
    "raise": _raise,
    "hang": _hang,
    "no_space": _no_space,
    "oom": _out_of_memory,
    "truncate": _truncate,
    "truncate_and_kill": _truncate_and_kill,
    "cuda_illegal_access": _cuda_illegal_access,
    "cuda_out_of_memory": _cuda_out_of_memory,
}

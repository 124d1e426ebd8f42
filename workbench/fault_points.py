"""Inject faults at named points, for tests and the soak test, if WORKBENCH_FAULT arms them.

WORKBENCH_FAULT="checkpoint.before_rename=kill@2,worker.step=hang"
    Every process that inherits the variable runs the action, here when it passes the point for the
    second time.
WORKBENCH_FAULT=/a/file
    The file contains the same syntax and is read at every point while it exists. The first process
    that fires takes it away and writes its pid to `/a/file.fired`, so that the process that
    replaces it runs without the fault. The action `hold` lasts until `/a/file.fired` is removed.
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
    "enqueue_scores.before_commit": "scheduler/evaluation/enqueue_scores.py",
    "enqueue_scores.after_commit": "scheduler/evaluation/enqueue_scores.py",
    "finalist_tests.before_commit": "scheduler/evaluation/finalist_tests.py",
    "finalist_tests.after_commit": "scheduler/evaluation/finalist_tests.py",
    "propose_trials.before_commit": "scheduler/propose_trials.py",
    "propose_trials.after_commit": "scheduler/propose_trials.py",
    "propose_finals.before_commit": "scheduler/finals.py",
    "propose_finals.after_commit": "scheduler/finals.py",
    "place.before_row": "scheduler/start_attempt.py",
    "place.before_commit": "scheduler/start_attempt.py",
    "place.after_commit": "scheduler/start_attempt.py",
    "place.after_start": "scheduler/start_attempt.py",
    "engine.before_stopped": "engine.py",
    "sampler.asking": "machine/sampler.py",
    "prepare.before_result": "training/prepare.py",
    "worker.report": "training/worker.py",
    "worker.loading": "training/attempt/setting.py",
    "worker.step": "training/trainer.py",
    "worker.evaluating": "training/scoring/held_out_loss.py",
    "results.before_rename": "attempts/results_file.py",
    "results.after_rename": "attempts/results_file.py",
    "checkpoint.copied": "training/checkpoints/write.py",
    "checkpoint.filled": "training/checkpoints/checkpoint.py",
    "checkpoint.before_rename": "training/checkpoints/checkpoint.py",
    "checkpoint.after_rename": "training/checkpoints/checkpoint.py",
    "adapter.linked": "training/model/adapter.py",
    "adapter.before_rename": "training/model/adapter.py",
    "adapter.after_rename": "training/model/adapter.py",
    "export.before_rename": "export/shard_writer.py",
    "gguf.before_rename": "export/gguf/write.py",
    "soup.before_rename": "export/soup.py",
    "trash.after_record": "library/trash.py",
    "trash.between_moves": "library/trash.py",
    "trash.restoring": "library/trash.py",
    "trash.emptying": "library/trash.py",
}
"""Every point, with the one file of workbench/ that contains it."""


HOLD_LIMIT_S = 300.0
"""Most seconds for which the action `hold` waits."""


class InjectedFault(RuntimeError):
    """The error of the action `raise`: one that no code handles specifically."""


def at(point: str, file: Path | None = None) -> None:
    """Run the action that is armed for `point`; `file` is what the action `truncate` shortens.

    Costs half a microsecond if no fault is armed. Raises UsageError for an unknown point.
    """
    source = os.environ.get(VARIABLE)
    if source:
        _pass_point(point, file, source)


def parse_faults(source: str) -> dict[str, tuple[str, int]]:
    """Parse armed faults into point → (action, number of the passage that fires).

    Raises UsageError for an unknown point or action, or a passage that is no number.
    """
    found = {}
    for one in filter(None, (part.strip() for part in source.replace("\n", ",").split(","))):
        point, _, given = one.partition("=")
        action, _, passage = given.partition("@")
        if point not in POINTS:
            raise UsageError(f"{VARIABLE}: {point} is no point", hint=f"one of {', '.join(POINTS)}")
        if action not in ACTIONS or not (passage or "1").isdecimal():
            known = ", ".join(ACTIONS)
            what = f"{VARIABLE}: {given} is no action"
            raise UsageError(what, hint=f"one of {known}; add @2 for the second passage")
        found[point] = (action, int(passage or 1))
    return found


def check_armed() -> None:
    """Raise UsageError if WORKBENCH_FAULT in the environment cannot be parsed."""
    _armed_now(os.environ.get(VARIABLE, ""))


def _armed_now(source: str) -> dict[str, tuple[str, int]]:
    if not source.startswith("/"):
        return parse_faults(source)
    try:
        return parse_faults(Path(source).read_text())
    except FileNotFoundError:
        return {}


_passed: Counter[tuple[str, str, int]] = Counter()


def _pass_point(point: str, file: Path | None, source: str) -> None:
    if point not in POINTS:
        raise UsageError(f"{point} is not among the points of workbench/fault_points.py")
    found = _armed_now(source).get(point)
    if found is None:
        return
    action, passage = found
    # Counted by action too, so that a new fault at the same point starts counting from one.
    _passed[point, action, passage] += 1
    if _passed[point, action, passage] == passage and _is_ours(source, point):
        ACTIONS[action](file)


def _is_ours(source: str, point: str) -> bool:
    """Claim the fault; return False if another process has claimed it first.

    Renaming the file decides the race, because only one rename can succeed. Nothing is written to
    the file itself: another thread may be reading it.
    """
    if not source.startswith("/"):
        return True
    claimed, told = Path(f"{source}.{os.getpid()}"), Path(f"{source}.told-{os.getpid()}")
    try:
        os.rename(source, claimed)
    except FileNotFoundError:
        return False
    told.write_text(f"{point} {os.getpid()}\n")
    os.rename(told, f"{source}.fired")
    claimed.unlink()
    _passed.clear()
    return True


def _kill(_: Path | None) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _raise(_: Path | None) -> None:
    raise InjectedFault("a fault was injected here")


def _hang(_: Path | None) -> None:
    while True:
        time.sleep(3600)


def _hold(_: Path | None) -> None:
    """Wait until somebody removes the file that says that the fault happened.

    A test that fails meanwhile removes nothing: HOLD_LIMIT_S later the wait ends with an error.
    """
    fired = Path(f"{os.environ.get(VARIABLE)}.fired")
    until = time.monotonic() + HOLD_LIMIT_S
    while fired.exists():
        if time.monotonic() > until:
            raise InjectedFault(f"{fired} was not removed")
        time.sleep(0.01)


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
    torch: Any = sys.modules["torch"]  # this point is passed only where torch is imported
    nowhere = torch._C._construct_storage_from_data_pointer(
        1 << 44, torch.device("cuda:0"), 1 << 10
    )
    torch.empty(0, device="cuda").set_(nowhere).sum().item()


def _cuda_out_of_memory(_: Path | None) -> None:
    torch: Any = sys.modules["torch"]
    # A pebibyte: no card can satisfy it.
    torch.empty(1 << 50, dtype=torch.uint8, device="cuda")


ACTIONS: dict[str, Callable[[Path | None], None]] = {
    "kill": _kill,
    "raise": _raise,
    "hang": _hang,
    "hold": _hold,
    "no_space": _no_space,
    "oom": _out_of_memory,
    "truncate": _truncate,
    "truncate_and_kill": _truncate_and_kill,
    "cuda_illegal_access": _cuda_illegal_access,
    "cuda_out_of_memory": _cuda_out_of_memory,
}

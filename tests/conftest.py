"""Conditions of every test.

The configuration of whoever runs them is not read, and ctrl-c works also where a shell started them
in the background, which hands on that it is ignored. Several processes share the cores, so each
computes with one thread, and none collects garbage among the libraries, which live to the end.
Temporary folders lie in memory where there is room: stores and checkpoints wait for the disk at
each of their many small commits, which no test can tell apart.
"""

from __future__ import annotations

import gc
import os
import signal

import pytest

MEMORY, ROOM_BYTES = "/dev/shm", 4 << 30


def _has_room(folder: str) -> bool:
    """Return True where the folder takes programs and ROOM_BYTES, ten times what a run leaves."""
    try:
        found = os.statvfs(folder)
    except OSError:
        return False
    free_bytes = found.f_bavail * found.f_frsize
    runs_programs = not found.f_flag & os.ST_NOEXEC
    return os.access(folder, os.W_OK) and runs_programs and free_bytes >= ROOM_BYTES


if _has_room(MEMORY):
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", MEMORY)
os.environ["XDG_CONFIG_HOME"] = "/nonexistent"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported, also by children
signal.signal(signal.SIGINT, signal.default_int_handler)
gc.set_threshold(20_000, 20, 20)
gc.disable()  # until the test modules have imported what they need


def pytest_configure(config: pytest.Config) -> None:
    """Let numbers overflow in Triton's interpreter as on a card, which does not warn of it."""
    if os.environ.get("TRITON_INTERPRET") == "1":
        config.addinivalue_line("filterwarnings", "ignore:.* encountered in:RuntimeWarning")


def pytest_collection_finish() -> None:
    """Leave everything that was imported out of later collections, which then take 10 ms."""
    gc.collect()
    gc.freeze()
    gc.enable()

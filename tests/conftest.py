"""Conditions of every test.

The configuration of whoever runs them is not read, and ctrl-c works also where a shell started them
in the background, which hands on that it is ignored. Several processes share the cores, so each
computes with one thread, and none collects garbage among the libraries, which live to the end.
"""

from __future__ import annotations

import gc
import os
import signal

os.environ["XDG_CONFIG_HOME"] = "/nonexistent"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported, also by children
signal.signal(signal.SIGINT, signal.default_int_handler)
gc.set_threshold(20_000, 20, 20)
gc.disable()  # until the test modules have imported what they need


def pytest_collection_finish() -> None:
    """Leave everything that was imported out of later collections, which then take 10 ms."""
    gc.collect()
    gc.freeze()
    gc.enable()

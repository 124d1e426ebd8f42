"""Waiting for a fact, never for a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_for(fact: Callable[[], T], what: str, limit_s: float = 60.0) -> T:
    """Call `fact` until its result is true and return it; AssertionError after `limit_s`."""
    until = time.monotonic() + limit_s
    while time.monotonic() < until:
        answer = fact()
        if answer:
            return answer
        time.sleep(0.01)
    raise AssertionError(f"{what}: not so after {limit_s:.0f} s")

"""The shortest time for trials on two unequal cards, found by brute force."""

from __future__ import annotations

from collections.abc import Sequence


def best_makespan(durations: Sequence[tuple[bool, float]]) -> float:
    """Return the shortest time in which two cards can do the work, by trying every division.

    Each trial is (whether only the first card takes it, its seconds); order does not matter.
    """
    second = {0.0}
    for big, duration in durations:
        second |= set() if big else {total + duration for total in second}
    whole = sum(duration for _, duration in durations)
    return min(max(total, whole - total) for total in second)

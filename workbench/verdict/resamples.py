"""Seeded resamples of rows and sign flips: the same digits for the same seed and rows."""

# B resamples or flips, N rows, K results.

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from workbench.verdict.types import Floats

RESAMPLES = 2_000
"""Resamples of an interval: its ends then vary by about 2 % of its width from seed to seed."""
FIRST_FLIPS = 999
"""Random sign flips of the first block, which are enough for most pairs."""
FLIPS = 9_999
"""Random sign flips: the smallest p-value that they can show is 1 / 10,000."""
ALL_FLIPS_UP_TO = 16
"""Rows up to which every flip is taken, 65,536 of them, which makes the p-value exact."""

_CHUNK = 4_000_000  # elements: 32 MB at a time, however many rows there are


def resample_counts(rows: int, *, seed: int, resamples: int = RESAMPLES) -> Iterator[Floats]:
    """Yield blocks (B, N) that say how often each resample of the rows holds each row."""
    random = np.random.default_rng([seed, rows, 1])
    block = max(1, _CHUNK // rows)
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        drawn = random.integers(rows, size=(size, rows))
        drawn += np.arange(size)[:, None] * rows
        counts = np.bincount(drawn.ravel(), minlength=size * rows)
        yield counts.reshape(size, rows).astype(np.float64)


def sign_flips(rows: int, *, seed: int) -> Iterator[Floats]:
    """Yield blocks (B, N) of +1 and -1.

    Up to 16 rows these are all flips with the first sign fixed: the other half gives the same
    absolute sums. Above, they are `FLIPS` random ones, at most `FIRST_FLIPS` in the first block.
    """
    if rows <= ALL_FLIPS_UP_TO:
        numbers = np.arange(1 << max(rows - 1, 0))[:, None]
        yield (1 - 2 * ((numbers >> np.arange(rows)) & 1)).astype(np.float64)
        return
    random = np.random.default_rng([seed, rows, 2])
    done = 0
    while done < FLIPS:
        size = min(max(1, _CHUNK // rows), (FLIPS if done else FIRST_FLIPS) - done)
        done += size
        bits = random.integers(2, size=(size, rows), dtype=np.int8)
        yield (1 - 2 * bits).astype(np.float64)

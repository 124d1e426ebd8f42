"""The rehearsal: the worst batch is tried before the first step, so that out of memory shows early.

It runs one forward and backward over the fullest micro-steps and the longest rows, and one batch of
scoring, once for each combination of plan, rows and kind of card. Afterwards gradients and random
numbers are as if it had not happened.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy
import torch
from datasets import Dataset

from workbench.training.step import Rows, Step
from workbench.training.step.in_trainer import collate_rows

CAPTURED_AFTER = 3
"""Passes until a CUDA graph has been captured and replayed; the first two warm libraries up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsal:
    """The part of a rehearsal outside the step, and the marker of one that went well."""

    remembered: Path
    """A file that exists once this combination was rehearsed without an error."""
    score: Callable[[], None]
    """Scores one batch of the longest held-out rows."""
    optimizer_bytes: int
    """Bytes of the optimizer's state; most optimizers allocate it only in their first step."""

    @property
    def due(self) -> bool:
        """True unless this combination was rehearsed before."""
        return not self.remembered.exists()

    def remember(self) -> None:
        """Write the marker, so that the same combination is not rehearsed again."""
        with suppress(OSError):  # without the marker it is only rehearsed once more
            self.remembered.parent.mkdir(parents=True, exist_ok=True)
            self.remembered.touch()


def worst_batches(rows: Dataset, size: int, tokens: int) -> list[Rows]:
    """Return one or two batches of the `size` longest rows that need the most memory.

    The first has a micro-step that is full to `tokens`, for which one row is cut. Where the longest
    row exceeds `tokens`, a second batch holds the rows whole, and the longest row goes alone.
    """
    lengths: Sequence[int] = rows["length"]
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])[:size]
    whole = [rows[i] for i in order]
    filled, left = [], tokens
    for row in whole:
        length = len(row["input_ids"])
        if length > left > 0:
            row = {name: row[name][:left] for name in ("input_ids", "labels")}
        left -= min(left, length)
        filled.append(row)
    longer = len(whole[0]["input_ids"]) > tokens
    return [collate_rows(batch) for batch in ([filled, whole] if longer else [filled])]


@contextmanager
def room_for_moments(step: Step, optimizer_bytes: int) -> Iterator[None]:
    """Hold the bytes that the optimizer will still allocate while the block runs."""
    lacking = max(0, optimizer_bytes - step.optimizer.state_bytes())
    reserved = torch.empty(lacking, dtype=torch.uint8, device=step.device)
    try:
        yield
    finally:
        del reserved


def train_once(step: Step, worst: Sequence[Rows], *, keep: bool = False) -> None:
    """Run forward and backward over the worst batches, then zero the gradients again.

    Captured graphs are released, unless they are to `keep` their memory while rows are scored.
    """
    device = step.device
    times = CAPTURED_AFTER if device.type == "cuda" else 1
    try:
        with preserved_rng(device):
            for batch in (batch for batch in worst for _ in range(times)):
                step.forward_backward(batch)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
    finally:
        step.flat.grads.zero_()
        if not keep:
            step.release_graphs()


@contextmanager
def preserved_rng(device: torch.device) -> Iterator[None]:
    """Restore the random states of Python, numpy and torch after the block."""
    python_state, numpy_state = random.getstate(), numpy.random.get_state()
    devices = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(python_state)
        numpy.random.set_state(numpy_state)

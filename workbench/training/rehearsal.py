"""Worst batch first: a run that would die in hour four dies in second four.

One forward and backward over the fullest micro-steps and the longest rows there are, and one batch
of scoring, before anything is trained. Once for a way of running, its rows and a kind of card; what
it moved is put back.
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
from workbench.training.step.in_trainer import collate

CAPTURED_AFTER = 3
"""Passes until a graph has been captured and replayed: two warm the libraries up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsal:
    """What is to be rehearsed besides the step, and where it is remembered."""

    remembered: Path
    """Exists once it went well."""
    score: Callable[[], None]
    """Scores one batch of the longest held-out rows."""
    optimizer_bytes: int
    """What the optimizer will keep; one that makes its state in its first step has none yet."""

    @property
    def due(self) -> bool:
        return not self.remembered.exists()

    def remember(self) -> None:
        with suppress(OSError):  # then it is rehearsed again
            self.remembered.parent.mkdir(parents=True, exist_ok=True)
            self.remembered.touch()


def worst_batches(rows: Dataset, size: int, tokens: int) -> list[Rows]:
    """Of the `size` longest rows: a batch whose first micro-step holds all of `tokens`, for which
    one row is cut; and one with the rows whole, where the longest goes alone.
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
    return [collate(batch) for batch in ([filled, whole] if longer else [filled])]


@contextmanager
def room_for_moments(step: Step, optimizer_bytes: int) -> Iterator[None]:
    """Inside, the card is as full as once the optimizer has made all that it keeps."""
    lacking = max(0, optimizer_bytes - step.optimizer.state_bytes())
    reserved = torch.empty(lacking, dtype=torch.uint8, device=step.device)
    try:
        yield
    finally:
        del reserved


def train_once(step: Step, worst: Sequence[Rows]) -> None:
    """Gradients of the worst batches, and nothing of them left."""
    device = step.device
    times = CAPTURED_AFTER if device.type == "cuda" else 1
    try:
        with same_chance(device):
            for batch in (batch for batch in worst for _ in range(times)):
                step.forward_backward(batch)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
    finally:
        step.flat.grads.zero_()
        step.release_graphs()


@contextmanager
def same_chance(device: torch.device) -> Iterator[None]:
    """Random numbers after the block are those that would have come without it."""
    plain, of_numpy = random.getstate(), numpy.random.get_state()
    devices = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(plain)
        numpy.random.set_state(of_numpy)

"""The ring that keeps each step's numbers on the card."""

from __future__ import annotations

import torch

from workbench.training.step.ring import MetricRing

CPU = torch.device("cpu")


def test_the_ring_gives_each_step_once_and_forgets_the_oldest() -> None:
    ring = MetricRing(3, ("loss",), CPU)
    for value in (1.0, 2.0):
        ring.write(torch.tensor(value))
    assert [row["loss"] for row in ring.read()] == [1.0, 2.0]
    assert ring.read() == []
    for value in range(5):
        ring.write(torch.tensor(float(value)))
    assert [row["loss"] for row in ring.read()] == [2.0, 3.0, 4.0]

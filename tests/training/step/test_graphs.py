"""Captures that fail raise an error or lead to eager passes; test_gpu.py captures on a card."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from workbench.training.step import graphs
from workbench.training.step.graphs import GraphRunner, Shape

SHAPE = Shape(tokens=16, carrying=16, max_length=16)


class Unjoined:
    """torch.cuda.graph, as it ends when a stream that was forked is not joined any more."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __enter__(self) -> None:
        pass

    def __exit__(self, *failed: object) -> None:
        raise RuntimeError("CUDA error: capturing stream has unjoined work")


def runner(monkeypatch: pytest.MonkeyPatch, error: Exception) -> GraphRunner:
    """Return a runner whose body fails with the error within a capture."""
    monkeypatch.setattr(torch.cuda, "graph", Unjoined)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", object)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    monkeypatch.setattr(graphs, "side_stream", lambda device: None)

    def body(_: Any) -> None:
        raise error

    return GraphRunner(body, torch.device("cpu"), capture=True, max_graphs=1, rows=1)


def test_memory_that_ends_within_a_capture_is_raised_for_the_fallback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    failing = runner(monkeypatch, torch.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(RuntimeError, match="unjoined") as raised:
        failing._capture(SHAPE)
    assert isinstance(raised.value.__context__, torch.OutOfMemoryError)
    assert failing.capturing


def test_what_cannot_be_captured_runs_eagerly_from_then_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    failing = runner(monkeypatch, ValueError("it reads a length on the host"))
    assert failing._capture(SHAPE) is None
    assert not failing.capturing
    assert "unjoined" in failing.why_not

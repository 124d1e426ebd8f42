"""CUDA graphs of forward and backward: captured once for each shape, and replayed.

Saves the host's work: a stock 8B step is 13,000 launches that Python makes one by one; a replay is
one call. What a graph holds and what lies outside it: docs/step.md#cuda-graphs. CUDA graphs in
PyTorch: pytorch.org/blog/accelerating-pytorch-with-cuda-graphs.
"""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from workbench.training.failure import is_out_of_memory
from workbench.training.step.rows import MicroInputs, Rows, input_size, pack_inputs

log = logging.getLogger(__name__)

Body = Callable[[MicroInputs], None]
"""One forward and backward, from static inputs into static outputs."""
MOST_MOVED = 16_384
"""Tokens of the longest pass that is captured where layers' inputs leave the card. A longer one
takes the card seconds, and its launches a tenth of one; such a plan fills the card, where an eager
pass can free cached blocks when it needs their room, and a capture cannot."""
EAGER_RUNS = 2
"""Passes before the first capture: libraries set themselves up in a first run, which they must not
do inside a capture."""


@cache
def side_stream(device: torch.device) -> torch.cuda.Stream:
    """Return the stream of captures and warm-up runs, one for all steps of the process.

    cuBLAS keeps a workspace (32 MiB on Hopper) for each stream it ever multiplied on, two with the
    backward thread's.
    """
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


class Shape(NamedTuple):
    """The numbers that decide all shapes of a pass. Each has a graph, and one more for `first`."""

    tokens: int
    carrying: int
    """Positions that pass the head."""
    max_length: int


class GraphRunner:
    """Runs the body over a part of a batch: by replay where it can, eagerly where it must."""

    def __init__(
        self, body: Body, device: torch.device, *, capture: bool, max_graphs: int, rows: int
    ) -> None:
        """`rows` in a part at most. At most `max_graphs` graphs are kept."""
        self._body, self._device, self._rows = body, device, rows
        self.capturing = capture
        self.why_not = "" if capture else "switched off"
        """The reason why nothing is captured."""
        self._max_graphs = max_graphs
        self._graphs: dict[tuple[Shape, bool], tuple[torch.cuda.CUDAGraph, Tensor]] = {}
        """A graph and its input buffer, by shape and `first`; the last used is the last."""
        self._pool: Any = None
        self._eager_runs = 0
        self.begin_trial()

    def begin_trial(self) -> None:
        """Count captures anew; graphs that are held stay."""
        self.found, self.captures, self.capture_s = self.captured, 0, 0.0
        """Graphs that were held at the beginning; captures since then, and their seconds."""

    def run(
        self,
        part: Rows,
        tokens: int,
        max_length: int,
        *,
        divisor: int,
        seed: int,
        counter: int,
        first: bool,
    ) -> None:
        """Run one micro-step, filled up to `tokens`.

        The `first` of its batch has a graph of its own, which writes gradients; the others' add.
        Raise what the body raises; a capture that fails otherwise is logged and run eagerly.
        """
        carrying = max(part.targets, 1)
        if self.capturing:
            # To a quarter of the bucket: few shapes, and they follow from these rows alone, never
            # from what came before, so a resumed trial computes what the uninterrupted one does.
            carrying = -(-4 * carrying // tokens) * tokens // 4
        shape = Shape(tokens, carrying, max_length)
        host = pack_inputs(
            part, tokens, self._rows, carrying, divisor=divisor, seed=seed, counter=counter
        )
        if self._device.type == "cuda":
            # From pageable memory the copy would make the host wait.
            host = host.pin_memory()
        if not self.capturing:
            self._run_eagerly(host, shape)
        elif self._eager_runs < EAGER_RUNS:
            self._warm_up(host, shape)
        else:
            self._replay(host, shape, first)

    @property
    def captured(self) -> int:
        """Graphs that are held now."""
        return len(self._graphs)

    def release(self) -> None:
        """Give the graphs' memory back (before generation, at the end of a trial)."""
        self._graphs.clear()
        self._pool = None
        if self._device.type == "cuda":  # else it would stay reserved, beside what comes next
            torch.cuda.empty_cache()

    def _view(self, buffer: Tensor, shape: Shape) -> MicroInputs:
        return MicroInputs.view_of(buffer, rows=self._rows, **shape._asdict())

    def _run_eagerly(self, host: Tensor, shape: Shape) -> None:
        buffer = host.to(self._device, non_blocking=True)
        self._body(self._view(buffer, shape))

    def _warm_up(self, host: Tensor, shape: Shape) -> None:
        self._eager_runs += 1
        side, main = side_stream(self._device), torch.cuda.current_stream(self._device)
        # As PyTorch asks: warm-up runs on the stream that captures.
        side.wait_stream(main)
        with torch.cuda.stream(side):
            self._run_eagerly(host, shape)
        main.wait_stream(side)
        if self._eager_runs == EAGER_RUNS:  # blocks cached so far would stand beside the pool
            torch.cuda.synchronize(self._device)
            torch.cuda.empty_cache()

    def _replay(self, host: Tensor, shape: Shape, first: bool) -> None:
        key = (shape, first)
        found = self._graphs.pop(key, None)
        if found is None:
            if len(self._graphs) >= self._max_graphs:  # an eager run would need memory beside them
                del self._graphs[next(iter(self._graphs))]
            began = time.monotonic()
            found = self._capture(shape)
            self.captures += 1
            self.capture_s += time.monotonic() - began
        if found is None:
            self._run_eagerly(host, shape)
            return
        # Put in again, so that the dictionary's order is that of use.
        self._graphs[key] = found
        graph, buffer = found
        buffer.copy_(host, non_blocking=True)
        graph.replay()

    def _capture(self, shape: Shape) -> tuple[torch.cuda.CUDAGraph, Tensor] | None:
        """Return a graph and its input buffer; None where the body cannot be captured.

        All graphs share one pool: only one runs at a time, so their memory may overlap.
        """
        size = input_size(shape.tokens, self._rows, shape.carrying)
        buffer = torch.zeros(size, dtype=torch.int64, device=self._device)
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(
                graph,
                pool=self._pool,
                stream=side_stream(self._device),
                # Other threads, as the worker's control thread, may call CUDA meanwhile.
                capture_error_mode="thread_local",
            ):
                self._body(self._view(buffer, shape))
        except (RuntimeError, ValueError) as refused:
            # Ending a capture that ran out of memory may fail in its turn, with another error.
            if is_out_of_memory(refused):
                raise
            self.capturing = False
            self.why_not = f"capture failed: {str(refused).splitlines()[0]}"
            log.warning("no CUDA graphs", extra={"why": self.why_not})
        else:
            return graph, buffer
        del graph  # what a failed capture holds would stand beside the eager run
        gc.collect()
        torch.cuda.empty_cache()
        return None

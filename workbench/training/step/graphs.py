"""Forward and backward captured once per token bucket and quarter that carries loss, and replayed.

Saves the host: a stock 8B step is 13,000 launches that Python makes one by one; a replay is one
call. Addresses are static: one input buffer a bucket, filled by one copy; gradients, masters and
the loss live outside the graphs' pool, which all buckets share. Shapes follow from the rows alone,
never from what came before, so that a resumed trial computes what the uninterrupted one does.
Capture is thread-local, so a control thread may use the card meanwhile. CUDA graphs in PyTorch:
pytorch.org/blog/accelerating-pytorch-with-cuda-graphs. Dropout needs no generator registered:
masks are functions of (seed, counter) in the input buffer.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from workbench.training.step.rows import Micro, Rows, fill, size_of

log = logging.getLogger(__name__)

Body = Callable[[Micro], None]
"""One forward and backward, from static inputs into static outputs."""


@cache
def side_stream(device: torch.device) -> torch.cuda.Stream:
    """One for all steps of the process: cuBLAS keeps a workspace (32 MiB on Hopper) for each stream
    it ever multiplied on, two with the backward thread's."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


class Runner:
    """Runs the body over a part of a batch: by replay where it can, eagerly where it must."""

    def __init__(
        self, body: Body, device: torch.device, *, capture: bool, max_graphs: int, rows: int
    ) -> None:
        self._body, self._device, self._rows = body, device, rows
        self.capturing = capture
        self.why_not = "" if capture else "switched off"
        self._max_graphs = max_graphs
        self._graphs: dict[tuple[int, int, int, bool], tuple[torch.cuda.CUDAGraph, Tensor]] = {}
        self._pool: Any = None
        self._warm = 0

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
        """`first` of its batch: its graph writes gradients, the others' add.

        Raises what the body raises; a capture that fails is logged and run eagerly instead.
        """
        carrying = max(part.targets, 1)
        if self.capturing:
            carrying = -(-4 * carrying // tokens) * tokens // 4
        host = fill(part, tokens, self._rows, carrying, divisor=divisor, seed=seed, counter=counter)
        if self._device.type == "cuda":
            host = host.pin_memory()
        if not self.capturing:
            self._eagerly(host, tokens, carrying, max_length)
        elif self._warm < 2:  # libraries set themselves up in a first run: not inside a capture
            self._warm_up(host, tokens, carrying, max_length)
        else:
            self._replay(host, tokens, carrying, max_length, first)

    @property
    def captured(self) -> int:
        return len(self._graphs)

    def release(self) -> None:
        """Give the graphs' memory back (before generation, at the end of a trial)."""
        self._graphs.clear()
        self._pool = None
        if self._device.type == "cuda":  # else it would stay reserved, beside what comes next
            torch.cuda.empty_cache()

    def _micro(self, buffer: Tensor, tokens: int, carrying: int, max_length: int) -> Micro:
        return Micro.over(
            buffer, tokens=tokens, rows=self._rows, carrying=carrying, max_length=max_length
        )

    def _eagerly(self, host: Tensor, tokens: int, carrying: int, max_length: int) -> None:
        buffer = host.to(self._device, non_blocking=True)
        self._body(self._micro(buffer, tokens, carrying, max_length))

    def _warm_up(self, host: Tensor, tokens: int, carrying: int, max_length: int) -> None:
        self._warm += 1
        side, main = side_stream(self._device), torch.cuda.current_stream(self._device)
        side.wait_stream(main)
        with torch.cuda.stream(side):
            self._eagerly(host, tokens, carrying, max_length)
        main.wait_stream(side)
        if self._warm == 2:  # what eager runs cached would stand beside the graphs' pool
            torch.cuda.synchronize(self._device)
            torch.cuda.empty_cache()

    def _replay(
        self, host: Tensor, tokens: int, carrying: int, max_length: int, first: bool
    ) -> None:
        key = (tokens, carrying, max_length, first)
        found = self._graphs.pop(key, None)
        if found is None:
            if len(self._graphs) >= self._max_graphs:  # an eager run would need memory beside them
                del self._graphs[next(iter(self._graphs))]
            found = self._capture(tokens, carrying, max_length)
        if found is not None:
            self._graphs[key] = found  # the last used is the last
        if found is None:
            self._eagerly(host, tokens, carrying, max_length)
            return
        graph, buffer = found
        buffer.copy_(host, non_blocking=True)
        graph.replay()

    def _capture(
        self, tokens: int, carrying: int, max_length: int
    ) -> tuple[torch.cuda.CUDAGraph, Tensor] | None:
        size = size_of(tokens, self._rows, carrying)
        buffer = torch.zeros(size, dtype=torch.int64, device=self._device)
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(
                graph,
                pool=self._pool,
                stream=side_stream(self._device),
                capture_error_mode="thread_local",
            ):
                self._body(self._micro(buffer, tokens, carrying, max_length))
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, ValueError) as refused:
            self.capturing = False
            self.why_not = f"capture failed: {str(refused).splitlines()[0]}"
            log.warning("no CUDA graphs", extra={"why": self.why_not})
            return None
        return graph, buffer

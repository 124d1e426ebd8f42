"""Forward and backward captured once per token bucket, and replayed.

Saves the host: a stock 8B step is 13,000 launches that Python makes one by one; a replay is one
call. Addresses are static: one input buffer a bucket, filled by one copy; gradients, masters and
the loss live outside the graphs' pool, which all buckets share. A graph has room for so many
eighths of its positions to carry loss as any batch before it had; one that needs more is captured
anew. Capture is thread-local, so a
control thread may use the card meanwhile. CUDA graphs in PyTorch:
pytorch.org/blog/accelerating-pytorch-with-cuda-graphs. Dropout needs no generator registered:
masks are functions of (seed, counter) in the input buffer.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
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


Filling = Callable[[int], Tensor]
"""The inputs on the host, with room for so many positions that carry loss."""


@dataclass(frozen=True, slots=True)
class _Captured:
    graph: torch.cuda.CUDAGraph
    buffer: Tensor
    carrying: int


class Runner:
    """Runs the body over a part of a batch: by replay where it can, eagerly where it must."""

    def __init__(
        self, body: Body, device: torch.device, *, capture: bool, max_graphs: int, rows: int
    ) -> None:
        self._body, self._device, self._rows = body, device, rows
        self.capturing = capture
        self.why_not = "" if capture else "switched off"
        self._max_graphs = max_graphs
        self._graphs: dict[tuple[int, int, bool], _Captured] = {}
        self._pool: Any = None
        self._warm = 0
        self._eighths = 0
        """Of its positions, that carried loss in the batch that had most."""

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
        filling = partial(
            fill, part, tokens, self._rows, divisor=divisor, seed=seed, counter=counter
        )
        targets = part.targets
        if not self.capturing:
            self._eagerly(filling, tokens, max(targets, 1), max_length)
            return
        self._eighths = max(self._eighths, -(-8 * targets // tokens), 1)
        if self._warm < 2:  # libraries set themselves up in a first run: not inside a capture
            self._warm_up(filling, tokens, max_length)
        else:
            self._replay(filling, tokens, targets, max_length, first)

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

    def _host(self, filling: Filling, carrying: int) -> Tensor:
        host = filling(carrying)
        return host.pin_memory() if self._device.type == "cuda" else host

    def _eagerly(self, filling: Filling, tokens: int, carrying: int, max_length: int) -> None:
        buffer = self._host(filling, carrying).to(self._device, non_blocking=True)
        self._body(self._micro(buffer, tokens, carrying, max_length))

    def _room(self, tokens: int) -> int:
        return max(tokens * self._eighths // 8, 1)

    def _warm_up(self, filling: Filling, tokens: int, max_length: int) -> None:
        self._warm += 1
        side, main = side_stream(self._device), torch.cuda.current_stream(self._device)
        side.wait_stream(main)
        with torch.cuda.stream(side):
            self._eagerly(filling, tokens, self._room(tokens), max_length)
        main.wait_stream(side)
        if self._warm == 2:  # what eager runs cached would stand beside the graphs' pool
            torch.cuda.synchronize(self._device)
            torch.cuda.empty_cache()

    def _replay(
        self, filling: Filling, tokens: int, targets: int, max_length: int, first: bool
    ) -> None:
        key = (tokens, max_length, first)
        found = small = self._graphs.pop(key, None)
        if found is None or found.carrying < targets:
            if len(self._graphs) >= self._max_graphs:  # an eager run would need memory beside them
                del self._graphs[next(iter(self._graphs))]
            found = self._capture(tokens, self._room(tokens), max_length)
        del small  # not before: a pool that lost its only graph takes no other
        if found is None:
            self._eagerly(filling, tokens, max(targets, 1), max_length)
            return
        self._graphs[key] = found  # the last used is the last
        found.buffer.copy_(self._host(filling, found.carrying), non_blocking=True)
        found.graph.replay()

    def _capture(self, tokens: int, carrying: int, max_length: int) -> _Captured | None:
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
        return _Captured(graph, buffer, carrying)

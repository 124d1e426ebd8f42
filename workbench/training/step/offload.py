"""The inputs of layers that recompute, in the machine's memory until the backward pass needs them.

Saves what a layer that recomputes keeps on the card: 8 KiB a token of an 8B shape, for all layers
more than all else that a token takes there. Copies run on a stream of their own: one layer
runs while the input of the one below leaves, and goes backward while the next one comes. The idea
is Unsloth's (unsloth.ai/blog/long-context).
"""

from __future__ import annotations

import weakref
from functools import cache
from typing import Any

import torch
from torch import Tensor

from workbench.training.memory.locked_memory import lock_memory, reserve_memory, unlock_memory

_WHAT = "the inputs of layers"


@cache
def _copying(device: torch.device) -> torch.cuda.Stream:
    """Return the stream of the copies, one for all steps of the process."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


class Offload:
    """A place in the machine's memory for the inputs of the layers 0 to `count` - 1.

    They are put in that order and got back in the other. Two are on the card at any moment, one of
    them on its way; the last is needed first and stays. Addresses are static, so both ways can be
    captured in a CUDA graph.
    """

    def __init__(self, count: int, elements: int, dtype: torch.dtype, device: torch.device) -> None:
        """Reserve and lock room for inputs of at most `elements`; a larger one stays on the card.

        Raise HostMemory where the machine does not give it.
        """
        self._last = count - 1
        self._stream = _copying(device) if device.type == "cuda" else None
        self._away = reserve_memory((max(self._last, 0), elements), dtype, _WHAT)
        if self._stream is not None:
            lock_memory(self._away, device, _WHAT)
            self._unlock = weakref.finalize(self, unlock_memory, self._away)
        self._moved: dict[int, torch.Size] = {}
        self._here: dict[int, Tensor] = {}
        self._leaving: Tensor | None = None
        """The input that is being copied away; its memory must stay until that has ended."""
        self._copying = False

    def put(self, index: int, tensor: Tensor) -> None:
        """Let the input of layer `index` leave the card, beside what the card computes next."""
        # The first layer begins a new pass.
        if index == 0:
            self.forget()
        self._wait()
        self._leaving = None
        # Rows longer than a micro-step go alone and may be too large for the reserved room.
        fits = tensor.numel() <= self._away.shape[1] and tensor.dtype is self._away.dtype
        if index == self._last or not fits:
            self._here[index] = tensor
            return
        with self._beside():
            self._place(index, tensor.shape).copy_(tensor.detach(), non_blocking=True)
        self._leaving = tensor
        self._moved[index] = tensor.shape

    def get(self, index: int) -> Tensor:
        """Return the input of layer `index`; that of the layer below is fetched meanwhile."""
        self._fetch(index)
        self._wait()
        self._fetch(index - 1)
        return self._here.pop(index)

    @property
    def moved(self) -> int:
        """Inputs that are in the machine's memory now."""
        return len(self._moved)

    def release(self) -> None:
        """Give the machine its memory back; graphs captured before must not run any more."""
        self.forget()
        if self._stream is not None:
            torch.cuda.synchronize(self._stream.device)  # a replay's copies run on its own stream
            self._unlock()
        self._away = self._away.new_empty((0, 0))

    def forget(self) -> None:
        """Let go what a pass that failed has left."""
        self._moved.clear()
        self._here.clear()
        self._leaving = None
        self._copying = False

    def _fetch(self, index: int) -> None:
        shape = self._moved.pop(index, None)
        if shape is None:
            return
        away = self._place(index, shape)
        device = away.device if self._stream is None else self._stream.device
        tensor = away.new_empty(shape, device=device)  # allocated on the layers' stream
        with self._beside():
            tensor.copy_(away, non_blocking=True)
        self._here[index] = tensor

    def _place(self, index: int, shape: torch.Size) -> Tensor:
        return self._away[index, : shape.numel()].view(shape)

    def _beside(self) -> Any:
        """Return a context whose work runs on the copies' stream, after the layers' so far."""
        self._copying = True
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
        return torch.cuda.stream(self._stream)

    def _wait(self) -> None:
        """Let what follows on the layers' stream come after the copies.

        Only where copies were begun: a capture must not wait for work from before it.
        """
        if self._copying and self._stream is not None:
            torch.cuda.current_stream(self._stream.device).wait_stream(self._stream)
        self._copying = False

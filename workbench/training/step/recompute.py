"""Recompute the first k of n layers' activations in the backward pass.

Saves a layer's activations for its input alone, at the price of one more forward of that layer:
6N operations a token instead of 4N where all do it, so k is as small as memory allows. The *first*
k: they are recomputed last, when the later layers' activations are gone, so the recomputed layer
never stands on top of the peak. Chen et al. 2016, arXiv 1604.06174.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

_FLAGS = ("gradient_checkpointing", "_gradient_checkpointing_func")


class Recompute:
    """Switches layers on; all others off, whatever someone set before. Undone by restore()."""

    def __init__(self, layers: nn.ModuleList, count: int) -> None:
        self.count = min(count, len(layers))
        self._were = [
            (layer, {name: layer.__dict__.get(name) for name in _FLAGS}) for layer in layers
        ]
        # Masks are functions of (seed, step), so no generator's state needs keeping.
        again = partial(
            checkpoint, use_reentrant=False, preserve_rng_state=False, determinism_check="none"
        )
        for index, layer in enumerate(layers):
            if not isinstance(layer, GradientCheckpointingLayer):
                continue
            attributes: dict[str, Any] = layer.__dict__
            attributes["gradient_checkpointing"] = index < self.count
            attributes["_gradient_checkpointing_func"] = again

    def restore(self) -> None:
        for layer, were in self._were:
            for name, value in were.items():
                if value is None:
                    layer.__dict__.pop(name, None)
                else:
                    layer.__dict__[name] = value
        self._were = []

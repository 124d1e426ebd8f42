"""The keys and values of tokens that were read, one slot for each prompt that is being answered."""

# S slots, G key/value heads, C positions of a slot, D head width

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheShape:
    """The numbers that decide how large a cache is."""

    layers: int
    groups: int
    """Key/value heads."""
    width: int
    """Values of one head."""

    @classmethod
    def of_config(cls, config: Any) -> CacheShape:
        """Return the shape for a text model's config."""
        heads = config.num_attention_heads
        groups = getattr(config, "num_key_value_heads", None) or heads
        width = getattr(config, "head_dim", None) or config.hidden_size // heads
        return cls(layers=config.num_hidden_layers, groups=groups, width=width)


class KeyValueCache:
    """Slots of equal length for every layer; addresses never change, so that steps can be captured.

    One slot more than asked for takes what lanes without a row write.
    """

    def __init__(
        self,
        shape: CacheShape,
        slots: int,
        positions: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        """Allocate `slots` slots of `positions` tokens each.

        Zeros, because a weight of 0 times a NaN that happens to lie in new memory would be NaN.
        """
        self.spare = slots
        """The index of the slot that nobody reads."""
        self.positions = positions
        sizes = (shape.layers, slots + 1, shape.groups, positions, shape.width)
        self._keys = torch.zeros(sizes, dtype=dtype, device=device)
        self._values = torch.zeros(sizes, dtype=dtype, device=device)

    def of_layer(self, layer: int) -> tuple[Tensor, Tensor]:
        """Return (keys_SGCD, values_SGCD) of one layer."""
        return self._keys[layer], self._values[layer]

    def grown(self, positions: int) -> KeyValueCache:
        """Return a cache of longer slots that holds what this one does."""
        layers, slots, groups, held, width = self._keys.shape
        shape = CacheShape(layers=layers, groups=groups, width=width)
        new = KeyValueCache(shape, slots - 1, positions, self._keys.dtype, self._keys.device)
        new._keys[:, :, :, :held] = self._keys
        new._values[:, :, :, :held] = self._values
        return new

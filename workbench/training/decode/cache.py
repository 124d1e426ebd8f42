"""The keys and values of tokens that were read, one slot for each prompt that is being answered."""

# S slots, G key/value heads, C positions of a slot, D head width

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheShape:
    """The numbers that decide how large a cache is."""

    kept: tuple[tuple[int, int], ...]
    """Key/value heads and values of one head, of each layer that has keys of its own."""
    places: tuple[int, ...]
    """For each layer of the decoder, the index in `kept` of the keys that it reads."""

    @classmethod
    def of_layers(cls, layers: Iterable[nn.Module], heads: int) -> CacheShape:
        """Return the shape for a decoder's layers, which have `heads` query heads.

        Gemma 4's last layers read the keys of the last layer of their kind that has its own.
        """
        kept: list[tuple[int, int]] = []
        places: list[int] = []
        last: dict[str, int] = {}
        for layer in layers:
            attention: Any = layer.self_attn
            kind = str(getattr(attention, "layer_type", ""))
            if not reuses_keys(attention):
                last[kind] = len(kept)
                kept.append((heads // attention.num_key_value_groups, int(attention.head_dim)))
            places.append(last[kind])
        return cls(kept=tuple(kept), places=tuple(places))


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
        self._shape = shape
        self._keys, self._values = (
            [
                torch.zeros((slots + 1, groups, positions, width), dtype=dtype, device=device)
                for groups, width in shape.kept
            ]
            for _ in range(2)
        )

    def of_layer(self, layer: int) -> tuple[Tensor, Tensor]:
        """Return (keys_SGCD, values_SGCD) that one layer reads."""
        place = self._shape.places[layer]
        return self._keys[place], self._values[place]

    def grown(self, positions: int) -> KeyValueCache:
        """Return a cache of longer slots that holds what this one does."""
        first = self._keys[0]
        new = KeyValueCache(self._shape, self.spare, positions, first.dtype, first.device)
        pairs = zip(new._keys + new._values, self._keys + self._values, strict=True)
        for longer, held in pairs:
            longer[:, :, : self.positions] = held
        return new


def reuses_keys(attention: nn.Module) -> bool:
    """Return whether the layer takes the keys and values of another (Gemma 4)."""
    return bool(getattr(attention, "is_kv_shared_layer", False))

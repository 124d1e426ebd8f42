"""A ring of what each step measured, on the card until it is read.

Saves a wait in every step: reading one number makes the host stand until the card has finished.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class MetricRing:
    """The last `size` steps' numbers; unread ones older than that are overwritten."""

    def __init__(self, size: int, names: Sequence[str], device: torch.device) -> None:
        """`names` are those of the numbers that each write() brings, in that order."""
        self.names = tuple(names)
        self._rows = torch.zeros(size, len(self.names), device=device)
        self._written = 0
        self._read = 0

    def write(self, *values: Tensor) -> None:
        """Copy one step's scalars into the ring, in one launch; nothing is read on the host."""
        torch.stack([value.float() for value in values], out=self._rows[self._place(self._written)])
        self._written += 1

    def read(self) -> list[dict[str, float]]:
        """Return the steps since the last reading, oldest first. Waits for the card, once."""
        first = max(self._read, self._written - len(self._rows))
        places = [self._place(index) for index in range(first, self._written)]
        self._read = self._written
        rows = self._rows[places].tolist() if places else []
        return [dict(zip(self.names, row, strict=True)) for row in rows]

    def _place(self, index: int) -> int:
        return index % len(self._rows)

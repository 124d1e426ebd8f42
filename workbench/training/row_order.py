"""The order in which rows come, and the sums between two metric rows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import torch
from transformers.trainer_pt_utils import get_length_grouped_indices

EPOCHS = 1 << 20
"""Factor between a seed and its epochs, so that (seed, epoch) names one order."""


class EpochOrder(torch.utils.data.Sampler[int]):
    """Row numbers of one epoch, from (seed, epoch) alone: a resumed epoch has the same order."""

    def __init__(
        self,
        lengths: list[int],
        rows_per_step: int,
        seed: int,
        epoch: Callable[[], int],
        *,
        grouped: bool,
    ) -> None:
        self._lengths = lengths
        self._rows_per_step = rows_per_step
        self._seed = seed
        self._epoch = epoch
        self._grouped = grouped

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        chance = torch.Generator()
        chance.manual_seed(self._seed * EPOCHS + self._epoch())
        if not self._grouped:
            return iter(torch.randperm(len(self._lengths), generator=chance).tolist())
        # Groups of whole optimizer batches, so the order never depends on the card's cut.
        rows = get_length_grouped_indices(self._lengths, self._rows_per_step, generator=chance)
        size = self._rows_per_step
        batches = [rows[at : at + size] for at in range(0, len(rows), size)]
        # transformers leaves them sorted from long to short, 50 batches at a time, which trains on
        # short rows last (the demo at 6e-3, rank 16: held-out loss 0.188 so, 0.136 shuffled). The
        # first keeps its place, for it holds the longest row; so does the last, maybe not full.
        inner = torch.randperm(max(0, len(batches) - 2), generator=chance).tolist()
        order = [0, *(1 + i for i in inner), len(batches) - 1][: len(batches)]
        return iter([row for batch in order for row in batches[batch]])


class Window:
    """Sums since the last metric row; on the card, so that a step waits for nothing."""

    def __init__(self, device: str) -> None:
        self._sums = torch.zeros(3, dtype=torch.float64, device=device)
        self.steps = 0
        self.seconds = 0.0
        self._since = time.monotonic()

    def add(self, loss: torch.Tensor, targets: int, tokens: int) -> None:
        """One optimizer batch: its mean loss a target, its targets, its tokens. A loss that is no
        number is left out, like the step it would have made."""
        good = torch.isfinite(loss)
        self._sums[0] += torch.where(good, loss.double() * targets, 0.0)
        self._sums[1] += good * targets
        self._sums[2] += tokens
        self.steps += 1

    def pause(self) -> None:
        self.seconds += time.monotonic() - self._since

    def go_on(self) -> None:
        self._since = time.monotonic()

    def read(self) -> dict[str, float]:
        """nats, targets, tokens, steps, seconds; waits for the card."""
        nats, targets, tokens = self._sums.tolist()
        seconds = self.seconds + time.monotonic() - self._since
        return {
            "nats": nats,
            "targets": targets,
            "tokens": tokens,
            "steps": self.steps,
            "seconds": seconds,
        }

    def put(self, sums: dict[str, float]) -> None:
        """Go on from what a checkpoint kept, or from nothing ({})."""
        at = [sums.get(name, 0.0) for name in ("nats", "targets", "tokens")]
        self._sums.copy_(torch.tensor(at, dtype=torch.float64))
        self.steps = int(sums.get("steps", 0))
        self.seconds = sums.get("seconds", 0.0)
        self.go_on()

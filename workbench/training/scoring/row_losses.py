"""The losses of single held-out rows, and the numbers that follow from them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from workbench.training.failure import diverged


@dataclass(frozen=True, slots=True, kw_only=True)
class RowLosses:
    """The held-out losses of single rows, in the rows' order."""

    nats: list[float]
    """Loss of each row, summed over its target tokens."""
    right: list[int]
    """Target tokens of each row that the model ranked first."""
    targets: list[int]
    """Target tokens of each row."""

    def values(self) -> dict[str, float]:
        """Return loss (nats per target token over all rows), perplexity, token_accuracy, targets.

        Raises Diverged when the loss is not finite.
        """
        targets = sum(self.targets)
        # fsum rounds once, so that the order of the rows changes no digit.
        loss = math.fsum(self.nats) / max(targets, 1) if _finite(self.nats) else math.nan
        if not math.isfinite(loss):
            raise diverged("became NaN or infinite on the held-out rows")
        return {
            "loss": loss,
            "perplexity": math.exp(min(loss, 700.0)),
            "token_accuracy": sum(self.right) / max(targets, 1),
            "targets": float(targets),
        }


def _finite(values: Sequence[float]) -> bool:
    return all(map(math.isfinite, values))

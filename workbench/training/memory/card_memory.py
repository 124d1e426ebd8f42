"""The memory that a worker's process takes on its card, and the cap it must keep to."""

from __future__ import annotations

from workbench.errors import EngineError
from workbench.machine.cards import CAP_SLACK_BYTES, Card
from workbench.machine.resources import resident_bytes

MAX_CONTEXT_BYTES = 1 << 30
"""An upper bound of a CUDA context with this stack's kernels; bytes above it belong to others."""


class Meter:
    """A meter of one process's peak bytes on its card.

    Make it on the training thread: it creates the CUDA context there.
    """

    def __init__(self, card: Card) -> None:
        self.card = card
        self.context_bytes = 0
        if card.kind == "cuda":
            self.context_bytes = self._open()

    def _open(self) -> int:
        """Create the CUDA context, apply the card's cap and return the context's bytes.

        Without NVML the context is measured as the memory that is no longer free right after its
        creation. On a card that others use too this counts their memory, up to MAX_CONTEXT_BYTES.
        """
        import torch

        torch.zeros(1, device="cuda")
        free, total = torch.cuda.mem_get_info()
        context = min(total - free, MAX_CONTEXT_BYTES)
        if self.card.cap_bytes is not None:
            left = self.card.cap_bytes - context - CAP_SLACK_BYTES
            torch.cuda.set_per_process_memory_fraction(min(1.0, max(left, 1) / total))
        return context

    def start(self) -> None:
        """Begin a new measurement: earlier peaks no longer count."""
        if self.card.kind == "cuda":
            import torch

            torch.cuda.reset_peak_memory_stats()

    def peak_bytes(self) -> int:
        """Return the most bytes reserved on the card since `start`, the context included.

        On a CPU card these are the process's resident bytes now, which know no peak.
        """
        if self.card.kind == "cuda":
            import torch

            return int(torch.cuda.max_memory_reserved()) + self.context_bytes
        return resident_bytes()

    def room_bytes(self) -> int | None:
        """Return the bytes that this process holds on the card or could still get, its context
        included; None on a CPU card.
        """
        if self.card.kind != "cuda":
            return None
        import torch

        free, _ = torch.cuda.mem_get_info()
        return int(torch.cuda.memory_reserved()) + free + self.context_bytes

    def release(self) -> None:
        """Return the allocator's cached blocks to the card."""
        if self.card.kind == "cuda":
            import torch

            torch.cuda.empty_cache()


def check_card(card: Card) -> None:
    """Raise EngineError where this process, which has a CUDA context, is not on `card`.

    CUDA reads CUDA_VISIBLE_DEVICES once, and a spare worker sets it late.
    """
    if card.kind == "cuda":
        import torch

        found = str(torch.cuda.get_device_properties(0).uuid)
        if found not in card.uuid:
            raise EngineError(f"the worker of card {card.uuid} is on GPU-{found}")

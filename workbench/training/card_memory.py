"""What a process takes on its card, and the cap it keeps."""

from __future__ import annotations

import os
import resource

from workbench.machine.cards import CAP_SLACK_BYTES, Card

MAX_CONTEXT_BYTES = 1 << 30
"""A CUDA context with this stack's kernels is smaller; more is somebody else's memory."""


class Meter:
    """Peak bytes of one card's process; CUDA is touched, so make it on the training thread."""

    def __init__(self, card: Card) -> None:
        self.card = card
        self.context_bytes = 0
        if card.kind == "cuda":
            self.context_bytes = self._open()

    def _open(self) -> int:
        """Create the context, keep to the card's cap; the context's bytes.

        NVML is not asked: the context is what is gone right after it was made, which on a card
        shared with others also counts theirs, up to MAX_CONTEXT_BYTES.
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
        """Forget former peaks."""
        if self.card.kind == "cuda":
            import torch

            torch.cuda.reset_peak_memory_stats()

    def peak_bytes(self) -> int:
        """CUDA: reserved at most since `start`, context included. CPU: resident now."""
        if self.card.kind == "cuda":
            import torch

            return int(torch.cuda.max_memory_reserved()) + self.context_bytes
        return resident_bytes()

    def release(self) -> None:
        """Give cached blocks back to the card."""
        if self.card.kind == "cuda":
            import torch

            torch.cuda.empty_cache()


def resident_bytes() -> int:
    """This process's resident set; its peak where /proc is missing."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

"""Triton where it is installed, whether its kernels can run on a device, and launch arithmetic."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

__all__ = [
    "ceil_div", "is_usable", "jit", "next_power_of_two", "pipeline_stages", "tl",
    "why_unusable",
]  # fmt: skip

IS_INSTALLED = find_spec("triton") is not None
# a·b + c in one rounding, as ever: Triton 3.9 warns that 3.10 will take two unless this is set, and
# a trial must have the same losses after an update.
os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")

tl: Any
if TYPE_CHECKING:
    # A kernel's body is Triton's language in Python's syntax: nothing a type checker can follow.
    from typing import no_type_check as jit
elif IS_INSTALLED:
    import triton.language as tl
    from triton import jit
else:

    class tl:
        """A stand-in with what the modules of kernels use at import, outside kernels' bodies."""

        @staticmethod
        def constexpr(value: Any) -> Any:
            return value

    def jit(kernel: Any) -> Any:
        """Return the kernel undecorated; nobody launches it, because is_usable() is False."""
        return kernel


def is_usable(device: torch.device) -> bool:
    """Return whether Triton runs there: on a CUDA card, or on a CPU under TRITON_INTERPRET=1.

    The interpreter is for tests: it runs a kernel's programs one after another in NumPy.
    """
    if not IS_INSTALLED:
        return False
    return device.type == "cuda" or os.environ.get("TRITON_INTERPRET") == "1"


def why_unusable(device: torch.device) -> str:
    """Return the reason why is_usable() is False, for a log line."""
    return f"Triton does not run on {device}" if IS_INSTALLED else "Triton is not installed"


def next_power_of_two(n: int) -> int:
    """Return the smallest power of two that is not below n; Triton's blocks have such sizes."""
    return 1 << max(n - 1, 0).bit_length()


def ceil_div(count: int, size: int) -> int:
    """Return how many blocks of `size` cover `count` elements."""
    return -(-count // size)


def has_room_for_large_tiles(x: Tensor) -> bool:
    """Return whether large tiles of x fit a program's shared memory.

    A T4 (compute capability 7.5) has 64 KiB of it, a 3090 (8.6) 99 KiB; fp32 takes twice the room.
    """
    return x.dtype.itemsize < 4 and _compute_capability(x.device) >= (8, 0)


def _compute_capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device) if device.type == "cuda" else (0, 0)


def pipeline_stages(x: Tensor, stages: int) -> int:
    """Return how many loads may be under way at once: `stages`, or 1 where x is in fp32.

    Each stage holds its tiles in shared memory, and fp32 tiles are twice as large.
    """
    return stages if x.dtype.itemsize < 4 else 1

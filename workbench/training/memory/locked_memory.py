"""Memory of the machine that is locked for a card, which copies from it or reads it in place."""

from __future__ import annotations

import ctypes
import weakref
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from workbench.errors import HostMemory

GIB = 1 << 30
_MAPPED = 2
"""cudaHostRegisterMapped: the card gets an address of the memory."""


def reserve_memory(sizes: tuple[int, ...], dtype: torch.dtype, what: str) -> Tensor:
    """Return an empty tensor in the machine's memory.

    Raises HostMemory, which names `what` the memory is for, where the machine does not give it.
    """
    try:
        return torch.empty(sizes, dtype=dtype, device="cpu")
    except RuntimeError as refused:
        elements = 1
        for size in sizes:
            elements *= size
        raise _refusal(elements * dtype.itemsize, what) from refused


def lock_memory(tensor: Tensor, device: torch.device, what: str, *, flags: int = 0) -> None:
    """Lock the tensor's memory, so that the card copies without the host.

    PyTorch's own allocator of such memory takes the next power of two, and keeps it. Raises
    HostMemory, which names `what` the memory is for.
    """
    size = tensor.numel() * tensor.element_size()
    if size and int(_runtime().cudaHostRegister(tensor.data_ptr(), size, flags)) != 0:
        with suppress(RuntimeError):  # clears the error; the next launch would report it as its own
            torch.zeros(1, device=device)
        raise _refusal(size, what)


def unlock_memory(tensor: Tensor) -> None:
    """Give locked memory back to the machine's paging."""
    if tensor.numel():
        _runtime().cudaHostUnregister(tensor.data_ptr())


def seen_by_card(tensor: Tensor, device: torch.device, what: str) -> Tensor:
    """Lock memory, and return it as a tensor on the card, which reads it over the bus in place.

    It takes none of the card's memory. The memory is unlocked when the last tensor over it is gone.
    Raises HostMemory, which names `what` the memory is for.
    """
    lock_memory(tensor, device, what, flags=_MAPPED)
    return torch.as_tensor(_CardView(tensor, device), device=device).view(tensor.dtype)


class _CardView:
    """Locked memory as CUDA's array interface describes it; PyTorch keeps it with the tensor."""

    def __init__(self, tensor: Tensor, device: torch.device) -> None:
        assert tensor.is_contiguous()
        # When the process ends, its memory goes as a whole.
        weakref.finalize(self, _unlock_when_read, tensor, device).atexit = False
        self.__cuda_array_interface__ = {
            "shape": (*tensor.shape[:-1], tensor.shape[-1] * tensor.element_size()),
            "typestr": "|u1",  # the interface has no name for bf16
            "data": (_address_on_card(tensor), False),
            "version": 3,
        }


def _address_on_card(tensor: Tensor) -> int:
    """Return the card's address of locked memory: on some systems it is not the host's."""
    found = ctypes.c_uint64()
    ask = ctypes.CDLL("libcuda.so.1").cuMemHostGetDevicePointer_v2
    if ask(ctypes.byref(found), ctypes.c_void_p(tensor.data_ptr()), 0) != 0:
        raise HostMemory(
            "the card cannot read the machine's memory in place",
            hint="lower data.max_tokens, so that everything fits on the card",
        )
    return found.value


def _unlock_when_read(tensor: Tensor, device: torch.device) -> None:
    with suppress(RuntimeError):  # a broken context
        torch.cuda.synchronize(device)
    unlock_memory(tensor)


def _runtime() -> Any:
    return torch.cuda.cudart()  # type: ignore[no-untyped-call]


def _refusal(size: int, what: str) -> HostMemory:
    return HostMemory(
        f"the machine did not give {size / GIB:.1f} GiB of memory for {what}",
        hint="lower data.max_tokens, or run fewer trials at once",
    )

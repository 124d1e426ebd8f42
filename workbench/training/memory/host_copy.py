"""Copies of tensors in the machine's memory, which training leaves alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, UntypedStorage


def copy_to_host(tree: Any) -> Any:
    """Return nested dicts, lists and tuples with every tensor copied to the machine's memory.

    Each storage is copied once, so that tensors that were views of one buffer still are. Copies of
    a card's tensors are pinned, which makes them as fast as the bus; their memory stays with the
    process for the next copy. The copy is whole when the call returns.
    """
    return _copied(tree, {})


def copy_bytes(tree: Any) -> int:
    """Return the bytes of the machine's memory that `copy_to_host` takes for `tree`."""
    storages = {one.data_ptr(): one for one in map(Tensor.untyped_storage, _tensors(tree))}
    return sum(map(_host_bytes, storages.values()))


def release_pinned_memory() -> None:
    """Return pinned memory that no copy needs any more to the operating system."""
    # The function is new in torch: without it the memory stays with the process.
    if torch.cuda.is_available() and hasattr(torch.accelerator, "empty_host_cache"):
        torch.accelerator.empty_host_cache()


def _host_bytes(storage: UntypedStorage) -> int:
    """Return the bytes of one storage's copy; torch rounds pinned memory up to a power of two."""
    size = storage.nbytes()
    return 1 << (size - 1).bit_length() if storage.device.type == "cuda" and size else size


def _tensors(tree: Any) -> Iterator[Tensor]:
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, dict | list | tuple):
        for one in tree.values() if isinstance(tree, dict) else tree:
            yield from _tensors(one)


def _copied(tree: Any, done: dict[int, UntypedStorage]) -> Any:
    if isinstance(tree, Tensor):
        return _copied_tensor(tree.detach(), done)
    if isinstance(tree, dict):
        return {name: _copied(one, done) for name, one in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(_copied(one, done) for one in tree)
    return tree


def _copied_tensor(tensor: Tensor, done: dict[int, UntypedStorage]) -> Tensor:
    storage = tensor.untyped_storage()
    if storage.data_ptr() not in done:
        done[storage.data_ptr()] = _copied_storage(storage)
    view = torch.empty(0, dtype=tensor.dtype)
    return view.set_(
        done[storage.data_ptr()], tensor.storage_offset(), tensor.size(), tensor.stride()
    )


def _copied_storage(storage: UntypedStorage) -> UntypedStorage:
    """Return a copy; the copy waits for the card, so that no event of it is left to other threads.

    A write on another thread must not call CUDA: it could end a capture that training is in.
    """
    source = torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)
    pinned = storage.device.type == "cuda"
    target = torch.empty(source.numel(), dtype=torch.uint8, pin_memory=pinned)
    return target.copy_(source).untyped_storage()

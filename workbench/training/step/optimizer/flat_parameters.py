"""The trained parameters in one buffer, and their gradients in another."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

ALIGNMENT = 256
"""Elements to a multiple of which each parameter is padded: vector loads want 16 bytes, TMA 128,
and bitsandbytes' 8-bit states come in blocks of 256."""


class FlatParameters:
    """Trained parameters as views of one fp32 buffer, their gradients as views of another.

    The modules keep their Parameter objects, so names and state dict are PEFT's; only the storage
    behind them moves. After `release()` the buffer of values lives as long as they do.
    """

    def __init__(self, named: Iterable[tuple[str, nn.Parameter]], compute: torch.dtype) -> None:
        """Move the parameters; those with weight decay come first, else in the order given.

        `compute` is the dtype of the copy that the forward pass reads.
        """
        pairs = [(name, param) for name, param in named if param.requires_grad]
        pairs.sort(key=lambda pair: not has_weight_decay(pair[0]))  # stable: decayed ones first
        self.names = [name for name, _ in pairs]
        self.params = [param for _, param in pairs]
        device = self.params[0].device
        count = sum(_padded_size(param) for param in self.params)
        self.decayed = sum(_padded_size(p) for n, p in pairs if has_weight_decay(n))
        """Elements that decay; they come first."""
        self.values = torch.zeros(count, device=device)
        """The fp32 masters."""
        self._at: dict[int, tuple[int, torch.Size]] = {}
        at = 0
        for param in self.params:
            self._at[id(param)] = (at, param.shape)
            view = self._view(self.values, param)
            view.copy_(param.data)
            param.data = view
            param.grad = None
            at += _padded_size(param)
        if device.type == "cuda":  # the parameters' old memory makes room for what follows
            torch.cuda.empty_cache()
        self.grads = torch.zeros(count, device=device)
        half = compute is not torch.float32
        self.compute = torch.zeros_like(self.values, dtype=compute) if half else self.values
        """The masters in the compute dtype, as of the last refresh()."""
        self.refresh()

    def value(self, param: nn.Parameter) -> Tensor:
        """Return the parameter in the compute dtype, a view of `compute`."""
        return self._view(self.compute, param)

    def grad(self, param: nn.Parameter) -> Tensor:
        """Return the parameter's fp32 gradient, a view of `grads`."""
        return self._view(self.grads, param)

    def joined(self, params: list[nn.Parameter]) -> tuple[Tensor, Tensor] | None:
        """Return (values in the compute dtype, gradients) of matrices below each other as one.

        Return None where they are not adjacent in the buffer or differ in width.
        """
        width = params[0].shape[1]
        first = end = self._at[id(params[0])][0]
        for param in params:
            at, shape = self._at[id(param)]
            if at != end or shape[1] != width:
                return None
            end += shape.numel()
        return self.compute[first:end].view(-1, width), self.grads[first:end].view(-1, width)

    @torch.no_grad()
    def refill(self, values: Iterable[Tensor]) -> None:
        """Write new values of all parameters, in their order, and zero the gradients.

        No address changes: captured graphs go on reading and writing these buffers.
        """
        self.values.zero_()
        self.grads.zero_()
        for param, value in zip(self.params, values, strict=True):
            param.data = self._view(self.values, param).copy_(value)
            param.grad = None
        self.refresh()

    def refresh(self) -> None:
        """Cast the masters to the compute dtype, in one launch."""
        if self.compute is not self.values:
            self.compute.copy_(self.values)

    def attach_grads(self, params: Iterable[nn.Parameter]) -> None:
        """Let autograd add the parameters' gradients into the buffer.

        For parameters whose gradients no function of the step writes.
        """
        for param in params:
            param.grad = self.grad(param)

    def release(self) -> None:
        """Let go the gradients; the parameters stay views of the buffer of values.

        Copies of their own would lie on the card beside everything that the last step took.
        """
        for param in self.params:
            param.grad = None

    def _view(self, buffer: Tensor, param: nn.Parameter) -> Tensor:
        at, shape = self._at[id(param)]
        return buffer[at : at + shape.numel()].view(shape)


def has_weight_decay(name: str) -> bool:
    """Return whether a parameter decays, by its name: all but biases and norms (transformers)."""
    return not (name.endswith("bias") or "norm" in name.lower())


def _padded_size(param: nn.Parameter) -> int:
    return -(-param.numel() // ALIGNMENT) * ALIGNMENT

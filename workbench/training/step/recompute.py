"""Recompute the first k of n layers' activations in the backward pass.

Saves a layer's activations for its input alone, at the price of one more forward of that layer:
6N operations a token instead of 4N where all do it, so k is as small as memory allows. The *first*
k: they are recomputed last, when the later layers' activations are gone, so the recomputed layer
never stands on top of the peak. Chen et al. 2016, arXiv 1604.06174.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from workbench.training.step.offload import Offload

_FLAGS = ("gradient_checkpointing", "_gradient_checkpointing_func")
_again = partial(checkpoint, use_reentrant=False, determinism_check="none")


class Recompute:
    """Switches the first layers on, all others off, whatever someone set before; use() moves the
    border, restore() undoes it all.
    """

    def __init__(
        self,
        layers: nn.ModuleList,
        count: int,
        offload: Offload | None = None,
        *,
        draws: bool = False,
    ) -> None:
        """`count`: layers at most. `offload` keeps their inputs. `draws`: layers draw random
        numbers from torch's generator, whose state is then kept; the fused path's masks are
        functions of (seed, step).
        """
        self.count = min(count, len(layers))
        self.offload, self.draws = offload, draws
        again = partial(_again, preserve_rng_state=draws)
        self._were = [
            (layer, {name: layer.__dict__.get(name) for name in _FLAGS}) for layer in layers
        ]
        for index, layer in enumerate(layers):
            if isinstance(layer, GradientCheckpointingLayer):
                layer.__dict__["_gradient_checkpointing_func"] = (
                    again if offload is None else partial(_away, again, offload, index)
                )
        self.use(self.count)

    def use(self, count: int) -> None:
        """So many layers recompute in the next pass."""
        for index, (layer, _) in enumerate(self._were):
            if isinstance(layer, GradientCheckpointingLayer):
                layer.__dict__["gradient_checkpointing"] = index < count

    def restore(self) -> None:
        for layer, were in self._were:
            for name, value in were.items():
                if value is None:
                    layer.__dict__.pop(name, None)
                else:
                    layer.__dict__[name] = value
        self._were = []
        if self.offload is not None:
            self.offload.release()


def _away(
    again: Callable[..., Any],
    offload: Offload,
    index: int,
    layer: Callable[..., Any],
    hidden: Tensor,
    *more: Any,
) -> Any:
    """The layer, recomputed later, when its input is fetched."""
    at = hidden.data_ptr()  # a closure over the tensor itself would keep it where it is

    def keep(tensor: Tensor) -> Tensor | int:
        if tensor.data_ptr() != at:
            return tensor
        offload.put(index, tensor)
        return index

    def give(kept: Tensor | int) -> Tensor:
        return offload.get(kept) if isinstance(kept, int) else kept

    with saved_tensors_hooks(keep, give):
        return again(layer, hidden, *more)

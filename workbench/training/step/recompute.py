"""Recomputation of the first k of n layers' activations in the backward pass.

A layer then keeps its input alone, at the price of one more forward of that layer, up to the last
tensor that it keeps: some 5.5N to 6N operations a token instead of 4N where all do it, so k is as
small as memory allows. The *first* k: they are recomputed last, when the later layers' activations
are gone, so the recomputed layer never stands on top of the peak. Chen et al. 2016, arXiv
1604.06174.
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
"""Attributes by which transformers' layers know that they recompute, and how."""
# Without the determinism check, which compares metadata of every saved tensor on the host.
_checkpoint = partial(checkpoint, use_reentrant=False, determinism_check="none")


class Recompute:
    """The switch of which layers recompute; the first ones do, whatever someone set before.

    use() moves the border from pass to pass, restore() undoes it all.
    """

    def __init__(
        self,
        layers: nn.ModuleList,
        count: int,
        offload: Offload | None = None,
        *,
        draws: bool = False,
    ) -> None:
        """Let the first `count` layers recompute, the most that use() may be asked for.

        `offload` keeps their inputs. `draws` says that layers draw random numbers from torch's
        generator, whose state is then kept for each; the fused path's masks are functions of (seed,
        micro-step) and need none.
        """
        self.count = min(count, len(layers))
        self.offload, self.draws = offload, draws
        again = partial(_checkpoint, preserve_rng_state=draws)
        self._before = [
            (layer, {name: layer.__dict__.get(name) for name in _FLAGS}) for layer in layers
        ]
        for index, layer in enumerate(layers):
            if isinstance(layer, GradientCheckpointingLayer):
                layer.__dict__["_gradient_checkpointing_func"] = (
                    again
                    if offload is None
                    else partial(_checkpoint_offloaded, again, offload, index)
                )
        self.use(self.count)

    def use(self, count: int) -> None:
        """Let the first `count` layers recompute in the next pass."""
        for index, (layer, _) in enumerate(self._before):
            if isinstance(layer, GradientCheckpointingLayer):
                layer.__dict__["gradient_checkpointing"] = index < count

    def restore(self) -> None:
        """Set the layers' flags as they were, and give the machine's memory back."""
        for layer, flags in self._before:
            for name, value in flags.items():
                if value is None:
                    layer.__dict__.pop(name, None)
                else:
                    layer.__dict__[name] = value
        self._before = []
        if self.offload is not None:
            self.offload.release()


def _checkpoint_offloaded(
    again: Callable[..., Any],
    offload: Offload,
    index: int,
    layer: Callable[..., Any],
    hidden: Tensor,
    *more: Any,
) -> Any:
    """Run the layer under `again`, with its input in `offload` until it is recomputed."""
    address = hidden.data_ptr()  # a closure over the tensor itself would keep it on the card

    def pack(tensor: Tensor) -> Tensor | int:
        if tensor.data_ptr() != address:
            return tensor
        offload.put(index, tensor)
        return index

    def unpack(kept: Tensor | int) -> Tensor:
        return offload.get(kept) if isinstance(kept, int) else kept

    with saved_tensors_hooks(pack, unpack):
        return again(layer, hidden, *more)

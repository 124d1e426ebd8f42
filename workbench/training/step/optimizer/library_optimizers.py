"""Other libraries' optimizers, by the recipe's name, over the flat buffer or tensor by tensor."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from workbench.training.step.optimizer.flat_optimizer import FlatOptimizer, count_bytes
from workbench.training.step.optimizer.flat_parameters import FlatParameters


class FlatLibraryOptimizer(FlatOptimizer):
    """Another library's optimizer over the flat buffer as one tensor for each decay group.

    bitsandbytes' optimizers then wait for the card once a step instead of once a tensor. Each
    parameter starts on a multiple of their block of 256, so 8-bit states are the same as tensor by
    tensor.
    """

    def __init__(self, flat: FlatParameters, *, kind: str, **settings: Any) -> None:
        """`kind` is the recipe's name of the optimizer; `settings` are FlatOptimizer's."""
        super().__init__(flat, **settings)
        self._flats = [nn.Parameter(flat.values[span]) for span in self._spans()]
        for param, span in zip(self._flats, self._spans(), strict=True):
            # Views: they see every change of the flat buffers.
            param.grad = flat.grads[span]
        groups = [
            {"params": [param], **{name: group[name] for name in ("lr", "weight_decay")}}
            for param, group in zip(self._flats, self.param_groups, strict=True)
        ]
        self._inner = _make_optimizer(kind, groups, settings["lr"])

    def _update(self, shrink: Tensor, bad: Tensor) -> None:
        if bool(bad):  # this waits for the card, as these optimizers do anyway
            return
        self.flat.grads.div_(shrink)
        _step_with_rates(self._inner, self.param_groups)

    def state_bytes(self) -> int:
        """Return the bytes of the state so far, the library's included."""
        made = [value for state in self._inner.state.values() for value in state.values()]
        return super().state_bytes() + count_bytes(v for v in made if isinstance(v, Tensor))

    def state_dict(self) -> dict[str, Any]:
        """Return FlatOptimizer's state, and under `inner` the library's for each decay group."""
        inner = [dict(self._inner.state[param]) for param in self._flats]
        return {**super().state_dict(), "inner": inner}

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Copy the state in place. Raise ValueError where the shapes differ.

        Paged states stay paged, where bitsandbytes' own loading leaves them on the card.
        """
        super().load_state_dict(state_dict)
        for index, (param, saved) in enumerate(zip(self._flats, state_dict["inner"], strict=True)):
            # bitsandbytes makes its states in the first step; they are made here to be filled.
            if saved and hasattr(self._inner, "init_state"):
                self._inner.init_state(self._inner.param_groups[index], param, index, 0)
            state = self._inner.state[param]
            for name, value in saved.items():
                if isinstance(state.get(name), Tensor):
                    state[name].copy_(value)
                else:
                    state[name] = value


class TensorwiseAdamW(FlatOptimizer):
    """bitsandbytes' 8-bit AdamW one tensor after another, to measure what the flat buffer gives."""

    def __init__(self, flat: FlatParameters, **settings: Any) -> None:
        """`settings` are FlatOptimizer's."""
        super().__init__(flat, **settings)
        kept = ("params", "lr", "weight_decay")
        groups = [{name: group[name] for name in kept} for group in self.param_groups]
        self._inner = _make_optimizer("adamw_8bit", groups, settings["lr"])

    def _update(self, shrink: Tensor, bad: Tensor) -> None:
        if bool(bad):
            return
        self.flat.attach_grads(self.flat.params)
        torch._foreach_div_([self.flat.grad(param) for param in self.flat.params], shrink)
        _step_with_rates(self._inner, self.param_groups)


def _make_optimizer(kind: str, groups: list[dict[str, Any]], lr: float) -> torch.optim.Optimizer:
    """Return the optimizer that the recipe calls `kind`: sgd, or one of bitsandbytes' AdamW."""
    if kind == "sgd":
        return torch.optim.SGD(groups, lr=lr)
    from bitsandbytes.optim import AdamW

    bits, paged = (32 if "32bit" in kind else 8), "paged" in kind
    on_card = groups[0]["params"][0].device.type == "cuda"
    made: torch.optim.Optimizer = AdamW(
        groups, lr=lr, eps=1e-8, optim_bits=bits, is_paged=paged and on_card
    )
    return made


def _step_with_rates(inner: torch.optim.Optimizer, groups: list[dict[str, Any]]) -> None:
    """Step the inner optimizer with the learning rates that a schedule has set on `groups`."""
    for ours, theirs in zip(groups, inner.param_groups, strict=True):
        theirs["lr"] = ours["lr"]
    inner.step()

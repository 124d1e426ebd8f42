"""Clipping, loss scale and skipped steps over the flat buffers, all on the card.

Saves launches and waits: bitsandbytes' optimizers synchronise after each of an 8B adapter's 448
tensors (30-40 ms a step on a slow host), and clipping over 448 tensors is hundreds of launches;
here both are about a dozen. Dynamic loss scale: Micikevicius et al. 2018, arXiv 1710.03740, with
torch.amp's constants, and a least scale.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from workbench.training.step.optimizer.flat_parameters import FlatParameters, has_weight_decay

GROWTH_INTERVAL = 2_000
"""Good steps before the loss scale doubles (torch.amp.GradScaler's default)."""
FIRST_SCALE = 2.0**16
"""The loss scale at the start (torch.amp.GradScaler's default)."""
LEAST_SCALE = 1.0
"""The loss scale is halved no further. Rows that overflow in the forward pass do so at any scale;
32 of them among 2,000 steps would bring it to 2^-16, where fp16 gradients are 0. (torch.amp's scale
has no such bound.)"""
NORM_EPS = 1e-6
"""Added to the norm before clipping, as torch.nn.utils.clip_grad_norm_ does."""


class FlatOptimizer(torch.optim.Optimizer):
    """A torch optimizer over the flat buffers; schedules and the Trainer's life cycle work on it.

    It clips, undoes the loss scale, and counts: a step whose gradient norm is not finite changes
    nothing. Its state is the loss scale, the counts, and what a subclass's update keeps.
    """

    def __init__(
        self,
        flat: FlatParameters,
        *,
        lr: float,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        max_grad_norm: float | None = None,
        loss_scaling: bool = False,
    ) -> None:
        """`max_grad_norm` None: no clipping. `loss_scaling`: scale the loss, as fp16 needs it."""
        self.flat = flat
        self.max_grad_norm = max_grad_norm
        self.loss_scaling = loss_scaling
        pairs = list(zip(flat.names, flat.params, strict=True))
        decayed = [p for n, p in pairs if has_weight_decay(n)]
        others = [p for n, p in pairs if not has_weight_decay(n)]
        groups: list[dict[str, Any]] = [
            {"params": decayed, "weight_decay": weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__([group for group in groups if group["params"]], defaults)
        # State lives on the card, so that a step never waits to read or write it.
        device = flat.values.device
        zero = torch.zeros((), device=device)
        self._flat_state: dict[str, Tensor] = {
            "scale": torch.full((), FIRST_SCALE if loss_scaling else 1.0, device=device),
            "good_steps": torch.zeros((), dtype=torch.int32, device=device),
            "skipped": zero.clone(),
            "skipped_in_a_row": zero.clone(),
        }
        self.norm = zero.clone()
        """The norm of the last step's gradients before clipping, on the card."""

    @property
    def scale(self) -> Tensor:
        """The loss scale, a scalar on the card."""
        return self._flat_state["scale"]

    def use_scale(self, scale: Tensor) -> None:
        """Keep the loss scale in `scale` from now on, which captured graphs read."""
        self._flat_state["scale"] = scale.copy_(self.scale)

    @property
    def skipped(self) -> Tensor:
        """Steps skipped so far because the gradient was not finite, a scalar on the card."""
        return self._flat_state["skipped"]

    @property
    def skipped_in_a_row(self) -> Tensor:
        """Steps skipped since the last good one, a scalar on the card."""
        return self._flat_state["skipped_in_a_row"]

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Clip, undo the loss scale and update; change nothing where a gradient is not finite.

        Nothing here is read on the host: clipping and unscaling are one divisor, `shrink`, that
        the update divides gradients by.
        """
        assert closure is None
        state = self._flat_state
        norm = torch.linalg.vector_norm(self.flat.grads) / state["scale"]
        bad = (~torch.isfinite(norm)).float()
        shrink = state["scale"]
        if self.max_grad_norm is not None:
            over = (norm + NORM_EPS) / self.max_grad_norm
            # With a gradient that is not finite the update is skipped; 1 keeps the divisor a
            # number.
            shrink = shrink * over.clamp(min=1.0).nan_to_num(1.0, 1.0, 1.0)
        self._update(shrink, bad)
        self._count(bad)
        self.norm.copy_(norm)
        return None

    def _update(self, shrink: Tensor, bad: Tensor) -> None:
        """Update from the gradients divided by `shrink`; change nothing where `bad` is 1."""
        raise NotImplementedError

    def _spans(self) -> list[slice]:
        """Return the part of the flat buffer that each parameter group occupies."""
        decayed, count = self.flat.decayed, self.flat.values.numel()
        spans = [slice(0, decayed), slice(decayed, count)]
        return [span for span in spans if span.start != span.stop]

    def _count(self, bad: Tensor) -> None:
        state = self._flat_state
        state["skipped"] += bad
        # (n + 1) · bad: one more after a bad step, 0 after a good one.
        state["skipped_in_a_row"].add_(1).mul_(bad)
        if self.loss_scaling:
            torch._amp_update_scale_(
                state["scale"], state["good_steps"], bad, 2.0, 0.5, GROWTH_INTERVAL
            )
            state["scale"].clamp_(min=LEAST_SCALE)

    @property
    def learning_rate(self) -> float:
        """The rate of the next step, as the schedule has set it."""
        return float(self.param_groups[0]["lr"])

    def state_bytes(self) -> int:
        """Return the bytes of the state so far; libraries' optimizers make theirs in step one."""
        return count_bytes(self._flat_state.values())

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Zero the flat buffer. It is never let go, because captured graphs write to it."""
        self.flat.grads.zero_()

    def state_dict(self) -> dict[str, Any]:
        """Return tensors and plain values alone, as torch.load(weights_only=True) wants them."""
        groups = [
            {name: value for name, value in group.items() if name != "params"}
            for group in self.param_groups
        ]
        return {"state": dict(self._flat_state), "param_groups": groups}

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Copy every tensor in place, in its dtype. Raise ValueError where the shapes differ."""
        found = dict(state_dict["state"])
        found.pop("micro_steps", None)  # earlier versions wrote it
        if found.keys() != self._flat_state.keys():
            raise ValueError("this is not the state of this flat optimizer")
        for name, tensor in self._flat_state.items():
            if found[name].shape != tensor.shape:
                raise ValueError(f"{name} has {found[name].numel()} elements, not {tensor.numel()}")
            tensor.copy_(found[name])
        for group, saved in zip(self.param_groups, state_dict["param_groups"], strict=True):
            group.update({name: value for name, value in saved.items() if name != "params"})


def count_bytes(tensors: Iterable[Tensor]) -> int:
    """Return the bytes that the tensors' elements take."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

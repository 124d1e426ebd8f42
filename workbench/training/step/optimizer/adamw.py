"""AdamW with decoupled weight decay (Loshchilov and Hutter 2019, arXiv 1711.05101), flat."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from workbench.training.step.optimizer.flat_optimizer import FlatOptimizer
from workbench.training.step.optimizer.flat_parameters import FlatParameters


class FlatAdamW(FlatOptimizer):
    """torch's fused AdamW over the flat buffer: one launch for each decay group.

    About ten small launches surround it, and nothing waits for the card. It keeps `exp_avg` and
    `exp_avg_sq` (fp32, flat: 8 bytes a parameter) and `step`.
    """

    def __init__(self, flat: FlatParameters, **settings: Any) -> None:
        """`settings` are FlatOptimizer's."""
        super().__init__(flat, **settings)
        self._flat_state |= {
            "exp_avg": torch.zeros_like(flat.values),
            "exp_avg_sq": torch.zeros_like(flat.values),
            "step": torch.zeros((), device=flat.values.device),
        }

    def _update(self, shrink: Tensor, bad: Tensor) -> None:
        state = self._flat_state
        for group, span in zip(self.param_groups, self._spans(), strict=True):
            beta1, beta2 = group["betas"]
            # Called directly, because torch.optim.AdamW offers neither grad_scale nor found_inf,
            # which divide gradients and skip the update inside the launch.
            torch._fused_adamw_(
                [self.flat.values[span]],
                [self.flat.grads[span]],
                [state["exp_avg"][span]],
                [state["exp_avg_sq"][span]],
                [],
                [state["step"] + 1],
                lr=float(group["lr"]),
                beta1=beta1,
                beta2=beta2,
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                amsgrad=False,
                maximize=False,
                grad_scale=shrink,
                found_inf=bad,
            )
        state["step"] += 1 - bad

"""Cross entropy from the last hidden states, in chunks, gradient included.

Saves the logits: 1,024 positions of Llama 3 are 0.5 GiB in fp32, twice with their gradient; here
one chunk of 16-bit logits lives at a time and becomes its own gradient in place. The gradient of
the hidden states is computed in the forward pass (Wijmans et al. 2024, arXiv 2411.09009; Liger,
arXiv 2410.10989). No host sync, so it can be captured: it divides by a count that is on the card.

Saves the head's two products, too, for positions whose loss nobody asks for: questions, where the
loss is on answers alone.
"""

# T positions, L of them that carry loss, C positions of a chunk, D width, V vocabulary

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from workbench.footprint.micro_steps import chunk_rows
from workbench.training.step import triton_ops
from workbench.training.step.rows import IGNORE


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """The output projection and what is done to its logits."""

    weight_VD: Tensor
    bias_V: Tensor | None
    softcap: float | None

    def loss(
        self,
        hidden_TD: Tensor,
        at_L: Tensor | None,
        targets_L: Tensor,
        divisor: Tensor,
        scale: Tensor,
    ) -> Tensor:
        """Sum of nats over positions that carry loss, / divisor. Gradients come out times `scale`
        (loss scaling of fp16: Micikevicius et al. 2018, arXiv 1710.03740), the loss does not.

        `at_L`: the positions of targets_L, all when None; one that carries no loss may come twice.
        """
        loss: Tensor = _Loss.apply(hidden_TD, at_L, targets_L, divisor, scale, self)  # type: ignore[no-untyped-call]
        return loss


class _Loss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_TD: Tensor,
        at_L: Tensor | None,
        targets_L: Tensor,
        divisor: Tensor,
        scale: Tensor,
        head: Head,
    ) -> Tensor:
        inverse = divisor.float().clamp(min=1).reciprocal()
        factor, weight_VD = inverse * scale, head.weight_VD
        nats = torch.zeros((), dtype=torch.float32, device=hidden_TD.device)
        make = torch.empty_like if at_L is None else torch.zeros_like
        grad_TD = make(hidden_TD, dtype=weight_VD.dtype)
        each = chunk_rows(weight_VD.shape[0] * hidden_TD.element_size(), len(targets_L))
        for first in range(0, len(targets_L), each):
            span = slice(first, first + each)
            hidden_CD = hidden_TD[span if at_L is None else at_L[span]]
            logits_CV = nn.functional.linear(hidden_CD, weight_VD, head.bias_V)
            if triton_ops.usable(logits_CV.device):
                cap = head.softcap
                nll_C = triton_ops.cross_entropy(logits_CV, targets_L[span], factor, cap, IGNORE)
                dlogits_CV = logits_CV
            else:
                nll_C, dlogits_CV = _plain(logits_CV, targets_L[span], factor, head.softcap)
            nats += nll_C.sum()
            if at_L is None:
                torch.mm(dlogits_CV, weight_VD, out=grad_TD[span])
            else:
                grad_TD.index_copy_(0, at_L[span], dlogits_CV @ weight_VD)
            del logits_CV, dlogits_CV  # before the next chunk's are made
        ctx.save_for_backward(grad_TD)
        return nats * inverse

    @staticmethod
    def backward(ctx: Any, dloss: Tensor) -> tuple[Tensor | None, ...]:
        (grad_TD,) = ctx.saved_tensors
        return grad_TD * dloss.to(grad_TD.dtype), None, None, None, None, None


def _plain(
    logits_CV: Tensor, targets_C: Tensor, factor: Tensor, softcap: float | None
) -> tuple[Tensor, Tensor]:
    """(nll_C, gradient of the logits times `factor`) in torch's own operations."""
    z_CV = logits_CV.float()
    slope_CV: Tensor | None = None
    if softcap is not None:
        bent_CV = torch.tanh(z_CV / softcap)
        z_CV, slope_CV = bent_CV * softcap, 1 - bent_CV * bent_CV
    counts_C = targets_C != IGNORE
    at_C1 = targets_C.clamp(min=0)[:, None]
    lse_C1 = torch.logsumexp(z_CV, -1, keepdim=True)
    nll_C = torch.where(counts_C, (lse_C1 - z_CV.gather(1, at_C1))[:, 0], 0.0)
    grad_CV = torch.exp(z_CV - lse_C1)
    grad_CV.scatter_add_(1, at_C1, torch.full_like(lse_C1, -1.0))
    if slope_CV is not None:
        grad_CV *= slope_CV
    grad_CV *= torch.where(counts_C, factor, 0.0)[:, None]
    return nll_C, grad_CV.to(logits_CV.dtype)

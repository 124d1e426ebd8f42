"""Cross entropy from the last hidden states, chunk by chunk, with its gradient in the forward pass.

Saves the logits: 1,024 positions of Llama 3 are 0.5 GiB in fp32, twice with their gradient; here
one chunk of 16-bit logits lives at a time and becomes its own gradient in place. Computing the
gradient of the hidden states in the forward pass: Wijmans et al. 2024, arXiv 2411.09009; Liger,
arXiv 2410.10989. Nothing is read on the host, so it can be captured: the loss is divided by a count
that is on the card.

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
from workbench.training.step.kernels import triton_support
from workbench.training.step.kernels.cross_entropy import cross_entropy, cross_entropy_reference
from workbench.training.step.rows import IGNORE


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """The output projection of a model and what is done to its logits."""

    weight_VD: Tensor
    bias_V: Tensor | None
    softcap: float | None
    """Logits become softcap · tanh(logits / softcap), as in Gemma 2; None: as they are."""
    divisor: float | None = None
    """Logits are divided by it, as in Granite; None: as they are."""

    def logits(self, hidden_TD: Tensor) -> Tensor:
        """Return logits_TV in the dtype of the product."""
        logits_TV = nn.functional.linear(hidden_TD, self.weight_VD, self.bias_V)
        if self.divisor is not None:
            logits_TV = logits_TV / self.divisor
        if self.softcap is not None:
            logits_TV = torch.tanh(logits_TV / self.softcap) * self.softcap
        return logits_TV

    def loss(
        self,
        hidden_TD: Tensor,
        at_L: Tensor | None,
        targets_L: Tensor,
        divisor: Tensor,
        scale: Tensor,
    ) -> Tensor:
        """Return the sum of nats over positions that carry loss, divided by `divisor`.

        `at_L` holds the positions of `targets_L` (None: all); one that carries no loss may come
        twice. Gradients come out times `scale` (loss scaling of fp16: Micikevicius et al. 2018,
        arXiv 1710.03740), the loss does not.
        """
        loss: Tensor = _ChunkedLoss.apply(hidden_TD, at_L, targets_L, divisor, scale, self)  # type: ignore[no-untyped-call]
        return loss


class _ChunkedLoss(torch.autograd.Function):
    """Head.loss() as an autograd function; the forward pass keeps the finished gradient."""

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
        # A batch without a single target has loss 0, not NaN.
        inverse = divisor.float().clamp(min=1).reciprocal()
        factor, weight_VD = inverse * scale, head.weight_VD
        if head.divisor is not None:
            factor = factor / head.divisor
        nats = torch.zeros((), dtype=torch.float32, device=hidden_TD.device)
        # Where positions are left out, their gradient has to be 0.
        make = torch.empty_like if at_L is None else torch.zeros_like
        grad_TD = make(hidden_TD, dtype=weight_VD.dtype)
        each = chunk_rows(weight_VD.shape[0] * hidden_TD.element_size(), len(targets_L))
        for first in range(0, len(targets_L), each):
            span = slice(first, first + each)
            hidden_CD = hidden_TD[span if at_L is None else at_L[span]]
            logits_CV = nn.functional.linear(hidden_CD, weight_VD, head.bias_V)
            if head.divisor is not None:
                logits_CV.div_(head.divisor)
            nll_C, dlogits_CV = _loss_and_gradient(logits_CV, targets_L[span], factor, head.softcap)
            nats += nll_C.sum()
            if at_L is None:
                torch.mm(dlogits_CV, weight_VD, out=grad_TD[span])
            else:
                # A repeated position carries no loss, so all its gradients are 0: no race matters.
                grad_TD.index_copy_(0, at_L[span], dlogits_CV @ weight_VD)
            del logits_CV, dlogits_CV  # before the next chunk's are made
        ctx.save_for_backward(grad_TD)
        return nats * inverse

    @staticmethod
    def backward(ctx: Any, dloss: Tensor) -> tuple[Tensor | None, ...]:
        (grad_TD,) = ctx.saved_tensors
        # dloss is 1 where the step goes backward from the loss itself.
        return grad_TD * dloss.to(grad_TD.dtype), None, None, None, None, None


def _loss_and_gradient(
    logits_CV: Tensor, targets_C: Tensor, factor: Tensor, softcap: float | None
) -> tuple[Tensor, Tensor]:
    """Return (nll_C in nats, the logits' gradient times `factor`), perhaps in the logits' place."""
    if not triton_support.is_usable(logits_CV.device):
        return cross_entropy_reference(logits_CV, targets_C, factor, softcap, IGNORE)
    return cross_entropy(logits_CV, targets_C, factor, softcap, IGNORE), logits_CV

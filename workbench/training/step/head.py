"""Cross entropy from the last hidden states, in chunks, gradient included.

Saves the logits: 1,024 positions of Llama 3 are 0.5 GiB in fp32, twice with their gradient; here
one chunk of 16-bit logits lives at a time and becomes its own gradient in place. The gradient of
the hidden states is computed in the forward pass (Wijmans et al. 2024, arXiv 2411.09009; Liger,
arXiv 2410.10989). No host sync, so it can be captured: it divides by a count that is on the card.
"""

# T positions, C positions of a chunk, D width, V vocabulary

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from workbench.footprint.micro import chunk_rows
from workbench.training.step import triton_ops
from workbench.training.step.rows import IGNORE


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """The output projection and what is done to its logits."""

    weight_VD: Tensor
    bias_V: Tensor | None
    softcap: float | None

    def loss(self, hidden_TD: Tensor, targets_T: Tensor, divisor: Tensor, scale: Tensor) -> Tensor:
        """Sum of nats over positions that carry loss, / divisor. Gradients come out times `scale`
        (loss scaling of fp16: Micikevicius et al. 2018, arXiv 1710.03740), the loss does not.
        """
        loss: Tensor = _Loss.apply(hidden_TD, targets_T, divisor, scale, self)  # type: ignore[no-untyped-call]
        return loss


class _Loss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_TD: Tensor, targets_T: Tensor, divisor: Tensor, scale: Tensor, head: Head
    ) -> Tensor:
        inverse = divisor.float().clamp(min=1).reciprocal()
        factor = inverse * scale
        nats = torch.zeros((), dtype=torch.float32, device=hidden_TD.device)
        grad_TD = torch.empty_like(hidden_TD, dtype=head.weight_VD.dtype)
        for hidden_CD, targets_C, grad_CD in _chunks(hidden_TD, targets_T, grad_TD, head.weight_VD):
            logits_CV = nn.functional.linear(hidden_CD, head.weight_VD, head.bias_V)
            if triton_ops.usable(logits_CV.device):
                cap = head.softcap
                nll_C = triton_ops.cross_entropy(logits_CV, targets_C, factor, cap, IGNORE)
                dlogits_CV = logits_CV
            else:
                nll_C, dlogits_CV = _plain(logits_CV, targets_C, factor, head.softcap)
            nats += nll_C.sum()
            torch.mm(dlogits_CV, head.weight_VD, out=grad_CD)
            del logits_CV, dlogits_CV  # before the next chunk's are made
        ctx.save_for_backward(grad_TD)
        return nats * inverse

    @staticmethod
    def backward(ctx: Any, dloss: Tensor) -> tuple[Tensor, None, None, None, None]:
        (grad_TD,) = ctx.saved_tensors
        return grad_TD * dloss.to(grad_TD.dtype), None, None, None, None


def _chunks(
    hidden_TD: Tensor, targets_T: Tensor, grad_TD: Tensor, weight_VD: Tensor
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    each = chunk_rows(weight_VD.shape[0] * hidden_TD.element_size())
    parts = (torch.split(tensor, each) for tensor in (hidden_TD, targets_T, grad_TD))
    return zip(*parts, strict=True)


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

"""Cross entropy and its gradient in one launch, the gradient in the place of the logits.

After Liger's (Hsu et al. 2024, arXiv 2410.10989). head.py calls it chunk by chunk.
"""

# C positions of a chunk, V vocabulary

import torch
from torch import Tensor

from workbench.training.step.kernels.triton_math import stable_tanh
from workbench.training.step.kernels.triton_support import jit, next_power_of_two, tl


def cross_entropy_reference(
    logits_CV: Tensor, targets_C: Tensor, factor: Tensor, softcap: float | None, ignore: int
) -> tuple[Tensor, Tensor]:
    """Return (nll_C in nats, the gradient of the logits times `factor`) by torch's operations.

    It takes the kernel's place where Triton does not run; the logits stay as they are.
    """
    z_CV = logits_CV.float()
    slope_CV: Tensor | None = None
    if softcap is not None:
        bent_CV = torch.tanh(z_CV / softcap)
        z_CV, slope_CV = bent_CV * softcap, 1 - bent_CV * bent_CV
    counts_C = targets_C != ignore
    at_C1 = targets_C.clamp(min=0)[:, None]
    lse_C1 = torch.logsumexp(z_CV, -1, keepdim=True)
    nll_C = torch.where(counts_C, (lse_C1 - z_CV.gather(1, at_C1))[:, 0], 0.0)
    grad_CV = torch.exp(z_CV - lse_C1)
    grad_CV.scatter_add_(1, at_C1, torch.full_like(lse_C1, -1.0))
    if slope_CV is not None:
        grad_CV *= slope_CV
    grad_CV *= torch.where(counts_C, factor, 0.0)[:, None]
    return nll_C, grad_CV.to(logits_CV.dtype)


@jit
def _cross_entropy_kernel(
    logits,
    targets,
    nll,
    factor,
    V,
    softcap,
    IGNORE: tl.constexpr,
    CAPPED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Write one position's loss, and over its logits their gradient times `factor`.

    The first pass over the logits keeps a running maximum and sum (Milakov and Gimelshein 2018,
    arXiv 1805.02867); the second writes softmax minus one-hot.
    """
    row = tl.program_id(0).to(tl.int64)
    logits += row * V
    target = tl.load(targets + row)
    at = tl.arange(0, BLOCK)
    # No loss here, but the product behind reads this row of the gradient: zeros.
    if target == IGNORE:
        for start in range(0, V, BLOCK):
            zero = tl.zeros((BLOCK,), dtype=logits.dtype.element_ty)
            tl.store(logits + start + at, zero, mask=start + at < V)
        tl.store(nll + row, 0.0)
    else:
        # Before the reductions: after them, the warp that is first overwrites this very logit.
        own = tl.load(logits + target).to(tl.float32)
        if CAPPED:
            own = softcap * stable_tanh(own / softcap)
        top = float("-inf")
        total = 0.0
        for start in range(0, V, BLOCK):
            z = tl.load(logits + start + at, mask=start + at < V, other=float("-inf")).to(
                tl.float32
            )
            if CAPPED:
                z = tl.where(start + at < V, softcap * stable_tanh(z / softcap), float("-inf"))
            higher = tl.maximum(top, tl.max(z, 0))
            # The sum so far was relative to the old maximum.
            total = total * tl.exp(top - higher) + tl.sum(tl.exp(z - higher), 0)
            top = higher
        lse = top + tl.log(total)
        scale = tl.load(factor)
        for start in range(0, V, BLOCK):
            z = tl.load(logits + start + at, mask=start + at < V, other=0.0).to(tl.float32)
            slope = 1.0
            if CAPPED:
                t = stable_tanh(z / softcap)
                z = softcap * t
                slope = 1.0 - t * t
            # Softmax minus one-hot, through the soft cap.
            grad = (tl.exp(z - lse) - tl.where(start + at == target, 1.0, 0.0)) * slope * scale
            tl.store(logits + start + at, grad.to(logits.dtype.element_ty), mask=start + at < V)
        tl.store(nll + row, lse - own)


def cross_entropy(
    logits_TV: Tensor, targets_T: Tensor, factor: Tensor, softcap: float | None, ignore: int
) -> Tensor:
    """Return nll_T in nats, 0 where the target is `ignore`; the logits become their gradient.

    The gradient is multiplied by the scalar `factor`, which stays on the card. `softcap` bends the
    logits to softcap · tanh(logits / softcap) first. Reads the logits twice and writes them once.
    """
    tokens, vocabulary = logits_TV.shape
    nll_T = logits_TV.new_empty(tokens, dtype=torch.float32)
    block = min(8192, next_power_of_two(vocabulary))
    _cross_entropy_kernel[(tokens,)](
        logits_TV, targets_T, nll_T, factor, vocabulary, softcap or 1.0,
        ignore, softcap is not None, block, num_warps=16 if block >= 8192 else 4,
    )  # fmt: skip
    return nll_T

"""The gated delta rule over concatenated rows, whose states do not pass from row to row.

Yang et al. 2024, arXiv 2412.06464. A head's state is a matrix from keys to values, S: each token
multiplies it by exp(decay), replaces a share `beta` of what its key finds there by its value, and
reads it with its query. Chunks of tokens are computed by matrix products, and the state goes from
chunk to chunk.
"""

# T tokens, G key heads, H value heads, K key width, V value width, N chunks, C tokens of a chunk

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from packaging.specifiers import SpecifierSet
from torch import Tensor, nn

from workbench.footprint.model.linear_attention import CHUNK
from workbench.training.step.kernels.delta_states import delta_states
from workbench.training.step.kernels.triangular import unit_lower_inverse
from workbench.training.step.rows import row_of_tokens

EPSILON = 1e-6
"""Added to the squared length of queries and keys, as in flash-linear-attention."""
WRONG_ON_HOPPER = SpecifierSet(">=3.4,<3.7.1")
"""Versions of Triton that compile flash-linear-attention's gated backward pass wrongly for compute
capability 9 (its issue 640): 0.6 raises an error in the first backward pass there, and versions
without that check give wrong gradients."""
Rule = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
"""rule(q_TGK, k_TGK, v_THV, decay_TH, beta_TH, cu) -> out_THV; `cu` holds cumulative lengths, of
which unused ones repeat the end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleChoice:
    """An implementation of the gated delta rule and the words for it."""

    rule: Rule
    why: str
    reads_host: bool
    """True if it reads lengths on the host, so that no pass with it can be captured."""


def choose_rule(device: torch.device, dtype: torch.dtype) -> RuleChoice:
    """Return the kernels of flash-linear-attention where they are installed, else PyTorch's.

    Its kernels compute in 16 bits, for which they are taken alone, and not where they are wrong.
    """
    half = dtype in (torch.float16, torch.bfloat16)
    why = f"gated delta layers by PyTorch's operations in chunks of {CHUNK} tokens"
    if device.type == "cuda" and half and find_spec("fla") is not None:
        if (wrong := _why_wrong(device)) is None:
            why = "gated delta layers by flash-linear-attention"
            return RuleChoice(rule=delta_rule_by_package, why=why, reads_host=True)
        why = f"{why}: {wrong}"
    return RuleChoice(rule=delta_rule, why=why, reads_host=False)


def _why_wrong(device: torch.device) -> str | None:
    """Return why flash-linear-attention's gradients would be wrong on the card; None: they are not.

    It takes TileLang's kernels instead of those where that package is installed.
    """
    if torch.cuda.get_device_capability(device)[0] != 9 or find_spec("tilelang") is not None:
        return None
    triton = str(importlib.import_module("triton").__version__)
    if not WRONG_ON_HOPPER.contains(triton, prereleases=True):
        return None
    return f"the gradients of flash-linear-attention are wrong on this card by Triton {triton}"


def delta_rule_by_package(
    q_TGK: Tensor, k_TGK: Tensor, v_THV: Tensor, decay_TH: Tensor, beta_TH: Tensor, cu: Tensor
) -> Tensor:
    """Return out_THV by the kernels of flash-linear-attention."""
    from fla.ops.gated_delta_rule import (  # type: ignore[import-not-found,unused-ignore]
        chunk_gated_delta_rule,
    )

    out: Any = chunk_gated_delta_rule(
        q_TGK[None], k_TGK[None], v_THV[None], g=decay_TH[None], beta=beta_TH[None],
        use_qk_l2norm_in_kernel=True, cu_seqlens=torch.unique_consecutive(cu).long(),
    )[0]  # fmt: skip
    return out[0]  # type: ignore[no-any-return]


def delta_rule(
    q_TGK: Tensor, k_TGK: Tensor, v_THV: Tensor, decay_TH: Tensor, beta_TH: Tensor, cu: Tensor
) -> Tensor:
    """Return out_THV in fp32, chunk by chunk.

    As transformers' torch_chunk_gated_delta_rule, but rows begin anywhere in a chunk: a token sees
    tokens of its own row alone, and the state of the chunk before only where its row began there.
    Nothing is read on the host, so it can be captured.
    """
    times = v_THV.shape[1] // q_TGK.shape[1]
    q_HNCK = _chunks(_unit(q_TGK) * q_TGK.shape[-1] ** -0.5).repeat_interleave(times, 0)
    k_HNCK = _chunks(_unit(k_TGK)).repeat_interleave(times, 0)
    v_HNCV, decay_HNC, beta_HNC = (_chunks(x) for x in (v_THV, decay_TH, beta_TH))
    rows = _Rows.of(cu, len(q_TGK))
    # The logarithm of what each token's row has kept since it, or the chunk, began. Summed row by
    # row, as a sum over all rows of a chunk would lose digits; and not by a product, which would
    # lose some in TF32.
    sum_HNC = (decay_HNC[..., None, :] * rows.sees_NCC).sum(-1)
    pairs_HNCC = (sum_HNC[..., :, None] - sum_HNC[..., None, :]).masked_fill(
        ~rows.sees_NCC, float("-inf")
    )
    pairs_HNCC = pairs_HNCC.exp()
    read_HNC = torch.where(rows.reads_NC, sum_HNC.exp(), 0.0)
    # What each token writes depends on what those before it wrote: a triangular system. `old` says
    # what of the old state each token replaces.
    solved_HNCC: Tensor = _UnitLowerInverse.apply(  # type: ignore[no-untyped-call]
        (k_HNCK @ k_HNCK.mT) * (beta_HNC[..., None] * pairs_HNCC)
    )
    solved_HNCC = solved_HNCC * beta_HNC[..., None, :]
    new_HNCV = solved_HNCC @ v_HNCV
    old_HNCK = (solved_HNCC * read_HNC[..., None, :]) @ k_HNCK
    # Left out before exp: of a token of an earlier row it may be infinite, and its gradient NaN.
    left_HNC = (sum_HNC[..., -1:] - sum_HNC).masked_fill(~rows.writes_NC, float("-inf")).exp()
    kept_HN = torch.where(rows.keeps_N, sum_HNC[..., -1].exp(), 0.0)
    states_HNKV, written_HNCV = delta_states(
        new_HNCV, old_HNCK, k_HNCK * left_HNC[..., None], kept_HN, tf32=q_TGK.dtype.itemsize < 4
    )
    out_HNCV = (q_HNCK * read_HNC[..., None]) @ states_HNKV
    out_HNCV = out_HNCV + ((q_HNCK @ k_HNCK.mT) * pairs_HNCC) @ written_HNCV
    return out_HNCV.flatten(1, 2).transpose(0, 1)[: len(q_TGK)]


class _UnitLowerInverse(torch.autograd.Function):
    """The inverses of matrices with ones on their diagonals, of which the rest below is read."""

    @staticmethod
    def forward(ctx: Any, lower_HNCC: Tensor) -> Tensor:
        inverse_HNCC = unit_lower_inverse(lower_HNCC)
        ctx.save_for_backward(inverse_HNCC)
        return inverse_HNCC

    @staticmethod
    def backward(ctx: Any, grad_HNCC: Tensor) -> Tensor:
        [inverse_HNCC] = ctx.saved_tensors
        lower_HNCC: Tensor = inverse_HNCC.mT @ grad_HNCC @ inverse_HNCC.mT
        return lower_HNCC.tril_(-1).neg_()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rows:
    """The rows to which the tokens of the chunks belong."""

    sees_NCC: Tensor
    """The second token is of the first's row and not behind it."""
    reads_NC: Tensor
    """The token's row began in a chunk before."""
    writes_NC: Tensor
    """The token's row is the chunk's last: what it writes goes into the next chunk's state."""
    keeps_N: Tensor
    """No row begins in the chunk, so that the state before it remains."""

    @classmethod
    def of(cls, cu: Tensor, tokens: int) -> _Rows:
        row_T = row_of_tokens(cu, tokens)
        row_NC = nn.functional.pad(row_T, (0, -tokens % CHUNK), value=-2).view(-1, CHUNK)
        before_N1 = nn.functional.pad(row_NC[:-1, -1:], (0, 0, 1, 0), value=-1)
        same = row_NC[:, :, None] == row_NC[:, None, :]
        return cls(
            sees_NCC=same.tril(),
            reads_NC=row_NC == before_N1,
            writes_NC=row_NC == row_NC[:, -1:],
            keeps_N=row_NC[:, -1] == before_N1[:, 0],
        )


def _unit(x: Tensor) -> Tensor:
    x = x.float()
    return x * torch.rsqrt((x * x).sum(-1, keepdim=True) + EPSILON)


def _chunks(x_TH: Tensor) -> Tensor:
    """Return x in fp32 as (heads, chunks, tokens of a chunk, ...), filled up with zeros."""
    more = -len(x_TH) % CHUNK
    filled = nn.functional.pad(x_TH, (*(0, 0) * (x_TH.ndim - 1), 0, more)) if more else x_TH
    # In one piece, since each product would make a copy of its own; by one copy where types differ.
    heads = filled.transpose(0, 1).to(torch.float32, memory_format=torch.contiguous_format)
    return heads.contiguous().view(len(heads), -1, CHUNK, *x_TH.shape[2:])

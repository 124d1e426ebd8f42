"""Typed entrances to the Triton kernels, and whether they can run here.

They save launches and trips through memory; the arithmetic is the models' own. Where Triton does
not run, callers use the plain torch form beside each call. Norm, rotary and gated-linear kernels
after Liger (Hsu et al. 2024, arXiv 2410.10989), without the weight gradients frozen norms have no
use for; unpacking after bitsandbytes' kDequantizeBlockwise, with the double-quantised scales
undone in the same launch.
"""

# T tokens, K inputs, N outputs, R rank, P projections of a group, S parts, V vocabulary, H heads

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from workbench.training.step.masks import inverse, threshold

switched_off = False
"""True: every caller takes its torch form (to measure what the kernels give)."""


@cache
def _kernels() -> Any:
    return importlib.import_module("workbench.training.step.kernels")


@cache
def _installed() -> bool:
    return find_spec("triton") is not None


def usable(device: torch.device) -> bool:
    """On a CUDA card with Triton; on a CPU only under Triton's interpreter."""
    if switched_off or not _installed():
        return False
    return device.type == "cuda" or os.environ.get("TRITON_INTERPRET") == "1"


def why_not(device: torch.device) -> str:
    if switched_off:
        return "switched off"
    return "Triton is not installed" if not _installed() else f"Triton does not run on {device}"


def _power(n: int) -> int:
    return 1 << max(n - 1, 0).bit_length()


def _split(count: int, size: int) -> int:
    return -(-count // size)


def _roomy(x: Tensor) -> bool:
    """Large tiles of it fit shared memory: a T4 has 64 KiB, a 3090 99."""
    return x.dtype.itemsize < 4 and _capability(x.device) >= (8, 0)


def _capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device) if device.type == "cuda" else (0, 0)


def _stages(x: Tensor, stages: int) -> int:
    """Loads under way at once; fp32 tiles are twice as large."""
    return stages if x.dtype.itemsize < 4 else 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Gated:
    """A projection reads act(gate) · up."""

    up_TK: Tensor
    gelu: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Normed:
    """A projection reads a norm's output."""

    rstd_T: Tensor
    """The inverse root mean square of each row of the norm's input."""
    weight_K: Tensor
    gemma: bool


def lora_down(
    x_TK: Tensor,
    a_PRK: Tensor,
    keys: Tensor,
    p: float,
    scaling: float,
    *,
    gated: Gated | None = None,
    made_TK: Tensor | None = None,
) -> Tensor:
    """low_PTR = scaling · dropout_p(x) @ A_p^T for up to three projections, x read once.

    With `gated`, x is the gate; what the projection reads is made here and written to `made_TK`.
    """
    assert x_TK.numel() < 2**31  # elements are numbered in 32 bits
    (tokens, width), (count, rank, _) = x_TK.shape, a_PRK.shape
    block_r = max(16, _power(rank))
    block_t, block_k = (64 if width > 8192 else 32, 128) if block_r <= 32 else (32, 32)
    programs = 264
    if gated and block_r <= 32:
        block_t, programs = 16, 1056
    blocks = _split(tokens, block_t)
    parts = max(1, min(_split(programs, blocks), _split(width, 4 * block_k)))
    k_each = _split(_split(width, parts), block_k) * block_k
    parts = _split(width, k_each)
    parts_SPTR = x_TK.new_empty(parts, count, tokens, rank, dtype=torch.float32)
    up_TK = gated.up_TK if gated else x_TK
    _kernels().lora_down[(blocks, parts)](
        x_TK, up_TK, x_TK if made_TK is None else made_TK, a_PRK, parts_SPTR, keys,
        tokens, width, rank, k_each, x_TK.stride(0), up_TK.stride(0),
        threshold(p), p > 0.0, count, gated is not None, gated is not None and gated.gelu,
        block_t, block_k, block_r,
        num_stages=_stages(x_TK, 2 if count * block_r > 512 else 3),
    )  # fmt: skip
    low_PTR = x_TK.new_empty(count, tokens, rank)
    return _reduced(parts_SPTR, low_PTR, scaling * inverse(p), add=False)


def up_backward(
    dys: list[Tensor], low_PTR: Tensor, b_NR: Tensor, grad_NR: Tensor, *, add: bool
) -> Tensor:
    """grad_B (+)= dy^T @ low of up to three projections, whose B lie below each other, in fp32;
    and dlow_PTR = dy @ B, from the same reading up to rank 32. Together where dys lie beside each
    other, one by one elsewhere.
    """
    tokens, rank = low_PTR.shape[1:]
    dys = [dy_TN if dy_TN.stride(1) == 1 else dy_TN.contiguous() for dy_TN in dys]
    sizes = [dy_TN.shape[1] for dy_TN in dys]
    ends = [sum(sizes[: index + 1]) for index in range(len(sizes))]
    dlow_PTR = torch.empty_like(low_PTR)
    few = rank <= 32  # else shares of dlow would soon be larger than dy
    block_t, block_n = (64, 256) if few else (64, 32)
    if not _roomy(dys[0]):
        block_t, block_n = 32, block_n if dys[0].dtype.itemsize < 4 else min(block_n, 128)
    while few and block_n > 32 and any(end % block_n for end in ends[:-1]):
        block_n //= 2
    apart = any(end % block_n for end in ends[:-1])
    dy_TN = None if apart else beside(dys)
    if dy_TN is None:
        each = zip(dys, low_PTR, torch.split(b_NR, sizes), torch.split(grad_NR, sizes), strict=True)
        return torch.cat(
            [up_backward([dy], low[None], b, grad, add=add) for dy, low, b, grad in each]
        )
    blocks, width = _split(ends[-1], block_n), ends[-1]
    parts = max(1, min(132 // blocks, _split(tokens, block_t)))
    rows_each = _split(_split(tokens, parts), block_t) * block_t
    parts = _split(tokens, rows_each)
    grad_SNR = grad_NR
    if parts > 1:
        grad_SNR = grad_NR.new_empty(parts, width, rank)
    dlow_STR = grad_NR.new_empty(blocks, tokens, rank) if few else grad_NR
    _kernels().up_backward[(blocks, parts)](
        dy_TN, low_PTR, b_NR, grad_SNR, dlow_STR, tokens, width, rank, dy_TN.stride(0),
        ends[0], ends[min(1, len(ends) - 1)], rows_each, add and parts == 1, few,
        block_t, block_n, max(16, _power(rank)), num_stages=_stages(dy_TN, 3),
    )  # fmt: skip
    if parts > 1:
        _reduced(grad_SNR, grad_NR, 1.0, add=add)
    if few:
        return _reduced(dlow_STR, dlow_PTR, 1.0, [end // block_n for end in ends[:-1]], add=False)
    for dy, b, dlow_TR in zip(dys, torch.split(b_NR, sizes), dlow_PTR, strict=True):
        torch.mm(dy, b, out=dlow_TR)
    return dlow_PTR


def beside(parts: list[Tensor]) -> Tensor | None:
    """Matrices that lie beside each other in memory, as one; None where they do not."""
    if len(parts) == 1:
        return parts[0]
    first, at = parts[0], parts[0].storage_offset()
    for part in parts:
        same = part.untyped_storage().data_ptr() == first.untyped_storage().data_ptr()
        if not same or part.storage_offset() != at or part.stride() != (first.stride(0), 1):
            return None
        at += part.shape[1]
    width = at - first.storage_offset()
    return first.as_strided((first.shape[0], width), (first.stride(0), 1))


def lora_backward(
    x_TK: Tensor,
    dx_TK: Tensor | None,
    dlow_PTR: Tensor,
    a_PRK: Tensor,
    grad_PRK: Tensor,
    keys: Tensor,
    p: float,
    scaling: float,
    *,
    add: bool,
    add_dx: bool,
    made: Gated | Normed | None = None,
) -> None:
    """grad_A (+)= its gradient; dx (+)= the low-rank path's share. x is read once for up to three
    projections and no mask is stored. `keys`: of the first of them; they share it. `dx_TK` may be
    x itself, unless it is added to.

    With `made`, x is the gate or the norm's input; what the projection reads is made here. Of a
    gate, `dx_TK` is only read, and x and up become their gradients.

    Deterministic: parts of T are summed in a second launch, never by atomics.
    """
    (tokens, width), (count, rank, _) = x_TK.shape, a_PRK.shape
    gated = made if isinstance(made, Gated) else None
    normed = made if isinstance(made, Normed) else None
    block_r = max(16, _power(rank))
    block_k, block_t = 32, 64 if block_r <= 32 else 32
    parts = max(2, _split(264 * block_k, width))
    if gated and block_r <= 32:
        block_k, block_t = 128, 16
        parts = min(_split(tokens, 400), max(2, _split(1056 * block_k, width)))
    elif x_TK.dtype.itemsize == 4 and block_r > 128:
        block_t = 16
    parts = min(parts, _split(tokens, block_t))
    rows_each = _split(_split(tokens, parts), block_t) * block_t
    parts = _split(tokens, rows_each)
    up_TK = gated.up_TK if gated else x_TK
    da_SPRK = x_TK.new_empty(parts, count, rank, width, dtype=torch.float32)
    _kernels().lora_backward[(_split(width, block_k), parts)](
        x_TK, up_TK, normed.weight_K if normed else x_TK, normed.rstd_T if normed else x_TK,
        x_TK if dx_TK is None else dx_TK, dlow_PTR, a_PRK, da_SPRK, keys,
        tokens, width, rank, rows_each, x_TK.stride(0), up_TK.stride(0),
        scaling * inverse(p), threshold(p), p > 0.0, dx_TK is not None, add_dx, count,
        gated is not None, gated is not None and gated.gelu,
        normed is not None, normed is not None and normed.gemma,
        block_t, block_k, block_r, num_stages=_stages(x_TK, 2 if count > 2 else 3),
    )  # fmt: skip
    _reduced(da_SPRK, grad_PRK, scaling * inverse(p), add=add)


def _reduced(
    parts: Tensor, out: Tensor, scaling: float, ends: Sequence[int] = (), *, add: bool
) -> Tensor:
    """`ends`: of the parts of all outputs but the last; there are at most three."""
    count, most = out.numel() // (len(ends) + 1), parts.shape[0]
    tile = min(16, _power(most))
    block = 1024 // tile
    _kernels().reduce_parts[(_split(count, block), len(ends) + 1)](
        parts, out, count, *(*ends, most, most, most)[:3], scaling, add, tile, block
    )
    return out


def nf4_dequantize(packed: Tensor, state: Any, out: Tensor) -> Tensor:
    """Fills `out` with the weight of a double-quantised NF4 tensor."""
    scales, each = state.absmax, 32
    _kernels().nf4_dequantize[(_split(scales.numel(), each),)](
        packed, scales, state.state2.code, state.state2.absmax, state.offset, state.code, out,
        scales.numel(), state.blocksize // 2, state.state2.blocksize, each, num_warps=2,
    )  # fmt: skip
    return out


class RmsNorm(torch.autograd.Function):
    """(out, rstd). Forward and backward in one launch each; saves the input and one number a row.
    Heads' norms read queries and keys where they lie.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, eps: float, gemma: bool
    ) -> tuple[Tensor, Tensor]:
        ctx.turned = x.ndim == 4 and x.stride(1) < x.stride(2)  # heads first: as they lie in memory
        x = x.transpose(1, 2) if ctx.turned else x
        x = x if _rows(x) else x.contiguous()
        out, rstd = normed(x, weight, eps=eps, gemma=gemma)
        ctx.save_for_backward(x, weight, rstd)
        ctx.mark_non_differentiable(rstd)
        ctx.gemma = gemma
        return out.transpose(1, 2) if ctx.turned else out, rstd

    @staticmethod
    def backward(ctx: Any, dy: Tensor, _: Tensor) -> tuple[Tensor, None, None, None]:
        x, weight, rstd = ctx.saved_tensors
        dy, width = (dy.transpose(1, 2) if ctx.turned else dy).contiguous(), x.shape[-1]
        dx = x.new_empty(x.shape)
        _kernels().rms_norm_backward[(rstd.numel(),)](
            dy, x, weight, rstd, dx, width, *_rows(x), ctx.gemma, _power(width),
            num_warps=_warps(width),
        )  # fmt: skip
        return dx.transpose(1, 2) if ctx.turned else dx, None, None, None


def normed(x: Tensor, weight: Tensor, *, eps: float, gemma: bool) -> tuple[Tensor, Tensor]:
    """(out, contiguous; the inverse root mean square of each row)."""
    width = x.shape[-1]
    out, rstd = x.new_empty(x.shape), x.new_empty(x.numel() // width, dtype=torch.float32)
    _kernels().rms_norm[(rstd.numel(),)](
        x, weight, out, rstd, width, *_rows(x), eps, gemma, _power(width),
        num_warps=_warps(width),
    )  # fmt: skip
    return out, rstd


def _warps(width: int) -> int:
    return 4 if width <= 4096 else 8


def _rows(x: Tensor) -> tuple[int, int, int] | tuple[()]:
    """How x's rows lie: (size of the inner dimension, strides of the outer and of it); () where
    there are more dimensions than two of them.
    """
    if x.is_contiguous():
        return 1, x.shape[-1], 0
    if x.ndim == 4 and x.shape[0] == 1 and x.stride(3) == 1:
        return x.shape[2], x.stride(1), x.stride(2)
    return ()


class GatedLinear(torch.autograd.Function):
    """act(gate) · up, SiLU or tanh-GELU; saves its two inputs alone, and writes their gradients in
    their place: nothing else keeps what those projections give. So it goes backward only once.

    Without `up`, gate and up are the halves of one tensor, and so are their gradients.
    """

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor | None, gelu: bool) -> Tensor:
        out = gated(gate, up, gelu=gelu)
        ctx.save_for_backward(*((flat(gate),) if up is None else (flat(gate), flat(up))))
        ctx.gelu = gelu
        return out

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor | None, None]:
        gate_TN, up_TN = saved if len(saved := ctx.saved_tensors) == 2 else halves(saved[0])
        shape, dy = dy.shape, dy.contiguous()
        width = shape[-1]
        block = min(2048, _power(width))
        _kernels().glu_backward[(gate_TN.shape[0], _split(width, block))](
            dy, gate_TN, up_TN, width, gate_TN.stride(0), up_TN.stride(0), ctx.gelu, block
        )
        if len(saved) == 1:
            return saved[0].view(*shape[:-1], -1), None, None
        return gate_TN.view(shape), up_TN.view(shape), None


def gated(gate: Tensor, up: Tensor | None = None, *, gelu: bool) -> Tensor:
    gate_TN, up_TN = halves(gate) if up is None else (flat(gate), flat(up))
    width = gate_TN.shape[1]
    out, block = gate.new_empty(*gate.shape[:-1], width), min(2048, _power(width))
    _kernels().glu[(gate_TN.shape[0], _split(width, block))](
        gate_TN, up_TN, out, width, gate_TN.stride(0), up_TN.stride(0), gelu, block
    )
    return out


def flat(tensor: Tensor) -> Tensor:
    return tensor.reshape(-1, tensor.shape[-1])


def halves(tensor: Tensor) -> tuple[Tensor, Tensor]:
    left, right = flat(tensor).chunk(2, -1)
    return left, right


class Rotary(torch.autograd.Function):
    """x_1HTD turned by its position; saves no activation. Backward turns it back.

    `in_place`: x becomes what it is turned to, and so does its gradient. Only for an x that nothing
    else keeps or reads, and whose reader gives a gradient of its own.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor, in_place: bool) -> Tensor:
        ctx.save_for_backward(cos, sin)
        ctx.in_place = in_place
        return _rotated(x, cos, sin, 1, in_place=in_place)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None, None, None]:
        cos, sin = ctx.saved_tensors
        return _rotated(dy, cos, sin, -1, in_place=ctx.in_place), None, None, None


def _rotated(x: Tensor, cos: Tensor, sin: Tensor, sign: int, *, in_place: bool) -> Tensor:
    if x.stride(-1) != 1:
        x, in_place = x.contiguous(), False
    _, heads, tokens, width = x.shape
    out = x if in_place else x.new_empty(1, tokens, heads, width).transpose(1, 2)
    block_h = min(8, _power(heads))
    _kernels().rotate[(tokens, _split(heads, block_h))](
        x, cos.contiguous(), sin.contiguous(), out, heads, x.stride(2), x.stride(1),
        out.stride(2), out.stride(1), sign, width // 2, block_h, _power(width // 2),
    )  # fmt: skip
    return out


def cross_entropy(
    logits_TV: Tensor, targets_T: Tensor, factor: Tensor, softcap: float | None, ignore: int
) -> Tensor:
    """nll_T; logits become their gradient times `factor`, in place: two readings, one writing."""
    tokens, vocabulary = logits_TV.shape
    nll_T = logits_TV.new_empty(tokens, dtype=torch.float32)
    block = min(8192, _power(vocabulary))
    _kernels().cross_entropy[(tokens,)](
        logits_TV, targets_T, nll_T, factor, vocabulary, softcap or 1.0,
        ignore, softcap is not None, block, num_warps=16 if block >= 8192 else 4,
    )  # fmt: skip
    return nll_T

"""The up-projection of LoRA going backward: grad_B = dy^T @ low and dlow = dy @ B in one reading.

Forward, the up-projection is a torch.mm that writes where the large product then adds
(lora/group.py), so it needs no kernel.
"""

# T tokens, N outputs, R rank, P projections of a group, S parts of a sum

import torch
from torch import Tensor

from workbench.training.step.kernels import triton_support
from workbench.training.step.kernels.partial_sums import sum_parts
from workbench.training.step.kernels.triton_support import (
    ceil_div,
    jit,
    next_power_of_two,
    pipeline_stages,
    tl,
)


def lora_up_backward_reference(
    dys: list[Tensor], low_PTR: Tensor, b_NR: Tensor
) -> tuple[Tensor, Tensor]:
    """Return (the gradient of B, NR; dlow_PTR) by torch's operations."""
    parts = torch.split(b_NR, [dy_TN.shape[1] for dy_TN in dys])
    grads = [dy_TN.T @ low_TR for dy_TN, low_TR in zip(dys, low_PTR, strict=True)]
    dlows = [dy_TN @ part for dy_TN, part in zip(dys, parts, strict=True)]
    return torch.cat(grads), torch.stack(dlows)


@jit
def _lora_up_backward_kernel(
    dy_TN, low_PTR, b_NR, grad_SNR, dlow_STR, T, N, R, dy_stride, end0, end1, end2, rows_each,
    ADD: tl.constexpr, DLOW: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_R: tl.constexpr,
):  # fmt: skip
    """Write grad_B (+)= dy^T @ low in fp32 and, with DLOW, this block's share of dlow = dy @ B.

    dy is read once for both. `low` carries the adapter's scaling already. end0 to end2 are where
    the outputs of the first three projections end.
    """
    block, split = tl.program_id(0), tl.program_id(1)
    n = block * BLOCK_N + tl.arange(0, BLOCK_N)
    r = tl.arange(0, BLOCK_R)
    in_n, in_r = n < N, r < R
    inside = in_n[:, None] & in_r[None, :]
    # The projection that these outputs belong to: so many ends lie before them.
    at_n = block * BLOCK_N
    low_PTR += ((at_n >= end0).to(tl.int64) + (at_n >= end1) + (at_n >= end2)) * T * R
    dlow_STR += block.to(tl.int64) * T * R
    # B's block serves all rows of the loop.
    if DLOW:
        b = tl.load(b_NR + n[:, None] * R + r[None, :], mask=inside, other=0.0)
    total = tl.zeros((BLOCK_N, BLOCK_R), dtype=tl.float32)
    first = split * rows_each
    for start in range(first, tl.minimum(first + rows_each, T), BLOCK_T):
        t = start + tl.arange(0, BLOCK_T)
        in_t = t < tl.minimum(first + rows_each, T)
        at = t[:, None].to(tl.int64) * dy_stride + n[None, :]
        at_low = t[:, None] * R + r[None, :]
        in_low = in_t[:, None] & in_r[None, :]
        dy = tl.load(dy_TN + at, mask=in_t[:, None] & in_n[None, :], other=0.0)
        low = tl.load(low_PTR + at_low, mask=in_low, other=0.0)
        total += tl.dot(tl.trans(dy), low, input_precision="ieee")
        if DLOW:
            tl.store(dlow_STR + at_low, tl.dot(dy, b, input_precision="ieee"), mask=in_low)
    to = grad_SNR + split.to(tl.int64) * N * R + n[:, None] * R + r[None, :]
    if ADD:
        total += tl.load(to, mask=inside, other=0.0)
    tl.store(to, total, mask=inside)


def lora_up_backward(
    dys: list[Tensor], low_PTR: Tensor, b_NR: Tensor, grad_NR: Tensor, *, add: bool
) -> Tensor:
    """Write (with `add`: add) B's gradient in fp32 to `grad_NR`, and return dlow_PTR = dy @ B.

    Up to four projections, whose B lie below each other. One launch serves them where their dy lie
    beside each other in memory, else one each. Up to rank 32 both products come from one reading
    of dy.
    """
    tokens, rank = low_PTR.shape[1:]
    dys = [dy_TN if dy_TN.stride(1) == 1 else dy_TN.contiguous() for dy_TN in dys]
    sizes = [dy_TN.shape[1] for dy_TN in dys]
    ends = [sum(sizes[: index + 1]) for index in range(len(sizes))]
    dlow_PTR = torch.empty_like(low_PTR)
    few = rank <= 32  # above that, the shares of dlow would soon be larger than dy
    block_t, block_n = (64, 256) if few else (64, 32)
    if not triton_support.has_room_for_large_tiles(dys[0]):
        block_t, block_n = 32, block_n if dys[0].dtype.itemsize < 4 else min(block_n, 128)
    # A block of outputs must belong to one projection.
    while few and block_n > 32 and any(end % block_n for end in ends[:-1]):
        block_n //= 2
    apart = any(end % block_n for end in ends[:-1])
    dy_TN = None if apart else join_columns(dys)
    if dy_TN is None:
        each = zip(dys, low_PTR, torch.split(b_NR, sizes), torch.split(grad_NR, sizes), strict=True)
        return torch.cat(
            [lora_up_backward([dy], low[None], b, grad, add=add) for dy, low, b, grad in each]
        )
    blocks, width = ceil_div(ends[-1], block_n), ends[-1]
    # One program for each of an H100's 132 multiprocessors.
    parts = max(1, min(132 // blocks, ceil_div(tokens, block_t)))
    rows_each = ceil_div(ceil_div(tokens, parts), block_t) * block_t
    parts = ceil_div(tokens, rows_each)
    grad_SNR = grad_NR
    if parts > 1:
        grad_SNR = grad_NR.new_empty(parts, width, rank)
    dlow_STR = grad_NR.new_empty(blocks, tokens, rank) if few else grad_NR
    _lora_up_backward_kernel[(blocks, parts)](
        dy_TN, low_PTR, b_NR, grad_SNR, dlow_STR, tokens, width, rank, dy_TN.stride(0),
        *(*ends, ends[-1], ends[-1])[:3], rows_each, add and parts == 1, few,
        block_t, block_n, max(16, next_power_of_two(rank)), num_stages=pipeline_stages(dy_TN, 3),
    )  # fmt: skip
    if parts > 1:
        sum_parts(grad_SNR, grad_NR, 1.0, add=add)
    # Each projection's dlow is the sum of the shares of its own blocks of outputs.
    if few:
        return sum_parts(dlow_STR, dlow_PTR, 1.0, [end // block_n for end in ends[:-1]], add=False)
    for dy, b, dlow_TR in zip(dys, torch.split(b_NR, sizes), dlow_PTR, strict=True):
        torch.mm(dy, b, out=dlow_TR)
    return dlow_PTR


def join_columns(parts: list[Tensor]) -> Tensor | None:
    """Return matrices that lie beside each other in memory as one matrix, without a copy.

    Return None where they do not lie so.
    """
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

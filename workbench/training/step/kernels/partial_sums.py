"""Sums over the parts that the programs of another kernel have written.

A product whose long side is split over programs is summed here in a second launch instead of by
atomic additions: in a fixed order, so that the same step gives the same bits again.
"""

from collections.abc import Sequence

from torch import Tensor

from workbench.training.step.kernels.triton_support import (
    ceil_div,
    jit,
    next_power_of_two,
    tl,
)


@jit
def _sum_parts_kernel(
    parts, out, count, END0, END1, END2, END3, SCALE: tl.constexpr, ADD: tl.constexpr,
    TILE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write out[p] (+)= SCALE · the sum of its parts; those of output p end at END_p."""
    p = tl.program_id(1)
    first = tl.where(p == 0, 0, tl.where(p == 1, END0, tl.where(p == 2, END1, END2)))
    end = tl.where(p == 0, END0, tl.where(p == 1, END1, tl.where(p == 2, END2, END3)))
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < count
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    for start in range(first, end, TILE):
        # TILE parts are loaded at once, so that their latencies overlap.
        s = start + tl.arange(0, TILE)
        each = s[:, None].to(tl.int64) * count + at[None, :]
        total += tl.sum(tl.load(parts + each, mask=(s < end)[:, None] & inside, other=0.0), 0)
    total *= SCALE
    out += p.to(tl.int64) * count
    if ADD:
        total += tl.load(out + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + at, total.to(out.dtype.element_ty), mask=inside)


def sum_parts(
    parts: Tensor, out: Tensor, scaling: float, ends: Sequence[int] = (), *, add: bool
) -> Tensor:
    """Write `scaling` times the sum over the first dimension of `parts` to `out`, and return it.

    `out` may consist of up to four outputs one behind the other; `ends` then says where the parts
    of each but the last one end. With `add`, out is added to instead of overwritten.
    """
    count, most = out.numel() // (len(ends) + 1), parts.shape[0]
    # 1,024 elements a program, whatever the number of parts.
    tile = min(16, next_power_of_two(most))
    block = 1024 // tile
    _sum_parts_kernel[(ceil_div(count, block), len(ends) + 1)](
        parts, out, count, *(*ends, most, most, most, most)[:4], scaling, add, tile, block
    )
    return out

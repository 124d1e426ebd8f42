"""NF4 weights back to 16 bits (Dettmers et al. 2023, arXiv 2305.14314, §3).

After bitsandbytes' kDequantizeBlockwise, with the double-quantised scales undone in the same
launch: its own path takes three launches a weight. The values are the same bit for bit, and
bitsandbytes' functional.dequantize_4bit is the reference of the test.
"""

import math
from typing import Any

import torch
from torch import Tensor

from workbench.training.step.kernels.triton_support import ceil_div, jit, tl


@jit
def _nf4_dequantize_kernel(
    packed,
    scales_8bit,
    scale_code,
    super_scales,
    offset,
    table,
    out,
    scale_count,
    HALF_BLOCK: tl.constexpr,
    PER_SUPER: tl.constexpr,
    SCALES: tl.constexpr,
):
    """Write SCALES blocks of 2·HALF_BLOCK weights; a byte's high nibble is the first weight.

    A block's scale is scale_code[its 8-bit scale] · its super scale + offset; PER_SUPER scales
    share a super scale.
    """
    s = tl.program_id(0).to(tl.int64) * SCALES + tl.arange(0, SCALES)
    inside = s < scale_count
    code = tl.load(scales_8bit + s, mask=inside, other=0)
    scale = tl.load(scale_code + code) * tl.load(
        super_scales + s // PER_SUPER, mask=inside, other=0
    )
    scale += tl.load(offset)
    b = s[:, None] * HALF_BLOCK + tl.arange(0, HALF_BLOCK)[None, :]
    byte = tl.load(packed + b, mask=inside[:, None], other=0)
    high = tl.load(table + (byte >> 4)) * scale[:, None]
    low = tl.load(table + (byte & 15)) * scale[:, None]
    # Values leave in the order of the weights, so that stores are contiguous.
    both = tl.interleave(high, low)
    to = s[:, None] * (2 * HALF_BLOCK) + tl.arange(0, 2 * HALF_BLOCK)[None, :]
    tl.store(out + to, both.to(out.dtype.element_ty), mask=inside[:, None])


def is_dequantizable(state: Any) -> bool:
    """Return whether the kernel reads a weight with this QuantState of bitsandbytes.

    It reads double-quantised NF4 in whole blocks: of a last block that is cut short it would write
    behind the weight.
    """
    whole: bool = math.prod(state.shape) % state.blocksize == 0
    return whole and bool(state.nested) and state.quant_type == "nf4"


def nf4_dequantize(packed: Tensor, state: Any, out: Tensor) -> Tensor:
    """Fill `out` with a weight for which is_dequantizable() is True, in its dtype, and return it.

    `state` is bitsandbytes' QuantState. Reads half a byte a weight and writes two: at the limit of
    the card's memory bandwidth, so unpacking can only become rarer, not faster.
    """
    assert is_dequantizable(state)
    scales, each = state.absmax, 32
    _nf4_dequantize_kernel[(ceil_div(scales.numel(), each),)](
        packed.view(torch.uint8),  # published weights may be stored as another type
        scales, state.state2.code, state.state2.absmax, state.offset, state.code, out,
        scales.numel(), state.blocksize // 2, state.state2.blocksize, each, num_warps=2,
    )  # fmt: skip
    return out

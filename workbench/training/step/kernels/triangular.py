"""Inverses of many small triangular matrices, as the gated delta rule needs them for its chunks."""

# N matrices, C rows and columns

import torch
from torch import Tensor

from workbench.training.step.kernels import triton_support
from workbench.training.step.kernels.triton_support import jit, next_power_of_two, tl


def unit_lower_inverse_reference(lower_NCC: Tensor) -> Tensor:
    """Return the inverses by torch's operation."""
    ones = torch.eye(lower_NCC.shape[-1], dtype=lower_NCC.dtype, device=lower_NCC.device)
    inverse: Tensor = torch.linalg.solve_triangular(
        lower_NCC, ones, upper=False, unitriangular=True
    )
    return inverse


@jit
def _unit_lower_inverse_kernel(lower_NCC, out_NCC, C, BLOCK: tl.constexpr):
    """Substitute forward: row i of the inverse is e_i less lower[i] times the rows above."""
    at = tl.program_id(0).to(tl.int64) * C * C
    r = tl.arange(0, BLOCK)
    inverse = tl.where(r[:, None] == r[None, :], 1.0, 0.0)
    for i in range(1, C):
        row = tl.load(lower_NCC + at + i * C + r, mask=r < i, other=0.0)
        found = tl.sum(row[:, None] * inverse, 0)
        inverse = tl.where(r[:, None] == i, inverse - found[None, :], inverse)
    inside = (r < C)[:, None] & (r < C)[None, :]
    tl.store(out_NCC + at + r[:, None] * C + r[None, :], inverse, mask=inside)


def unit_lower_inverse(lower_NCC: Tensor) -> Tensor:
    """Return the inverses of matrices in fp32 below their diagonals, with ones on them.

    What lower_NCC, of any leading shape, holds on its diagonals and above is not read.
    """
    if not triton_support.is_usable(lower_NCC.device):
        return unit_lower_inverse_reference(lower_NCC)
    lower_NCC = lower_NCC.contiguous()
    size, out = lower_NCC.shape[-1], torch.empty_like(lower_NCC)
    _unit_lower_inverse_kernel[(lower_NCC.numel() // size**2,)](
        lower_NCC, out, size, next_power_of_two(size)
    )
    return out

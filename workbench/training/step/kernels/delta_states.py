"""The states of the gated delta rule from chunk to chunk, forward and backward, in one launch each.

A program keeps its share of a head's state in registers while it goes through the chunks; torch's
operations take six launches for each chunk, and write and read the state in each.
"""

# H heads, N chunks, C tokens of a chunk, K key width, V value width, B blocks of V

from typing import Any

import torch
from torch import Tensor

from workbench.training.step.kernels import triton_support
from workbench.training.step.kernels.triton_support import ceil_div, jit, next_power_of_two, tl

BLOCK_V = 32
"""Values of a head that one program has."""
WIDEST_KEY = 128
"""Widest keys of a head whose blocks fit a T4's shared memory."""


def delta_states_reference(
    new_HNCV: Tensor, old_HNCK: Tensor, k_HNCK: Tensor, kept_HN: Tensor
) -> tuple[Tensor, Tensor]:
    """Return (states_HNKV, written_HNCV) by torch's operations.

    The state before the first chunk is 0. A chunk's tokens write new - old · state, and the state
    after it is kept · state + k^T · written.
    """
    state_HKV = new_HNCV.new_zeros(len(new_HNCV), old_HNCK.shape[-1], new_HNCV.shape[-1])
    states, written = [], []
    # Unbound at once: the gradient of a chunk that is picked out is as large as all chunks.
    parts = (x.unbind(1) for x in (new_HNCV, old_HNCK, k_HNCK, kept_HN))
    for new_HCV, old_HCK, k_HCK, kept_H in zip(*parts, strict=True):
        states.append(state_HKV)
        written.append(torch.baddbmm(new_HCV, old_HCK, state_HKV, alpha=-1))
        state_HKV = torch.baddbmm(state_HKV * kept_H[:, None, None], k_HCK.mT, written[-1])
    return torch.stack(states, 1), torch.stack(written, 1)


@jit
def _tile(base, rows, columns, row_count, column_count):
    """Return (pointers, mask) of a block of a matrix whose rows lie beneath each other."""
    inside = (rows < row_count)[:, None] & (columns < column_count)[None, :]
    return base + rows[:, None] * column_count + columns[None, :], inside


@jit
def _states_kernel(
    new, old, k, kept, states, written, N, C, K, V,
    BLOCK_C: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_V: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Write the state before each chunk and what its tokens write, for one block of V."""
    head = tl.program_id(0).to(tl.int64)
    v = tl.program_id(1) * BLOCK_V + tl.arange(0, BLOCK_V)
    c, key = tl.arange(0, BLOCK_C), tl.arange(0, BLOCK_K)
    state_KV = tl.zeros((BLOCK_K, BLOCK_V), tl.float32)
    for chunk in range(N):
        at = head * N + chunk
        to, inside = _tile(states + at * K * V, key, v, K, V)
        tl.store(to, state_KV, mask=inside)
        from_new, in_new = _tile(new + at * C * V, c, v, C, V)
        from_old, in_keys = _tile(old + at * C * K, c, key, C, K)
        old_CK = tl.load(from_old, mask=in_keys, other=0.0)
        written_CV = tl.load(from_new, mask=in_new, other=0.0)
        written_CV -= tl.dot(old_CK, state_KV, input_precision=PRECISION)
        to, _ = _tile(written + at * C * V, c, v, C, V)
        tl.store(to, written_CV, mask=in_new)
        from_k, _ = _tile(k + at * C * K, c, key, C, K)
        k_CK = tl.load(from_k, mask=in_keys, other=0.0)
        state_KV *= tl.load(kept + at)
        state_KV += tl.dot(tl.trans(k_CK), written_CV, input_precision=PRECISION)


@jit
def _states_backward_kernel(
    dstates, dwritten, old, k, kept, states, dnew, dafter, dkept_parts, N, C, K, V,
    BLOCK_C: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_V: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Write the gradients of `new`, of the state after each chunk, and shares of those of kept."""
    head = tl.program_id(0).to(tl.int64)
    block, blocks = tl.program_id(1), tl.num_programs(1)
    v = block * BLOCK_V + tl.arange(0, BLOCK_V)
    c, key = tl.arange(0, BLOCK_C), tl.arange(0, BLOCK_K)
    after_KV = tl.zeros((BLOCK_K, BLOCK_V), tl.float32)
    for back in range(N):
        at = head * N + N - 1 - back
        to, in_state = _tile(dafter + at * K * V, key, v, K, V)
        tl.store(to, after_KV, mask=in_state)
        from_state, _ = _tile(states + at * K * V, key, v, K, V)
        state_KV = tl.load(from_state, mask=in_state, other=0.0)
        tl.store(dkept_parts + at * blocks + block, tl.sum(tl.sum(after_KV * state_KV, 0), 0))
        from_keys, in_keys = _tile(k + at * C * K, c, key, C, K)
        k_CK = tl.load(from_keys, mask=in_keys, other=0.0)
        from_written, in_new = _tile(dwritten + at * C * V, c, v, C, V)
        dnew_CV = tl.load(from_written, mask=in_new, other=0.0)
        dnew_CV += tl.dot(k_CK, after_KV, input_precision=PRECISION)
        to, _ = _tile(dnew + at * C * V, c, v, C, V)
        tl.store(to, dnew_CV, mask=in_new)
        from_old, _ = _tile(old + at * C * K, c, key, C, K)
        old_CK = tl.load(from_old, mask=in_keys, other=0.0)
        from_dstate, _ = _tile(dstates + at * K * V, key, v, K, V)
        after_KV *= tl.load(kept + at)
        after_KV += tl.load(from_dstate, mask=in_state, other=0.0)
        after_KV -= tl.dot(tl.trans(old_CK), dnew_CV, input_precision=PRECISION)


class DeltaStates(torch.autograd.Function):
    """The states as an autograd function: apply(new, old, k, kept, tf32) -> (states, written).

    All are in fp32; with `tf32` the products are computed by tensor cores.
    """

    @staticmethod
    def forward(
        ctx: Any, new_HNCV: Tensor, old_HNCK: Tensor, k_HNCK: Tensor, kept_HN: Tensor, tf32: bool
    ) -> tuple[Tensor, Tensor]:
        given = [x.contiguous() for x in (new_HNCV, old_HNCK, k_HNCK, kept_HN)]
        (heads, chunks, tokens, values), keys = new_HNCV.shape, k_HNCK.shape[-1]
        states_HNKV = new_HNCV.new_empty(heads, chunks, keys, values)
        written_HNCV = torch.empty_like(given[0])
        _states_kernel[(heads, ceil_div(values, BLOCK_V))](
            *given, states_HNKV, written_HNCV, chunks, tokens, keys, values,
            *_blocks(tokens, keys), "tf32" if tf32 else "ieee", num_stages=1,
        )  # fmt: skip
        ctx.save_for_backward(*given[1:], states_HNKV, written_HNCV)
        ctx.tf32 = tf32
        return states_HNKV, written_HNCV

    @staticmethod
    def backward(
        ctx: Any, dstates_HNKV: Tensor, dwritten_HNCV: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, None]:
        old_HNCK, k_HNCK, kept_HN, states_HNKV, written_HNCV = ctx.saved_tensors
        heads, chunks, keys, values = states_HNKV.shape
        blocks = ceil_div(values, BLOCK_V)
        dnew_HNCV, dafter_HNKV = torch.empty_like(written_HNCV), torch.empty_like(states_HNKV)
        dkept_HNB = kept_HN.new_empty(heads, chunks, blocks)
        _states_backward_kernel[(heads, blocks)](
            dstates_HNKV.contiguous(), dwritten_HNCV.contiguous(), old_HNCK, k_HNCK, kept_HN,
            states_HNKV, dnew_HNCV, dafter_HNKV, dkept_HNB,
            chunks, old_HNCK.shape[2], keys, values,
            *_blocks(old_HNCK.shape[2], keys), "tf32" if ctx.tf32 else "ieee", num_stages=1,
        )  # fmt: skip
        dold_HNCK = (dnew_HNCV @ states_HNKV.mT).neg_()
        dk_HNCK = written_HNCV @ dafter_HNKV.mT
        return dnew_HNCV, dold_HNCK, dk_HNCK, dkept_HNB.sum(-1), None


def delta_states(
    new_HNCV: Tensor, old_HNCK: Tensor, k_HNCK: Tensor, kept_HN: Tensor, *, tf32: bool
) -> tuple[Tensor, Tensor]:
    """Return the state before each chunk, states_HNKV, and what its tokens write, written_HNCV.

    As `delta_states_reference`; the kernels' products are in TF32 with `tf32`.
    """
    if not triton_support.is_usable(new_HNCV.device) or k_HNCK.shape[-1] > WIDEST_KEY:
        return delta_states_reference(new_HNCV, old_HNCK, k_HNCK, kept_HN)
    found: tuple[Tensor, Tensor] = DeltaStates.apply(new_HNCV, old_HNCK, k_HNCK, kept_HN, tf32)  # type: ignore[no-untyped-call]
    return found


def _blocks(tokens: int, keys: int) -> tuple[int, int, int]:
    # A product of matrices takes 16 rows at least.
    return max(16, next_power_of_two(tokens)), max(16, next_power_of_two(keys)), BLOCK_V

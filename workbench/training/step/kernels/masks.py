"""Dropout masks as a pure function of (seed, micro-step, projection, element).

Nothing is stored between forward and backward, neither a mask nor a generator's state. So layers
that recompute and replays of a CUDA graph draw the same mask again, and a checkpoint needs two
integers to go on with the right ones (docs/step.md#dropout-masks).

The random bits are a 32-bit mixer (lowbias32: C. Wellons, github.com/skeeto/hash-prospector) over
the element's number in a Weyl sequence. Two keys for each projection choose that sequence; the
whole mixer makes them, half of it is enough for the elements. Counter-based generators: Salmon et
al. 2011, "Parallel random numbers: as easy as 1, 2, 3", SC11.

The torch functions are the definition; the Triton functions below draw the same bits in registers.
"""

# S projections (sites), T tokens, D width

import torch
from torch import Tensor

from workbench.training.step.kernels.triton_support import jit, tl

LOW_32 = 0xFFFFFFFF
GOLDEN = 0x9E3779B9
"""2^32 / golden ratio: spreads consecutive numbers over 32 bits (Knuth, TAOCP 3, §6.4)."""
STEPS = 1 << 10
"""Values that ten bits have. An element's 30 random bits serve three masks, so three projections
that share an input take one mixing; hence a kernel's dropout is a multiple of 1/1,024."""
MASKS_OF_A_KEY = 3


def mix_32_bits(x: Tensor) -> Tensor:
    """Return lowbias32 of an int64 tensor whose values are below 2^32.

    Products wrap around at 64 bits, and their low 32 bits, which are kept, are right all the same.
    """
    x = x ^ (x >> 16)
    x = (x * 0x7FEB352D) & LOW_32
    x = x ^ (x >> 15)
    x = (x * 0x846CA68B) & LOW_32
    return x ^ (x >> 16)


def mix_32_bits_once(x: Tensor) -> Tensor:
    """Return half of lowbias32: one multiplication instead of two.

    That is enough where x runs through a Weyl sequence with a random odd stride: rows, columns and
    neighbours of a mask differ from chance by less than 0.01 (test_masks.py holds it to that).
    The kernels were bound by this integer arithmetic when it had both rounds.
    """
    x = x ^ (x >> 15)
    x = (x * 0x846CA68B) & LOW_32
    return x ^ (x >> 14)


def mask_keys(seed: Tensor, counter: Tensor, sites: Tensor) -> Tensor:
    """Return keys_S2: two 32-bit keys for each projection's mask in one micro-step.

    `seed` and `counter` (the micro-step's number) are int64 scalars on the card, `sites` the
    projections' numbers. Nothing is read on the host, so this can be captured in a CUDA graph.
    """
    first = mix_32_bits((sites * GOLDEN + seed) & LOW_32)
    # The seed's upper half and the counter come in a second round; multiplied by MurmurHash3's odd
    # constant, so that seed + 1 and counter + 1 lead to different keys.
    first = mix_32_bits((first + (seed >> 32) + counter * 0x85EBCA6B) & LOW_32)
    # The second key becomes the stride of the Weyl sequence; any constant separates it.
    second = mix_32_bits((first ^ (counter & LOW_32)) + 0x68E31DA4 & LOW_32)
    return torch.stack([first, second], dim=-1)


def drop_threshold(p: float) -> int:
    """Return the number below which an element's ten bits drop it; 0 for p = 0 alone."""
    return min(max(round(p * STEPS), int(p > 0)), STEPS - 1)


def keep_scale(p: float) -> float:
    """Return what elements that stay are multiplied with: 1 / (1 - p), of the p that is drawn."""
    return STEPS / (STEPS - drop_threshold(p))


def keep_mask(shape_TD: tuple[int, int], key_2: Tensor, p: float) -> Tensor:
    """Return mask_TD, True where an element stays, for the path without Triton.

    On a CPU it comes from torch's own generator seeded by the key, which is faster there than
    integer arithmetic on tensors; so CPU runs draw other masks than cards do.
    """
    if key_2.device.type != "cpu":
        return hashed_mask(shape_TD, key_2, p)
    generator = torch.Generator().manual_seed(int(key_2[0]) << 31 ^ int(key_2[1]))
    return torch.rand(shape_TD, generator=generator) >= p


def hashed_mask(shape_TD: tuple[int, int], key_2: Tensor, p: float, field: int = 0) -> Tensor:
    """Return the mask_TD that the Triton kernels draw, bit by bit.

    `field` (0 to 2) chooses among the three masks that share a key: its ten of the 30 bits.
    """
    tokens, width = shape_TD
    element = torch.arange(tokens * width, device=key_2.device)
    # The stride has to be odd, so that the sequence runs through all 32-bit numbers.
    bits = mix_32_bits_once((element * (key_2[1] | 1) + key_2[0]) & LOW_32)
    return (bits >> (10 * field) & (STEPS - 1) >= drop_threshold(p)).view(tokens, width)


def stacked_mask(shape_TD: tuple[int, int], keys_S2: Tensor, p: float, index: int) -> Tensor:
    """Return the mask_TD of projection `index` of a stack, whose keys come first in keys_S2.

    Three share the key of the first of them; a fourth has its own.
    """
    field = index % MASKS_OF_A_KEY
    return hashed_mask(shape_TD, keys_S2[index - field], p, field)


def apply_dropout(x_TD: Tensor, key_2: Tensor, p: float) -> Tensor:
    """Return x with elements dropped and the rest scaled by 1 / (1 - p), as nn.Dropout does."""
    if p == 0.0:
        return x_TD
    scale = 1 / (1 - p) if key_2.device.type == "cpu" else keep_scale(p)
    return x_TD * keep_mask((x_TD.shape[0], x_TD.shape[1]), key_2, p) * scale


# -- the same in Triton, element by element


@jit
def _mix_32_bits_once(x):
    """Return mix_32_bits_once of a uint32."""
    x = x ^ (x >> 15)
    x = x * tl.full((), 0x846CA68B, tl.uint32)
    return x ^ (x >> 14)


@jit
def mask_sequence(keys, DROP: tl.constexpr):
    """Return (first number, odd stride) of the Weyl sequence that two keys choose."""
    first = tl.full((), 0, tl.uint32)
    stride = tl.full((), 1, tl.uint32)
    if DROP:
        first = tl.load(keys).to(tl.uint32)
        stride = tl.load(keys + 1).to(tl.uint32) | 1
    return first, stride


@jit
def dropout_bits(element, first, stride, DROP: tl.constexpr):
    """Return 30 random bits an element, ten for each of up to three masks (hashed_mask).

    `first` and `stride` are a mask_sequence(), loaded once, outside the loop over elements.
    """
    bits = element.to(tl.uint32)
    if DROP:
        bits = _mix_32_bits_once(bits * stride + first)
    return bits


@jit
def is_kept(bits, FIELD: tl.constexpr, THRESHOLD: tl.constexpr):
    """Return whether an element stays in mask FIELD (0 to 2)."""
    return ((bits >> (10 * FIELD)) & 1023) >= THRESHOLD


@jit
def apply_mask(x, bits, FIELD: tl.constexpr, THRESHOLD: tl.constexpr, DROP: tl.constexpr):
    """Return x with the elements that mask FIELD drops set to 0, not scaled."""
    if DROP:
        x = tl.where(is_kept(bits, FIELD, THRESHOLD), x, 0.0)
    return x

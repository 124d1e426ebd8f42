"""Dropout masks as a pure function of (seed, micro-step, projection, element).

Saves the mask: nothing is stored between forward and backward, not even a generator's state, so
recompute and CUDA-graph replays draw the same mask and a checkpoint needs two integers. The bits
are half a 32-bit mixer (lowbias32: C. Wellons, github.com/skeeto/hash-prospector) over the
element's number in a Weyl sequence of each input's own, whose keys the whole mixer makes.
Counter-based generators: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3".
"""

# S projections (sites), T tokens, D width

from __future__ import annotations

import torch
from torch import Tensor

LOW_32 = 0xFFFFFFFF
GOLDEN = 0x9E3779B9
"""2^32 / golden ratio: spreads consecutive numbers (Knuth, TAOCP 3, §6.4)."""


def mix(x: Tensor) -> Tensor:
    """lowbias32 on int64 tensors of values below 2^32; products wrap, their low bits are right."""
    x = x ^ (x >> 16)
    x = (x * 0x7FEB352D) & LOW_32
    x = x ^ (x >> 15)
    x = (x * 0x846CA68B) & LOW_32
    return x ^ (x >> 16)


def mix_once(x: Tensor) -> Tensor:
    """Half of it: enough where x runs through a Weyl sequence with a random odd stride (rows,
    columns and neighbours of a mask differ from chance by less than 0.01).
    """
    x = x ^ (x >> 15)
    x = (x * 0x846CA68B) & LOW_32
    return x ^ (x >> 14)


def keys_for(seed: Tensor, counter: Tensor, sites: Tensor) -> Tensor:
    """keys_S2 of one micro-step: two 32-bit keys a projection. No host sync; can be captured."""
    first = mix((sites * GOLDEN + seed) & LOW_32)
    first = mix((first + (seed >> 32) + counter * 0x85EBCA6B) & LOW_32)
    second = mix((first ^ (counter & LOW_32)) + 0x68E31DA4 & LOW_32)
    return torch.stack([first, second], dim=-1)


STEPS = 1 << 10
"""Ten bits a mask, so three masks take one mixing; on a card p is a multiple of 1/1,024."""


def threshold(p: float) -> int:
    """Elements whose ten bits lie below this are dropped; 0 only for p = 0."""
    return min(max(round(p * STEPS), int(p > 0)), STEPS - 1)


def inverse(p: float) -> float:
    """What elements that stay are multiplied with: 1 / (1 - p), of the p that is drawn."""
    return STEPS / (STEPS - threshold(p))


def keep_mask(shape_TD: tuple[int, int], key_2: Tensor, p: float) -> Tensor:
    """True where an element stays. On a CPU torch's own generator, seeded by the key, is faster."""
    if key_2.device.type != "cpu":
        return hashed_mask(shape_TD, key_2, p)
    generator = torch.Generator().manual_seed(int(key_2[0]) << 31 ^ int(key_2[1]))
    return torch.rand(shape_TD, generator=generator) >= p


def hashed_mask(shape_TD: tuple[int, int], key_2: Tensor, p: float, field: int = 0) -> Tensor:
    """The mask as the Triton kernels draw it, bit by bit: `field`, of three that share a key."""
    tokens, width = shape_TD
    element = torch.arange(tokens * width, device=key_2.device)
    bits = mix_once((element * (key_2[1] | 1) + key_2[0]) & LOW_32)
    return (bits >> (10 * field) & (STEPS - 1) >= threshold(p)).view(tokens, width)


def dropped(x_TD: Tensor, key_2: Tensor, p: float) -> Tensor:
    """x with elements dropped and the rest scaled by 1 / (1 - p), as nn.Dropout does."""
    if p == 0.0:
        return x_TD
    scale = 1 / (1 - p) if key_2.device.type == "cpu" else inverse(p)
    return x_TD * keep_mask((x_TD.shape[0], x_TD.shape[1]), key_2, p) * scale

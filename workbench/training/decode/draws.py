"""Draws of tokens that depend on nothing but the lane's own seed and how many tokens it has.

Torch's generator would give every lane numbers that depend on which lanes share its step. Here a
number is a hash of seed, count and token, so that an answer can be repeated in other company, and
a captured step draws anew at each replay.
"""

# B lanes of a step, V vocabulary

from __future__ import annotations

import torch
from torch import Tensor

_WORD = 0xFFFFFFFF
_GOLDEN = 0x9E3779B9
"""2³² divided by the golden ratio: multiples of it are spread evenly over 32 bits."""


def drawn_scores(
    logits_BV: Tensor, temperature_B: Tensor, seed_B: Tensor, count_B: Tensor
) -> Tensor:
    """Return scores of which the largest is a draw from softmax(logits / temperature).

    A temperature of 0 leaves the logits as they are. Adding Gumbel noise and taking the largest
    draws from a softmax (Gumbel 1954; Maddison et al. 2014, "A* sampling", §2).
    """
    key_B = _mixed(_mixed(seed_B & _WORD) + count_B & _WORD)
    token_V = torch.arange(logits_BV.shape[1], device=logits_BV.device) * _GOLDEN & _WORD
    # In double precision: in fp32 the largest hashes would become 1, and their noise infinite.
    even_BV = (_mixed(key_B[:, None] ^ token_V).double() + 0.5) / (_WORD + 1)
    noise_BV = -(-even_BV.log()).log()
    heated_BV = logits_BV / temperature_B.clamp(min=1e-6)[:, None] + noise_BV.float()
    return torch.where((temperature_B > 0)[:, None], heated_BV, logits_BV)


def _mixed(word: Tensor) -> Tensor:
    """Return a hash of 32 bits for each of 32 bits, held in int64.

    The constants are those of C. Wellons' hash prospector, `lowbias32`; low bits are right however
    the products overflow.
    """
    word = (word ^ (word >> 16)) * 0x7FEB352D & _WORD
    word = (word ^ (word >> 15)) * 0x846CA68B & _WORD
    return word ^ (word >> 16)

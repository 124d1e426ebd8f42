"""What a way of running costs in time, so that the fastest that fits can be chosen.

In passes of a token: its 2 operations a weight, 17.6 us for an 8B shape at an H100's measured 796
TFLOP/s. From profiles of that shape (docs/notes/2026-11-23-step.md), 974 tokens in one micro-step,
GPU time:

* a whole step takes 78.0 ms, of which unpacking NF4 twice 12.7: 6.3 ms a pass, as long as 358
  tokens take, whatever their number;
* cut into 4 micro-steps it takes 83 ms more, 27 for each further one: 12.7 of unpacking, and 14 of
  products and kernels that do not get shorter with fewer tokens, 7 a pass: 400 tokens;
* what is left of the 78.0, without two passes of every token, is 17.2 ms: one pass a token;
* layers' inputs that wait in the machine's memory add 1 to 2 % where all recompute, though copied
  beside the layers: a tenth of a pass a token (docs/notes/2026-11-25-offload.md);
* recomputing every layer adds 34.0 ms: a pass of every token, its unpacking and what does not get
  shorter, and 0.3 of a pass a token.

On a card with a third of the bandwidth and a tenth of the arithmetic (a 3090) unpacking lasts as
long as some 80 tokens, and reading 16-bit weights, which a product of few tokens waits for, as long
as 76: arithmetic, not measured.
"""

from __future__ import annotations

REST, REST_AGAIN = 1.0, 0.3
"""Everything but products and unpacking, and of it what a recomputing layer does again."""
OFFLOAD = 0.1
"""Where inputs of recomputing layers leave the card and come back."""
UNPACK = {True: 358.0, False: 80.0}
"""Tokens whose pass takes as long as unpacking every weight once; from Hopper on, and before."""
FLOOR = {True: 400.0, False: 76.0}
"""What a pass takes besides, however few its tokens are."""


def passes(
    tokens: int,
    count: int,
    *,
    layers: int,
    again: int,
    resident: int,
    packed: bool,
    offload: bool,
    new: bool,
) -> float:
    """Of `count` micro-steps with so many tokens together.

    `again`: layers that recompute; `offload`: their inputs leave the card; `resident`: layers kept
    unpacked; `new`: Hopper or later.
    """
    share = again / layers
    unpacking = UNPACK[new] * (1 - resident / layers) if packed else 0.0
    fixed = (2 + share) * (FLOOR[new] + unpacking)
    moved = OFFLOAD * share if offload else 0.0
    return tokens * (2 + share + REST + REST_AGAIN * share + moved) + count * fixed

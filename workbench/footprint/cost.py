"""The time that a way of running takes, so that the fastest one that fits can be chosen.

The unit is a pass of one token: its 2 operations a weight, 17.6 µs for an 8B shape at an H100's
measured 796 TFLOP/s. The constants come from profiles of that shape with 974 tokens in one
micro-step (docs/notes/2026-11-23-step.md), as GPU time:

* A whole step takes 78.0 ms, of which dequantising NF4 twice takes 12.7: 6.3 ms a pass, as long as
  358 tokens take, whatever their number.
* Cut into 4 micro-steps it takes 83 ms more, 27 for each further one: 12.7 of dequantising, and 14
  of products and kernels that do not get shorter with fewer tokens, 7 a pass: 400 tokens.
* What is left of the 78.0 without two passes of every token is 17.2 ms: one pass a token.
* Layers' inputs that wait in the machine's memory add 1 to 2 % where all layers recompute, though
  they are copied beside the layers: a tenth of a pass a token (docs/notes/2026-11-25-offload.md).
* Recomputing every layer adds 34.0 ms: a pass of every token, its dequantising and what does not
  get shorter, and 0.3 of a pass a token.

On a card with a third of the bandwidth and a tenth of the arithmetic (a 3090) dequantising lasts as
long as some 80 tokens. Reading 16-bit weights, which a product of few tokens waits for, lasts as
long as 76. These two are computed, not measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from workbench.footprint.micro_steps import micro_step_tokens
from workbench.footprint.peak.buckets import Run

REST, REST_RECOMPUTED = 1.0, 0.3
"""Passes of a token for everything but products and dequantising, and the part of it that a
recomputing layer repeats."""
OFFLOAD = 0.1
"""Passes of a token where inputs of recomputing layers leave the card and come back."""
DEQUANTISE = {True: 358.0, False: 80.0}
"""Tokens whose pass takes as long as dequantising every weight once; from Hopper on, and before."""
FLOOR = {True: 400.0, False: 76.0}
"""Tokens whose pass takes as long as the part of a pass that does not depend on its tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchCost:
    """The time that batches of a recipe take in each way to run it on a card."""

    batches: Sequence[Sequence[int]]
    """Tokens of the rows of sampled batches."""
    layers: int
    """Layers of the model."""
    quantised: bool
    """True if weights are stored in NF4."""
    known: dict[int, list[int]] = field(default_factory=dict)
    """Tokens of every micro-step of the batches, by the micro-step's size: a cache."""

    def passes(self, run: Run) -> float:
        """Return the time that the batches take, in passes of one token."""
        held = self._micro_steps(run.tokens_per_micro)
        longer = [tokens for tokens in held if tokens > run.tokens_per_micro]
        total, long = sum(held), sum(longer)
        short = self._passes(run, total - long, len(held) - len(longer), run.recompute_layers)
        return short + self._passes(run, long, len(longer), run.long_recompute_layers)

    def _micro_steps(self, size: int) -> list[int]:
        if size not in self.known:
            cut = (micro_step_tokens(batch, size) for batch in self.batches)
            self.known[size] = [tokens for steps in cut for tokens in steps]
        return self.known[size]

    def _passes(self, run: Run, tokens: int, count: int, recompute_layers: int) -> float:
        """Return the time of `count` micro-steps with `tokens` tokens together."""
        hopper = run.major >= 9
        share = recompute_layers / self.layers
        packed = 1 - run.dequantised_layers / self.layers if self.quantised else 0.0
        fixed = (2 + share) * (FLOOR[hopper] + DEQUANTISE[hopper] * packed)
        moved = OFFLOAD * share if run.offload else 0.0
        return tokens * (2 + share + REST + REST_RECOMPUTED * share + moved) + count * fixed

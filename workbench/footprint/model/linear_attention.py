"""The bytes of gated delta layers, which hold no scores but states (Qwen 3.5).

Yang et al. 2024, arXiv 2412.06464. Counted is the code of transformers in PyTorch's operations,
which computes in fp32, chunk by chunk, and keeps what it computes. Kernels of
flash-linear-attention keep less.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from workbench.footprint.model.config_values import read_size
from workbench.footprint.model.extra_weights import kinds_of

CHUNK = 64
"""Tokens of a chunk in transformers' torch_chunk_gated_delta_rule, and in the fused step."""
RULE_BYTES = 1 << 30
"""Bytes of the rule's own tensors up to which the fused step computes all heads at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeltaLayers:
    """The gated delta layers of a model: their number and the sizes of their heads."""

    count: int
    key_heads: int
    value_heads: int
    key_width: int
    """Values of one key head."""
    value_width: int
    """Values of one value head."""

    @classmethod
    def of(cls, config: Mapping[str, Any], layers: int) -> Self | None:
        """Return those of a text model's config.json; None where it has none."""
        if "linear_num_value_heads" not in config and not _is_qwen(config):
            return None
        count = kinds_of(config, layers, 4).count("linear_attention")
        if not count:
            return None
        return cls(
            count=count,
            key_heads=read_size(config, "linear_num_key_heads", default=16),
            value_heads=read_size(config, "linear_num_value_heads", default=32),
            key_width=read_size(config, "linear_key_head_dim", default=128),
            value_width=read_size(config, "linear_value_head_dim", default=128),
        )

    @property
    def kept_bytes(self) -> float:
        """Bytes that one layer keeps of a token between forward and backward, in 16 bits.

        Fitted to ten shapes in bf16, each within 3 %; tests/footprint/test_plain_layers.py
        measures two others.
        """
        heads, wide, out = self.value_heads, self.key_width, self.value_width
        spread = heads * (41 * wide + 38 * out)
        states = 4.5 * heads * wide * out / CHUNK
        return spread + states + 13.5 * heads * CHUNK + 10 * self.key_heads * wide

    def heads_at_once(self, tokens: int) -> int:
        """Return how many key heads, with their value heads, the fused step computes at a time."""
        parts = math.ceil(tokens * self._rule_bytes / RULE_BYTES)
        return math.ceil(self.key_heads / parts)

    def rule_bytes(self, tokens: int) -> float:
        """Return the most bytes of the rule's own tensors in the fused step, going backward."""
        return tokens * self._rule_bytes * self.heads_at_once(tokens) / self.key_heads

    @property
    def _rule_bytes(self) -> float:
        """Bytes of all heads' tensors for one token.

        Fitted to twelve shapes in bf16, each within 2.4 %, where Triton runs but the states' own
        kernel did not, which takes less; without Triton they differ by up to 2 % where both widths
        are 128, as in every Qwen 3.5.
        """
        heads, wide, out = self.value_heads, self.key_width, self.value_width
        spread = heads * (22.5 * wide + 25.5 * out) + 12.2 * self.key_heads * wide
        return spread + 15.5 * heads * wide * out / CHUNK + 38.8 * heads * CHUNK

    @property
    def peak_bytes(self) -> float:
        """Bytes on top of them while the layer is computed once more or goes backward."""
        return 16.0 * self.value_heads * max(self.key_width, self.value_width)

    @property
    def scoring_bytes(self) -> float:
        """Bytes of a token at the widest moment of a forward pass without gradients."""
        return 54.0 * self.value_heads * max(self.key_width, self.value_width)


def _is_qwen(config: Mapping[str, Any]) -> bool:
    return str(config.get("model_type")).startswith("qwen3_5")

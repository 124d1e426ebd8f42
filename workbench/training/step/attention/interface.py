"""The implementations as transformers' models call them, through its AttentionInterface."""

# T tokens, H query heads, G key/value heads, D head width

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface

from workbench.footprint.peak.attention_path import (
    SHORT_TOKENS,
    WIDEST_HEAD,
    WIDEST_SHORT_HEAD,
)
from workbench.training.step.attention.choice import PREFIX, AttentionChoice
from workbench.training.step.attention.implementations import (
    IMPLEMENTATIONS,
    Implementation,
    UnsupportedAttention,
    attend_by_memory_efficient,
    attend_by_package,
    attend_by_torch,
    attend_by_triton,
)
from workbench.training.step.kernels import triton_support

_FLASH = (attend_by_package, attend_by_torch, attend_by_triton)
IGNORED = frozenset({"position_ids", "seq_idx", "use_cache", "cache_position", "output_attentions"})
"""Keywords that models pass along and that change nothing here."""


@contextmanager
def use_attention(config: Any, choice: AttentionChoice) -> Iterator[None]:
    """Let the model attend by `choice` inside; evaluation and generation keep their own."""
    before = config._attn_implementation_internal
    config._attn_implementation_internal = choice.name
    try:
        yield
    finally:
        config._attn_implementation_internal = before


def as_attention_function(kernel: Implementation) -> Callable[..., tuple[Tensor, None]]:
    """Return the implementation in the form in which transformers calls attention."""

    def attend(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        *,
        cu_seq_lens_q: Tensor,
        max_length_q: int,
        scaling: float | None = None,
        dropout: float = 0.0,
        sliding_window: int | None = None,
        softcap: float | None = None,
        is_causal: bool | None = None,
        cu_seq_lens_k: Tensor | None = None,
        max_length_k: int | None = None,
        **more: Any,
    ) -> tuple[Tensor, None]:
        """Return (out_1THD, None) for query_1HTD, key_1GTD and value_1GTD.

        Raise UnsupportedAttention for anything that would change the result and is not known here;
        it is never approximated.
        """
        unknown = {name for name in more if more[name] is not None} - IGNORED
        causal = is_causal if is_causal is not None else getattr(module, "is_causal", True)
        if unknown or attention_mask is not None or dropout > 0.0 or not causal:
            asked = ", ".join(sorted(unknown)) or "a mask, dropout or no causality"
            raise UnsupportedAttention(f"varlen attention does not know {asked}")
        window = sliding_window if sliding_window and sliding_window < max_length_q else None
        short = max_length_q <= SHORT_TOKENS and triton_support.is_usable(query.device)
        attend_by, width = kernel, query.shape[-1]
        if kernel in _FLASH and short and width <= WIDEST_SHORT_HEAD:
            attend_by = attend_by_triton
        elif kernel in _FLASH and width > WIDEST_HEAD:  # Gemma 4's full attention
            attend_by = attend_by_memory_efficient
        out_THD = attend_by(
            query.squeeze(0).transpose(0, 1),  # not [0]: its gradient would be a copy
            key.squeeze(0).transpose(0, 1),
            value.squeeze(0).transpose(0, 1),
            cu=cu_seq_lens_q,
            max_length=max_length_q,
            scale=scaling if scaling is not None else query.shape[-1] ** -0.5,
            window=window,
            softcap=softcap,
        )
        return out_THD[None], None

    return attend


for _kind, _implementation in IMPLEMENTATIONS.items():
    AttentionInterface.register(PREFIX + _kind, as_attention_function(_implementation))

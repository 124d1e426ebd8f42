"""The positions of a model: the most tokens that one row may have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_NAMES = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "n_ctx")
_EXTENDING = ("yarn", "longrope", "llama3", "linear", "dynamic")
"""Kinds of RoPE scaling whose `factor` multiplies the positions of pre-training."""
_DEFAULTS = {"gemma3_text": 131_072, "gemma4_text": 131_072, "gemma4_unified_text": 262_144}
"""Positions that a config.json may leave out, because transformers' class has them."""
_FIRST_LENGTH = 16_384
"""The length that Ministral 3 was trained on at first, by transformers' class."""


def model_positions(config: Mapping[str, Any]) -> int | None:
    """Return the most tokens that a model reads, by its config.json; None if it does not say.

    A RoPE scaling extends the positions of pre-training, which some configurations still name as
    the model's. Gemma 3 does not: its number is that after scaling.
    """
    text = config.get("text_config")
    flat = {**config, **text} if isinstance(text, Mapping) else config
    kind = str(flat.get("model_type"))
    default = _DEFAULTS.get(kind)
    given = next((int(flat[name]) for name in _NAMES if _is_count(flat.get(name))), default)
    rope = flat.get("rope_parameters") or flat.get("rope_scaling")
    if given is None or not isinstance(rope, Mapping):
        return given
    if kind.startswith("gemma3"):
        return given
    factor = rope.get("factor")
    original = rope.get("original_max_position_embeddings") or given
    scaling = rope.get("rope_type") or rope.get("type")
    if scaling in _EXTENDING and isinstance(factor, int | float) and _is_count(original):
        return max(given, int(original * factor))
    return given


def unscaled_positions(config: Mapping[str, Any]) -> int | None:
    """Return the most tokens of a row in which Ministral 3 scales no query; None for others.

    `config` is the text model's. Where its RoPE does not say, it is what transformers' class has.
    """
    if config.get("model_type") != "ministral3":
        return None
    rope = config.get("rope_parameters") or config.get("rope_scaling")
    found = rope.get("original_max_position_embeddings") if isinstance(rope, Mapping) else None
    return found if isinstance(found, int) and _is_count(found) else _FIRST_LENGTH


def positions_warning(max_tokens: int, config: Mapping[str, Any]) -> str:
    """Return a warning where data.max_tokens is more than the model reads; else an empty string."""
    positions = model_positions(config)
    if positions is None or max_tokens <= positions:
        return ""
    return (
        f"data.max_tokens: {max_tokens:,} is more than the {positions:,} tokens that the model "
        f"reads (max_position_embeddings); longer rows are refused: set it to {positions} or less"
    )


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0

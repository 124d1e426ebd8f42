"""A weight's numbers in one of GGUF's types."""

from __future__ import annotations

from typing import Any

_BLOCK = 32
"""Values of a row that share a scale in q8_0; a weight with other rows is kept in f16."""


def packed(weight: Any, kind: str) -> tuple[Any, Any]:
    """Return a weight's numbers in a GGUF type, and that type: vectors stay in f32."""
    import gguf

    values = weight.float().numpy()
    stored = gguf.GGMLQuantizationType[kind.upper()]
    if values.ndim < 2:
        stored = gguf.GGMLQuantizationType.F32
    elif kind == "q8_0" and values.shape[-1] % _BLOCK:
        stored = gguf.GGMLQuantizationType.F16
    return gguf.quantize(values, stored), stored

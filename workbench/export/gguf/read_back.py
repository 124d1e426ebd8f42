"""A GGUF file compared with the numbers that it was made from, tensor by tensor."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from workbench.errors import ModelError
from workbench.text import safe_line

STEPS = {"F32": 0.0, "F16": 2.0**-11, "BF16": 2.0**-8}
"""By type: the largest rounding error, as a share of the value (half a unit in the last place)."""


def compare_tensors(file: Path, sources: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """Return the number of tensors and the largest difference to their sources.

    Raises ModelError where a name, a shape or a number is not what was to be written.
    """
    import gguf

    reader = gguf.GGUFReader(file)
    found = {tensor.name: tensor for tensor in reader.tensors}
    if set(found) != set(sources):
        raise _wrong(f"it holds other tensors: {sorted(set(found) ^ set(sources))[0]}")
    furthest = 0.0
    for name, tensor in found.items():
        wanted = sources[name].float().numpy()
        numbers = gguf.dequantize(tensor.data, tensor.tensor_type).reshape(wanted.shape)
        apart = np.abs(numbers - wanted)
        if not bool((apart <= allowed_error(wanted, tensor.tensor_type.name)).all()):
            raise _wrong(f"{safe_line(name, 120)} is off by {float(apart.max()):.3g}")
        furthest = max(furthest, float(apart.max()))
    return {"tensors": len(found), "max_difference": furthest}


def allowed_error(wanted: np.ndarray[Any, Any], kind: str) -> np.ndarray[Any, Any]:
    """Return how far each number may be off by rounding to a GGUF type.

    In q8_0 that is half a step of its block: the largest of 32 values, over 127. Its scale is an
    f16, whose rounding adds 127 · 2^-11 of a step.
    """
    if kind != "Q8_0":
        tiny = 2.0**-25 if kind == "F16" else 0.0  # below f16's normal numbers
        return np.asarray(np.abs(wanted) * STEPS[kind] + tiny)
    blocks = np.abs(wanted).reshape(-1, 32)
    step = blocks.max(axis=1, keepdims=True) / 127
    most = step * (0.5 + 127 * 2.0**-11) + 1e-8
    return np.broadcast_to(most, blocks.shape).reshape(wanted.shape)


def _wrong(what: str) -> ModelError:
    return ModelError(
        f"the GGUF file is not what was merged: {what}",
        hint="write it again; report it if it stays",
    )

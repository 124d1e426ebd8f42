"""A safetensors file written tensor by tensor, so that one tensor is in memory at a time.

The format is a header of JSON behind its length, then the numbers
(huggingface.co/docs/safetensors). Names, types and shapes are known before the first number is.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from workbench import fault_points

_WORDS = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
_ALIGNED = 8


@dataclass(frozen=True, slots=True)
class TensorPlan:
    """Type and shape of a tensor that is to be written."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """Size of its numbers."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize


def write_shard(
    file: Path,
    plans: Mapping[str, TensorPlan],
    make: Callable[[str], torch.Tensor],
    written: Callable[[int], None] = lambda _: None,
) -> None:
    """Write the tensors that `make` returns, in the order of `plans`; durable when it returns.

    The file has a name of its own until it is whole. `written` gets the bytes of each tensor.
    """
    partial = file.with_name(f"{file.name}.partial")
    with partial.open("wb") as opened:
        opened.write(_header(plans))
        for name, plan in plans.items():
            tensor = make(name).to(plan.dtype).contiguous()
            assert tuple(tensor.shape) == plan.shape, f"{name} has another shape than planned"
            opened.write(tensor.flatten().view(torch.uint8).numpy().data)
            written(plan.bytes)
        opened.flush()
        os.fsync(opened.fileno())
    fault_points.at("export.before_rename", partial)
    partial.rename(file)


def _header(plans: Mapping[str, TensorPlan]) -> bytes:
    at, entries = 0, dict[str, object]()
    entries["__metadata__"] = {"format": "pt"}
    for name, plan in plans.items():
        entries[name] = {
            "dtype": _WORDS[plan.dtype],
            "shape": list(plan.shape),
            "data_offsets": [at, at + plan.bytes],
        }
        at += plan.bytes
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNED)
    return len(text).to_bytes(8, "little") + text


def index_text(files: Mapping[str, Sequence[str]], total_bytes: int) -> str:
    """Return model.safetensors.index.json for files with their tensors' names."""
    places = {name: file for file, names in files.items() for name in names}
    index = {"metadata": {"total_size": total_bytes}, "weight_map": dict(sorted(places.items()))}
    return json.dumps(index, indent=2) + "\n"

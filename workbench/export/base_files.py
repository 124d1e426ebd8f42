"""A base model's safetensors files, read one tensor at a time.

Tensors are views of the mapped file, so that a base of any size takes no memory of its own. A base
that was published in NF4 is dequantised tensor by tensor.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from workbench.errors import ModelError
from workbench.text import safe_line
from workbench.training.model.weights import named_files

_PARTS = (".absmax", ".nested_absmax", ".quant_map", ".nested_quant_map")
_STATE = ".quant_state.bitsandbytes__nf4"


class BaseFiles:
    """The weights of a folder by name, as a plain 16- or 32-bit model has them."""

    def __init__(self, folder: Path) -> None:
        """Read the headers; raises ModelError for a folder without safetensors files."""
        self.folder = folder
        self._opened: dict[str, Any] = {}
        self._file_of: dict[str, str] = {}
        for name in sorted(named_files(folder)):
            opened: Any = safe_open(folder / name, framework="pt")
            self._opened[name] = opened
            for key in opened.keys():  # noqa: SIM118 - no dictionary
                self._file_of[key] = name
        if not self._file_of:
            raise ModelError(
                f"{safe_line(folder, 200)} has no safetensors files",
                hint="name a folder with the base's weights: --base FOLDER",
            )
        quantised = (key for key in self._file_of if key.endswith(_STATE))
        self._quantised = {key.removesuffix(_STATE) for key in quantised}
        self.dequantised = bool(self._quantised)
        """True where weights are stored in NF4 and are dequantised as they are read."""

    @property
    def names(self) -> list[str]:
        """The weights' names, in the order of files and names."""
        extra = {f"{one}{part}" for one in self._quantised for part in (*_PARTS, _STATE)}
        return [name for name in self._file_of if name not in extra]

    def files(self) -> dict[str, list[str]]:
        """Return each file's weights; a file that holds none is left out."""
        found: dict[str, list[str]] = {}
        for name in self.names:
            found.setdefault(self._file_of[name], []).append(name)
        return found

    def read(self, name: str) -> torch.Tensor:
        """Return a weight; a view of the file, or a dequantised copy."""
        stored = self._stored(name)
        return stored if name not in self._quantised else self._dequantised(name, stored)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the weight's shape without reading its numbers."""
        if name in self._quantised:
            return tuple(self._state(name)["shape"])
        found: Iterable[int] = self._opened[self._file_of[name]].get_slice(name).get_shape()
        return tuple(found)

    def dtype(self, name: str) -> torch.dtype:
        """Return the dtype in which `read` returns the weight."""
        if name in self._quantised:
            kind: torch.dtype = getattr(torch, str(self._state(name)["dtype"]))
            return kind
        kinds = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
        stored = str(self._opened[self._file_of[name]].get_slice(name).get_dtype())
        if stored not in kinds:
            raise ModelError(
                f"{safe_line(name, 120)} is stored as {safe_line(stored, 20)}",
                hint="merge into the base's original weights: --base FOLDER",
            )
        return kinds[stored]

    def _stored(self, name: str) -> torch.Tensor:
        tensor: torch.Tensor = self._opened[self._file_of[name]].get_tensor(name)
        return tensor

    def _state(self, name: str) -> dict[str, Any]:
        text = bytes(self._stored(name + _STATE).tolist())
        state: dict[str, Any] = json.loads(text)
        return state

    def _dequantised(self, name: str, stored: torch.Tensor) -> torch.Tensor:
        from bitsandbytes.functional import QuantState

        from workbench.training.step.lora.frozen_weight import dequantise_by_library

        parts = {
            key.removeprefix(f"{name}."): self._stored(key)
            for key in (*(f"{name}{part}" for part in _PARTS), name + _STATE)
            if key in self._file_of
        }
        state = QuantState.from_dict(parts, device=torch.device("cpu"))
        return dequantise_by_library(stored, state, state.dtype)

"""An adapter's folder, read and checked before anything of it is loaded."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from workbench.adapters.lora_settings import CONFIG, MERGE, LoraSettings, read_settings
from workbench.adapters.weights_header import TensorInfo, read_header
from workbench.errors import CheckpointError, NotThere
from workbench.text import safe_line

WEIGHTS = "adapter_model.safetensors"
"""The name under which PEFT looks for an adapter's weights."""
TEMPLATE = "chat_template.jinja"
"""The file in which transformers keeps a tokenizer's chat template, since 4.51."""
_PREFIX = "base_model.model."
_MATRIX = re.compile(r"(?P<module>.+)\.lora_(?P<side>[AB])(\.default)?\.weight\Z")
_EXTRA = re.compile(
    r"(?P<module>.+)\.(lora_magnitude_vector(\.default)?(\.weight)?|lora_B(\.default)?\.bias)\Z"
)
_OUTSIDE = ("lm_head", "embed_tokens", "embed_out", "wte")
"""Modules before and behind the layers: scoring computes them without an adapter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterFolder:
    """A folder with a LoRA adapter that can be scored."""

    folder: Path
    settings: LoraSettings
    modules: Mapping[str, tuple[int, int, int]]
    """Full name of each adapted module to (inputs, outputs, rank)."""
    parameters: int
    """Values of all its tensors."""

    @property
    def rank(self) -> int:
        """The largest rank of any module."""
        return max(rank for _, _, rank in self.modules.values())


def read_adapter(folder: Path) -> AdapterFolder:
    """Return what a folder in PEFT's format holds; reads the configuration and a file's header.

    Made by the workbench, plain PEFT, TRL, Axolotl, LLaMA-Factory or Unsloth. Raises NotThere for a
    folder that does not exist, and CheckpointError for one that holds no adapter, pickled weights,
    or an adapter that cannot be scored as it was trained.
    """
    _check_files(folder)
    settings = read_settings(folder)
    tensors = read_header(folder / WEIGHTS)
    matrices: dict[str, dict[str, TensorInfo]] = {}
    for name, info in tensors.items():
        inner = name.removeprefix(_PREFIX)
        if found := _MATRIX.match(inner):
            matrices.setdefault(found["module"], {})[found["side"]] = info
        elif not (_EXTRA.match(inner) or (settings.bias != "none" and inner.endswith(".bias"))):
            raise CheckpointError(
                f"the adapter cannot be scored: it holds {safe_line(name, 160)}, which is no part "
                "of a LoRA",
                hint=MERGE,
            )
    if not matrices:
        raise CheckpointError(
            f"{safe_line(folder / WEIGHTS, 200)} holds no LoRA matrices",
            hint="save the adapter again where it was trained",
        )
    modules = {module: _sizes(module, sides) for module, sides in sorted(matrices.items())}
    parameters = sum(info.values for info in tensors.values())
    return AdapterFolder(folder=folder, settings=settings, modules=modules, parameters=parameters)


def adapter_digest(folder: Path) -> str:
    """Return the SHA-256 of weights and configuration together, in hex; reads both whole.

    Raises CheckpointError where they cannot be read.
    """
    whole = hashlib.sha256()
    try:
        for name in (CONFIG, WEIGHTS):
            with (folder / name).open("rb") as file:
                whole.update(hashlib.file_digest(file, "sha256").digest())
    except OSError as gone:
        raise CheckpointError(
            f"the adapter in {safe_line(folder, 200)} cannot be read: "
            f"{safe_line(gone.strerror or gone)}",
            hint="put the folder back, and retry: workbench evaluate",
        ) from gone
    return whole.hexdigest()


def _check_files(folder: Path) -> None:
    shown = safe_line(folder, 200)
    if not folder.is_dir():
        raise NotThere(
            f"there is no folder {shown}",
            hint="name a trial's id, an experiment, or a folder that holds an adapter",
        )
    if (folder / CONFIG).is_file() and (folder / WEIGHTS).is_file():
        return
    if (folder / CONFIG).is_file() and (folder / "adapter_model.bin").exists():
        raise CheckpointError(
            f"{shown} holds pickled weights (adapter_model.bin), which can run code",
            hint="save it as safetensors: PEFT's save_pretrained(…, safe_serialization=True)",
        )
    if nested := _newest_checkpoint(folder):
        raise CheckpointError(
            f"{shown} holds checkpoints and no adapter of its own",
            hint=f"name one of them, for example {safe_line(nested, 200)}",
        )
    missing = CONFIG if not (folder / CONFIG).is_file() else WEIGHTS
    raise CheckpointError(
        f"{shown} holds no adapter: {missing} is missing",
        hint="name a folder that holds adapter_config.json and adapter_model.safetensors",
    )


def _newest_checkpoint(folder: Path) -> Path | None:
    """Return the newest `checkpoint-N` with an adapter, as transformers' Trainer names them."""
    found = [
        (int(tail), path)
        for path in folder.glob("checkpoint-*")
        if (tail := path.name.removeprefix("checkpoint-")).isdecimal() and (path / CONFIG).is_file()
    ]
    return max(found)[1] if found else None


def _sizes(module: str, sides: Mapping[str, TensorInfo]) -> tuple[int, int, int]:
    """Return a module's inputs, outputs and rank; raise CheckpointError where they do not agree."""
    shown = safe_line(module, 160)
    if module.rpartition(".")[2] in _OUTSIDE:
        raise CheckpointError(
            f"the adapter cannot be scored: it adapts {shown}, and scores are computed without an "
            "adapter there",
            hint=MERGE,
        )
    if set(sides) != {"A", "B"} or any(len(info.shape) != 2 for info in sides.values()):
        raise CheckpointError(
            f"the adapter's matrices for {shown} are not a pair",
            hint="save the adapter again where it was trained",
        )
    (rank, inputs), (outputs, same) = sides["A"].shape, sides["B"].shape
    if rank != same or not rank:
        raise CheckpointError(
            f"the adapter's matrices for {shown} have ranks {rank} and {same}",
            hint="save the adapter again where it was trained",
        )
    return inputs, outputs, rank

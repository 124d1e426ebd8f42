"""A saved adapter on a base, by its own configuration: made here or by another tool.

The configuration is read by `workbench.adapters`, and PEFT's configuration is made from what that
understood: names of modules come from the weights, so that no pattern of a foreign file is ever
matched.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils.save_and_load import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import load as load_tensors
from torch import nn

from workbench.adapters.adapter_folder import WEIGHTS, AdapterFolder
from workbench.errors import CheckpointError
from workbench.text import safe_line

AGAIN = "save the adapter again where it was trained"
_EMBEDDINGS = tuple(
    f"{module}{inner}.weight"
    for module in ("embed_tokens", "lm_head")
    for inner in ("", ".base_layer")
)
"""Ends of names of the base's own embedding and head, which PEFT may write besides the adapter:
where the vocabulary grew, or the adapter is on one of them."""


def check_fits_base(base: nn.Module, found: AdapterFolder) -> None:
    """Raise CheckpointError where the base lacks an adapted module, or has it in other sizes.

    The base may have its tensors on `meta`.
    """
    known = dict(base.named_modules())
    for module, (inputs, outputs, _) in found.modules.items():
        sizes = _linear_sizes(known.get(module))
        if sizes is None:
            raise CheckpointError(
                f"the adapter has weights for {safe_line(module, 160)}, which this base does not "
                "have as a linear layer",
                hint="evaluate it on the model that it was trained on",
            )
        if sizes != (inputs, outputs):
            raise CheckpointError(
                f"the adapter's weights for {safe_line(module, 160)} are for {inputs} × {outputs}, "
                f"and this base has {sizes[0]} × {sizes[1]}",
                hint="evaluate it on the model that it was trained on",
            )


def _linear_sizes(module: nn.Module | None) -> tuple[int, int] | None:
    """Return inputs and outputs of a linear layer, also of one in 4 bits or of GPT-2's kind."""
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    if module is not None and type(module).__name__ == "Conv1D":
        inputs, outputs = module.weight.shape  # type: ignore[misc]
        return int(inputs), int(outputs)
    return None


def load_several(
    base: nn.Module, adapters: Mapping[str, tuple[AdapterFolder, str | None]]
) -> PeftModel:
    """Return `base` with several adapters on it, by name, to be chosen by `set_adapter`.

    Each is given with the SHA-256 of its weights, where that is known. Raises CheckpointError as
    `load_saved` does, and for trained biases, which PEFT keeps for one adapter only.
    """
    for found, _ in adapters.values():  # on the bare base: the first adapter replaces its layers
        check_fits_base(base, found)
        if found.settings.bias != "none" and len(adapters) > 1:
            raise CheckpointError(
                f"the adapter in {safe_line(found.folder, 200)} has trained biases, which cannot "
                "be switched on and off beside other adapters",
                hint="ask it alone",
            )
    (first, (found, sha256)), *others = adapters.items()
    model = load_saved(base, found, sha256, name=first)
    for name, (found, sha256) in others:
        add_saved(model, found, sha256, name=name)
    return model


def add_saved(model: PeftModel, found: AdapterFolder, sha256: str | None, *, name: str) -> None:
    """Put one more adapter on the model, switched off; errors as in `load_saved`.

    Whether it fits the base can only be checked before the first adapter is there.
    """
    tensors = _read_weights(found.folder / WEIGHTS, sha256)
    with next(model.parameters()).device:
        model.add_adapter(name, _peft_config(found))
    _fill(model, tensors, name)


def _fill(model: PeftModel, tensors: Mapping[str, torch.Tensor], name: str) -> None:
    """Copy an adapter's tensors into its new layers, in fp32, and freeze them."""
    for param in model.parameters():
        if param.requires_grad:  # the base's biases that were trained too; LoRA is fp32 already
            param.data = param.data.float()
    state = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    _check_names(state, tensors)
    set_peft_model_state_dict(model, dict(tensors), adapter_name=name)
    model.requires_grad_(False)
    model.eval()


def load_saved(
    base: nn.Module, found: AdapterFolder, sha256: str | None = None, *, name: str = "default"
) -> PeftModel:
    """Return `base` with the folder's adapter on it, in fp32 and in eval mode.

    `sha256` is that of its weights, where it is known. Raises CheckpointError for weights that
    changed, do not fit the base, or are not finite.
    """
    check_fits_base(base, found)
    tensors = _read_weights(found.folder / WEIGHTS, sha256)
    with next(base.parameters()).device:
        model = get_peft_model(base, _peft_config(found), adapter_name=name)
    _fill(model, tensors, name)
    return model


def _read_weights(file: Path, sha256: str | None) -> dict[str, torch.Tensor]:
    """Return the tensors of exactly those bytes whose digest was compared."""
    try:
        data = file.read_bytes()
        if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
            raise CheckpointError(
                f"{safe_line(file, 200)} changed since it was saved",
                hint="put the file back as it was, or evaluate the folder itself",
            )
        tensors = load_tensors(data)
    except CheckpointError:
        raise
    except Exception as broken:  # OSError, and safetensors' own errors
        raise CheckpointError(
            f"{safe_line(file, 200)} cannot be read: {safe_line(broken, 120)}", hint=AGAIN
        ) from broken
    for name, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(
                f"the adapter's weights are not finite: {safe_line(name, 160)}", hint=AGAIN
            )
    return {_plain_name(name): tensor.float() for name, tensor in tensors.items()}


def _plain_name(name: str) -> str:
    """Return the name without the adapter's own name, which older versions of PEFT kept."""
    return name.replace(".default.", ".").removesuffix(".default")


def _check_names(expected: Mapping[str, torch.Tensor], tensors: Mapping[str, torch.Tensor]) -> None:
    """Raise CheckpointError where PEFT would leave out a tensor, or start one at random."""
    lacking = sorted(set(expected) - set(tensors))
    left = sorted(set(tensors) - set(expected))
    if lacking or left:
        what = f"lacks {lacking[0]}" if lacking else f"holds {left[0]}, which has no place"
        raise CheckpointError(f"the adapter {safe_line(what, 200)}", hint=AGAIN)


def refuse_other_names(model: PeftModel, folder: Path) -> None:
    """Raise CheckpointError where PEFT loaded the folder's adapter in part, or not at all.

    PEFT warns of a tensor that has no place in the model, or none for a place, and goes on: an
    adapter for another way of naming the layers then changes nothing.
    """
    with safe_open(folder / WEIGHTS, framework="numpy") as file:
        names = {_plain_name(name) for name in file.keys()}  # noqa: SIM118
    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    lacking = sorted(set(state) - names)
    left = sorted(name for name in names - set(state) if not name.endswith(_EMBEDDINGS))
    if lacking or left:
        what = f"{left[0]} has no place in it" if left else f"it lacks {lacking[0]}"
        raise CheckpointError(
            f"the adapter in {safe_line(folder, 200)} is for layers of other names than this "
            f"base's: {safe_line(what, 200)}",
            hint="name the base that it was trained on, or save the adapter again with that base",
        )


def _peft_config(found: AdapterFolder) -> LoraConfig:
    settings = found.settings
    ranks = {name: rank for name, (_, _, rank) in found.modules.items()}
    alphas = {name: settings.alpha_of(name) for name in ranks}
    about: dict[str, Any] = {
        "r": settings.rank,
        "lora_alpha": settings.alpha,
        "rank_pattern": {_exactly(n): rank for n, rank in ranks.items() if rank != settings.rank},
        "alpha_pattern": {
            _exactly(n): alpha for n, alpha in alphas.items() if alpha != settings.alpha
        },
        "target_modules": list(ranks),
        "use_rslora": settings.rslora,
        "use_dora": settings.dora,
        "lora_bias": settings.lora_bias,
        "bias": settings.bias,
        "fan_in_fan_out": settings.fan_in_fan_out,
        "lora_dropout": 0.0,
        "task_type": "CAUSAL_LM",
    }
    return LoraConfig(**about)


def _exactly(module: str) -> str:
    """Return the key for one module: PEFT takes a key as a regular expression for a name's end."""
    return f"^{re.escape(module)}"

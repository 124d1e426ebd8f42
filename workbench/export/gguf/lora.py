"""A GGUF file of an adapter alone, for `llama-cli --lora` and Ollama's ADAPTER.

The format has one alpha for all modules and scales by alpha/rank. Other scales are expressed by
scaling the second matrix, which is exact in f32 and rounded once in f16; what no scale can express
(DoRA, whole layers, biases) is refused.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from workbench.adapters.lora_settings import CONFIG
from workbench.adapters.published_base import published_base
from workbench.errors import ModelError
from workbench.export.changes import Changes, LoraChange, NotByWeight, read_changes
from workbench.export.gguf.families import Family, family_of, to_pairs
from workbench.export.gguf.packing import packed
from workbench.export.gguf.read_back import compare_tensors
from workbench.text import safe_line


def write_lora(
    folder: Path, partial: Path, kind: str, base_path: str | None = None
) -> dict[str, Any]:
    """Write the adapter's file and return the report of reading it back.

    `base_path` is another place of the base, whose layers and configuration are read.
    """
    import gguf

    from workbench.training.model.merge import check_base_is_here, path_of
    from workbench.training.model.weights import read_config

    if kind not in ("f16", "f32"):
        raise ModelError(
            f"an adapter is not written in {kind}", hint="take --type f16 or --type f32"
        )
    try:
        changes = read_changes(folder)
    except NotByWeight as more:
        raise _inexpressible("it trains biases or layers besides matrices") from more
    if changes.replaced or changes.settings.dora:
        raise _inexpressible("DoRA" if changes.settings.dora else "it trains whole layers")
    stored = json.loads((folder / CONFIG).read_bytes())
    base = published_base(str(stored["base_model_name_or_path"]), stored.get("revision"))
    if base_path is not None:
        base = published_base(path_of(base_path))
    check_base_is_here(base.name)
    check_layers(changes, base.name, base.revision)
    config = read_config(base.name, base.revision).get_text_config()
    family = family_of(config)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[family.arch.upper()], config.num_hidden_layers)
    writer = gguf.GGUFWriter(partial, family.arch)
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", changes.settings.alpha)
    sources: dict[str, torch.Tensor] = {}
    for name, change in changes.lora.items():
        target = names.get_name(name, try_suffixes=(".weight",))
        if target is None:
            raise _inexpressible(f"{safe_line(name, 120)} has no place in GGUF's {family.arch}")
        a, b = scaled_pair(change, changes.settings.alpha)
        sources[f"{target}.lora_a"] = a
        sources[f"{target}.lora_b"] = _rotated(family, config, name, b)
    for name, weight in sources.items():
        data, dtype = packed(weight, kind)
        writer.add_tensor(name, data, raw_dtype=dtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return compare_tensors(partial, sources)


def check_layers(changes: Changes, base: str, revision: str | None) -> None:
    """Raise ModelError where the base has other layers than the adapter was trained on.

    Only the base's headers are read.
    """
    from workbench.training.model.weights import check_weights

    layers = dict(check_weights(base, revision, attention="eager")[0].named_modules())
    for name, change in changes.lora.items():
        layer = layers.get(name.removesuffix(".weight"))
        found = [change.b_OR.shape[0], change.a_RI.shape[1]]
        has: Any = "no such layer"
        if layer is not None:
            has = [getattr(layer, "out_features", None), getattr(layer, "in_features", None)]
        if found != has:
            raise ModelError(
                f"the adapter's weights for {safe_line(name, 120)} are for {found}, and "
                f"{safe_line(base, 160)} has {has}",
                hint="it was trained on another base",
            )


def scaled_pair(change: LoraChange, alpha: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return both matrices such that alpha/rank · B A is the change; alpha is the file's own."""
    rank = change.a_RI.shape[0]
    return change.a_RI.float(), change.b_OR.float() * (change.scale / (alpha / rank))


def _rotated(family: Family, config: Any, name: str, b: torch.Tensor) -> torch.Tensor:
    """Return the second matrix with its rows in the order of the base's rows in GGUF."""
    if family.rotates_pairs and ".q_proj." in name:
        return to_pairs(b, int(config.num_attention_heads))
    if family.rotates_pairs and ".k_proj." in name:
        return to_pairs(b, int(config.num_key_value_heads))
    return b


def _inexpressible(what: str) -> ModelError:
    return ModelError(
        f"GGUF's adapter format cannot hold this adapter: {what}",
        hint="export the merged model instead, without --lora",
    )

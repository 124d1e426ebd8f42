"""The adapter's layers that a kept step knows, put onto the base in place of a new trial's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from peft.tuners.lora import LoraLayer
from torch import nn

LoraLayers = Mapping[str, Any]
"""PEFT's layers with an adapter, by the name of the module."""


def adapted_layers(model: nn.Module) -> LoraLayers:
    """Return the layers of a PEFT model that have an adapter."""
    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}


def describe_layer(layer: Any) -> tuple[object, ...]:
    """Return what a captured pass holds of a layer's adapter besides its numbers."""
    drops = {name: layer.lora_dropout[name] for name in layer.active_adapters}
    return tuple(
        (
            name,
            tuple(layer.lora_A[name].weight.shape),
            tuple(layer.lora_B[name].weight.shape),
            float(layer.scaling[name]),
            float(drop.p) if isinstance(drop, nn.Dropout) else 0.0,
        )
        for name, drop in drops.items()
    )


def same_bases(kept: LoraLayers, new: LoraLayers) -> bool:
    """Return whether layers of the same names stand on the same frozen layers."""
    return kept.keys() == new.keys() and all(
        kept[name].get_base_layer() is new[name].get_base_layer() for name in kept
    )


def put_layers(model: nn.Module, layers: LoraLayers) -> None:
    """Put the layers in the place of the model's own of the same names."""
    for name, layer in layers.items():
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, layer)

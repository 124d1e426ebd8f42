"""The linear layers of a base: its head, those of its decoder, and those that text never passes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from torch import nn


def is_linear(module: nn.Module) -> bool:
    """Return True for a layer that PEFT's LoRA takes; GPT-2's are `Conv1D`, not `nn.Linear`."""
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def decoder_layers(model: nn.Module) -> list[nn.Module]:
    """Return the decoder's layers: the list of modules that holds most of what text passes."""
    outside = _outside(model)
    lists = [
        list(module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and not outside(name)
    ]
    return max(
        lists,
        key=lambda layers: sum(one.numel() for layer in layers for one in layer.parameters()),
        default=[],
    )


def adaptable(model: nn.Module) -> Iterator[tuple[str, nn.Module, int | None]]:
    """Yield the full name of each linear layer that can get an adapter, itself, and its decoder
    layer counted from 0; None for one outside of the decoder's layers."""
    layer_of = {
        id(module): number
        for number, layer in enumerate(decoder_layers(model))
        for module in layer.modules()
    }
    head, outside = head_of(model), _outside(model)
    for name, module in model.named_modules():
        if is_linear(module) and module is not head and not outside(name):
            yield name, module, layer_of.get(id(module))


def outside_language_model(base: nn.Module) -> str | None:
    """Return a pattern of the modules that text never passes, for example a vision tower.

    None for a model of text alone.
    """
    inside = any(name.rpartition(".")[2] == "language_model" for name, _ in base.named_modules())
    return r"(?!(.*\.)?language_model\.).*" if inside else None


def head_of(model: nn.Module) -> nn.Module | None:
    """Return the layer that gives the logits; None where the model has none."""
    find = getattr(model, "get_output_embeddings", None)
    head: nn.Module | None = find() if find else None
    return head


def _outside(model: nn.Module) -> Callable[[str], bool]:
    """Return a test of a module's full name: whether text never passes it."""
    pattern = outside_language_model(model)
    return lambda name: bool(pattern and re.fullmatch(pattern, name))

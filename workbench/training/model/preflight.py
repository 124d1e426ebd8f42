"""The check of a base before a card is asked for: weights, attention and targets.

The preparation calls it in its own process. The model is built without data, so that the check
costs seconds of imports and some milliseconds, whatever the model's size.
"""

from __future__ import annotations

import inspect
import re
import sys
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, cast

from workbench.footprint.model.shape import FUSED_FAMILIES
from workbench.footprint.model.weight_counts import with_counts
from workbench.machine.packages import KERNEL_PACKAGES, install_command
from workbench.recipe.schema import Recipe
from workbench.training.model.source import ModelSource, has_weights

if TYPE_CHECKING:  # seconds: torch
    from torch import nn
    from transformers import PreTrainedModel

_REPLACED = re.compile(
    r'@use_kernel_func_from_hub_with_fallback\(\s*"\w+",\s*"(\w+)"[^)]*\)\s*def (\w+)\('
)
"""A function of transformers that a package's replaces where that is installed: module, name."""


def check_model(source: ModelSource, recipe: Recipe) -> list[str]:
    """Return notes about what of the model is not trained; raises what `inspect_model` raises."""
    return inspect_model(source, recipe).notes


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """Facts that preparation learns of a base from its class."""

    source: ModelSource
    """The base, with the counts of its weights in its configuration, where the planner finds them.
    """
    notes: list[str]
    """What of the model gets no adapter, and what runs without its kernels, in words."""
    adapters: dict[str, int]
    """Linear layers that get an adapter, by name."""


def inspect_model(source: ModelSource, recipe: Recipe) -> ModelFacts:
    """Return the counts of the model's weights, and which of its layers get an adapter.

    Checks the names and shapes of the weights where the files are on this machine, that the model
    has the attention that training uses, and that it has the targets of the adapter. Raises
    ModelError and RecipeError as the attempt on the card would.
    """
    from workbench.training.model.adapter_reach import adapted_layers, reach_notes
    from workbench.training.model.targets import find_targets

    model = empty_model(source, recipe)
    targets, notes = find_targets(model, recipe.lora)
    return ModelFacts(
        source=counted_source(source, model),
        notes=[*notes, *reach_notes(model, targets), *kernel_notes(model)],
        adapters=adapted_layers(model, targets),
    )


def counted_source(source: ModelSource, model: nn.Module) -> ModelSource:
    """Return the source with the counts of its model's weights in its configuration."""
    from workbench.training.model.weight_counting import count_weights

    return replace(source, config=with_counts(source.config, count_weights(model)))


def empty_model(source: ModelSource, recipe: Recipe) -> nn.Module:
    """Return the model without data, after the checks of its weights and attention.

    Raises ModelError as the attempt on the card would.
    """
    from workbench.training.model.weights import build_empty, check_weights, read_config

    attention = _attention_of(source, recipe.model.attention)
    model: nn.Module
    if has_weights(source):
        model, _ = check_weights(source.path, source.revision, attention=attention)
    else:
        config = read_config(source.path, source.revision)
        model = build_empty(config, source.path, source.revision, attention)
    return model


def _attention_of(source: ModelSource, wanted: str) -> str:
    """Return the attention that a CPU can build the model with and that scoring will use.

    A model with capped scores is scored with eager attention (machine.attention), which every
    model has. Flash Attention 2 is checked on the card alone.
    """
    text = source.config.get("text_config") or source.config
    capped = isinstance(text, dict) and bool(text.get("attn_logit_softcapping"))
    return "eager" if capped or wanted in ("eager", "flash_attention_2") else "sdpa"


def kernel_notes(model: nn.Module) -> list[str]:
    """Return notes about layers whose kernels are not installed, with what that costs.

    transformers takes its own code then, and says so in a log that nobody reads.
    """
    from workbench.training.model.linear_layers import decoder_layers

    layers, config = len(decoder_layers(model)), cast("PreTrainedModel", model).config
    slower = "PyTorch's operations take their place, with the same result, much slower"
    if config.get_text_config().model_type in FUSED_FAMILIES:
        # training/step/delta has kernels of its own.
        slower = f"for answers and held-out losses {slower}"
    else:
        slower += " and with more memory"
    notes = []
    for kind in dict.fromkeys(type(module) for module in model.modules()):
        missing = [name for name in packages_of(kind) if find_spec(KERNEL_PACKAGES[name]) is None]
        if missing:
            count = sum(type(module) is kind for module in model.modules())
            notes.append(
                f"{count} of {layers} layers have a {kind.__name__}, whose kernels are not "
                f"installed ({', '.join(missing)}): {slower}; on a GPU: {install_command(missing)}"
            )
    return notes


def packages_of(kind: type[nn.Module]) -> list[str]:
    """Return the packages whose kernels the code of a class of modules asks for."""
    try:
        replaced = _REPLACED.findall(inspect.getsource(sys.modules[kind.__module__]))
        source = inspect.getsource(kind) if replaced else ""  # parses the whole module: 10 ms
    except (OSError, TypeError):  # defined where no source is, as in a console
        return []
    asked = {module for module, name in replaced if re.search(rf"\b{name}\b", source)}
    return [name for name, module in KERNEL_PACKAGES.items() if module in asked]

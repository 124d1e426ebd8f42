"""The projections of a base that get an adapter. Imports no PEFT, whose import takes seconds."""

from __future__ import annotations

import difflib

from torch import nn

from workbench.errors import RecipeError
from workbench.footprint.model.fused_projections import with_fused
from workbench.recipe.schema import ALL_LINEAR, Lora


def find_targets(base: nn.Module, lora: Lora) -> tuple[list[str] | str, list[str]]:
    """Return the names of the projections that get an adapter, and notes about those that do not.

    Names of a Llama's projections stand for a fused projection that holds all of them. `base` may
    have its tensors on `meta`. Raises RecipeError when the model has none of `lora.targets`.
    """
    if lora.targets == "all-linear":
        return "all-linear", []
    linear = sorted({name.rsplit(".", 1)[-1] for name, m in base.named_modules() if is_linear(m)})
    targets = with_fused(lora.targets, linear)
    missing = [name for name in targets if name.rsplit(".", 1)[-1] not in linear]
    there = [name for name in linear if name != "lm_head"]
    misspelt = _misspelt(missing, [name for name in there if name not in targets])
    if misspelt or len(missing) == len(targets):
        meant = "".join(f"did you mean {near} for {name}? " for name, near in misspelt.items())
        raise RecipeError(
            f"lora.targets: this model has no {', '.join(misspelt or missing)}",
            hint=f"{meant}it has {', '.join(there)}; or write targets: all-linear",
        )
    if any(name.endswith("lm_head") for name in targets):
        raise RecipeError(
            "lora.targets: an adapter on lm_head would never be trained",
            hint="take lm_head out of lora.targets",
        )
    notes = []
    if missing:
        notes = [f"lora.targets: this model has no {', '.join(missing)}; the others are trained"]
    return targets, notes


def _misspelt(missing: list[str], free: list[str]) -> dict[str, str]:
    """Return the missing names that resemble a projection of the model, with that projection.

    The names of a Llama's projections are no typos: they are the recipe's default, and a model
    that lacks some of them trains the others.
    """
    found = {}
    for name in missing:
        near = difflib.get_close_matches(name.rsplit(".", 1)[-1], free, n=1, cutoff=0.75)
        if near and name not in ALL_LINEAR:
            found[name] = near[0]
    return found


def is_linear(module: nn.Module) -> bool:
    """Return True for a layer that PEFT's LoRA takes; GPT-2's are `Conv1D`, not `nn.Linear`."""
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def outside_language_model(base: nn.Module) -> str | None:
    """Return a pattern of the modules that text never passes, for example a vision tower.

    None for a model of text alone.
    """
    inside = any(name.rpartition(".")[2] == "language_model" for name, _ in base.named_modules())
    return r"(?!(.*\.)?language_model\.).*" if inside else None

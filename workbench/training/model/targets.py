"""The projections of a base that get an adapter. Imports no PEFT, whose import takes seconds."""

from __future__ import annotations

from torch import nn

from workbench.errors import RecipeError
from workbench.footprint.model.fused_projections import with_fused
from workbench.footprint.model.target_names import misspelt_names
from workbench.recipe.schema import Lora
from workbench.training.model.linear_layers import adaptable, is_linear

ROUTERS = ("router", "gate")
"""Linear layers that choose experts, in models that have some."""


def find_targets(base: nn.Module, lora: Lora) -> tuple[list[str], list[str]]:
    """Return the names of the projections that get an adapter, and notes about those that do not.

    `all-linear` stands for all that `all_linear` names, and the names of a Llama's projections for
    a fused projection that holds all of them. A table of embeddings may be named, too. `base` may
    have its tensors on `meta`. Raises RecipeError when the model has none of `lora.targets`.
    """
    if lora.targets == "all-linear":
        return all_linear(base), []
    if not lora.targets:
        raise RecipeError(
            "lora.targets is an empty list, so that nothing would be trained",
            hint="write targets: all-linear, or take lora.targets out for the usual projections",
        )
    modules = [(name.rsplit(".", 1)[-1], module) for name, module in base.named_modules()]
    linear = sorted({name for name, module in modules if is_linear(module)})
    known = {*linear, *(name for name, module in modules if isinstance(module, nn.Embedding))}
    targets = with_fused(lora.targets, linear)
    missing = [name for name in targets if name.rsplit(".", 1)[-1] not in known]
    there = [name for name in linear if name != "lm_head"]
    misspelt = misspelt_names(missing, [name for name in there if name not in targets])
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


def all_linear(base: nn.Module) -> list[str]:
    """Return the names of all linear layers that text passes, without the head and routers.

    They are the last parts of full names; the last two where that is a number, as in `mlp.0`.
    """
    left_out = ROUTERS if any("experts" in name for name, _ in base.named_modules()) else ()
    names: dict[str, None] = {}
    for name, _, _ in adaptable(base):
        *_, parent, last = ["", *name.split(".")]
        if last not in left_out:
            names.setdefault(f"{parent}.{last}" if last.isdigit() else last)
    return list(names)

"""Warm starts: a fresh LoRA that begins with another trial's weights.

Weights only. Optimizer and schedule begin anew, so it is no resume, and nothing here says it is.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from peft import PeftModel

from workbench.errors import CheckpointError, RecipeError
from workbench.machine import staging
from workbench.recipe.schema import Recipe
from workbench.training.control import Emit
from workbench.training.model.adapter import WEIGHTS, load_weights

ALIKE = {
    "rank": "r",
    "alpha": "lora_alpha",
    "rslora": "use_rslora",
    "bias": "bias",
}
"""Our settings, and where an adapter's own configuration has them."""


def check(source: dict[str, Any], recipe: Recipe) -> None:
    """That the adapter is byte for byte what its trial left, and of the recipe's shape.

    Reads its weights once. CheckpointError for the file, RecipeError for the shape.
    """
    folder, who = Path(source["folder"]), f"the adapter of trial {source['trial']}"
    weights = folder / WEIGHTS
    try:
        told = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        found = staging.sha256(weights)
    except (OSError, ValueError) as gone:
        raise CheckpointError(
            f"{who} cannot be read, so nothing can start from it: {gone}",
            hint="clone this trial with --warm-start of another one, or with none",
        ) from gone
    if found != source["sha256"]:
        raise CheckpointError(
            f"{who} is not what was left there: its SHA-256 is {found[:12]}…, not "
            f"{str(source['sha256'])[:12]}…",
            hint="bring the file back, or clone this trial with --warm-start of another one",
        )
    _check_shape(who, told, recipe)


def _check_shape(who: str, told: dict[str, Any], recipe: Recipe) -> None:
    if told.get("base_model_name_or_path") != recipe.model.name:
        raise RecipeError(
            f"{who} is for {told.get('base_model_name_or_path')}, not for {recipe.model.name}",
            hint="start from a trial on the same model",
        )
    for setting, key in ALIKE.items():
        here, there = getattr(recipe.lora, setting), told.get(key)
        if here != there:
            raise RecipeError(
                f"lora.{setting} is {here}, and {who} has {there}: it cannot start from it",
                hint=f"clone this trial with -s lora.{setting}={there}, or without the warm start",
            )
    here, there = recipe.lora.targets, told.get("target_modules")
    if isinstance(here, list) and isinstance(there, list) and set(there) - set(here):
        lost = ", ".join(sorted(set(there) - set(here)))
        raise RecipeError(
            f"{who} has weights for {lost}, which lora.targets leaves out: it cannot start from it",
            hint=f"clone this trial with -s lora.targets=[{', '.join(sorted(there))}]",
        )


def load(model: PeftModel, source: dict[str, Any], emit: Emit) -> None:
    """Its weights into the fresh adapter; CheckpointError when their shapes differ after all."""
    try:
        load_weights(model, Path(source["folder"]) / WEIGHTS)
    except CheckpointError as other:
        raise CheckpointError(
            f"the adapter of trial {source['trial']} has other modules or shapes than this one",
            hint="clone this trial with the same lora settings, or without the warm start",
        ) from other
    text = (
        f"warm start: the weights of trial {source['trial']}'s adapter, "
        f"SHA-256 {str(source['sha256'])[:12]}…; optimizer and schedule begin anew"
    )
    emit("log", level="info", text=text)

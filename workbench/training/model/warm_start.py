"""Warm starts: a new LoRA that begins with another trial's weights.

Only the weights are taken over. Optimizer and schedule start from zero, so that a warm start is no
resume.
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
"""Settings under `lora` that must be equal, and their keys in an adapter's own configuration."""


def check_adapter(source: dict[str, Any], recipe: Recipe) -> None:
    """Check that the adapter is byte for byte what its trial saved, and fits the recipe.

    Reads the weights once, for their SHA-256. Raises CheckpointError for a changed or missing file
    and RecipeError for settings under which the weights mean something else.
    """
    folder, who = Path(source["folder"]), f"the adapter of trial {source['trial']}"
    weights = folder / WEIGHTS
    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        found = staging.file_sha256(weights)
    except (OSError, ValueError) as gone:
        raise CheckpointError(
            f"{who} cannot be read, so nothing can start from it: {gone}",
            hint="clone this trial with --warm-start of another one, or with none",
        ) from gone
    if found != source["sha256"]:
        raise CheckpointError(
            f"{who} changed since it was saved: its SHA-256 is {found[:12]}…, not "
            f"{str(source['sha256'])[:12]}…",
            hint="restore the file, or clone this trial with --warm-start of another one",
        )
    _check_shape(who, config, recipe)


def _check_shape(who: str, config: dict[str, Any], recipe: Recipe) -> None:
    if config.get("base_model_name_or_path") != recipe.model.name:
        raise RecipeError(
            f"{who} is for {config.get('base_model_name_or_path')}, not for {recipe.model.name}",
            hint="start from a trial on the same model",
        )
    for setting, key in ALIKE.items():
        here, there = getattr(recipe.lora, setting), config.get(key)
        if here != there:
            raise RecipeError(
                f"lora.{setting} is {here}, and {who} has {there}: it cannot start from it",
                hint=f"clone this trial with -s lora.{setting}={there}, or without the warm start",
            )
    here, there = recipe.lora.targets, config.get("target_modules")
    if isinstance(here, list) and isinstance(there, list) and set(there) - set(here):
        lost = ", ".join(sorted(set(there) - set(here)))
        raise RecipeError(
            f"{who} has weights for {lost}, which lora.targets leaves out: it cannot start from it",
            hint=f"clone this trial with -s lora.targets=[{', '.join(sorted(there))}]",
        )


def load_adapter(model: PeftModel, source: dict[str, Any], emit: Emit) -> None:
    """Copy the adapter's weights into the new one; raise CheckpointError when shapes differ."""
    try:
        load_weights(model, Path(source["folder"]) / WEIGHTS)
    except CheckpointError as other:
        raise CheckpointError(
            f"the adapter of trial {source['trial']} has other modules or shapes than this one",
            hint="clone this trial with the same lora settings, or without the warm start",
        ) from other
    text = (
        f"warm start: the weights of trial {source['trial']}'s adapter, "
        f"SHA-256 {str(source['sha256'])[:12]}…; optimizer and schedule start from zero"
    )
    emit("log", level="info", text=text)

"""Warm starts: a new LoRA that begins with another trial's weights.

Only the weights are taken over. Optimizer and schedule start from zero, so that a warm start is no
resume.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from peft import PeftModel

from workbench.adapters.adapter_folder import WEIGHTS
from workbench.adapters.lora_settings import CONFIG
from workbench.errors import CheckpointError, RecipeError
from workbench.footprint.model.fused_projections import with_fused
from workbench.machine import staging
from workbench.recipe.schema import Lora, Recipe
from workbench.text import safe_line
from workbench.training.control import Emit
from workbench.training.model.adapter import load_weights, loadable_name, plain_alpha


def describe_source(source: dict[str, Any]) -> str:
    """Return the words for an assignment's `warm`: its trial, or its folder where it has none."""
    if source["trial"] is None:
        return f"the adapter in {safe_line(source['folder'])}"
    return f"the adapter of trial {source['trial']}"


def check_adapter(source: dict[str, Any], recipe: Recipe) -> None:
    """Check that the adapter is byte for byte what its trial saved, and fits the recipe.

    Reads the weights once, for their SHA-256. Raises CheckpointError for a changed or missing file
    and RecipeError for settings under which the weights mean something else.
    """
    folder, who = Path(source["folder"]), describe_source(source)
    weights = folder / WEIGHTS
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        found = staging.file_sha256(weights)
    except (OSError, ValueError) as gone:
        raise CheckpointError(
            f"{who} cannot be read, so nothing can start from it: {gone}",
            hint="start again with --warm-start of another adapter, or without it",
        ) from gone
    if found != source["sha256"]:
        raise CheckpointError(
            f"{who} changed since it was saved: its SHA-256 is {found[:12]}…, not "
            f"{str(source['sha256'])[:12]}…",
            hint="restore the file, or start again with --warm-start of another adapter",
        )
    _check_shape(who, config, recipe)


def _check_shape(who: str, config: dict[str, Any], recipe: Recipe) -> None:
    base = str(config.get("base_model_name_or_path"))
    if base not in (recipe.model.name, loadable_name(recipe.model.name)):
        raise RecipeError(
            f"{who} is for {base}, not for {recipe.model.name}",
            hint="start from an adapter of the same model",
        )
    for setting, here, there in _differences(config, recipe.lora):
        raise RecipeError(
            f"lora.{setting} is {here}, and {who} has {there}: it cannot start from it",
            hint=f"start again with -s lora.{setting}={there}, or without --warm-start",
        )
    here, there = recipe.lora.targets, config.get("target_modules")
    if not isinstance(here, list) or not isinstance(there, list):
        return
    if lost := sorted(set(there) - set(here) - set(with_fused(here, there))):
        raise RecipeError(
            f"{who} has weights for {', '.join(lost)}, which lora.targets leaves out: it cannot "
            "start from it",
            hint=f"start again with -s lora.targets=[{', '.join(sorted(there))}]",
        )


def _differences(config: dict[str, Any], lora: Lora) -> Iterator[tuple[str, object, object]]:
    """Yield (setting, the recipe's value, the adapter's) for settings that must be equal.

    Alpha is compared by the scale it gives: an adapter's own configuration holds plain LoRA's alpha
    (`adapter.plain_alpha`), and that of workbench 0.1 alpha and `use_rslora` as they stood.
    """
    rank = config.get("r")
    if rank != lora.rank:
        yield "rank", lora.rank, rank
        return
    root = math.sqrt(lora.rank)
    there = float(config.get("lora_alpha") or 0.0) * (root if config.get("use_rslora") else 1.0)
    if not math.isclose(there, plain_alpha(lora), rel_tol=1e-6):
        yield "alpha", lora.alpha, float(f"{there / (root if lora.rslora else 1.0):.10g}")
    if config.get("bias") != lora.bias:
        yield "bias", lora.bias, config.get("bias")


def load_adapter(model: PeftModel, source: dict[str, Any], emit: Emit) -> None:
    """Copy the adapter's weights into the new one; raise CheckpointError when shapes differ."""
    try:
        load_weights(model, Path(source["folder"]) / WEIGHTS)
    except CheckpointError as other:
        raise CheckpointError(
            f"{describe_source(source)} has other modules or shapes than this one",
            hint="start again with the same lora settings, or without --warm-start",
        ) from other
    text = (
        f"warm start: the weights of {describe_source(source)}, "
        f"SHA-256 {str(source['sha256'])[:12]}…; optimizer and schedule start from zero"
    )
    emit("log", level="info", text=text)

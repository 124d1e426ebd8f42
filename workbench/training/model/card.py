"""The model card of an adapter: README.md of its folder, for people and the hub."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.adapters.published_base import PublishedBase, published_base
from workbench.recipe.names import is_local, is_shipped
from workbench.recipe.schema import Recipe
from workbench.text.redact import redact


@dataclass(frozen=True, slots=True)
class CardFacts:
    """Facts of a training that its recipe does not have."""

    data_digest: str = ""
    """Digest of the prepared rows; empty where it is not known."""
    hardware: str = ""
    """Name of the card that finished it; empty where it is not known."""
    loader: str = "AutoModelForCausalLM"
    """Name of transformers' class that loads the base."""


NO_FACTS = CardFacts()


def public_name(name: str) -> str:
    """Return a hub id or shipped name as it is, and only the last part of a local path."""
    return Path(name).name if is_local(name) else name


def model_card(
    recipe: Recipe,
    scores: dict[str, Any],
    versions: dict[str, str],
    base: PublishedBase | None = None,
    facts: CardFacts = NO_FACTS,
) -> str:
    """Return the card: settings, data, scores, hardware, versions, and how to load the adapter.

    It names no path of this machine. `base` is the base as others load it, by default that of the
    recipe.
    """
    base = base or published_base(recipe.model.name, recipe.model.revision)
    shown = base.name if not is_local(base.name) else public_name(recipe.model.name)
    hub = not is_local(base.name) and not is_shipped(base.name)
    sections = [
        ["---", "library_name: peft", "tags: [lora, qlora, sft]"],
        [f"base_model: {json.dumps(base.name)}"] if hub else [],
        ["---", "", f"# {recipe.name}", "", *_summary(recipe, scores, shown, base), ""],
        ["| setting | |", "|---|---|", *_settings(recipe), ""],
        ["| held-out | |", "|---|---|", *_scores(scores), ""],
        ["Losses are nats per target token.", ""],
        ["## Load it", "", *_loading(shown, base, facts.loader), ""],
        ["## Made with", "", *_origin(scores, versions, facts), ""],
    ]
    return redact("\n".join(line for section in sections for line in section))


def _summary(recipe: Recipe, scores: dict[str, Any], shown: str, base: PublishedBase) -> list[str]:
    commit = f", commit `{base.revision}`" if base.revision else ""
    return [
        f"A LoRA adapter for {shown}{commit}, trained by the workbench for "
        f"{scores.get('step', 0)} steps on "
        f"{', '.join(public_name(name) for name in recipe.data.train_names)}. "
        "All settings: `recipe.yaml`.",
    ]


def _settings(recipe: Recipe) -> list[str]:
    lora, train = recipe.lora, recipe.train
    values = {
        "rank": lora.rank,
        "alpha": f"{lora.alpha:g}{', rsLoRA' if lora.rslora else ''}",
        "dropout": f"{lora.dropout:g}",
        "targets": lora.targets if isinstance(lora.targets, str) else ", ".join(lora.targets),
        "base in": recipe.model.quantization,
        "learning rate": f"{train.learning_rate:g}, {train.schedule}",
        "rows a step": train.rows_per_step,
        "longest row": f"{recipe.data.max_tokens} tokens",
        "seed": train.seed,
    }
    return [f"| {name} | {value} |" for name, value in values.items()]


def _scores(scores: dict[str, Any]) -> list[str]:
    return [
        f"| {name.replace('_', ' ')} | {value:.6g} |"
        for name, value in scores.get("values", {}).items()
        if isinstance(value, int | float) and math.isfinite(value)
    ]


def _loading(shown: str, base: PublishedBase, loader: str) -> list[str]:
    """Return five lines of plain PEFT; a base without a hub id is named by a placeholder."""
    name = base.name if not is_local(base.name) else f"FOLDER OF {shown}"
    commit = f", revision={base.revision!r}" if base.revision else ""
    return [
        "```python",
        "from peft import PeftModel",
        f"from transformers import {loader}, AutoTokenizer",
        'tokenizer = AutoTokenizer.from_pretrained("THIS FOLDER")',
        f"base = {loader}.from_pretrained({name!r}{commit})",
        'model = PeftModel.from_pretrained(base, "THIS FOLDER")',
        "```",
    ]


def _origin(scores: dict[str, Any], versions: dict[str, str], facts: CardFacts) -> list[str]:
    known = {
        "hardware": facts.hardware,
        "digest of the prepared rows": facts.data_digest,
        "digest of the evaluation": str(scores.get("evaluation_digest") or ""),
    }
    lines = [f"* {name}: {value}" for name, value in known.items() if value]
    return [*lines, "* " + ", ".join(f"{name} {version}" for name, version in versions.items())]

"""Names of a recipe's LoRA targets against those of the model's projections."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from workbench.footprint.model.fused_projections import with_fused
from workbench.footprint.model.shape import ModelShape
from workbench.recipe.schema import LLAMA_PROJECTIONS, Lora


def targets_warning(lora: Lora, config: Mapping[str, Any]) -> str:
    """Return a warning where the model has none of the targets, or one is misspelt; else "".

    Only models whose projections have names that are known without building them are judged.
    """
    shape = ModelShape.of(config)
    present = shape.counts.projections if shape.counts and not shape.fused else shape.projections
    if lora.targets == "all-linear" or not (shape.fused or shape.counts):
        return ""
    targets = with_fused(lora.targets, present)
    missing = [
        name for name in targets if name.rsplit(".", 1)[-1] not in present and not _is_table(name)
    ]
    misspelt = misspelt_names(missing, [name for name in present if name not in targets])
    if not misspelt and len(missing) < len(targets):
        return ""
    meant = "".join(f"did you mean {near} for {name}? " for name, near in misspelt.items())
    return (
        f"lora.targets: this model has no {', '.join(misspelt or missing)}, and training refuses "
        f"it; {meant}it has {', '.join(present)}"
    )


def misspelt_names(missing: Sequence[str], free: Collection[str]) -> dict[str, str]:
    """Return the missing names that resemble a projection of the model, with that projection.

    The names of a Llama's projections are no typos: recipes name them for any model, and one that
    lacks some of them trains the others.
    """
    found = {}
    for name in missing:
        near = difflib.get_close_matches(name.rsplit(".", 1)[-1], free, n=1, cutoff=0.75)
        if near and name not in LLAMA_PROJECTIONS:
            found[name] = near[0]
    return found


def adapts_tables(lora: Lora) -> bool:
    """Return whether an adapter is asked for on tables of embeddings."""
    return lora.targets != "all-linear" and any(map(_is_table, lora.targets))


def _is_table(name: str) -> bool:
    return "embed" in name

"""The capacity of an adapter, beside what the training rows hold.

A rule of thumb, right within a factor of two or three at best: a transformer stores about 2 bits
for each trained parameter when it sees the data often, 1 bit when it sees it about 100 times
(Allen-Zhu and Li 2024, arXiv 2404.05405), and text of supervised fine-tuning holds about 1 bit in
each token that carries loss (Schulman et al. 2025, "LoRA Without Regret", Thinking Machines Lab).
Repeating the rows adds nothing to what they hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from workbench.footprint.scoring_plan import adapter_parameters
from workbench.recipe.schema import Range, Recipe

BITS_PER_PARAMETER = 2.0
BITS_PER_TOKEN = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RankCapacity:
    """The adapter of one rank."""

    rank: int
    parameters: int
    tokens: int
    """Tokens with loss whose content it can hold, by the rule above."""


def rank_capacities(recipe: Recipe, config: Mapping[str, Any]) -> list[RankCapacity]:
    """Return the capacity at the smallest and the largest rank that the sweep may try, or at the
    recipe's own rank. `config` is the model's config.json. Raises ModelError where it lacks sizes.
    """
    found = []
    for rank in sorted({min(swept := _ranks(recipe)), max(swept)}):
        lora = recipe.lora.model_copy(update={"rank": rank})
        parameters = adapter_parameters(config, lora)
        tokens = int(parameters * BITS_PER_PARAMETER / BITS_PER_TOKEN)
        found.append(RankCapacity(rank=rank, parameters=parameters, tokens=tokens))
    return found


def capacity_warning(capacities: list[RankCapacity], target_tokens: int) -> str:
    """Return a warning where the rows hold more than the smallest adapter can; else empty."""
    least = capacities[0]
    if target_tokens <= least.tokens:
        return ""
    enough = -(-least.rank * target_tokens // max(least.tokens, 1))
    return (
        f"the rows hold more than an adapter of rank {least.rank} can: {target_tokens:,} tokens "
        f"carry loss, about {least.tokens:,} have room (by a rule of thumb, docs/verdict.md); "
        f"lora.rank: {enough} has room for all"
    )


def _ranks(recipe: Recipe) -> list[int]:
    swept = recipe.sweep.parameters.get("lora.rank") if recipe.sweep else None
    if swept is None:
        return [recipe.lora.rank]
    if isinstance(swept, Range):
        return [int(swept.min), int(swept.max)]
    return [int(value) for value in (swept if isinstance(swept, list) else swept.values)]

"""The plan of a trial that trains nothing: the base, an adapter if any, and rows to score.

There is no optimizer, no gradient and no kept activation, so that a card that could not train an
adapter may still score it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from workbench.errors import DoesNotFit
from workbench.footprint.card_limits import limit_bytes
from workbench.footprint.model.shape import ModelShape
from workbench.footprint.oom_fallback import FallbackStep, hardware_key
from workbench.footprint.peak.buckets import (
    CONTEXT_BYTES,
    CPU_SLACK_BYTES,
    GAPS_BYTES,
    GIB,
    LOSSES_GAPS_BYTES,
    Run,
    answers_bytes,
    constant_bytes,
    losses_bytes,
)
from workbench.footprint.peak.layers import VALUE_BYTES, lora_params
from workbench.footprint.peak.scoring_bytes import generates, low_rank_bytes, mean_rank
from workbench.footprint.plan import Plan
from workbench.footprint.plan_search import PlanSearch
from workbench.footprint.row_lengths import UNREAD, Lengths
from workbench.machine.cards import Card
from workbench.recipe.schema import Lora, Recipe

MOST_TRIES = 3
"""Attempts on one kind of card that may run out of memory. Scoring lowers its rows by itself, so
that what is left is the base and one row, or another process on the card."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """Adapters whose answers are generated beside those of the planned trial."""

    parameters: int
    """Values of all of them."""
    lanes: int
    """Rows to answer at once, where they fit."""


def plan_scoring(
    recipe: Recipe,
    config: Mapping[str, Any],
    card: Card,
    *,
    free_bytes: int | None = None,
    lengths: Lengths = UNREAD,
    adapter_parameters: int = 0,
    ran_out: Sequence[FallbackStep] = (),
    beside: Beside | None = None,
) -> Plan:
    """Return the plan of scoring rows on that card: how many at a time, and the predicted bytes.

    `config` is the model's config.json, `lengths` those of the prepared rows, `adapter_parameters`
    the number of the adapter's values, and `ran_out` the attempts of the experiment that ran out of
    memory. Rows are as many as the recipe asks for, or as fit the whole card, so that all adapters
    of an experiment are scored alike; fewer only where other programs hold the card's memory.
    `beside` are adapters whose answers are generated in the same pass: the plan has `eval_lanes`
    where there is room for that with as many rows as without. Raises DoesNotFit where one row does
    not fit, and otherwise what `plan_trial` raises.
    """
    search = PlanSearch.of(recipe, config, card, lengths)

    def fits(run: Run, limit: int, more: int = 0) -> bool:
        return sum(scoring_buckets(search, run, adapter_parameters + more).values()) <= limit

    limit = limit_bytes(card, free_bytes)
    run = search.scored(search.run, partial(fits, limit=limit_bytes(card)))
    if not fits(run, limit):
        run = search.scored(search.run, partial(fits, limit=limit))
    tries = [step for step in ran_out if step.hardware == hardware_key(card)]
    if not fits(run, limit) or len(tries) >= MOST_TRIES:
        raise _refusal(search, card, limit, adapter_parameters, len(tries))
    rows, lanes, parameters = run.eval_rows, 0, adapter_parameters
    if beside is not None and run.decodes(search.shape) and generates(recipe):
        wide = search.scored(run, partial(fits, limit=limit, more=beside.parameters), beside.lanes)
        if wide.eval_rows > 1 and wide.eval_rows >= min(rows, beside.lanes):
            run, lanes, parameters = wide, wide.eval_rows, parameters + beside.parameters
    return _plan_of(search, run, scoring_buckets(search, run, parameters), rows, lanes)


def _plan_of(search: PlanSearch, run: Run, buckets: dict[str, int], rows: int, lanes: int) -> Plan:
    """Return the plan of a run that scores `rows` rows at once, or `lanes` of several adapters."""
    return Plan(
        precision=run.precision,
        attention=search.attention,
        attention_why=search.why,
        optimizer=run.optimizer,
        rows_per_step=1,
        tokens_per_micro=run.longest,
        longest=run.longest,
        layers=search.shape.layers,
        predicted_bytes=sum(buckets.values()),
        buckets=buckets,
        eval_batch=rows,
        eval_lanes=lanes,
        eval_dequantised=run.eval_dequantised,
    )


def adapter_parameters(config: Mapping[str, Any], lora: Lora) -> int:
    """Return the number of values of an adapter with these settings on the model of that config."""
    return lora_params(ModelShape.of(config), lora)


def scoring_buckets(search: PlanSearch, run: Run, parameters: int) -> dict[str, int]:
    """Return the predicted peak bytes of scoring, by what takes them."""
    run = replace(run, dequantised_layers=0)
    shape, decodes = search.shape, run.decodes(search.shape)
    # The adapters that are scored, which may have other ranks than the recipe's.
    rank = max(1, math.ceil(mean_rank(shape, parameters))) if decodes else search.recipe.lora.rank
    lora = search.recipe.lora.model_copy(update={"rank": rank})
    recipe = search.recipe.model_copy(update={"lora": lora})
    scored = losses_bytes(shape, recipe, run)
    if decodes and generates(recipe):
        low_rank = low_rank_bytes(shape, run.precision, rank=mean_rank(shape, parameters))
        scored = max(scored, answers_bytes(shape, recipe, run) + low_rank)
    # PEFT's own modules, which score all other models, copy the adapter to 16 bits.
    value = VALUE_BYTES[run.precision]
    copies = parameters * value if value < 4 and not decodes else 0
    gaps = GAPS_BYTES if generates(recipe) else LOSSES_GAPS_BYTES
    return {
        **constant_bytes(shape, recipe, run),
        "adapter": parameters * 4 + copies,
        "gradients": 0,
        "optimizer": 0,
        "evaluation": scored,
        "slack": gaps if run.card_kind == "cuda" else CPU_SLACK_BYTES,
        "context": CONTEXT_BYTES[run.card_kind],
    }


def _refusal(search: PlanSearch, card: Card, limit: int, parameters: int, tries: int) -> DoesNotFit:
    """Return why one row at a time does not fit, or has run out of memory `tries` times."""
    one = replace(search.run, eval_rows=1)
    needed = sum(scoring_buckets(search, one, parameters).values()) / GIB
    what = (
        f"scoring one row at a time needs {needed:.1f} GiB; {card.name} has {limit / GIB:.1f} GiB "
        "available"
    )
    if tries:
        what = f"it ran out of memory on {card.name} {tries} times, scoring one row at a time"
    return DoesNotFit(
        what,
        hint="lower data.max_tokens or evaluate.max_new_tokens, free the card of other processes, "
        "or use a bigger one",
    )

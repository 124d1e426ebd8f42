"""The fastest plan that fits a card, or a refusal with the nearest settings that would fit.

`planner.plan_trial` adds to it what earlier attempts have shown; nobody else asks here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from workbench.errors import DoesNotFit
from workbench.footprint.card_limits import DRIVER_BYTES, limit_bytes
from workbench.footprint.peak.buckets import GIB, Run, host_bytes, predict, table_bytes
from workbench.footprint.plan import Plan
from workbench.footprint.plan_search import PlanSearch, largest_fitting, optimizers_of
from workbench.footprint.row_lengths import UNREAD, Lengths
from workbench.machine.cards import Card
from workbench.recipe.schema import Recipe


def choose_plan(
    recipe: Recipe,
    config: Mapping[str, Any],
    card: Card,
    free_bytes: int | None = None,
    *,
    lengths: Lengths = UNREAD,
    previous_tokens_per_micro: int | None = None,
    correction: float = 1.0,
    advise: bool = True,
) -> Plan:
    """Return the fastest plan for `recipe` on `card`; `config` is the model's config.json.

    The arguments and errors are those of planner.plan_trial. `correction` is the factor by which
    such plans took more than predicted: the plan keeps within the card's bytes divided by it.

    All ways to cut the batch into micro-steps are compared, each with as few recomputing layers as
    it needs and as many dequantised ones as there is room for, by the time they take (cost.py) on
    batches of such rows. Rows that are seldom as long may go alone, with more recomputing. Where
    recomputing every layer is not enough, tables of embeddings stay in the machine's memory, and
    then the layers' inputs wait there, too.
    """
    search = PlanSearch.of(recipe, config, card, lengths)
    room = limit_bytes(card, free_bytes)
    limit = int(room / correction)
    kept = [previous_tokens_per_micro] if previous_tokens_per_micro else []
    for sizes in (kept, search.sizes()):
        for optimizer in optimizers_of(recipe):
            found = search.fastest(optimizer, sizes, limit)
            if found is not None:
                return search.plan(found, limit)
    raise _refusal(search, card, room, correction, advise)


def least_bytes(
    recipe: Recipe, config: Mapping[str, Any], card: Card, lengths: Lengths = UNREAD
) -> int:
    """Return the bytes that the leanest plan on a card of this kind takes.

    Raises what choose_plan raises, except DoesNotFit.
    """
    return PlanSearch.of(recipe, config, card, lengths).least


def leanest_plan(
    recipe: Recipe, config: Mapping[str, Any], card: Card, lengths: Lengths = UNREAD
) -> Plan:
    """Return the plan of fewest bytes, whether or not it fits the card."""
    search = PlanSearch.of(recipe, config, card, lengths)
    return search.plan(search.leanest, 0)


def price_plan(
    plan: Plan,
    recipe: Recipe,
    config: Mapping[str, Any],
    card: Card,
    lengths: Lengths = UNREAD,
) -> Plan:
    """Return `plan`, whose settings were changed by hand, with the bytes that it takes now.

    What the card or the model does not support is switched off: offload, tables elsewhere.
    """
    search = PlanSearch.of(recipe, config, card, lengths)
    run = replace(
        search.run,
        optimizer=plan.optimizer,
        precision=plan.precision,
        tokens_per_micro=plan.tokens_per_micro,
        recompute_layers=plan.recompute_layers,
        long_recompute_layers=plan.long_recompute_layers,
        offload=plan.offload and search.offloads,
        host_tables=plan.host_tables and search.moves_tables,
        dequantised_layers=plan.dequantised_layers,
        eval_rows=plan.eval_batch,
        eval_dequantised=plan.eval_dequantised,
        keeps_graphs=plan.keeps_graphs,
    )
    buckets = predict(search.shape, recipe, run)
    return replace(
        plan,
        buckets=buckets,
        predicted_bytes=sum(buckets.values()),
        offload=run.offload,
        host_bytes=host_bytes(search.shape, run),
        host_tables=run.host_tables,
        table_bytes=table_bytes(search.shape, run),
    )


def _refusal(
    search: PlanSearch, card: Card, room: int, correction: float, advise: bool
) -> DoesNotFit:
    """Return why the leanest plan does not fit `room` bytes; with `advise`, what would."""
    recipe, run, limit = search.recipe, search.leanest, int(room / correction)
    least = int(search.least * correction)
    measured = ""
    if correction > 1:
        measured = (
            f" (by what was measured here, it takes {correction - 1:.0%} more than predicted)"
        )

    def needed(changed: Recipe = recipe, **how: Any) -> int:
        return sum(predict(search.shape, changed, replace(run, **how)).values())

    hints = list(_hints(search, run, needed, limit)) if advise else []
    hints.append(f"use a card with {-(-(least + DRIVER_BYTES) // GIB)} GiB")
    return DoesNotFit(
        f"{recipe.name} needs at least {least / GIB:.1f} GiB{measured}, one row of {run.longest} "
        f"tokens at a time; {card.name} has {room / GIB:.1f} GiB available",
        hint=", or ".join(hints),
    )


def _hints(search: PlanSearch, run: Run, needed: Callable[..., int], limit: int) -> Iterator[str]:
    """Yield the nearest settings that fit, each alone."""
    recipe = search.recipe
    if not run.recompute_layers and needed(**search.ways("auto")[-1]) <= limit:
        yield "set train.gradient_checkpointing: auto"
    nf4 = _with(recipe, "model", quantization="nf4")
    if recipe.model.quantization == "none" and needed(nf4) <= limit:
        yield "set model.quantization: nf4"

    def shorter(tokens: int) -> bool:
        cut = _with(recipe, "data", max_tokens=tokens)
        scored = min(tokens, run.scored)
        return needed(cut, tokens_per_micro=tokens, longest=tokens, scored=scored) <= limit

    most = min(run.longest - 1, search.shape.positions or run.longest)
    if tokens := largest_fitting(most, shorter):
        nice = tokens // 64 * 64 or tokens
        if nice >= 8:
            yield f"lower data.max_tokens to {nice}"
    rank = largest_fitting(
        recipe.lora.rank - 1, lambda n: needed(_with(recipe, "lora", rank=n)) <= limit
    )
    if rank:
        yield f"lower lora.rank to {1 << (rank.bit_length() - 1)}"


def _with(recipe: Recipe, section: str, **changes: Any) -> Recipe:
    changed = getattr(recipe, section).model_copy(update=changes)
    return recipe.model_copy(update={section: changed})

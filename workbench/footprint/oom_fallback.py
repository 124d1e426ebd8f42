"""The out-of-memory fallback: what the next attempt changes after the card ran out of memory.

The steps, in order: no dequantised layers, smaller micro-steps, recompute, layers' inputs and
tables of embeddings in the machine's memory; captured graphs stay for the next trial in none of
them. Nothing is stored beside the attempts: the plans that ran out of memory on one kind of
hardware decide at which step the next attempt there begins, for every trial of the experiment that
would get the same plan. The batch, and with it the losses, stay the recipe's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from workbench.footprint.plan import Plan, uncorrected_bytes
from workbench.machine.cards import Card

RETRIED_STAGES = ("rehearsing", "training", "evaluating", "saving")
"""Stages in which the worker itself empties the cache and retries once before the attempt ends."""
_NOT_SETTINGS = ("predicted_bytes", "host_bytes", "table_bytes", "buckets", "attention_why")
"""Fields of a stored plan that may differ between two plans that run alike."""
Key = tuple[object, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FallbackStep:
    """An attempt that ran out of memory: the plan that was too much, and for what hardware."""

    hardware: Key
    """`hardware_key` of its card."""
    plan: dict[str, Any]
    """The plan as it was stored."""
    stage: str
    """The stage of the attempt: loading, rehearsing, training, evaluating or saving."""


def hardware_key(card: Card) -> Key:
    """Return a key that is equal for cards that share memory measurements.

    Names count for GPUs alone: CPU cards are numbered, and differ in nothing else.
    """
    name = card.name if card.kind == "cuda" else ""
    return (card.kind, name, card.total_bytes, card.cap_bytes)


def fallback_plan(
    plan: Plan, steps: Iterable[FallbackStep], *, recompute: bool, price: Callable[[Plan], Plan]
) -> Plan | None:
    """Return `plan`, or the first plan below it that `steps` do not show to be too much.

    `steps` are the attempts that ran out of memory on this hardware. `recompute` says whether the
    recipe allows it; `price` predicts the bytes of a plan that was changed. Returns None where
    every step has run out of memory.
    """
    known = list(steps)
    while (stage := _failed_stage(plan, known)) is not None:
        lower = next_fallback(plan, stage, recompute=recompute)
        if lower is None or plan_settings(lower := price(lower)) == plan_settings(plan):
            return None
        plan = lower
    return plan


def next_fallback(plan: Plan, stage: str = "training", *, recompute: bool = True) -> Plan | None:
    """Return the plan one step below `plan`, or None after the last step; bytes are not updated.

    `stage` is where memory ran out. In training: no dequantised layers, all layers recomputed for
    rows that go alone, half the rows in a micro-step, every layer recomputed, layers' inputs and
    tables of embeddings in the machine's memory. In an evaluation its worker has already come down
    to one row, so that only graphs that stay and dequantised layers are left to drop. While loading
    there is nothing to make smaller. Pricing takes back what the card or the model cannot do.
    """
    if plan.keeps_graphs and stage == "evaluating":
        return replace(plan, keeps_graphs=False)
    plan = replace(plan, keeps_graphs=False)
    keeps = plan.dequantised_layers or plan.eval_dequantised
    if stage == "loading" or (stage == "evaluating" and not keeps):
        return None
    if stage == "evaluating":
        return replace(plan, dequantised_layers=0, eval_dequantised=False, eval_batch=1)
    if plan.dequantised_layers:
        return replace(plan, dequantised_layers=0)
    longest, layers = plan.longest, plan.layers
    if plan.tokens_per_micro < longest and plan.long_recompute_layers < layers and recompute:
        return replace(plan, long_recompute_layers=layers)
    if plan.tokens_per_micro > longest:
        rows = -(-plan.tokens_per_micro // longest)
        return replace(plan, tokens_per_micro=max(1, rows // 2) * longest)
    if recompute and plan.recompute_layers < layers:
        return replace(plan, recompute_layers=layers, long_recompute_layers=layers)
    if (recompute and not plan.offload) or not plan.host_tables:
        offload = plan.offload or recompute
        return replace(plan, offload=offload, host_tables=True, tokens_per_micro=longest)
    return None


def plan_settings(plan: Plan) -> dict[str, Any]:
    """Return the fields that decide how a trial runs, without what was predicted of it."""
    return {key: value for key, value in plan.to_json().items() if key not in _NOT_SETTINGS}


def _failed_stage(plan: Plan, steps: Iterable[FallbackStep]) -> str | None:
    """Return the stage in which this way of running has proved too much, or None.

    An attempt whose plan was predicted to take less than `plan` counts against it; one that was
    predicted to take more does not.
    """
    mine = plan.to_json()
    tries: dict[str, int] = {}
    for step in steps:
        if uncorrected_bytes(step.plan) > uncorrected_bytes(mine) or not _alike(mine, step.plan):
            continue
        # In the other stages nobody has retried on an emptied card yet, so that one more attempt
        # with the same plan is due before the next step.
        tries[step.stage] = tries.get(step.stage, 0) + (2 if step.stage in RETRIED_STAGES else 1)
        if tries[step.stage] >= 2:
            return step.stage
    return None


def _alike(mine: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Return whether two stored plans run alike; rows scored at once are left out.

    A worker that runs out of memory while scoring has already come down to one row.
    """
    keys = {*mine, *other} - {*_NOT_SETTINGS, "eval_batch", "eval_lanes"}
    return all(mine.get(key) == other.get(key) for key in keys)

"""The way down when a card runs out of memory all the same: finer micro-steps, then recompute,
then layers' inputs in the machine's memory.

Nothing is kept beside the record of attempts: which plans ran out on a kind of card says on which
rung the next attempt there begins, for every trial of the experiment that would take the same plan.
The batch, and with it the losses, stay those of the recipe.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from workbench.footprint.plan import Plan, shown
from workbench.machine.cards import Card

EMPTIED = ("rehearsing", "training", "evaluating", "saving")
"""Stages in which the worker itself has emptied the cache and tried once more before it gave up."""
_BESIDE = ("predicted_bytes", "host_bytes", "buckets", "attention_why")
"""What does not make two plans two ways of running."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fall:
    """An attempt that ran out of memory."""

    card: tuple[object, ...]
    """kind_of its card."""
    plan: dict[str, Any]
    stage: str
    """What it was doing: loading, rehearsing, training, evaluating, saving."""


def kind_of(card: Card) -> tuple[object, ...]:
    """Equal for cards of which one tells what the other can do. CPU cards differ in name alone."""
    name = card.name if card.kind == "cuda" else ""
    return (card.kind, name, card.total_bytes, card.cap_bytes)


def climb_down(
    plan: Plan, falls: Iterable[Fall], *, recompute: bool, price: Callable[[Plan], Plan]
) -> Plan | None:
    """The first rung from `plan` on that none of `falls` has shown to be too much; None if none is.

    `recompute`: whether the recipe allows it. `price` predicts a plan's bytes.
    """
    known = list(falls)
    while (stage := _ran_out(plan, known)) is not None:
        lower = squeeze(plan, stage, recompute=recompute)
        if lower is None or way_of(lower := price(lower)) == way_of(plan):
            return None
        plan = lower
    return plan


def squeeze(plan: Plan, stage: str = "training", *, recompute: bool = True) -> Plan | None:
    """The rung below: no layer unpacked, all recomputed in longer rows that go alone, half the rows
    at a time, every layer recomputed, their inputs in the machine's memory; None at the last.
    Pricing takes back what the card or the model cannot do.

    Out of memory in an evaluation: its worker had come down to one row, so that only unpacked
    layers are left to give up. While loading, there is nothing to make smaller.
    """
    if stage == "loading" or (stage == "evaluating" and not plan.resident_layers):
        return None
    if stage == "evaluating":
        return replace(plan, resident_layers=0, eval_batch=1)
    if plan.resident_layers:
        return replace(plan, resident_layers=0)
    longest, layers = plan.longest, plan.layers
    if plan.tokens_per_micro < longest and plan.long_recompute_layers < layers and recompute:
        return replace(plan, long_recompute_layers=layers)
    if plan.tokens_per_micro > longest:
        rows = -(-plan.tokens_per_micro // longest)
        return replace(plan, tokens_per_micro=max(1, rows // 2) * longest)
    if recompute and plan.recompute_layers < layers:
        return replace(plan, recompute_layers=layers, long_recompute_layers=layers)
    if recompute and not plan.offload:
        return replace(plan, offload=True, tokens_per_micro=longest)
    return None


def words(plan: Plan | Mapping[str, Any]) -> str:
    """A rung for people: `2 rows × 2, recomputing every layer`."""
    told = plan if isinstance(plan, Plan) else Plan.from_json(dict(plan))
    rows, tokens = told.micro_batch, told.tokens_per_micro
    cut = f"{rows} row{'s' if rows > 1 else ''} × {told.micro_steps}"
    if tokens != rows * told.longest:
        cut = f"{tokens:,} tokens at a time"
    again = shown(told.to_json())["recompute"]
    return cut + (f", recomputing {again}" if told.long_recompute_layers else "")


def raw_bytes(plan: Mapping[str, Any]) -> int:
    """What was predicted before any correction by what was measured."""
    buckets = plan.get("buckets") or {}
    return sum(int(size) for size in buckets.values()) or int(plan.get("predicted_bytes") or 0)


def _ran_out(plan: Plan, falls: Iterable[Fall]) -> str | None:
    """In which stage this way of running has proved too much; None while it may be tried.

    A plan that was meant to take less tells of this one too; one that took more does not.
    """
    mine = plan.to_json()
    tries: dict[str, int] = {}
    for fall in falls:
        if raw_bytes(fall.plan) > raw_bytes(mine) or not _alike(mine, fall.plan):
            continue
        tries[fall.stage] = tries.get(fall.stage, 0) + (2 if fall.stage in EMPTIED else 1)
        if tries[fall.stage] >= 2:  # once more on an emptied card, then no more
            return fall.stage
    return None


def way_of(plan: Plan) -> dict[str, Any]:
    """What of a plan decides how a trial runs, and not what was predicted of it."""
    return {key: value for key, value in plan.to_json().items() if key not in _BESIDE}


def _alike(mine: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Rows scored at once do not count: whoever ran out had come down to one where they matter."""
    keys = {*mine, *other} - {*_BESIDE, "eval_batch"}
    return all(mine.get(key) == other.get(key) for key in keys)

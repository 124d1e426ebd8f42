"""Out of memory goes down its ladder: the record of attempts says on which rung the next begins."""

from __future__ import annotations

from dataclasses import replace
from itertools import takewhile

from workbench.errors import DoesNotFit
from workbench.footprint import Plan
from workbench.footprint.choose import limit_bytes, priced
from workbench.footprint.oom_fallback import Fall, climb_down, kind_of, raw_bytes, words
from workbench.footprint.row_lengths import UNREAD, Lengths
from workbench.machine.cards import Card
from workbench.recipe import Recipe
from workbench.scheduler.tick_context import TickContext
from workbench.store.ingest import End
from workbench.store.rows import Experiment, TrialRow, card_of
from workbench.trial import State

OUT_OF_MEMORY = "out_of_memory"
HOST_MEMORY = "host_memory"
MOST_FALLS = 24
"""In a row, after which a trial fails whatever rungs are left: they are not what is wrong."""
MOST_WAITS = 6
"""The same for attempts that gave up because the machine itself had no memory left."""
GIB = 1 << 30


def falls(context: TickContext, experiment: int) -> tuple[Fall, ...]:
    """Attempts of the experiment that ran out of memory, on cards that are known."""
    if experiment not in context.falls:
        kinds = {row.uuid: kind_of(card_of(row)) for row in context.cards}
        context.falls[experiment] = tuple(
            Fall(card=kinds[card], plan=Plan.from_json(plan).to_json(), stage=stage)
            for card, plan, stage in context.store.out_of_memory(experiment)
            if card in kinds
        )
    return context.falls[experiment]


def on_its_rung(
    plan: Plan,
    known: tuple[Fall, ...],
    recipe: Recipe,
    experiment: Experiment,
    card: Card,
    free_bytes: int | None = None,
    rows: Lengths = UNREAD,
) -> Plan:
    """`plan`, or the rung below that has not run out on this kind of card. DoesNotFit after the
    last, with the arithmetic."""
    mine = [fall for fall in known if fall.card == kind_of(card)]
    if not mine:
        return plan
    assert experiment.prepared is not None
    config = experiment.prepared["model"]["config"]
    found = climb_down(
        plan,
        mine,
        recompute=recipe.train.gradient_checkpointing != "off",
        price=lambda lower: priced(lower, recipe, config, card, rows),
    )
    if found is not None:
        return found
    tried = {words(fall.plan): raw_bytes(fall.plan) / GIB for fall in mine}
    told = "; ".join(f"{way}: {size:.1f} GiB predicted" for way, size in tried.items())
    longest = min(rows["longest"] or recipe.data.max_tokens, recipe.data.max_tokens)
    half = recipe.data.model_copy(update={"max_tokens": max(8, longest // 2)})
    last = Plan.from_json(mine[-1].plan)
    tokens = last.micro_batch * half.max_tokens
    last = replace(last, tokens_per_micro=tokens, longest=half.max_tokens)
    less = priced(last, recipe.model_copy(update={"data": half}), config, card, rows)
    raise DoesNotFit(
        f"it ran out of memory on {card.name} on every rung ({told}) of "
        f"{limit_bytes(card, free_bytes) / GIB:.1f} GiB to be had",
        hint=f"lower data.max_tokens to {half.max_tokens} "
        f"({raw_bytes(less.to_json()) / GIB:.1f} GiB predicted), lower lora.rank, free the card "
        "of other processes, or use a bigger one",
    )


def after(context: TickContext, trial: TrialRow, end: End) -> tuple[State, str] | None:
    """Where a trial goes that ran out of memory, and why; None where its end is another."""
    if end.cause not in (OUT_OF_MEMORY, HOST_MEMORY):
        return None
    tries = context.store.attempts(trial.id)
    row = len(list(takewhile(lambda attempt: attempt.cause == end.cause, reversed(tries))))
    if row >= (MOST_FALLS if end.cause == OUT_OF_MEMORY else MOST_WAITS):
        return State.FAILED, f"{end.reason}, {row} times in a row"
    since = f"from step {trial.checkpoint_step}" if trial.checkpoint_step else "from the start"
    how = "on its next rung, " if end.cause == OUT_OF_MEMORY else ""
    why = f"{end.reason}; it goes on {how}{since}"
    context.store.note(
        end.cause.replace("_", "-"),
        f"trial {trial.id}: {why}",
        level="warning",
        trial=trial.id,
        experiment=trial.experiment,
    )
    return State.QUEUED, why

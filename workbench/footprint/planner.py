"""The planner: the one place that decides which plan a trial gets on a card.

A plan is made in three steps, each a pure function of its arguments: the fastest plan that fits
(`choose`), corrected by what finished attempts measured (`measured_peaks`), and lowered where
attempts with that plan ran out of memory (`oom_fallback`). The scheduler, the commands `plan`,
`check` and `run`, and the foreground `train` all call `plan_trial`, so that equal arguments give
all of them the same plan.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from workbench.errors import DoesNotFit
from workbench.footprint.card_limits import limit_bytes
from workbench.footprint.choose import choose_plan, leanest_plan, price_plan
from workbench.footprint.measured_peaks import corrected_plan
from workbench.footprint.model.positions import model_positions
from workbench.footprint.oom_fallback import FallbackStep, Key, fallback_plan, hardware_key
from workbench.footprint.peak.buckets import GIB
from workbench.footprint.plan import Plan, summarize_plan, uncorrected_bytes
from workbench.footprint.row_lengths import UNREAD, Lengths
from workbench.machine.cards import Card
from workbench.recipe.schema import Recipe

Config = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """Results of earlier attempts that change a plan, as plain values."""

    factors: Mapping[Key, float] = field(default_factory=dict)
    """Measured over predicted bytes by class of plans, from `measured_peaks.learn_factors`."""
    fallback_steps: tuple[FallbackStep, ...] = ()
    """Attempts of the same experiment that ran out of memory, oldest first, on any hardware."""


NO_HISTORY = History()


def plan_trial(
    recipe: Recipe,
    config: Config,
    card: Card,
    *,
    free_bytes: int | None = None,
    lengths: Lengths = UNREAD,
    history: History = NO_HISTORY,
    previous_tokens_per_micro: int | None = None,
    measured_as: Card | None = None,
    advise: bool = True,
) -> Plan:
    """Return the plan of a trial with that recipe on that card.

    `config` is the model's config.json. `free_bytes` is what the driver reports as free now; None
    plans for the whole card. `lengths` are those of the prepared rows; unread rows count as
    data.max_tokens long. `previous_tokens_per_micro` is the micro-step of the checkpoint from which
    the trial goes on: dropout's masks depend on it, so that it is kept where it still fits.
    `measured_as` is the card whose measurements correct the plan, where that is not `card` itself,
    which may be an imagined one.

    Takes 2 to 12 ms. Raises DoesNotFit with the nearest settings that fit (finding them takes
    longer than the rest; `advise=False` leaves all but the card's size out), ModelError for a model
    that cannot be planned, and WorkbenchError where the card lacks the precision or attention that
    the recipe asks for by name.
    """
    hardware = hardware_key(measured_as or card)

    def corrected(plan: Plan) -> Plan:
        return corrected_plan(plan, history.factors, hardware, config)

    def choose(correction: float) -> Plan:
        plan = choose_plan(
            recipe,
            config,
            card,
            free_bytes,
            lengths=lengths,
            previous_tokens_per_micro=previous_tokens_per_micro,
            correction=correction,
            advise=advise,
        )
        return corrected(plan)

    try:
        plan = _fit_corrected(choose, limit_bytes(card, free_bytes))
    except DoesNotFit:
        leanest = leanest_plan(recipe, config, card, lengths)
        factor = corrected(leanest).predicted_bytes / leanest.predicted_bytes
        if factor > 1:
            # Refuses as well, naming the bytes that the leanest plan really takes and a card that
            # is large enough for them.
            choose(factor)
        raise
    ran_out = [step for step in history.fallback_steps if step.hardware == hardware]
    if not ran_out:
        return plan
    return corrected(_lowered(plan, ran_out, recipe, config, card, lengths, free_bytes))


def _lowered(
    plan: Plan,
    ran_out: Sequence[FallbackStep],
    recipe: Recipe,
    config: Config,
    card: Card,
    lengths: Lengths,
    free_bytes: int | None,
) -> Plan:
    """Return the plan at the fallback step after those that ran out of memory, not yet corrected.

    Raises DoesNotFit after the last one.
    """
    lower = fallback_plan(
        plan,
        ran_out,
        recompute=recipe.train.gradient_checkpointing != "off",
        price=lambda changed: price_plan(changed, recipe, config, card, lengths),
    )
    if lower is None:
        limit = limit_bytes(card, free_bytes)
        raise _no_fallback_left(recipe, config, card, lengths, ran_out, limit)
    return lower


def _fit_corrected(choose: Callable[[float], Plan], limit: int) -> Plan:
    """Return the plan that still keeps within `limit` bytes after its correction.

    `choose` gives the corrected plan whose prediction keeps within `limit` divided by a factor. The
    factor depends on the class of the plan, which changes with the room: hence a loop, in which the
    room shrinks until the plan fits, or `choose` raises DoesNotFit.
    """
    tighter = 1.0
    plan = choose(tighter)
    while plan.predicted_bytes > limit:
        tighter = max(tighter * 1.001, plan.predicted_bytes / uncorrected_bytes(plan.to_json()))
        plan = choose(tighter)
    return plan


def _no_fallback_left(
    recipe: Recipe,
    config: Config,
    card: Card,
    lengths: Lengths,
    ran_out: Sequence[FallbackStep],
    limit: int,
) -> DoesNotFit:
    """Return the refusal after the last fallback step, with the bytes of each that was tried."""
    tried = {summarize_plan(step.plan): uncorrected_bytes(step.plan) / GIB for step in ran_out}
    listed = "; ".join(f"{way}: {size:.1f} GiB predicted" for way, size in tried.items())
    longest = min(lengths["longest"] or recipe.data.max_tokens, recipe.data.max_tokens)
    fewer = min(longest // 2, model_positions(config) or longest)
    half = recipe.data.model_copy(update={"max_tokens": max(8, fewer)})
    last = Plan.from_json(ran_out[-1].plan)
    tokens = last.micro_batch * half.max_tokens
    shorter = replace(last, tokens_per_micro=tokens, longest=half.max_tokens)
    priced = price_plan(shorter, recipe.model_copy(update={"data": half}), config, card, lengths)
    return DoesNotFit(
        f"it ran out of memory on {card.name} at every fallback step ({listed}), of "
        f"{limit / GIB:.1f} GiB available",
        hint=f"lower data.max_tokens to {half.max_tokens} "
        f"({uncorrected_bytes(priced.to_json()) / GIB:.1f} GiB predicted), lower lora.rank, free "
        "the card of other processes, or use a bigger one",
    )

"""A recipe's outlook on a card: its plan there, or the nearest settings with which it would fit."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from workbench.errors import DoesNotFit
from workbench.footprint.card_limits import limit_bytes
from workbench.footprint.choose import least_bytes
from workbench.footprint.measured_peaks import FLOOR
from workbench.footprint.model.families import Family, family_of
from workbench.footprint.model.shape import ModelShape
from workbench.footprint.peak.buckets import GIB
from workbench.footprint.plan import Plan
from workbench.footprint.planner import NO_HISTORY, Config, History, plan_trial
from workbench.footprint.row_lengths import UNREAD, Lengths
from workbench.footprint.suggestions import Changes, Suggestion, suggest_card, suggest_settings
from workbench.footprint.usual_cards import SIZES_GB, card_of_size
from workbench.machine.cards import Card
from workbench.recipe import apply_settings
from workbench.recipe.schema import Recipe

STEP_BYTES = GIB // 8
"""The precision with which the smallest card that takes a recipe is found."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """A recipe on a card: whether it fits, how it would run, and what would make it fit."""

    card: Card
    fits: bool
    """True if the plan keeps within the room; where weights are not counted, if the upper end of
    its interval does."""
    room_bytes: int
    """The most bytes that a plan may take on the card."""
    plan: Plan
    """The plan; where it does not fit, the plan on the smallest card that takes it."""
    reason: str = ""
    """The reason why it does not fit."""
    suggestions: tuple[Suggestion, ...] = ()
    family: Family
    """The model's architecture, and how far its predictions can be trusted."""
    point: Changes = field(default_factory=dict)
    """The settings of the trial of a sweep that was judged; empty for a recipe without one."""

    @property
    def range_bytes(self) -> tuple[int, int]:
        """The least and the most bytes of the peak; they differ where weights are not counted."""
        return _range_of(self.plan, self.family)

    @property
    def undecided(self) -> bool:
        """True if weights are not counted, and the answer depends on how many they are."""
        return not self.fits and self.range_bytes[0] <= self.room_bytes and not self.family.counted

    @property
    def factor(self) -> float:
        """The correction of the peak by what was measured on such hardware; 1 without any."""
        return round(self.plan.predicted_bytes / sum(self.plan.buckets.values()), 4)

    @property
    def left_bytes(self) -> int:
        """Room that the plan leaves free; negative where it does not fit."""
        return self.room_bytes - self.plan.predicted_bytes


def outlook_on(
    recipe: Recipe,
    config: Config,
    card: Card,
    lengths: Lengths = UNREAD,
    history: History = NO_HISTORY,
) -> Outlook:
    """Return the outlook of a recipe on a card, all of it free, with suggestions.

    Takes some 10 ms, and up to a second where it does not fit. Raises ModelError for a model that
    cannot be planned, and WorkbenchError where the card lacks what the recipe asks for by name.
    """
    family = family_of(ModelShape.of(config))
    try:
        plan = plan_trial(recipe, config, card, lengths=lengths, history=history, advise=False)
        return _fitting_on(card, plan, family)
    except DoesNotFit as refused:
        size, least = smallest_card(recipe, config, card, lengths, history)
        outlook = _refused_by(card, refused, least, family)
    if not family.counted:  # nothing is suggested that may prove wrong
        return outlook

    def plan_with(changes: Changes) -> Plan | None:
        return _plan_if_fits(apply_settings(recipe, changes), config, card, lengths, history)

    settings = suggest_settings(recipe, config, lengths, plan_with)
    return replace(outlook, suggestions=(*settings, suggest_card(size, least.predicted_bytes)))


def usual_outlooks(recipe: Recipe, config: Config) -> list[Outlook]:
    """Return the outlook on cards of the usual sizes, smallest first, without suggestions."""
    family = family_of(ModelShape.of(config))
    found: list[Outlook] = []
    least: Plan | None = None
    for card in (card_of_size(gb * GIB, f"{gb} GB") for gb in SIZES_GB):
        try:
            plan = plan_trial(recipe, config, card, advise=False)
            found.append(_fitting_on(card, plan, family))
        except DoesNotFit as refused:
            # The cards differ in size alone, so that the leanest plan is the same for all.
            least = least or smallest_card(recipe, config, card)[1]
            found.append(_refused_by(card, refused, least, family))
    return found


def smallest_card(
    recipe: Recipe,
    config: Config,
    card: Card,
    lengths: Lengths = UNREAD,
    history: History = NO_HISTORY,
) -> tuple[int, Plan]:
    """Return the bytes of the smallest card of that kind that takes the recipe, and its plan there.

    The bytes are a multiple of STEP_BYTES. Raises what plan_trial raises, except DoesNotFit.
    """

    def plan_on(steps: int) -> Plan | None:
        imagined = resized_card(card, steps * STEP_BYTES)
        return _plan_if_fits(recipe, config, imagined, lengths, history, measured_as=card)

    # A correction lowers a prediction by FLOOR at most, so that nothing smaller can fit.
    low = int(least_bytes(recipe, config, card, lengths) * FLOOR) // STEP_BYTES
    reach = 8
    while (best := plan_on(low + reach)) is None:
        low, reach = low + reach + 1, 2 * reach
    high = low + reach
    while low < high:
        middle = (low + high) // 2
        if (found := plan_on(middle)) is None:
            low = middle + 1
        else:
            high, best = middle, found
    return high * STEP_BYTES, best


def resized_card(card: Card, total_bytes: int) -> Card:
    """Return a card that differs from `card` in its size alone, without a cap."""
    return replace(card, total_bytes=max(1, total_bytes), cap_bytes=None)


def _fitting_on(card: Card, plan: Plan, family: Family) -> Outlook:
    room = limit_bytes(card)
    fits = _range_of(plan, family)[1] <= room
    reason = "" if fits else "its weights are not counted, and may take more than there is room for"
    return Outlook(card=card, fits=fits, room_bytes=room, plan=plan, family=family, reason=reason)


def _range_of(plan: Plan, family: Family) -> tuple[int, int]:
    """Return the least and the most bytes of a plan's peak."""
    weights = sum(plan.buckets[name] for name in ("base", "unpacked", "embeddings"))
    return family.range_bytes(plan.predicted_bytes, weights)


def _refused_by(card: Card, refused: DoesNotFit, least: Plan, family: Family) -> Outlook:
    return Outlook(
        card=card,
        fits=False,
        room_bytes=limit_bytes(card),
        plan=least,
        reason=refused.what,
        family=family,
    )


def _plan_if_fits(
    recipe: Recipe,
    config: Config,
    card: Card,
    lengths: Lengths,
    history: History,
    measured_as: Card | None = None,
) -> Plan | None:
    """Return the plan on the whole card; None where the recipe does not fit it."""
    try:
        return plan_trial(
            recipe,
            config,
            card,
            lengths=lengths,
            history=history,
            measured_as=measured_as,
            advise=False,
        )
    except DoesNotFit:
        return None

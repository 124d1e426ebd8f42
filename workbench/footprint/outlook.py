"""A recipe's outlook on a card: its plan there, or the nearest settings with which it would fit.

Every suggestion is computed by the planner with the setting applied, so that it holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from workbench.errors import DoesNotFit
from workbench.footprint.card_limits import limit_bytes
from workbench.footprint.choose import least_bytes
from workbench.footprint.measured_peaks import FLOOR
from workbench.footprint.model.families import Family, family_of
from workbench.footprint.model.positions import model_positions
from workbench.footprint.model.shape import ModelShape
from workbench.footprint.peak.buckets import GIB
from workbench.footprint.plan import Plan
from workbench.footprint.planner import NO_HISTORY, Config, History, plan_trial
from workbench.footprint.row_lengths import UNREAD, Lengths
from workbench.footprint.usual_cards import SIZES_GB, card_of_size
from workbench.machine.cards import Card
from workbench.recipe import apply_settings
from workbench.recipe.schema import Recipe

STEP_BYTES = GIB // 8
"""The precision with which the smallest card that takes a recipe is found."""
Changes = dict[str, object]
"""New values by dotted setting, as in `lora.rank`."""
Try = Callable[[Changes], Plan | None]
"""Plans the recipe with changes applied; None where it does not fit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Suggestion:
    """A change with which the recipe fits."""

    words: str
    """The change for people, as an imperative."""
    settings: Changes
    """The settings to change; empty where another card is needed."""
    peak_bytes: int
    """The peak of the recipe with this change."""


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
    """Of a sweep, the settings of the trial that was judged; empty without one."""

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
        return _fitting_on(card, _plan_whole(recipe, config, card, lengths, history), family)
    except DoesNotFit as refused:
        size, least = smallest_card(recipe, config, card, lengths, history)
        if not family.counted:  # nothing is suggested that may prove wrong
            return _refused_by(card, refused, least, family)

        def fits(changes: Changes) -> Plan | None:
            return _try(apply_settings(recipe, changes), config, card, lengths, history)

        found = [
            *_setting_suggestions(recipe, config, lengths, fits),
            _card_suggestion(size, least),
        ]
        return replace(_refused_by(card, refused, least, family), suggestions=tuple(found))


def usual_outlooks(recipe: Recipe, config: Config) -> list[Outlook]:
    """Return the outlook on cards of the usual sizes, smallest first, without suggestions."""
    family = family_of(ModelShape.of(config))
    found: list[Outlook] = []
    least: Plan | None = None
    for card in (card_of_size(gb * GIB, f"{gb} GB") for gb in SIZES_GB):
        try:
            found.append(_fitting_on(card, _plan_whole(recipe, config, card), family))
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
        return _try(recipe, config, imagined, lengths, history, measured_as=card)

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


def _plan_whole(
    recipe: Recipe,
    config: Config,
    card: Card,
    lengths: Lengths = UNREAD,
    history: History = NO_HISTORY,
    measured_as: Card | None = None,
) -> Plan:
    return plan_trial(
        recipe,
        config,
        card,
        lengths=lengths,
        history=history,
        measured_as=measured_as,
        advise=False,
    )


def _try(
    recipe: Recipe,
    config: Config,
    card: Card,
    lengths: Lengths,
    history: History,
    measured_as: Card | None = None,
) -> Plan | None:
    try:
        return _plan_whole(recipe, config, card, lengths, history, measured_as)
    except DoesNotFit:
        return None


def _longest_useful(recipe: Recipe, config: Config, lengths: Lengths) -> int:
    """Return the tokens below which data.max_tokens has to go to change anything.

    More than the model's positions is never worth a suggestion: such rows are refused.
    """
    positions = model_positions(config) or recipe.data.max_tokens
    read = lengths["longest"] or recipe.data.max_tokens
    return min(recipe.data.max_tokens, read, positions + 1)


def _setting_suggestions(
    recipe: Recipe, config: Config, lengths: Lengths, fits: Try
) -> Iterator[Suggestion]:
    """Yield the nearest settings that fit: one alone where that is enough, else several."""
    longest, cheap = _longest_useful(recipe, config, lengths), _cheaper_settings(recipe)
    alone = [{key: value} for key, value in cheap.items()]
    found = list(_fitting([*alone, *_lower(recipe, {}, longest, fits)], fits))
    if not found and cheap:
        together = [_needed(cheap, fits), *_lower(recipe, cheap, longest, fits)]
        found = list(_fitting(together, fits))[:1]
    if not found:
        small: Changes = {**cheap, "lora.rank": min(8, recipe.lora.rank)}
        found = list(_fitting(list(_lower(recipe, small, longest, fits)), fits))[:1]
    yield from found


def _card_suggestion(size: int, least: Plan) -> Suggestion:
    gib = -(-size // GIB)
    name = next((f"card of {gb} GB" for gb in SIZES_GB if gb >= gib), f"card of {gib} GiB")
    needed = -(-10 * size // GIB) / 10  # rounded up: a card of that size must be enough
    words = f"use a {name}: it needs {needed:.1f} GiB"
    return Suggestion(words=words, settings={}, peak_bytes=least.predicted_bytes)


def _needed(changes: Changes, fits: Try) -> Changes:
    """Return the changes without those that it fits without, too."""
    kept = dict(changes)
    for key in changes:
        without = {k: v for k, v in kept.items() if k != key}
        if fits(without) is not None:
            kept = without
    return kept


def _cheaper_settings(recipe: Recipe) -> Changes:
    """Return settings that take fewer bytes at the cost of speed alone."""
    changes: Changes = {}
    if recipe.train.optimizer not in ("auto", "paged_adamw_8bit", "sgd"):
        changes["train.optimizer"] = "paged_adamw_8bit"
    if recipe.train.gradient_checkpointing == "off":
        changes["train.gradient_checkpointing"] = "auto"
    if recipe.model.quantization == "none":
        changes["model.quantization"] = "nf4"
    elif not recipe.model.double_quantization:
        changes["model.double_quantization"] = True
    return changes


def _lower(recipe: Recipe, besides: Changes, longest: int, fits: Try) -> Iterator[Changes]:
    """Yield the longest rows that fit, then the highest rank that does, each with `besides`.

    `longest` bounds data.max_tokens from above, itself excluded.
    """
    steps = [*range(8, 64, 8), *range(64, longest, 64)]
    yield from _largest("data.max_tokens", [n for n in steps if n < longest], besides, fits)
    ranks = [1 << power for power in range(recipe.lora.rank.bit_length())]
    yield from _largest("lora.rank", [n for n in ranks if n < recipe.lora.rank], besides, fits)


def _largest(key: str, values: list[int], besides: Changes, fits: Try) -> Iterator[Changes]:
    """Yield the change to the largest of rising `values` that fits, found by bisection, if any."""
    low, high = 0, len(values)
    while low < high:
        middle = (low + high) // 2
        if fits({**besides, key: values[middle]}) is None:
            high = middle
        else:
            low = middle + 1
    if low:
        yield {**besides, key: values[low - 1]}


def _fitting(candidates: list[Changes], fits: Try) -> Iterator[Suggestion]:
    for changes in candidates:
        plan = fits(changes)
        if plan is not None:
            yield Suggestion(
                words=suggestion_words(changes), settings=changes, peak_bytes=plan.predicted_bytes
            )


def suggestion_words(changes: Changes) -> str:
    """Return `set lora.rank: 8 and data.max_tokens: 512`."""
    return "set " + " and ".join(f"{key}: {_yaml_value(value)}" for key, value in changes.items())


def _yaml_value(value: object) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_yaml_value, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_yaml_value(one)}" for key, one in value.items()) + "}"
    return str(value).lower() if isinstance(value, bool) else str(value)

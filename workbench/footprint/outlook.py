"""What a recipe would do on a card: its plan, or what would make it fit. Everything is computed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from workbench.errors import DoesNotFit
from workbench.footprint.choose import choose_plan, least_bytes, limit_bytes
from workbench.footprint.measured_peaks import FLOOR, fitted
from workbench.footprint.plan import Plan
from workbench.footprint.row_lengths import UNREAD, Lengths
from workbench.footprint.usual_cards import GIB, SIZES_GB, card_of_size
from workbench.machine.cards import Card
from workbench.recipe import apply_settings
from workbench.recipe.schema import Recipe

STEP_BYTES = GIB // 8
"""How finely the smallest card that takes a recipe is looked for."""
Config = Mapping[str, Any]


def _as_predicted(plan: Plan) -> float:
    return 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What is known besides recipe and card."""

    lengths: Lengths = field(default_factory=lambda: UNREAD)
    """Of the rows."""
    factor: Callable[[Plan], float] = _as_predicted
    """What attempts measured on such a card, against what was predicted of them."""


NOTHING = Known()


@dataclass(frozen=True, slots=True, kw_only=True)
class Suggestion:
    """A change with which the recipe fits."""

    words: str
    settings: dict[str, object]
    """Empty where it is another card that is needed."""
    peak_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """A recipe on a card."""

    card: Card
    fits: bool
    room_bytes: int
    """What a plan may take there."""
    plan: Plan
    """How it runs; where it does not fit, how it would with the fewest bytes."""
    reason: str = ""
    """Why it does not fit."""
    suggestions: tuple[Suggestion, ...] = ()

    @property
    def factor(self) -> float:
        """What the peak was corrected by, after what was measured on such a card; 1 for nothing."""
        return round(self.plan.predicted_bytes / sum(self.plan.buckets.values()), 4)

    @property
    def left_bytes(self) -> int:
        return self.room_bytes - self.plan.predicted_bytes


def look(recipe: Recipe, config: Config, card: Card, known: Known = NOTHING) -> Outlook:
    """The recipe on that card, all of it free. Takes some 10 ms, up to a second without room.

    ModelError for an unknown kind of model, WorkbenchError where the card lacks what the recipe
    asks for by name.
    """
    try:
        return _fitting_on(card, planned(recipe, config, card, known))
    except DoesNotFit as refused:
        least = leanest(recipe, config, card, known)
        found = tuple(_suggestions(recipe, config, card, known, least))
        return replace(_refused_by(card, refused, least[1]), suggestions=found)


def look_at_usual(recipe: Recipe, config: Config) -> list[Outlook]:
    """The recipe on cards of the usual sizes, without suggestions."""
    found: list[Outlook] = []
    least: Plan | None = None
    for card in (card_of_size(gb * GIB, f"{gb} GB") for gb in SIZES_GB):
        try:
            found.append(_fitting_on(card, planned(recipe, config, card)))
        except DoesNotFit as refused:  # all are of one kind: what takes least there is the same
            least = least or leanest(recipe, config, card)[1]
            found.append(_refused_by(card, refused, least))
    return found


def _fitting_on(card: Card, plan: Plan) -> Outlook:
    return Outlook(card=card, fits=True, room_bytes=limit_bytes(card), plan=plan)


def _refused_by(card: Card, refused: DoesNotFit, least: Plan) -> Outlook:
    room = limit_bytes(card)
    return Outlook(card=card, fits=False, room_bytes=room, plan=least, reason=refused.what)


def planned(recipe: Recipe, config: Config, card: Card, known: Known = NOTHING) -> Plan:
    """As the engine plans on that card, all of it free; its peak is the one to be expected."""

    def make(room: int | None) -> Plan:
        return choose_plan(recipe, config, card, room, **known.lengths, advise=False)

    return fitted(make, known.factor, None, limit_bytes(card))


def leanest(recipe: Recipe, config: Config, card: Card, known: Known = NOTHING) -> tuple[int, Plan]:
    """Bytes of the smallest card of that kind that takes the recipe, and its plan there."""

    def plan_on(steps: int) -> Plan | None:
        return _try(recipe, config, sized(card, steps * STEP_BYTES), known)

    low = int(least_bytes(recipe, config, card, known.lengths) * FLOOR) // STEP_BYTES
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


def sized(card: Card, total_bytes: int) -> Card:
    return replace(card, total_bytes=max(1, total_bytes), cap_bytes=None)


def _try(recipe: Recipe, config: Config, card: Card, known: Known) -> Plan | None:
    try:
        return planned(recipe, config, card, known)
    except DoesNotFit:
        return None


def _suggestions(
    recipe: Recipe, config: Config, card: Card, known: Known, least: tuple[int, Plan]
) -> Iterator[Suggestion]:
    """The nearest settings that fit: each alone where that does, else together; then a card."""

    def fits(changes: dict[str, object]) -> Plan | None:
        return _try(apply_settings(recipe, changes), config, card, known)

    longest, cheap = known.lengths["longest"], _cheaper(recipe)
    alone = [{key: value} for key, value in cheap.items()]
    found = list(_fitting([*alone, *_lower(recipe, {}, longest, fits)], fits))
    if not found and cheap:
        together = [_needed(cheap, fits), *_lower(recipe, cheap, longest, fits)]
        found = list(_fitting(together, fits))[:1]
    if not found:
        small: dict[str, object] = {**cheap, "lora.rank": min(8, recipe.lora.rank)}
        found = list(_fitting(list(_lower(recipe, small, longest, fits)), fits))[:1]
    yield from found
    gib = -(-least[0] // GIB)
    size = next((f"card of {gb} GB" for gb in SIZES_GB if gb >= gib), f"card of {gib} GiB")
    yield Suggestion(
        words=f"use a {size}: it needs {gib} GiB",
        settings={},
        peak_bytes=least[1].predicted_bytes,
    )


def _needed(
    changes: dict[str, object], fits: Callable[[dict[str, object]], Plan | None]
) -> dict[str, object]:
    """Those of the changes without which it does not fit."""
    kept = dict(changes)
    for key in changes:
        without = {k: v for k, v in kept.items() if k != key}
        if fits(without) is not None:
            kept = without
    return kept


def _cheaper(recipe: Recipe) -> dict[str, object]:
    """Settings that cost speed and not quality."""
    changes: dict[str, object] = {}
    if recipe.train.optimizer not in ("auto", "paged_adamw_8bit", "sgd"):
        changes["train.optimizer"] = "paged_adamw_8bit"
    if recipe.train.gradient_checkpointing == "off":
        changes["train.gradient_checkpointing"] = "auto"
    if recipe.model.quantization == "none":
        changes["model.quantization"] = "nf4"
    elif not recipe.model.double_quantization:
        changes["model.double_quantization"] = True
    return changes


def _lower(
    recipe: Recipe,
    besides: dict[str, object],
    longest: int | None,
    fits: Callable[[dict[str, object]], Plan | None],
) -> Iterator[dict[str, object]]:
    """The longest rows, then the highest rank, that fit."""
    tokens = min(recipe.data.max_tokens, longest or recipe.data.max_tokens)
    steps = [*range(8, 64, 8), *range(64, tokens, 64)]
    yield from _most("data.max_tokens", [n for n in steps if n < tokens], besides, fits)
    ranks = [1 << power for power in range(recipe.lora.rank.bit_length())]
    yield from _most("lora.rank", [n for n in ranks if n < recipe.lora.rank], besides, fits)


def _most(
    key: str,
    values: list[int],
    besides: dict[str, object],
    fits: Callable[[dict[str, object]], Plan | None],
) -> Iterator[dict[str, object]]:
    """The largest of rising values that fits, by bisection."""
    low, high = 0, len(values)
    while low < high:
        middle = (low + high) // 2
        if fits({**besides, key: values[middle]}) is None:
            high = middle
        else:
            low = middle + 1
    if low:
        yield {**besides, key: values[low - 1]}


def _fitting(
    candidates: list[dict[str, object]], fits: Callable[[dict[str, object]], Plan | None]
) -> Iterator[Suggestion]:
    for changes in candidates:
        plan = fits(changes)
        if plan is not None:
            words = " and ".join(f"{key}: {_shown(value)}" for key, value in changes.items())
            yield Suggestion(
                words=f"set {words}", settings=changes, peak_bytes=plan.predicted_bytes
            )


def _shown(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)

"""`workbench plan`: what a recipe takes on a card and how it would run; no GPU, no weights."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from workbench import formatting
from workbench.cli.recipes.run import RecipeName, Settings, read
from workbench.cli.tables import as_json, out, out_table, paint, tell, width
from workbench.errors import ModelError, NotThere, UsageError, WorkbenchError
from workbench.service import Service
from workbench.store.rows import card_of
from workbench.text import safe_line

if TYPE_CHECKING:
    from workbench.footprint import Plan
    from workbench.footprint.outlook import Outlook
    from workbench.footprint.row_lengths import Lengths
    from workbench.machine.cards import Card
    from workbench.recipe import Recipe

GIB = 1 << 30
COLOURS = ("cyan", "green", "yellow", "blue", "red")


def plan(
    recipe: RecipeName,
    settings: Settings = None,
    card: Annotated[
        str | None, typer.Option("--card", metavar="NAME", help="A usual card: 3090, t4, a100-80gb")
    ] = None,
    vram: Annotated[
        str | None, typer.Option("--vram", metavar="SIZE", help="Any card by its size: 24GiB")
    ] = None,
    as_data: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Tell what a recipe takes on a card, before anything runs.

    Bytes, the plan, and what would make it fit where it does not; then exit code 1. Needs no GPU
    and no weights. Without --card and --vram: the cards here, else one of 24 GiB.
    """
    from workbench.footprint.model.config import find_config
    from workbench.footprint.outlook import look_at_usual
    from workbench.footprint.worst_case import hungriest

    wanted = read(recipe, settings)
    config, source = find_config(wanted.model)
    service = Service()
    cards, why = meant_cards(service, card, vram)
    roomiest = max(cards, key=lambda one: one.usable_bytes)
    point, swept = hungriest(wanted, config, roomiest)
    factors = history(service, config, by_name=card is not None)
    looked = outlooks(point, config, cards, factors=factors)
    main = looked[0]
    usual = look_at_usual(point, config)
    if as_data:
        about = {"recipe": wanted.name, "model": wanted.model.name, "measures": source}
        data = {**about, **told(main), "point": swept, "cards": [_brief(one) for one in looked]}
        as_json({**data, "usual": [_brief(one) for one in usual]})
    else:
        out(f"{safe_line(wanted.name)}: {safe_line(wanted.model.name)} ({source})", "bold")
        if swept:
            out(f"of its sweep, what takes most: {formatting.settings_line(swept)}")
        _print(main, point, why)
        for one in [*looked[1:], *usual]:
            out(_line(one))
    raise typer.Exit(0 if any(one.fits for one in looked) else 1)


def meant_cards(service: Service, card: str | None, vram: str | None) -> tuple[list[Card], str]:
    """The cards asked about, and how they were found: named, sized, here, or a 24 GiB one."""
    from workbench.footprint.usual_cards import card_of_size, usual_card
    from workbench.machine.cards import card_bytes

    if card is not None and vram is not None:
        raise UsageError("--card and --vram both name a card", hint="give one of them")
    if card is not None:
        return [usual_card(card)], ""
    if vram is not None:
        size = card_bytes(vram)
        return [card_of_size(size, f"a card of {formatting.size(size)}")], ""
    if here := cards_here(service):
        return here, "the roomiest card here" if len(here) > 1 else "the card here"
    return [stand_in()], "no card is known here"


def stand_in() -> Card:
    """What a plan is for where there is no card."""
    from workbench.footprint.usual_cards import card_of_size

    return card_of_size(24 * GIB, "a card of 24.0 GiB")


def cards_here(service: Service) -> list[Card]:
    """As the engine last saw them; where it never ran, as the driver tells them."""
    known = [card_of(row) for row in service.snapshot().cards if row.present]
    return known or _cards_asked()


def _cards_asked() -> list[Card]:
    """GPUs, or the CPU cards that WORKBENCH_CARDS names; none where the driver does not answer at
    once. A stand-in that nobody asked for is not what a person plans for."""
    from workbench.cli.machine.cards import cards_asked
    from workbench.machine.cards import CARDS_VARIABLE

    try:
        sample = cards_asked()
    except (UsageError, NotThere):  # what a person said of them
        raise
    except WorkbenchError as broken:
        tell(f"the cards could not be asked: {safe_line(broken.what)}")
        return []
    if sample.problem:
        tell(f"the cards could not be asked: {safe_line(sample.problem)}")
    named = bool(os.environ.get(CARDS_VARIABLE))
    return [one.card for one in sample.cards if one.ok and (named or one.card.kind == "cuda")]


def history(
    service: Service, config: dict[str, Any], *, by_name: bool = False
) -> Callable[[Card], Callable[[Plan], float]]:
    """For a card, what the engine corrects a plan's bytes by: the median of what attempts measured
    on such cards. `by_name`: a card of that name, whatever its size and cap."""
    from workbench.footprint.measured_peaks import factor_of, learned
    from workbench.footprint.oom_fallback import kind_of
    from workbench.footprint.usual_cards import everyday

    def kind(card: Card) -> tuple[object, ...]:
        return (card.kind, everyday(card.name)) if by_name else kind_of(card)

    cards = [card_of(row) for row in service.snapshot().cards if row.kind == "cuda"]
    found = learned(service.measured(), {card.uuid: kind(card) for card in cards}) if cards else {}
    return lambda card: factor_of(found, kind(card), config)


def outlooks(
    recipe: Recipe,
    config: dict[str, Any],
    cards: list[Card],
    lengths: Lengths | None = None,
    factors: Callable[[Card], Callable[[Plan], float]] | None = None,
) -> list[Outlook]:
    """One for each card unlike the others; the roomiest of those that fit first.

    WorkbenchError where none of them has what the recipe asks for by name, e.g. bf16.
    """
    from workbench.footprint.outlook import NOTHING, Known, look
    from workbench.footprint.row_lengths import UNREAD

    unlike = {(c.kind, c.name, c.usable_bytes, c.total_bytes, c.capability): c for c in cards}
    found, lacking = [], []
    for card in unlike.values():
        try:
            factor = factors(card) if factors else NOTHING.factor
            known = Known(lengths=lengths or UNREAD, factor=factor)
            found.append(look(recipe, config, card, known))
        except ModelError:
            raise
        except WorkbenchError as refused:
            lacking.append(refused)
    if lacking and not found:
        raise lacking[0]
    return sorted(found, key=lambda one: (not one.fits, -one.room_bytes))


def told(one: Outlook) -> dict[str, Any]:
    """An outlook for programs."""
    return {
        "fits": one.fits,
        "peak_bytes": one.plan.predicted_bytes,
        "measured_factor": one.factor,
        "card_bytes": one.card.usable_bytes,
        "room_bytes": one.room_bytes,
        "left_bytes": one.left_bytes,
        "card": one.card.name,
        "buckets": one.plan.buckets,
        "plan": one.plan.to_json(),
        "reason": one.reason,
        "suggestions": [asdict(suggestion) for suggestion in one.suggestions],
    }


def _brief(one: Outlook) -> dict[str, Any]:
    full = told(one)
    keys = ("card", "fits", "peak_bytes", "card_bytes", "room_bytes", "left_bytes", "plan")
    return {key: full[key] for key in keys}


# ── for people ───────────────────────────────────────────────────────────────────────────────


def _print(one: Outlook, recipe: Recipe, why: str) -> None:
    out(f"on {safe_line(one.card.name)}" + (f" ({why})" if why else ""))
    out()
    print_buckets(one)
    out()
    peak, room = formatting.size(one.plan.predicted_bytes), formatting.size(one.room_bytes)
    if one.fits:
        out(f"fits: peak {peak} of {room}, {formatting.size(one.left_bytes)} left", "green")
    else:
        out(f"does not fit: the leanest way needs {peak}, there is room for {room}", "red")
        for suggestion in one.suggestions:
            out(f"  → {suggestion.words}")
    out()
    for head, text in plan_lines(one.plan, recipe):
        out(f"  {head:<12}{text}")
    out()


def print_buckets(one: Outlook) -> None:
    """A bar of the whole card, or of more where it is too small, and what its letters stand for."""
    sizes = {name: size for name, size in one.plan.buckets.items() if size > 0}
    letters = _letters(sizes)
    whole = max(one.room_bytes, one.plan.predicted_bytes)
    columns = min(width(), 100) - 4
    bar, before, painted = [], 0, 0
    for name, size in sizes.items():
        before += size
        cells = round(before / whole * columns) - painted
        painted += cells
        bar.append(paint(letters[name] * cells, _colour(list(sizes).index(name))))
    bar.append("." * (columns - painted))
    sys.stdout.write(f"  [{''.join(bar)}]\n")
    rows = [
        (letters[name], name, formatting.size(size), f"{size / max(1, one.room_bytes):.0%}")
        for name, size in sizes.items()
    ]
    if one.factor != 1:
        rows.append(("", "measured", f"× {one.factor:.2f}", ""))
    rows.append(("", "peak", formatting.size(one.plan.predicted_bytes), ""))
    out_table(("", "bytes of", "size", "of the card"), rows, right=("size", "of the card"))


def _letters(names: dict[str, int]) -> dict[str, str]:
    """A capital for each bucket, its own initial where that is free."""
    given: dict[str, str] = {}
    for name in names:
        wanted = f"{name.upper()}ABCDEFGHIJKLMNOPQRSTUVWXYZ"
        given[name] = next(c for c in wanted if c.isalpha() and c not in given.values())
    return given


def _colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]


def plan_lines(plan: Plan, recipe: Recipe) -> list[tuple[str, str]]:
    """The plan, a line for each thing it decides."""
    from workbench.footprint.plan import shown

    wide = "32 bits" if plan.precision == "fp32" else "16 bits"
    words = shown(plan.to_json())
    base = f"{wide}, in the compute precision"
    if recipe.model.quantization == "nf4":
        base = "4-bit nf4" + (", scales quantised" if recipe.model.double_quantization else "")
        if plan.resident_layers:
            base += f"; {words['unpacked']} also unpacked in {wide}"
    return [
        ("micro-step", words["micro-step"]),
        ("step", words["step"]),
        ("recompute", words["recompute"]),
        ("attention", safe_line(plan.attention_why)),
        ("precision", plan.precision),
        ("base", base),
        ("optimizer", plan.optimizer),
        ("evaluation", f"{formatting.plural(plan.eval_batch, 'row')} at once"),
    ]


def _line(one: Outlook) -> str:
    """`24 GB    fits  peak 19.8 GiB, 3.7 GiB left; 1 x 2,048 tokens, recompute 0/32, sgd`."""
    plan = one.plan
    peak = formatting.size(plan.predicted_bytes)
    name = f"{safe_line(one.card.name, 24):<8}"
    if not one.fits:
        return f"{name} no    needs {peak}, has {formatting.size(one.room_bytes)}"
    how = f"{plan.micro_steps} x {plan.tokens_per_micro:,} tokens, "
    how += f"recompute {plan.recompute_layers}/{plan.layers}"
    if plan.offload:
        how += f", {formatting.size(plan.host_bytes)} in host memory"
    if plan.resident_layers:
        how += f", unpacked {plan.resident_layers}/{plan.layers}"
    left = formatting.size(one.left_bytes)
    return f"{name} fits  peak {peak}, {left} left; {how}, {plan.optimizer}"

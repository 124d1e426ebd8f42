"""`workbench plan`: the bytes a recipe takes on a card and its plan there; no GPU, no weights."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from workbench import formatting
from workbench.cli.arguments import Json
from workbench.cli.recipes.measured_history import measured_history
from workbench.cli.recipes.run import (
    RecipeName,
    Settings,
    count_trials,
    load_with_settings,
    trials_words,
)
from workbench.cli.tables import (
    as_json,
    colour_text,
    out_table,
    print_answer,
    print_note,
    terminal_width,
)
from workbench.errors import NotThere, UsageError, WorkbenchError
from workbench.service import Service
from workbench.store.rows import card_of
from workbench.text import safe_line

if TYPE_CHECKING:
    from workbench.footprint import Plan
    from workbench.footprint.outlook import Outlook
    from workbench.machine.cards import Card
    from workbench.recipe import Recipe

GIB = 1 << 30
COLOURS = ("cyan", "green", "yellow", "blue", "red")


def plan_command(
    recipe: RecipeName,
    settings: Settings = None,
    card: Annotated[
        str | None, typer.Option("--card", metavar="NAME", help="A usual card: 3090, t4, a100-80gb")
    ] = None,
    vram: Annotated[
        str | None, typer.Option("--vram", metavar="SIZE", help="Any card by its size: 24GiB")
    ] = None,
    as_data: Json = False,
) -> None:
    """Show what a recipe takes on a card, before anything runs.

    Prints the bytes by what takes them and the plan; where the recipe does not fit, also the
    settings that would make it fit, and the exit code is 1. Needs no GPU and no weights. Without
    --card and --vram it plans for the cards here, else for one of 24 GiB.
    """
    from workbench.footprint.model.config import find_config, refuse_untrainable
    from workbench.footprint.model.positions import positions_warning
    from workbench.footprint.model.target_names import targets_warning
    from workbench.footprint.outlook import usual_outlooks
    from workbench.footprint.sweeps.card_outlooks import card_outlooks
    from workbench.recipe import apply_settings

    wanted = load_with_settings(recipe, settings)
    config, source = find_config(wanted.model)
    refuse_untrainable(config, wanted.model.name, wanted.model.revision)
    service = Service()
    cards, why = meant_cards(service, card, vram)
    history = measured_history(service, named=cards[0] if card is not None else None)
    found = card_outlooks(wanted, config, cards, history=history)
    main = found[0]
    swept = main.point
    point = apply_settings(wanted, swept)
    usual = usual_outlooks(point, config)  # each card by itself
    too_long = positions_warning(point.data.max_tokens, config)
    targets = targets_warning(point.lora, config)
    warnings = [warning for warning in (too_long, targets, main.family.warning()) if warning]
    if as_data:
        about: dict[str, Any] = {"recipe": wanted.name, "model": wanted.model.name}
        about |= {"measures": source, **count_trials(wanted)}
        data = {
            **about,
            **outlook_data(main),
            "point": swept,
            "cards": [_brief(one) for one in found],
        }
        as_json({**data, "usual": [_brief(one) for one in usual], "warnings": warnings})
    else:
        print_answer(f"{safe_line(wanted.name)}: {safe_line(wanted.model.name)} ({source})", "bold")
        if wanted.sweep is not None:
            print_answer(trials_words(wanted))
        if swept:
            print_answer(f"its sweep takes most with {formatting.settings_line(swept)}")
        for warning in warnings:
            print_answer(f"warning: {warning}", "yellow")
        _print(main, point, why)
        for one in [*found[1:], *usual]:
            print_answer(_line(one))
    raise typer.Exit(0 if any(one.fits for one in found) else 1)


def meant_cards(service: Service, card: str | None, vram: str | None) -> tuple[list[Card], str]:
    """Return the cards to plan for, and how they were found, in words that may be empty.

    They are the named one, one of that size, the cards here, or a card of 24 GiB where there are
    none. Raises UsageError for an unknown name, a size that cannot be read, or both at once.
    """
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
    """Return the card to plan for where no card is known."""
    from workbench.footprint.usual_cards import card_of_size

    return card_of_size(24 * GIB, "a card of 24.0 GiB")


def cards_here(service: Service) -> list[Card]:
    """Return the cards as the engine last saw them, or as the driver reports them now."""
    known = [card_of(row) for row in service.snapshot().cards if row.present]
    return known or _cards_asked()


def _cards_asked() -> list[Card]:
    """Return the GPUs, or the CPU cards that WORKBENCH_CARDS names.

    Returns none where the driver does not answer at once. CPU cards that nobody asked for are left
    out: nobody plans for those.
    """
    from workbench.cli.machine.cards import cards_asked
    from workbench.machine.cards import CARDS_VARIABLE

    try:
        sample = cards_asked()
    except (UsageError, NotThere):  # a mistake in WORKBENCH_CARDS
        raise
    except WorkbenchError as broken:
        print_note(f"the cards could not be asked: {safe_line(broken.what)}")
        return []
    if sample.problem:
        print_note(f"the cards could not be asked: {safe_line(sample.problem)}")
    named = bool(os.environ.get(CARDS_VARIABLE))
    return [one.card for one in sample.cards if one.ok and (named or one.card.kind == "cuda")]


def outlook_data(one: Outlook) -> dict[str, Any]:
    """Return an outlook as `--json` prints it."""
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
        "family": asdict(one.family),
        "range_bytes": one.range_bytes,
        "suggestions": [asdict(suggestion) for suggestion in one.suggestions],
    }


def _brief(one: Outlook) -> dict[str, Any]:
    full = outlook_data(one)
    keys = ("card", "fits", "peak_bytes", "card_bytes", "room_bytes", "left_bytes", "plan")
    return {key: full[key] for key in keys}


# ── for people ───────────────────────────────────────────────────────────────────────────────


def _print(one: Outlook, recipe: Recipe, why: str) -> None:
    print_answer(f"on {safe_line(one.card.name)}" + (f" ({why})" if why else ""))
    print_answer()
    print_buckets(one)
    print_answer()
    peak, room = peak_words(one), formatting.size(one.room_bytes)
    if one.fits:
        left = formatting.size(one.left_bytes)
        print_answer(f"{fit_word(one)}: peak {peak} of {room}, {left} left", fit_colour(one))
    elif one.undecided:
        print_answer(f"cannot be told: peak {peak}, there is room for {room}", "yellow")
        print_answer("  → `workbench check` counts the weights exactly")
    else:
        print_answer(f"does not fit: the leanest way needs {peak}, there is room for {room}", "red")
        for suggestion in one.suggestions:
            print_answer(f"  → {suggestion.words}")
    print_answer()
    for head, text in plan_rows(one.plan, recipe):
        print_answer(f"  {head:<12}{text}")
    print_answer()


def fit_word(one: Outlook) -> str:
    """Return `fits`, or `may fit` where the family's bytes were never measured."""
    return "fits" if one.family.measured else "may fit"


def fit_colour(one: Outlook) -> str:
    """Return the colour of a plan that fits: yellow where its family was never measured."""
    return "green" if one.family.measured else "yellow"


def peak_words(one: Outlook) -> str:
    """Return the predicted peak, with its interval where the weights are not counted."""
    least, most = one.range_bytes
    peak = formatting.size(one.plan.predicted_bytes)
    if least == most:
        return peak
    return f"{peak} (between {formatting.size(least)} and {formatting.size(most)})"


def print_buckets(one: Outlook) -> None:
    """Print a bar of the card's room and a table of its buckets; letters connect the two.

    The bar stands for the room on the card, or for the whole peak where that is larger.
    """
    sizes = {name: size for name, size in one.plan.buckets.items() if size > 0}
    letters = _letters(sizes)
    whole = max(one.room_bytes, one.plan.predicted_bytes)
    columns = min(terminal_width(), 100) - 4
    bar, before, painted = [], 0, 0
    for name, size in sizes.items():
        before += size
        count_cells = round(before / whole * columns) - painted
        painted += count_cells
        bar.append(colour_text(letters[name] * count_cells, _colour(list(sizes).index(name))))
    bar.append("." * (columns - painted))
    sys.stdout.write(f"  [{''.join(bar)}]\n")
    rows = [
        (letters[name], name, formatting.size(size), _share(size, one.room_bytes))
        for name, size in sizes.items()
    ]
    if one.factor != 1:
        rows.append(("", "measured", f"× {one.factor:.2f}", ""))
    rows.append(("", "peak", formatting.size(one.plan.predicted_bytes), ""))
    out_table(("", "bytes of", "size", "of the card"), rows, right=("size", "of the card"))


def _share(size: int, room: int) -> str:
    """Return the share of the room in percent, or as a multiple where a percentage says nothing."""
    if room <= 0:
        return "no room"
    return f"{size / room:.0%}" if size < 10 * room else f"{min(size / room, 999):.0f} ×"


def _letters(names: dict[str, int]) -> dict[str, str]:
    """Return a capital letter for each bucket: its own initial where that is free."""
    given: dict[str, str] = {}
    for name in names:
        wanted = f"{name.upper()}ABCDEFGHIJKLMNOPQRSTUVWXYZ"
        given[name] = next(c for c in wanted if c.isalpha() and c not in given.values())
    return given


def _colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]


def plan_rows(plan: Plan, recipe: Recipe) -> list[tuple[str, str]]:
    """Return (label, text) for each thing that the plan decides."""
    from workbench.footprint.plan import describe_plan

    wide = "32 bits" if plan.precision == "fp32" else "16 bits"
    words = describe_plan(plan.to_json())
    base = f"{wide}, in the compute precision"
    if recipe.model.quantization == "nf4":
        base = "4-bit nf4" + (", scales quantised" if recipe.model.double_quantization else "")
        if plan.dequantised_layers:
            base += f"; {words['unpacked']} also unpacked in {wide}"
    return [
        ("micro-step", words["micro-step"]),
        ("step", words["step"]),
        ("recompute", words["recompute"]),
        *_table_row(plan, recipe, words.get("tables")),
        ("attention", safe_line(plan.attention_why)),
        ("precision", plan.precision),
        ("base", base),
        ("optimizer", plan.optimizer),
        *([("graphs", words["graphs"])] if "graphs" in words else []),
        ("evaluation", f"{formatting.plural(plan.eval_batch, 'row')} at once"),
    ]


def _table_row(plan: Plan, recipe: Recipe, words: str | None) -> list[tuple[str, str]]:
    """Return where tables of embeddings are, or why they are not in the machine's memory."""
    from workbench.footprint.model.target_names import adapts_tables

    if words is not None:
        return [("tables", words)]
    if not plan.offload:  # there is room for them
        return []
    adapted = adapts_tables(recipe.lora)
    why = "they have an adapter" if adapted else "the head is the same matrix"
    return [("tables", f"on the card: {why}")]


def _line(one: Outlook) -> str:
    """Return `24 GB    fits  peak 19.8 GiB, 3.7 GiB left; 1 x 2,048 tokens, recompute 0/32`."""
    plan = one.plan
    peak = formatting.size(plan.predicted_bytes)
    name = f"{safe_line(one.card.name, 24):<8}"
    if one.undecided:
        return f"{name} open  needs {peak_words(one)}, has {formatting.size(one.room_bytes)}"
    if not one.fits:
        return f"{name} no    needs {peak}, has {formatting.size(one.room_bytes)}"
    how = f"{plan.micro_steps} x {plan.tokens_per_micro:,} tokens, "
    how += f"recompute {plan.recompute_layers}/{plan.layers}"
    if plan.offload:
        how += f", {formatting.size(plan.host_bytes)} in host memory"
    if plan.host_tables:
        how += f", {formatting.size(plan.table_bytes)} of embeddings in host memory"
    if plan.dequantised_layers:
        how += f", unpacked {plan.dequantised_layers}/{plan.layers}"
    left = formatting.size(one.left_bytes)
    word = f"{fit_word(one):<4}"
    return f"{name} {word}  peak {peak}, {left} left; {how}, {plan.optimizer}"

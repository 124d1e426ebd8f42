"""`workbench check`: shows a recipe's data as training would see it, before anything is queued."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import typer

from workbench import formatting
from workbench.cli.arguments import Json
from workbench.cli.errors import tell_error
from workbench.cli.recipes.measured_history import measured_history
from workbench.cli.recipes.plan import (
    cards_here,
    fit_colour,
    fit_word,
    outlook_data,
    peak_words,
    stand_in,
)
from workbench.cli.recipes.prepare import prepare_in_child
from workbench.cli.recipes.run import (
    RecipeName,
    Settings,
    count_trials,
    load_with_settings,
    trials_words,
)
from workbench.cli.tables import as_json, colour_text, print_answer
from workbench.errors import DataError, WorkbenchError
from workbench.service import Service
from workbench.text import safe_line, safe_text

if TYPE_CHECKING:
    from workbench.footprint.outlook import Outlook
    from workbench.judging.capacity import RankCapacity
    from workbench.judging.held_out_power import ShownDifference
    from workbench.machine.cards import Card
    from workbench.recipe import Recipe


def check_command(
    recipe: RecipeName,
    settings: Settings = None,
    as_data: Json = False,
) -> None:
    """Check a recipe's data, and show what carries loss.

    Rows are read, split and tokenised as for training; what cannot be trained on is refused with
    file, line and hint, and exit code 1 (2 for a mistake in the recipe). Example rows show in
    brackets (and green, unless NO_COLOR is set) the text that carries loss. The last lines say
    whether the recipe fits the cards here.
    """
    wanted = load_with_settings(recipe, settings)
    service = Service()
    cards = cards_here(service)
    result = prepare_in_child(wanted, service.home.make())
    raise typer.Exit(show_check(wanted, result, service, cards, as_data=as_data))


def show_check(
    wanted: Recipe, result: dict[str, Any], service: Service, cards: list[Card], *, as_data: bool
) -> int:
    """Print what the preparation of `wanted` found, and return the exit code."""
    if not result["ok"]:
        if as_data:
            as_json({"ok": False, "error": result["error"], "hint": result["hint"]})
        else:
            tell_error(DataError(result["error"], hint=result["hint"]))
        return int(result.get("exit_code", 1))  # 2 where the recipe is at fault
    known = bool(cards)
    shown = _shown_differences(wanted, result, service)
    capacities, full = _capacities(wanted, result)
    found, lacking = _fit(wanted, result, service, cards or [stand_in()])
    fits = any(one.fits for one in found)
    if as_data:
        more = {"shown_differences": shown, "capacity": capacities}
        data = {**_data(result, found, lacking), **count_trials(wanted), **more}
        as_json({**data, "warnings": [*data["warnings"], *full]})
    else:
        _print(wanted, result, [*_power_lines(shown), *_capacity_lines(capacities)], full)
        for line, colour in fit_lines(found, lacking, known=known):
            print_answer(line, colour)
    return 1 if known and not fits else 0


def _fit(
    recipe: Recipe, result: dict[str, Any], service: Service, cards: list[Card]
) -> tuple[list[Outlook], WorkbenchError | None]:
    """Return the outlook of the worst case on each kind of card, or why there is none.

    Plans with the rows that were read, as the engine does; with rows of data.max_tokens where a
    sweep makes trials read other rows.
    """
    from workbench.footprint.row_lengths import lengths_of
    from workbench.footprint.sweeps.card_outlooks import card_outlooks

    config, rows = result["model"]["config"], lengths_of(result["data"])
    try:
        return card_outlooks(recipe, config, cards, rows, measured_history(service)), None
    except WorkbenchError as refused:
        return [], refused


def _shown_differences(
    recipe: Recipe, result: dict[str, Any], service: Service
) -> list[ShownDifference]:
    """Return the differences that the held-out rows can show, of loss and of right answers."""
    rows, evaluate = int(result["data"]["eval_rows"]), recipe.evaluate
    right = ["exact_match"] if evaluate.answer_pattern is not None else []
    if rows < 2:
        return []
    return service.shown_differences(rows, [*right, "loss"], str(result["evaluation_digest"]))


def _capacities(recipe: Recipe, result: dict[str, Any]) -> tuple[list[RankCapacity], list[str]]:
    """Return the adapter's capacity by rank, and the warning where the rows hold more."""
    from workbench.judging.capacity import capacity_warning, rank_capacities

    try:
        found = rank_capacities(recipe, result["model"]["config"])
    except WorkbenchError:  # the lines about the cards say what the model lacks
        return [], []
    warning = capacity_warning(found, int(result["data"]["target_tokens"]))
    return found, [warning] if warning else []


def _power_lines(shown: list[ShownDifference]) -> list[tuple[str, str]]:
    lines = []
    for n, one in enumerate(shown):
        if one.difference is None:
            text = f"no difference of {one.score} ({one.assumption})"
        else:
            share = one.score == "loss"
            size = f"{one.difference:.1%} of the loss" if share else f"{one.difference:.3f}"
            what = "" if share else f" of {one.score}"
            text = f"a difference of {size}{what} ({one.assumption}); half: {one.half_rows:,} rows"
        lines.append(("can show" if n == 0 else "", text))
    return lines


def _capacity_lines(capacities: list[RankCapacity]) -> list[tuple[str, str]]:
    if not capacities:
        return []
    each = "; ".join(
        f"rank {one.rank}: {one.parameters:,} parameters, room for about {one.tokens:,}"
        for one in capacities
    )
    return [("capacity", f"{each} tokens with loss")]


def fit_lines(
    found: list[Outlook], lacking: WorkbenchError | None, *, known: bool
) -> list[tuple[str, str]]:
    """Return (line, colour) about the best card: whether the recipe fits it, and suggestions.

    `lacking` is the error where no card can run the recipe at all; `known` says that the cards are
    those of this machine.
    """
    if lacking is not None:
        return [(f"it cannot run here: {lacking.what}", "red"), (f"  → {lacking.hint}", "")]
    best = found[0]
    name = safe_line(best.card.name) + ("" if known else " (no card is known here)")
    peak, room = peak_words(best), formatting.size(best.room_bytes)
    if best.fits:
        tokens = f"{best.plan.tokens_per_micro:,} tokens at a time"
        lines = [(f"{fit_word(best)} {name}: peak {peak} of {room}, {tokens}", fit_colour(best))]
        warning = best.family.warning()
        return lines + ([(f"note: {safe_line(warning, 600)}", "yellow")] if warning else [])
    lines = [(f"does not fit {name}: it needs {peak} of {room}", "red")]
    return lines + [(f"  → {suggestion.words}", "") for suggestion in best.suggestions]


def _data(
    result: dict[str, Any], found: list[Outlook], lacking: WorkbenchError | None
) -> dict[str, Any]:
    fit: dict[str, Any] = {"fits": False, "reason": lacking.what if lacking else ""}
    return {
        "ok": True,
        "data": result["data"],
        "warnings": [*result["notes"], *_family_warnings(found)],
        "examples": result["examples"],
        "adapters": result["model"].get("adapters", {}),
        "fit": outlook_data(found[0]) if found else fit,
    }


def _family_warnings(found: list[Outlook]) -> list[str]:
    return [warning for one in found[:1] if (warning := one.family.warning())]


# ── for people ───────────────────────────────────────────────────────────────────────────────


def _print(
    recipe: Recipe, result: dict[str, Any], more: list[tuple[str, str]], warnings: list[str]
) -> None:
    from workbench.recipe import early_stop_problem_for

    data = result["data"]
    named = ", ".join(safe_line(name) for name in recipe.data.train_names)
    print_answer(f"{safe_line(recipe.name)}: {named}", "bold")
    for head, text in (
        ("read", f"{data['read_rows']:,} rows, shape {data['shape']}"),
        ("trained on", f"{_trained(data)}; {data['target_tokens']:,} tokens carry loss"),
        *packing_lines(data, recipe),
        *source_lines(data),
        ("held out", f"{data['eval_rows']:,} rows" + _drawn(recipe)),
        *_test_lines(data, recipe),
        length_line(data),
        ("cut", f"{data['cut_rows']:,} rows longer than {recipe.data.max_tokens:,} tokens"),
        ("left out", f"{data['dropped_rows']:,} rows without a token to learn"),
        *_adapter_lines(result["model"].get("adapters", {})),
        *_trial_lines(recipe),
        *more,
    ):
        print_answer(f"  {head:<14}{text}")
    left, right = learned_brackets()
    print_answer()
    print_answer(f"examples; what carries loss stands in {left}brackets{right}", "bold")
    for example in result["examples"]:
        print_example(example, left, right)
    print_answer()
    swept = (
        [key for key in recipe.sweep.parameters if key.startswith("data.")] if recipe.sweep else []
    )
    if swept:
        print_answer(
            f"note: the sweep varies {safe_line(', '.join(swept))}; this is the recipe's own value"
        )
    if unstopped := early_stop_problem_for(recipe, int(data["train_rows"])):
        print_answer(f"note: no trial will be stopped early: {safe_line(unstopped)}", "yellow")
    for note in [*warnings, *result["notes"]]:
        print_answer(f"note: {safe_line(note, 600)}", "yellow")


def _drawn(recipe: Recipe) -> str:
    own = recipe.data.eval or recipe.data.eval_split
    return "" if own else " of the same data (data.eval_rows), not trained on"


def _trained(data: dict[str, Any]) -> str:
    """Return how many rows are trained on, and in how many bins where they are packed."""
    if not data.get("packed_rows"):
        return f"{data['train_rows']:,} rows"
    return f"{data['packed_rows']:,} rows in {data['train_rows']:,} bins"


def packing_lines(data: dict[str, Any], recipe: Recipe) -> list[tuple[str, str]]:
    """Return the line about the effective batch of packed rows; none where rows are not packed."""
    if not data.get("packed_rows"):
        return []
    bins = min(recipe.train.rows_per_step, data["train_rows"])
    rows = bins * data["packed_rows"] / data["train_rows"]
    tokens, full = bins * data["mean_length"], data["mean_length"] / recipe.data.max_tokens
    return [
        (
            "batch",
            f"{bins:,} bins a step (train.batch_size × accumulation): about {rows:,.1f} rows and "
            f"{tokens:,.0f} tokens; bins are {full:.0%} full",
        )
    ]


def source_lines(data: dict[str, Any]) -> list[tuple[str, str]]:
    """Return a line about each source of a mixture: its rows, tokens and share; none without one.

    The share is that of the tokens with loss, which is what an update is made of.
    """
    lines = []
    for one in data.get("mixture", []):
        share = one["target_tokens"] / max(1, data["target_tokens"])
        lines.append(
            (
                f"  {share:.1%}",
                f"{safe_line(os.path.basename(one['name']), 60)}, shape {one['shape']}: "
                f"{one['read_rows']:,} rows read, {one['distinct_rows']:,} of them trained on as "
                f"{one['train_rows']:,}; {one['tokens']:,} tokens, "
                f"{one['target_tokens']:,} carry loss",
            )
        )
    return lines


def _test_lines(data: dict[str, Any], recipe: Recipe) -> list[tuple[str, str]]:
    """Return the line about the test rows; none without them."""
    if not data.get("test_rows"):
        return []
    own = recipe.data.test or recipe.data.test_split
    drawn = "" if own else " of the same data (data.test_rows), not trained on"
    return [("tested on", f"{data['test_rows']:,} rows{drawn}, at the end and for no choice")]


def _trial_lines(recipe: Recipe) -> list[tuple[str, str]]:
    """Return the line about the trials of a sweep and of its finals; none without a sweep."""
    if recipe.sweep is None:
        return []
    return [("sweep", trials_words(recipe))]


def _adapter_lines(adapters: dict[str, int]) -> list[tuple[str, str]]:
    """Return the line about the layers that get an adapter, by name with their numbers."""
    if not adapters:
        return []
    named = ", ".join(f"{safe_line(name, 40)} {count:,}" for name, count in adapters.items())
    total = formatting.plural(sum(adapters.values()), "linear layer")
    return [("adapters", f"on {total}: {named}")]


def length_line(data: dict[str, Any]) -> tuple[str, str]:
    """Return the line about the tokens of a row, or of a bin where rows are packed."""
    named = (("min", "min"), ("median", "median"), ("p95", "95 %"), ("max", "max"))
    text = ", ".join(f"{words} {data[f'{key}_length']:,}" for key, words in named)
    if data["cut_rows"]:
        text += f"; uncut 95 % {data['uncut_p95_length']:,}, max {data['uncut_max_length']:,}"
    return ("tokens a bin" if data.get("packed_rows") else "tokens a row", text)


def print_example(example: dict[str, Any], left: str, right: str) -> None:
    """Print a row as training reads it, indented by two columns, its learned parts in brackets."""
    learned = sum(part["tokens"] for part in example["parts"] if part["loss"])
    tokens = formatting.plural(example["tokens"], "token")
    print_answer()
    print_answer(f"{safe_line(example['place'])}: {tokens}, {learned:,} with loss")
    painted = []
    for part in example["parts"]:
        text = safe_text(part["text"], 1 << 16)
        text = f"{left}{text}{right}" if part["loss"] else text
        lines = (colour_text(line, "green" if part["loss"] else "dim") for line in text.split("\n"))
        painted.append("\n  ".join(lines))
    sys.stdout.write("  " + "".join(painted) + "\n")


def learned_brackets() -> tuple[str, str]:
    """Return the brackets that mark learned text: ⟦⟧ where the output's encoding has them."""
    try:
        "⟦⟧".encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return "[[", "]]"
    return "⟦", "⟧"

"""Actions that need typed input: what the panel asks for, and the request the input becomes.

Extending, adding and moving trials, and the limit of parallel trials. Input is parsed in
the poller's thread, because validating settings imports pydantic and may take 0.1 s.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tui.acts.undo import undo_request
from tui.messages import RequestDropped, RequestsDropped, Wish
from tui.paint import Line, plain_part
from tui.poller import Question
from tui.screens.panel import InputPanel
from tui.tables.cards import number_order, short_name
from workbench import formatting
from workbench.errors import UsageError
from workbench.service import CardRow, Experiment, Service, Snapshot, TrialRow
from workbench.trial import UNTRAINED, Kind


@dataclass(frozen=True, slots=True)
class Cards:
    """The cards that a trial may be moved to, with their numbers in nvidia-smi by UUID."""

    cards: Sequence[CardRow]
    slots: Mapping[str, tuple[int, str]]

    @classmethod
    def of_snapshot(cls, snapshot: Snapshot) -> Cards:
        """Return a snapshot's cards as nvidia-smi numbers them."""
        return cls(number_order(snapshot.cards, snapshot.slots), snapshot.slots)

    def typed_name(self, card: CardRow) -> str:
        """Return what is typed for a card: its number, else the start of its UUID."""
        slot = self.slots.get(card.uuid)
        return formatting.short_uuid(card.uuid) if slot is None else str(slot[0])


TYPED_VERBS = ("extend", "add", "finals", "evaluate", "move", "max-parallel")
"""Requests for which the user types something."""


def typed_refusal(verb: str, row: TrialRow) -> str:
    """Return why `verb` is impossible for the trial; an empty string where it is possible."""
    if row.kind in UNTRAINED and verb in ("clone", "extend"):
        return f"it {UNTRAINED[row.kind]} and trains nothing"
    if verb == "evaluate" and row.kind is not Kind.TUNE:
        return "choose a trial that trains an adapter; the base is scored beside it"
    if verb == "extend" and not row.state.final:
        return f"it is {row.state}; only an ended trial can be extended; clone it instead"
    if verb == "move" and row.state.final:
        return f"it has ended already ({row.state})"
    return ""


# --- the panel ---


def input_panel(
    verb: str, row: TrialRow, experiment: Experiment, cards: Cards, typed: str
) -> InputPanel:
    """Return the panel for `verb`; `typed` is an earlier input that was refused."""
    title, lines, preset = {
        "extend": _extend,
        "add": _add,
        "finals": _finals,
        "evaluate": _evaluate,
        "move": _move,
        "max-parallel": _parallel,
    }[verb](row, experiment, cards)
    return InputPanel(title, lines, typed or preset)


Prompt = tuple[str, list[Line], str]
"""A panel's title, its text, and the input it begins with."""


def _about(row: TrialRow) -> Line:
    settings = formatting.brief_settings(row.settings, short_keys=True) or "as in the recipe"
    return (plain_part(row.experiment_name, "dim"), ("  ", ""), plain_part(settings))


def _extend(row: TrialRow, experiment: Experiment, cards: Cards) -> Prompt:
    return (
        f"Train trial {row.id} longer by",
        [
            _about(row),
            (),
            (("+1", "accent"), ("  one more epoch     ", "dim"), ("100 steps", "accent")),
            (),
            (("This makes a new trial that starts from the adapter's weights.", "dim"),),
            (("Optimizer state and learning-rate schedule start from the beginning.", "dim"),),
        ],
        "+1",
    )


def _add(row: TrialRow, experiment: Experiment, cards: Cards) -> Prompt:
    return (
        f"Add to {plain_part(experiment.name, limit=40)[0]}",
        [
            (("train.learning_rate=1e-4", "accent"), ("  a trial with these settings", "dim")),
            (("4", "accent"), ("  four more trials that its sweep chooses", "dim")),
        ],
        "",
    )


def _finals(row: TrialRow, experiment: Experiment, cards: Cards) -> Prompt:
    usual = (experiment.recipe.get("sweep") or {}).get("finals") or {}
    return (
        f"Finals of {plain_part(experiment.name, limit=40)[0]}",
        [
            (("3 3", "accent"), ("  the best 3 settings, again with 3 other seeds each", "dim")),
            (),
            (("They are ranked by their means; only what is missing is trained.", "dim"),),
            (("While the sweep still runs, they begin at its end.", "dim"),),
        ],
        f"{usual.get('top', 3)} {usual.get('seeds', 3)}",
    )


def _evaluate(row: TrialRow, experiment: Experiment, cards: Cards) -> Prompt:
    return (
        f"Score trial {row.id} on other rows",
        [
            _about(row),
            (),
            (("new.jsonl", "accent"), ("  the rows; the base is scored beside it", "dim")),
            (("evaluate.answer_pattern='#### (.*)'", "accent"), ("  settings to change", "dim")),
            (),
            (("This makes an experiment of its own, with a board.", "dim"),),
        ],
        "",
    )


def _move(row: TrialRow, experiment: Experiment, cards: Cards) -> Prompt:
    named = [(cards.typed_name(card), card) for card in cards.cards]
    longest = max(len(word) for word in ("any", *(word for word, _ in named)))
    return (
        f"Move trial {row.id} to",
        [
            *(_move_line(word, longest, card, row) for word, card in named),
            ((f"{'any':<{longest}}  ", "accent"), ("whichever is free first", "dim")),
        ],
        "",
    )


def _move_line(word: str, longest: int, card: CardRow, row: TrialRow) -> Line:
    """Return what is typed for a card, its name, the start of its UUID, and what it does."""
    uuid = formatting.short_uuid(card.uuid)
    return (
        (f"{word:<{longest}}  ", "accent"),
        plain_part(f"{short_name(card.name):<12}", "bold", 30),
        *([] if word == uuid else [("  ", ""), plain_part(uuid, "dim")]),
        ("  ", ""),
        plain_part(_occupancy(card, row), "dim"),
    )


def _occupancy(card: CardRow, row: TrialRow) -> str:
    if card.trial is not None:
        return "runs this trial" if card.trial == row.id else f"runs trial {card.trial}"
    if not card.present:
        return "absent"
    closed = "quarantined" if card.quarantined else "drained" if card.drained else ""
    return closed or card.problem or card.guard or "free"


def _parallel(row: TrialRow, experiment: Experiment, cards: Cards) -> Prompt:
    now = experiment.max_parallel
    return (
        f"Parallel trials of {plain_part(experiment.name, limit=40)[0]}",
        [(("a number, or ", "dim"), ("none", "accent"), (" for all cards", "dim"))],
        "none" if now is None else str(now),
    )


# --- the request ---


def send_typed(
    verb: str, row: TrialRow, experiment: Experiment, cards: Cards, typed: str
) -> Question:
    """Parse the input and drop the request it stands for.

    The question raises UsageError or RecipeError for input that cannot be parsed or validated.
    """

    def question(service: Service) -> RequestsDropped:
        wish = Wish(verb, _ARGS[verb](service, row, experiment, cards, typed.strip()))
        # Undoing goes back to what was so before, which the rows here still say.
        before = Snapshot(engine=service.engine(), cards=[], experiments=[experiment], trials=[row])
        dropped = RequestDropped(service.send(verb, **wish.args), wish, undo_request(wish, before))
        return RequestsDropped([dropped], typed=True)

    return question


def _add_args(
    service: Service, row: TrialRow, experiment: Experiment, cards: Cards, typed: str
) -> dict[str, Any]:
    if typed.isascii() and typed.isdecimal():
        return {"experiment": experiment.id, "trials": int(typed)}
    from workbench.trial_edits import changed_settings, recipe_for_trial

    words, warm = _split(typed)
    return {
        "experiment": experiment.id,
        "settings": changed_settings(recipe_for_trial(experiment, {}), words),
    } | (warm)


def _finals_args(
    service: Service, row: TrialRow, experiment: Experiment, cards: Cards, typed: str
) -> dict[str, Any]:
    words = typed.split()
    if len(words) != 2 or not all(word.isascii() and word.isdecimal() for word in words):
        raise UsageError(
            f"{typed!r} says not how many settings and seeds", hint="type two numbers, such as 3 3"
        )
    top, seeds = map(int, words)
    return {"experiment": experiment.id, "top": top, "seeds": seeds}


def _evaluate_args(
    service: Service, row: TrialRow, experiment: Experiment, cards: Cards, typed: str
) -> dict[str, Any]:
    from workbench.adapters.evaluation_recipe import find_rows
    from workbench.trial_edits import scoring_recipe, trial_recipe

    try:
        named, *words = shlex.split(typed)
    except ValueError as wrong:
        raise UsageError(f"{typed!r} names no file", hint="type new.jsonl") from wrong
    file = find_rows(named)
    recipe = scoring_recipe(
        trial_recipe(experiment, row),
        file,
        f"{experiment.name}-{Path(file).stem}",
        resolved=experiment.resolved,
        words=words,
    )
    return {"recipe": recipe.model_dump(mode="json"), "subjects": [row.id], "same_base": False}


def _extend_args(
    service: Service, row: TrialRow, experiment: Experiment, cards: Cards, typed: str
) -> dict[str, Any]:
    number, _, unit = typed.partition(" ")
    try:
        if unit.strip() in ("step", "steps"):
            return {"trial": row.id, "steps": int(number)}
        return {"trial": row.id, "epochs": float(number)}  # also "+1"
    except ValueError as wrong:
        raise UsageError(
            f"{typed!r} is no training length", hint="type +1 for an epoch, or 100 steps"
        ) from wrong


def _move_args(
    service: Service, row: TrialRow, experiment: Experiment, cards: Cards, typed: str
) -> dict[str, Any]:
    # A number is nvidia-smi's; all else the engine resolves as a card's name.
    found = [card.uuid for card in cards.cards if cards.typed_name(card) == typed]
    return {"trial": row.id, "card": found[0] if found else typed}


def _parallel_args(
    service: Service, row: TrialRow, experiment: Experiment, cards: Cards, typed: str
) -> dict[str, Any]:
    if typed == "none":
        return {"experiment": experiment.id, "limit": None}
    if not (typed.isascii() and typed.isdecimal()):
        raise UsageError(f"{typed!r} is no number", hint="type a number, or none for no limit")
    return {"experiment": experiment.id, "limit": int(typed)}


_ARGS = {
    "extend": _extend_args,
    "add": _add_args,
    "finals": _finals_args,
    "evaluate": _evaluate_args,
    "move": _move_args,
    "max-parallel": _parallel_args,
}


def _split(typed: str) -> tuple[list[str], dict[str, int | None]]:
    """Return the settings as the command line takes them, and the arguments of a warm start."""
    try:
        words = shlex.split(typed)
    except ValueError as open_quote:
        raise UsageError(f"{typed!r} has an opening quote without a closing one") from open_quote
    settings = [word for word in words if not word.startswith("warm=")]
    warm = [word.removeprefix("warm=") for word in words if word.startswith("warm=")]
    if not warm:
        return settings, {}
    if warm[-1] == "none":
        return settings, {"warm_trial": None}
    if not (warm[-1].isascii() and warm[-1].isdecimal()):
        raise UsageError(
            f"warm={warm[-1]} names no trial", hint="type warm=7, or warm=none for a fresh adapter"
        )
    return settings, {"warm_trial": int(warm[-1])}

"""Steering beyond a single key: what a person is asked for, and the request their words become."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

from tui import present
from tui.messages import RequestDropped
from tui.paint import Line, plain
from tui.poller import Question
from tui.screens.panel import Words
from workbench.errors import UsageError
from workbench.service import CardRow, Experiment, Service, TrialRow
from workbench.trial import Kind

WITH_WORDS = ("clone", "extend", "add", "move", "max-parallel")
"""Verbs that a person is asked some words for."""


def sender(verb: str, *, undo: str = "", **args: Any) -> Question:
    """Leave that request for the engine; `undo` is said with its answer."""
    return lambda service: RequestDropped(service.send(verb, **args), verb, undo=undo)


def refusal(verb: str, row: TrialRow) -> str:
    """Why that makes no sense for it; empty when it does."""
    if row.kind is Kind.BASE and verb in ("clone", "extend"):
        return "it scores the untouched base: there is nothing to train in it"
    if verb == "extend" and not row.state.final:
        return f"it is {row.state}; only what has ended can be extended (c clones it)"
    if verb == "move" and row.state.final:
        return f"it has ended already ({row.state})"
    return ""


# --- what is asked ---


def words_panel(
    verb: str, row: TrialRow, experiment: Experiment, cards: Sequence[CardRow], typed: str
) -> Words:
    """The question for `verb`; `typed` is what stood there when it was refused."""
    title, lines, first = {
        "clone": _clone,
        "extend": _extend,
        "add": _add,
        "move": _move,
        "max-parallel": _parallel,
    }[verb](row, experiment, cards)
    return Words(title, lines, typed or first, offered=verb == "clone")


Asked = tuple[str, list[Line], str]


def _about(row: TrialRow) -> Line:
    settings = present.settings(row.settings) or "as in the recipe"
    return (plain(row.experiment_name, "dim"), ("  ", ""), plain(settings))


def _clone(row: TrialRow, experiment: Experiment, cards: Sequence[CardRow]) -> Asked:
    return (
        f"Clone trial {row.id} with",
        [
            _about(row),
            (),
            (("lora.rank=32 train.learning_rate=1e-4", "accent"), ("  what differs", "dim")),
            (("warm=7", "accent"), ("  starts from trial 7's adapter", "dim")),
            (("ctrl+o", "accent"), ("  opens its whole recipe in $EDITOR instead", "dim")),
            (),
            (("Other data or another model make an experiment of its own.", "dim"),),
        ],
        "",
    )


def _extend(row: TrialRow, experiment: Experiment, cards: Sequence[CardRow]) -> Asked:
    return (
        f"Train trial {row.id} longer by",
        [
            _about(row),
            (),
            (("+1", "accent"), ("  an epoch     ", "dim"), ("100 steps", "accent")),
            (),
            (("A new trial that starts from its adapter. Weights only: optimizer", "dim"),),
            (("and schedule begin anew.", "dim"),),
        ],
        "+1",
    )


def _add(row: TrialRow, experiment: Experiment, cards: Sequence[CardRow]) -> Asked:
    return (
        f"Add to {plain(experiment.name, limit=40)[0]}",
        [
            (("train.learning_rate=1e-4", "accent"), ("  a trial with these settings", "dim")),
            (("4", "accent"), ("  four more of what its sweep would try", "dim")),
        ],
        "",
    )


def _move(row: TrialRow, experiment: Experiment, cards: Sequence[CardRow]) -> Asked:
    return (
        f"Move trial {row.id} to",
        [
            (
                (f"{number}  ", "accent"),
                plain(present.short_uuid(card.uuid), "bold"),
                ("  ", ""),
                plain(card.name, "", 30),
                ("  ", ""),
                plain(_holds(card, row), "dim"),
            )
            for number, card in enumerate(cards, start=1)
        ]
        + [(("any  ", "accent"), ("whichever is free first", "dim"))],
        "",
    )


def _holds(card: CardRow, row: TrialRow) -> str:
    if card.trial is not None:
        return "it is here" if card.trial == row.id else f"runs trial {card.trial}"
    return "drained" if card.drained else "free" if card.present else "gone"


def _parallel(row: TrialRow, experiment: Experiment, cards: Sequence[CardRow]) -> Asked:
    now = experiment.max_parallel
    return (
        f"Of {plain(experiment.name, limit=40)[0]}, at once at most",
        [(("a number, or ", "dim"), ("none", "accent"), (" for all cards", "dim"))],
        "none" if now is None else str(now),
    )


# --- what it becomes ---


def asker(
    verb: str, row: TrialRow, experiment: Experiment, cards: Sequence[CardRow], typed: str
) -> Question:
    """Their words as a request. UsageError, or RecipeError, for what they cannot mean."""

    def question(service: Service) -> RequestDropped:
        args = _ARGS[verb](service, row, experiment, cards, typed.strip())
        return RequestDropped(service.send(verb, **args), verb)

    return question


def _clone_args(
    service: Service, row: TrialRow, experiment: Experiment, cards: Sequence[CardRow], typed: str
) -> dict[str, Any]:
    from workbench.trial_edits import as_recipe, changed

    words, warm = _split(typed)
    edits = changed(as_recipe(experiment, row.settings), words)
    return {"trial": row.id, "settings": edits, **warm}


def _add_args(
    service: Service, row: TrialRow, experiment: Experiment, cards: Sequence[CardRow], typed: str
) -> dict[str, Any]:
    if typed.isascii() and typed.isdecimal():
        return {"experiment": experiment.id, "trials": int(typed)}
    from workbench.trial_edits import as_recipe, changed

    words, warm = _split(typed)
    return {"experiment": experiment.id, "settings": changed(as_recipe(experiment, {}), words)} | (
        warm
    )


def _extend_args(
    service: Service, row: TrialRow, experiment: Experiment, cards: Sequence[CardRow], typed: str
) -> dict[str, Any]:
    number, _, unit = typed.partition(" ")
    try:
        if unit.strip() in ("step", "steps"):
            return {"trial": row.id, "steps": int(number)}
        return {"trial": row.id, "epochs": float(number)}
    except ValueError as wrong:
        raise UsageError(f"{typed!r} says no length", hint="+1, or 100 steps") from wrong


def _move_args(
    service: Service, row: TrialRow, experiment: Experiment, cards: Sequence[CardRow], typed: str
) -> dict[str, Any]:
    number = int(typed) if typed.isascii() and typed.isdecimal() else 0
    card = cards[number - 1].uuid if 0 < number <= len(cards) else typed
    return {"trial": row.id, "card": card}


def _parallel_args(
    service: Service, row: TrialRow, experiment: Experiment, cards: Sequence[CardRow], typed: str
) -> dict[str, Any]:
    if typed == "none":
        return {"experiment": experiment.id, "limit": None}
    if not (typed.isascii() and typed.isdecimal()):
        raise UsageError(f"{typed!r} is no number", hint="a number, or none")
    return {"experiment": experiment.id, "limit": int(typed)}


_ARGS = {
    "clone": _clone_args,
    "extend": _extend_args,
    "add": _add_args,
    "move": _move_args,
    "max-parallel": _parallel_args,
}


def _split(typed: str) -> tuple[list[str], dict[str, int | None]]:
    """Settings as the command line takes them, and the warm start among them."""
    try:
        words = shlex.split(typed)
    except ValueError as open_quote:
        raise UsageError(f"{typed!r} has a quote that does not end") from open_quote
    settings = [word for word in words if not word.startswith("warm=")]
    warm = [word.removeprefix("warm=") for word in words if word.startswith("warm=")]
    if not warm:
        return settings, {}
    if warm[-1] == "none":
        return settings, {"warm_trial": None}
    if not (warm[-1].isascii() and warm[-1].isdecimal()):
        raise UsageError(f"warm={warm[-1]} names no trial", hint="warm=7, or warm=none")
    return settings, {"warm_trial": int(warm[-1])}

"""The commands of the palette: every action that has a key, by name, for what is chosen.

The palette is also the only way to a few actions without a key, such as the limit of parallel
trials. Commands act through the screen's own actions and messages, exactly as keys do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from textual.app import SystemCommand
from textual.message_pump import MessagePump
from textual.screen import Screen

from tui.messages import SendAsked
from tui.screens.cards import Cards
from tui.screens.queue import Queue
from tui.screens.view import View
from tui.view_state import ViewState
from workbench.text import safe_line

_TYPED_TITLES = {
    "clone": "Clone trial {} with other settings",
    "extend": "Extend trial {}",
    "add": "Add a trial beside trial {}",
    "evaluate": "Score trial {} on other rows",
    "finals": "Finals of the experiment of trial {}: other seeds",
    "move": "Move trial {} to another card",
    "max-parallel": "Limit parallel trials of the experiment of trial {}",
}
"""Titles of the actions that ask for input, with the place of the trial's id."""


def palette_commands(view_state: ViewState, screen: Screen[object]) -> Iterable[SystemCommand]:
    """Yield the commands that fit the visible screen and the trial or card chosen on it."""
    if isinstance(screen, View) and screen.chosen is not None:
        yield from _trial_commands(screen, screen.chosen)
    yield _hold_command(view_state, screen)
    if isinstance(screen, View) and (row := view_state.trial(screen.chosen)) is not None:
        yield from _experiment_commands(view_state, screen, row.experiment)
    if isinstance(screen, Queue) and screen.chosen is not None:
        yield from _queue_commands(screen, screen.chosen)
    if isinstance(screen, Cards):
        yield SystemCommand("Drain or undrain the card", "", lambda: screen.action_drain(False))
        yield SystemCommand("Drain the card now", "", lambda: screen.action_drain(True))


def _trial_commands(screen: View, trial: int) -> Iterable[SystemCommand]:
    # A default argument binds the loop's value; a closure would see the last one in all commands.
    for verb in ("stop", "pause", "resume", "kill"):
        title = f"{verb.capitalize()} trial {trial}"
        yield SystemCommand(title, "", lambda v=verb: screen.action_act(v))
    for verb, template in _TYPED_TITLES.items():
        title = template.format(trial)
        yield SystemCommand(title, "", lambda v=verb: screen.action_input(v))


def _hold_command(view_state: ViewState, screen: Screen[object]) -> SystemCommand:
    held = view_state.snapshot is not None and view_state.snapshot.held
    title, verb = ("Release the queue", "release") if held else ("Hold the queue", "hold")
    return SystemCommand(title, "Whether trials are started", _sender(screen, verb))


def _experiment_commands(view_state: ViewState, screen: View, id: int) -> Iterable[SystemCommand]:
    """Yield the commands for the chosen trial's experiment, also where none of it is queued."""
    known = view_state.snapshot.experiments if view_state.snapshot else []
    one = next(one for one in known if one.id == id)
    name, verb = safe_line(one.name, 40), "release" if one.held else "hold"
    title = f"{verb.capitalize()} experiment {name}"
    yield SystemCommand(title, "", _sender(screen, verb, experiment=id))
    for by, word in ((1, "first"), (-1, "later")):
        priority = one.priority + by
        title = f"Experiment {name} goes {word}: priority {priority}"
        send = _sender(screen, "priority", experiment=id, priority=priority)
        yield SystemCommand(title, "", send)


def _queue_commands(screen: Queue, trial: int) -> Iterable[SystemCommand]:
    for to in ("front", "up", "down", "back"):
        title = f"{to.capitalize()}: trial {trial}"
        yield SystemCommand(title, "", lambda to=to: screen.action_order(to))


def _sender(screen: MessagePump, verb: str, **args: Any) -> Callable[[], None]:
    def send() -> None:
        screen.post_message(SendAsked(verb, **args))

    return send

"""The panels before stopping or killing a trial and ending a quarantine, and the keys."""

from __future__ import annotations

from tui import present
from tui.keys.keymap import Keymap, key_text
from tui.messages import StopLookedUp
from tui.paint import Line, join_lines, plain_part
from tui.screens.panel import Confirm, Panel, TypeId
from tui.screens.view import View
from workbench import formatting
from workbench.service import CardRow
from workbench.trial import State


def stop_panel(fact: StopLookedUp, now: float) -> Confirm | TypeId:
    """Return the question before stopping, or before killing where the trial's id is asked for.

    It names the step, the last checkpoint with its age, and what will happen.
    """
    row = fact.detail.trial
    age = None if fact.checkpoint_utc is None else now - fact.checkpoint_utc
    lines: list[Line] = [_where(fact), _checkpoint(fact, age), (), ((_outcome(fact), ""),)]
    if fact.kill:
        return TypeId(f"Kill trial {row.id}?", lines, row.id)
    return Confirm(f"Stop trial {row.id}?", lines, "stop it", "keep it")


def _where(fact: StopLookedUp) -> Line:
    row = fact.detail.trial
    settings = formatting.brief_settings(row.settings, short_keys=True)
    at = f", at step {formatting.steps(row.step, row.total_steps)}" if row.state.live else ""
    return (
        plain_part(row.experiment_name, "dim"),
        ("  ", ""),
        plain_part(settings),
        ("  " if settings else "", ""),
        plain_part(f"{row.state}{at}", "bold"),
    )


def _checkpoint(fact: StopLookedUp, age_s: float | None) -> Line:
    row = fact.detail.trial
    if row.checkpoint_step is None:
        return (("It has no checkpoint yet.", "warn"),)
    age = "" if age_s is None else f", {formatting.age(age_s)}"
    return ((f"Its last checkpoint is of step {row.checkpoint_step}{age}.", ""),)


def _outcome(fact: StopLookedUp) -> str:
    row = fact.detail.trial
    if fact.kill:
        return "It ends at once. Nothing is scored and no adapter is kept. This cannot be undone."
    later = " To continue it later, pause it instead (p)."
    if row.state is State.RUNNING:
        return (
            "It ends after its current step. The adapter as it is then is scored and kept; if that "
            "fails, its last checkpoint is." + later
        )
    if row.checkpoint_step is not None:
        return "Its last checkpoint is scored and kept as its adapter, once a card is free."
    return "It has not trained yet and leaves no adapter."


def quarantine_panel(card: CardRow) -> Confirm:
    """Return the question before a quarantined card takes trials again, with the reason."""
    lines: list[Line] = [
        (plain_part(card.name, "bold"), ("  ", ""), plain_part(card.uuid, "dim")),
        (plain_part(card.quarantined, "bad", 600),),
        (),
        (("The card takes trials again. If it fails again, its trial fails with it.", ""),),
    ]
    return Confirm("End the quarantine of this card?", lines, "end it", "keep it")


_GAP = ("   ", "")
_KEYS_WIDE = 14
"""Cells of the column of keys."""


def help_panel(view: View, keymap: Keymap) -> Panel:
    """Return the keys that work in `view`, each with the reason where it is disabled now.

    Below them stand the glyphs of states.
    """
    lines: list[Line] = []
    for row in keymap.rows_for(view.place):
        if keys := keymap.keys_of(row.id):
            shown = " ".join(map(key_text, keys))
            why_not = view.refusal(row.id)
            reason: Line = ((f"  ({why_not})", "dim"),) if why_not else ()
            tone = "dim" if why_not else ""
            lines.append(((f"{shown:<{_KEYS_WIDE}}", "accent"), (row.text, tone), *reason))
    states: list[Line] = [present.named_state(word) for word in State]
    lines += [(), join_lines(states[:4], _GAP), join_lines(states[4:], _GAP)]
    return Panel(f"Keys of {view.place}", lines, tight=True, indent=_KEYS_WIDE)

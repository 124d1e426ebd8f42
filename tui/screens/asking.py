"""The panels before stopping or killing a trial and ending a quarantine, and the keys."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from tui import present
from tui.keys.keymap import Keymap, key_text
from tui.messages import StopLookedUp
from tui.paint import Line, join_lines, plain_part
from tui.screens.panel import Choice, Confirm, Panel, TypeId
from tui.screens.view import View
from workbench import formatting
from workbench.service import CardRow, Experiment, TrialRow
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


def many_panel(rows: Sequence[TrialRow], left_out: int, *, kill: bool) -> Confirm | TypeId:
    """Return the question before stopping or killing several trials at once.

    `left_out` is the number of marked trials that have ended already.
    """
    counts = Counter(str(row.state) for row in rows)
    names = Counter(row.experiment_name for row in rows)
    lines: list[Line] = [
        ((formatting.counts_line(counts), "bold"),),
        *(
            (plain_part(name, "dim", 60), (f"  {formatting.plural(count, 'trial')}", "dim"))
            for name, count in names.most_common(4)
        ),
    ]
    if left_out:
        have = "has" if left_out == 1 else "have"
        lines.append(((f"{left_out} of the marked ones {have} ended already.", "dim"),))
    title = f"{'Kill' if kill else 'Stop'} {formatting.plural(len(rows), 'trial')}?"
    if kill:
        text = "They end at once. Nothing is scored and no adapter is kept. This cannot be undone."
        return TypeId(title, [*lines, (), ((text, ""),)], len(rows))
    text = (
        "Those that run end after their current step; each is scored and kept as it is then. Those "
        "that have not trained yet leave no adapter. To continue them later, pause them instead."
    )
    return Confirm(title, [*lines, (), ((text, ""),)], "stop them", "keep them")


def experiment_panel(one: Experiment, rows: Sequence[TrialRow], keymap: Keymap) -> Choice:
    """Return the choice of what to do with all of an experiment's trials that have not ended."""
    counts = Counter(str(row.state) for row in rows)
    hold = "release" if one.held else "hold"
    options = [
        (keymap.keys_of("trial.stop"), "stop", "stop all; the adapters so far are kept"),
        (keymap.keys_of("trial.pause"), "pause", "hold it, and pause what trains"),
        (keymap.keys_of("trial.resume"), "resume", "release it, and resume what is paused"),
        (keymap.keys_of("queue.hold"), hold, f"{hold} what waits; what trains is left alone"),
        (keymap.keys_of("trial.kill"), "kill", "kill all; nothing is kept"),
    ]
    lines: list[Line] = [
        (
            (formatting.counts_line(counts) if rows else "all of its trials have ended", "bold"),
            ("  and its sweep goes on" if one.searching else "", "dim"),
        )
    ]
    name = plain_part(one.name, limit=40)[0]
    return Choice(f"All trials of {name}", lines, options)


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
    # Keys that only move about stand last: who needs the list needs the others.
    for row in sorted(keymap.rows_for(view.place), key=lambda row: not row.palette):
        if keys := keymap.keys_of(row.id):
            shown = " ".join(map(key_text, keys))
            why_not = view.refusal(row.id)
            reason: Line = ((f"  ({why_not})", "dim"),) if why_not else ()
            tone = "dim" if why_not else ""
            lines.append(((f"{shown:<{_KEYS_WIDE}}", "accent"), (row.text, tone), *reason))
    states: list[Line] = [present.named_state(word) for word in State]
    lines += [(), join_lines(states[:4], _GAP), join_lines(states[4:], _GAP)]
    return Panel(f"Keys of {view.place}", lines, tight=True, indent=_KEYS_WIDE)

"""What a person is told before a trial is stopped or killed, and the keys there are."""

from __future__ import annotations

from tui import present
from tui.messages import StopLookedUp
from tui.paint import Line, join, plain
from tui.screens.panel import Confirm, Panel, TypeId
from workbench.service import CardRow
from workbench.trial import State


def stop_panel(fact: StopLookedUp, now: float) -> Confirm | TypeId:
    """Names the step, the last checkpoint and its age, and what will happen."""
    row = fact.detail.trial
    age = None if fact.checkpoint_utc is None else now - fact.checkpoint_utc
    lines: list[Line] = [_where(fact), _checkpoint(fact, age), (), ((_outcome(fact), ""),)]
    if fact.kill:
        return TypeId(f"Kill trial {row.id}?", lines, row.id)
    return Confirm(f"Stop trial {row.id}?", lines, "stop it", "let it be")


def _where(fact: StopLookedUp) -> Line:
    row = fact.detail.trial
    settings = present.settings(row.settings)
    of = f" of {row.total_steps:,}" if row.total_steps else ""
    at = f", at step {row.step:,}{of}" if row.state.live else ""
    return (
        plain(row.experiment_name, "dim"),
        ("  ", ""),
        plain(settings),
        ("  " if settings else "", ""),
        plain(f"{row.state}{at}", "bold"),
    )


def _checkpoint(fact: StopLookedUp, age_s: float | None) -> Line:
    row = fact.detail.trial
    if row.checkpoint_step is None:
        return (("It has no checkpoint yet.", "warn"),)
    old = "" if age_s is None else f", {present.ago(age_s)}"
    return ((f"Its last checkpoint is of step {row.checkpoint_step:,}{old}.", ""),)


def _outcome(fact: StopLookedUp) -> str:
    row = fact.detail.trial
    if fact.kill:
        return "It ends at once. Nothing is scored and no adapter is kept. This cannot be undone."
    later = " To go on with it later, pause it instead (p)."
    if row.state is State.RUNNING:
        return (
            "It ends after its current step; what it has learned by then is scored and kept as its "
            "adapter. Should it fail before that, its last checkpoint is." + later
        )
    if row.checkpoint_step is not None:
        return "Its last checkpoint is scored and kept as its adapter, once a card is free."
    return "It is not trained, and leaves no adapter."


def quarantine_panel(card: CardRow) -> Confirm:
    """Why it was taken out of use, and what saying yes means."""
    lines: list[Line] = [
        (plain(card.name, "bold"), ("  ", ""), plain(card.uuid, "dim")),
        (plain(card.quarantined, "bad", 600),),
        (),
        (("It takes trials again. Should it fail again, so does what runs there.", ""),),
    ]
    return Confirm("End its quarantine?", lines, "end it", "leave it")


_GAP = ("   ", "")
KEYS = (
    ("1 … 6", "Dashboard, Trials, Queue, Board, Cards, Events"),
    ("↑ ↓ j k", "move; page up and down, home, end"),
    ("enter esc", "drill in: a trial, an event's text; step out"),
    ("/", "filter the list by words; esc clears it"),
    ("space", "mark a trial: marked curves are drawn together"),
    ("s  K", "stop it and keep what it learned; kill it and keep nothing"),
    ("p  r", "pause it and free its card; resume it"),
    ("c  x  a", "clone it with edits; extend an ended one; add a trial"),
    ("v", "move it to another card"),
    ("m", "in a trial: chart the next metric"),
    ("f u d b", "in Queue: to the front, up, down, to the back"),
    ("+ - h H", "in Queue: priority; hold its experiment, hold everything"),
    ("[ ]  i", "on the Board: other experiment; which settings mattered"),
    ("d  D", "in Cards: drain, undrain or end a quarantine; drain now"),
    ("o", "in Events: open the trial it is about"),
    (": ctrl+p", "the palette: every command by name"),
    ("E  q", "start the engine; leave, training goes on"),
)


def help_panel() -> Panel:
    lines: list[Line] = [((f"{key:<10}", "accent"), (meaning, "")) for key, meaning in KEYS]
    states: list[Line] = [present.state_word(word) for word in State]
    return Panel("Keys", [*lines, join(states[:4], _GAP), join(states[4:], _GAP)], tight=True)

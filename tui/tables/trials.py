"""Trials as rows: on the dashboard, in Trials, in Queue."""

from __future__ import annotations

from collections.abc import Sequence

from tui import present
from tui.chart import GLYPHS
from tui.paint import Gauge, Line, Part, Span, plain
from tui.view_state import ViewState
from tui.widgets.rowlist import Cell, Column, Row
from workbench.service import Experiment, Snapshot, TrialRow
from workbench.trial import Kind, State

_ORDER = {
    State.RUNNING: 0,
    State.STARTING: 0,
    State.QUEUED: 1,
    State.PAUSED: 2,
}

DASHBOARD = (
    Column(title="", width=2),
    Column(title="trial", width=5),
    Column(title="experiment", width=12, most=24, grow=1, drop=3),
    Column(title="settings", width=17, most=50, grow=2),
    Column(title="state", width=11),
    Column(title="progress", width=11, most=20, grow=1),
    Column(title="loss", width=5, right=True),
    Column(title="tok/s", width=6, right=True, drop=4),
    Column(title="left or why", width=14, grow=4),
)
FULL = (
    Column(title="", width=2),
    Column(title="trial", width=5),
    Column(title="experiment", width=12, most=24, grow=2, drop=4),
    Column(title="settings", width=17, most=50, grow=2),
    Column(title="state", width=11),
    Column(title="progress", width=11, most=20, grow=1, drop=2),
    Column(title="loss", width=5, right=True, drop=3),
    Column(title="score", width=7, right=True, drop=1),
    Column(title="tok/s", width=6, right=True, drop=8),
    Column(title="peak", width=8, right=True, drop=5),
    Column(title="card", width=8, drop=6),
    Column(title="tries", width=5, right=True, drop=9),
    Column(title="left or why", width=12, grow=3),
)
QUEUE = (
    Column(title="", width=3, right=True),
    Column(title="trial", width=5),
    Column(title="experiment", width=12, most=24, grow=2),
    Column(title="settings", width=17, most=40, grow=1, drop=1),
    Column(title="waits", width=10, right=True, drop=2),
    Column(title="for what", width=28, grow=6),
)


def in_order(trials: Sequence[TrialRow]) -> list[TrialRow]:
    """Live ones first, then waiting, then paused, then the ended with the newest on top."""
    return sorted(
        trials,
        key=lambda row: (
            _ORDER.get(row.state, 3),
            -row.changed_utc if row.state.final else 0.0,
            row.id,
        ),
    )


def searched(row: TrialRow) -> str:
    """What `/` looks through."""
    words = (present.trial_name(row), row.experiment_name, row.state, row.waiting, row.reason)
    return f"{' '.join(words)} {present.settings(row.settings)} {row.card or ''}".lower()


def matches(row: TrialRow, wanted: str) -> bool:
    """True when every word of the filter stands somewhere in the row."""
    text = searched(row)
    return all(word in text for word in wanted.lower().split())


def _gutter(row: TrialRow, view_state: ViewState, drawn: dict[int, int]) -> Line:
    """A bar when it is marked; the glyph of its curve when it is on the chart."""
    mark: Part = ("┃", "accent") if row.id in view_state.marked else (" ", "")
    slot = drawn.get(row.id)
    return (mark, (" ", "") if slot is None else (GLYPHS[slot], f"s{slot}"))


def _progress(row: TrialRow) -> Gauge:
    return Gauge(present.share(row), "live" if row.state.live else "dim", percent=True)


def note(row: TrialRow, view_state: ViewState, now: float) -> Line:
    """What matters of it now: time left, what it waits for, why it ended."""
    if row.state is State.RUNNING:
        left = view_state.pace.left_s(row, now)
        return ((present.eta(left), "" if left is not None else "faint"),)
    if row.state is State.STARTING:
        return (("on its way to a card", "dim"),)
    if row.state is State.QUEUED:
        return (plain(row.waiting or "for its turn", "dim"),)
    if row.reason:
        return (plain(row.reason, "bad" if row.state is State.FAILED else "dim"),)
    return ((present.ago(now - row.changed_utc), "dim"),)


def _settings(row: TrialRow) -> Line:
    if row.kind is Kind.BASE:
        return (("no adapter, for comparison", "dim"),)
    return (plain(present.settings(row.settings) or "as in the recipe"),)


def _known(value: float | None) -> str:
    return "" if value is None else present.number(value, 3)


def _rate(row: TrialRow) -> str:
    return present.rate(row.tokens_per_s) if row.state.live and row.tokens_per_s else ""


def _named(row: TrialRow, view_state: ViewState, drawn: dict[int, int]) -> tuple[Cell, ...]:
    """What both lists begin with."""
    return (
        _gutter(row, view_state, drawn),
        ((present.trial_name(row), "bold" if row.state.live else ""),),
        (plain(row.experiment_name, "dim"),),
        _settings(row),
        present.state(row),
    )


def _in_words(row: TrialRow) -> bool:
    """True when why it is where it is says more than its numbers."""
    return row.state in (State.QUEUED, State.STARTING, State.FAILED)


def dashboard(trials: Sequence[TrialRow], view_state: ViewState, now: float) -> list[Row]:
    drawn = view_state.drawn()
    return [_brief(row, view_state, drawn, now) for row in in_order(trials)]


def _brief(row: TrialRow, view_state: ViewState, drawn: dict[int, int], now: float) -> Row:
    told = note(row, view_state, now)
    if _in_words(row):
        return Row(row.id, (*_named(row, view_state, drawn), Span(told)))
    numbers: tuple[Cell, ...] = (_progress(row), ((_known(row.loss), ""),), ((_rate(row), ""),))
    return Row(row.id, (*_named(row, view_state, drawn), *numbers, told))


def full(
    trials: Sequence[TrialRow], view_state: ViewState, experiments: Sequence[Experiment], now: float
) -> list[Row]:
    drawn = view_state.drawn()
    rank_by = {one.id: one.rank_by for one in experiments}
    return [
        _whole(row, view_state, drawn, now, rank_by.get(row.experiment, "loss"))
        for row in in_order(trials)
    ]


def _whole(
    row: TrialRow, view_state: ViewState, drawn: dict[int, int], now: float, rank_by: str
) -> Row:
    told = note(row, view_state, now)
    if _in_words(row):
        return Row(row.id, (*_named(row, view_state, drawn), Span(told)))
    numbers: tuple[Cell, ...] = (
        _progress(row),
        ((_known(row.loss), ""),),
        ((present.score(row.score, rank_by) if row.score is not None else "", ""),),
        ((present.rate(row.tokens_per_s) if row.tokens_per_s else "", ""),),
        ((present.gib(row.peak_bytes) if row.peak_bytes else "", ""),),
        ((present.short_uuid(row.card or ""), "dim"),),
        ((str(row.attempts), "dim"),),
    )
    return Row(row.id, (*_named(row, view_state, drawn), *numbers, told))


def waiting(snapshot: Snapshot, order: Sequence[int]) -> list[TrialRow]:
    """In the order in which they will be placed; what that does not tell of yet, last."""
    places = {id: place for place, id in enumerate(order)}
    queued = [row for row in snapshot.trials if row.state is State.QUEUED]
    return sorted(queued, key=lambda row: places.get(row.id, len(places)))


def queue(snapshot: Snapshot, order: Sequence[TrialRow], now: float, shown: set[int]) -> list[Row]:
    """Of all that wait, in their order, those that are shown."""
    held = {one.id for one in snapshot.experiments if one.held}
    return [
        Row(
            row.id,
            (
                ((str(place), "dim"),),
                ((present.trial_name(row), "bold"),),
                (plain(row.experiment_name, "dim"),),
                _settings(row),
                ((present.span(now - row.changed_utc), "dim"),),
                reason(row, held),
            ),
        )
        for place, row in enumerate(order, start=1)
        if row.id in shown
    ]


def reason(row: TrialRow, held: set[int]) -> Line:
    """What it waits for, and where it will go on."""
    if row.experiment in held:
        return (("its experiment is held", "warn"),)
    again: Line = ((f"resumes at step {row.checkpoint_step}; ", "dim"),)
    text = plain(row.waiting.removeprefix("waits for ") or "its turn")
    return (*again, text) if row.checkpoint_step is not None else (text,)


def preparing(experiment: Experiment) -> Line:
    """An experiment that has no trials yet, in a line."""
    name = plain(experiment.name, "bold", 40)
    if experiment.state == "refused":
        hint = (("  →  ", "dim"), plain(experiment.hint)) if experiment.hint else ()
        return (
            ("✗ refused ", "bad"),
            name,
            ("  ", ""),
            plain(experiment.reason),
            *hint,
        )
    return (("◐ preparing ", "live"), name, ("  its model and data are being read", "dim"))

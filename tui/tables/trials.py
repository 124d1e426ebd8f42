"""Trials as rows: the lists on Dashboard, Trials and Queue, each with its columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass

from tui import present
from tui.chart import GLYPHS
from tui.paint import Gauge, Line, Part, Span, plain_part
from tui.view_state import ViewState
from tui.widgets.columns import Column
from tui.widgets.lazy_rows import Cell, LazyRows, ListRow
from workbench import formatting
from workbench.service import Experiment, Snapshot, TrialRow
from workbench.trial import Kind, State

# The states that still change come first; all others rank behind them.
_ORDER = {
    State.RUNNING: 0,
    State.STARTING: 0,
    State.QUEUED: 1,
    State.PAUSED: 2,
}

DASHBOARD = (
    Column(title="", width=2),
    Column(title="trial", width=5),
    Column(title="experiment", width=12, most=24, grow=1, drop=5),
    Column(title="settings", width=17, most=50, grow=2),
    Column(title="state", width=11),
    Column(title="progress", width=11, most=15, grow=1, drop=2),
    Column(title="loss", width=7, right=True, drop=1),
    Column(title="tok/s", width=6, right=True, drop=4),
    Column(title="left or why", width=11, grow=4),
)
FULL = (
    Column(title="", width=2),
    Column(title="trial", width=5),
    Column(title="experiment", width=12, most=24, grow=2, drop=4),
    Column(title="settings", width=17, most=50, grow=2),
    Column(title="state", width=11),
    Column(title="progress", width=11, most=15, grow=1, drop=2),
    Column(title="loss", width=7, right=True, drop=3),
    Column(title="score", width=7, right=True, drop=1),
    Column(title="tok/s", width=6, right=True, drop=8),
    Column(title="peak", width=8, right=True, drop=5),
    Column(title="card", width=8, drop=6),
    Column(title="tries", width=5, right=True, drop=9),
    Column(title="left or why", width=11, grow=3),
)
QUEUE = (
    Column(title="", width=3, right=True),
    Column(title="trial", width=6),
    Column(title="experiment", width=12, most=24, grow=2, drop=1),
    Column(title="settings", width=17, most=40, grow=1),
    Column(title="waits", width=10, right=True, drop=2),
    Column(title="for what", width=20, grow=6),
)


def display_order(trials: Sequence[TrialRow]) -> list[TrialRow]:
    """Return live trials first, then queued, then paused, then ended ones, the newest on top."""
    # In one pass, since 10,000 trials are ordered again whenever one of them changes.
    groups: tuple[list[TrialRow], ...] = ([], [], [], [])
    for row in trials:
        groups[_ORDER.get(row.state, 3)].append(row)
    groups[3].sort(key=lambda row: row.changed_utc, reverse=True)
    return [row for group in groups for row in group]


def _gutter(row: TrialRow, view_state: ViewState, drawn: dict[int, int]) -> Line:
    """Return a bar for a marked trial, and the glyph of its curve for one on the chart."""
    mark: Part = ("┃", "accent") if row.id in view_state.marked else (" ", "")
    slot = drawn.get(row.id)
    return (mark, (" ", "") if slot is None else (GLYPHS[slot], f"s{slot}"))


def _progress(row: TrialRow, lives: bool) -> Gauge:
    return Gauge(present.done_share(row), "live" if lives else "dim", percent=True)


def status_note(row: TrialRow, now: float) -> Line:
    """Return what explains the state: time left, what it waits for, why or when it ended."""
    if row.state is State.RUNNING:
        return present.known_or_faint(formatting.time_left(row.seconds_left(now)))
    if row.state is State.STARTING:
        return (("its worker is starting", "dim"),)
    if row.state is State.QUEUED:
        return (plain_part(waiting_for(row) or "waits for its turn", "dim"),)
    if row.reason and row.reason != formatting.KILLED:  # the state's word says that already
        return (plain_part(row.reason, "bad" if row.state is State.FAILED else "dim"),)
    return ((formatting.age(now - row.changed_utc), "dim"),)


def waiting_for(row: TrialRow) -> str:
    """Return what a queued trial waits for; of all cards only what keeps each of them."""
    return row.waiting.removeprefix("waits for a card: ")


def _settings(row: TrialRow, text: str | None = None) -> Line:
    """Return the settings' cell; `text` are those that differ within the experiment."""
    if row.kind is Kind.BASE:
        return (("no adapter", "dim"),)
    if text is None:
        text = formatting.brief_settings(row.settings, short_keys=True)
    return (plain_part(text or "as in the recipe"),)


def _loss(row: TrialRow) -> str:
    # An empty cell where there is none: a column of dashes would hide the values between them.
    return "" if row.loss is None else formatting.number(row.loss)


def _rate(row: TrialRow) -> str:
    return formatting.rate(row.tokens_per_s) if row.state.live and row.tokens_per_s else ""


def _leading(row: TrialRow, facts: RowFacts, drawn: dict[int, int]) -> tuple[Cell, ...]:
    """Return the cells that both lists begin with: mark, name, experiment, settings, state."""
    lives = row.state.live and facts.engine_runs
    state = present.trial_state(row)
    if row.state.live and not lives:
        state = tuple((text, "dim") for text, _ in state)
    return (
        _gutter(row, facts.view_state, drawn),
        ((formatting.trial_label(row), "bold" if lives else ""),),
        (plain_part(row.experiment_name, "dim"),),
        _settings(row, facts.settings.get(row.id)),
        state,
    )


def _reason_first(row: TrialRow) -> bool:
    """Return whether the reason of the state says more than the trial's numbers."""
    return row.state in (State.QUEUED, State.STARTING, State.FAILED)


@dataclass(frozen=True, slots=True, kw_only=True)
class RowFacts:
    """The things beside the trial itself that its row shows."""

    view_state: ViewState
    now: float
    settings: Mapping[int, str]
    """The settings that differ within its experiment, by trial."""
    engine_runs: bool = True
    """False where nothing can be said about live trials: their rows lose the colour of life."""
    told: str = ""
    """The reason to wait that the title tells, so that rows leave it out."""


def dashboard_rows(trials: Sequence[TrialRow], facts: RowFacts) -> LazyRows:
    """Return a row for each trial with the columns of Dashboard, in the order given."""
    drawn = facts.view_state.drawn()
    return LazyRows(
        [row.id for row in trials], lambda place: _row(trials[place], facts, drawn, _few_numbers)
    )


def full_rows(trials: Sequence[TrialRow], facts: RowFacts) -> LazyRows:
    """Return a row for each trial with all columns of Trials, in the order given."""
    drawn = facts.view_state.drawn()
    return LazyRows(
        [row.id for row in trials], lambda place: _row(trials[place], facts, drawn, _all_numbers)
    )


def _row(
    row: TrialRow,
    facts: RowFacts,
    drawn: dict[int, int],
    numbers: Callable[[TrialRow, bool], tuple[Cell, ...]],
) -> ListRow:
    status = _status(row, facts)
    leading = _leading(row, facts, drawn)
    if _reason_first(row):
        return ListRow(row.id, (*leading, Span(status)))
    lives = row.state.live and facts.engine_runs
    return ListRow(row.id, (*leading, *numbers(row, lives), status))


def _few_numbers(row: TrialRow, lives: bool) -> tuple[Cell, ...]:
    return (_progress(row, lives), ((_loss(row), ""),), ((_rate(row) if lives else "", ""),))


def _all_numbers(row: TrialRow, lives: bool) -> tuple[Cell, ...]:
    return (
        _progress(row, lives),
        ((_loss(row), ""),),
        ((formatting.score(row.score) if row.score is not None else "", ""),),
        ((formatting.rate(row.tokens_per_s) if row.tokens_per_s else "", ""),),
        ((formatting.size(row.peak_bytes) if row.peak_bytes else "", ""),),
        ((formatting.short_uuid(row.card or ""), "dim"),),
        ((str(row.attempts), "dim"),),
    )


def _status(row: TrialRow, facts: RowFacts) -> Line:
    """Return what explains the state, but nothing that the title tells already."""
    if row.state is State.QUEUED and facts.told and row.waiting == facts.told:
        return ()
    if row.state.live and not facts.engine_runs:
        return ((f"unknown: last heard {formatting.age(facts.now - row.changed_utc)}", "dim"),)
    return status_note(row, facts.now)


def waiting_trials(snapshot: Snapshot, order: Sequence[int]) -> list[TrialRow]:
    """Return the queued trials in `order`, the order of placement; others follow at the end.

    The snapshot may hold a trial that was queued after the order was read.
    """
    places = {id: place for place, id in enumerate(order)}
    queued = [row for row in snapshot.trials if row.state is State.QUEUED]
    return sorted(queued, key=lambda row: places.get(row.id, len(places)))


def queue_rows(
    snapshot: Snapshot, order: Sequence[TrialRow], facts: RowFacts, shown: Set[int]
) -> LazyRows:
    """Return a row with its place in the queue for each trial whose id is in `shown`."""
    held = {one.id for one in snapshot.experiments if one.held}
    listed = [(place, row) for place, row in enumerate(order, start=1) if row.id in shown]
    return LazyRows([row.id for _, row in listed], lambda at: _queue_row(*listed[at], facts, held))


def _queue_row(place: int, row: TrialRow, facts: RowFacts, held: set[int]) -> ListRow:
    told = bool(facts.told) and row.waiting == facts.told and row.experiment not in held
    mark: Part = ("┃", "accent") if row.id in facts.view_state.marked else (" ", "")
    return ListRow(
        row.id,
        (
            ((str(place), "dim"),),
            (mark, (formatting.trial_label(row), "bold")),
            (plain_part(row.experiment_name, "dim"),),
            _settings(row, facts.settings.get(row.id)),
            ((formatting.rough_duration(facts.now - row.changed_utc), "dim"),),
            () if told else waiting_reason(row, held),
        ),
    )


def waiting_reason(row: TrialRow, held: set[int]) -> Line:
    """Return what a queued trial waits for, and the step from which it will resume."""
    if row.experiment in held:
        return (("its experiment is held", "warn"),)
    resume: Line = ((f"resumes at step {row.checkpoint_step}; ", "dim"),)
    text = plain_part(waiting_for(row).removeprefix("waits for ") or "its turn")
    return (*resume, text) if row.checkpoint_step is not None else (text,)


def preparing_line(experiment: Experiment) -> Line:
    """Return an experiment without trials as a line: being prepared, or refused with the reason."""
    name = plain_part(experiment.name, "bold", 40)
    if experiment.state == "refused":
        hint = (("  →  ", "dim"), plain_part(experiment.hint)) if experiment.hint else ()
        return (
            ("✗ refused ", "bad"),
            name,
            ("  ", ""),
            plain_part(experiment.reason),
            *hint,
        )
    return (("◐ preparing ", "live"), name, ("  its model and data are being read", "dim"))

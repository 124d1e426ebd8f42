"""The list of trials as the user wants it: filtered, sorted, without ended ones, its columns.

Everything here is computed once for a snapshot and a choice, since a cursor key must not sort
10,000 trials.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

from tui import present
from tui.tables.filters import TrialFilter
from tui.tables.trials import display_order
from tui.view_state import ListingChoice
from tui.widgets.columns import Column
from workbench import formatting
from workbench.service import Snapshot, TrialRow
from workbench.trial import Kind, State

SORTS: dict[str, Callable[[TrialRow], object]] = {
    "trial": lambda row: row.id,
    "experiment": lambda row: row.experiment_name,
    "settings": lambda row: tuple(
        (key, _ordered(value)) for key, value in sorted(row.settings.items())
    ),
    "state": lambda row: list(State).index(row.state),
    "progress": present.done_share,
    "loss": lambda row: row.loss,
    "score": lambda row: row.score,
    "tok/s": lambda row: row.tokens_per_s,
    "peak": lambda row: row.peak_bytes,
    "card": lambda row: row.card,
    "tries": lambda row: row.attempts,
    "left or why": lambda row: row.changed_utc,
}
"""The values that each column is sorted by; trials without one go to the end."""
_NARROWEST = 17
"""Cells of the column of settings at least."""
_OTHERS = 40
"""Cells that mark, name, state, reason and the edges need beside the settings."""


def _ordered(value: object) -> tuple[int, float, str]:
    """Return a value of any kind as one that can be compared with every other."""
    if isinstance(value, int | float):
        return (0, float(value), "")
    return (1, 0.0, str(value))


class TrialListing:
    """The trials of the newest snapshot that are listed, in their order."""

    def __init__(self) -> None:
        self._trials: Sequence[TrialRow] | None = None
        self._asked: object = None
        self._listed: list[TrialRow] = []
        self._settings: dict[int, str] = {}
        self._settings_of: Sequence[TrialRow] | None = None
        self._sizes: Counter[int] = Counter()
        """Trials of each experiment; settings of a trial never change, so these tell if any did."""
        self._longest = 0
        self._told_of: object = None
        self._told = ""

    def listed(self, snapshot: Snapshot, words: str, choice: ListingChoice) -> list[TrialRow]:
        """Return the trials to list, in their order."""
        asked = (words, choice.key())
        if self._trials is not snapshot.trials or self._asked != asked:
            self._trials, self._asked = snapshot.trials, asked
            found = list(snapshot.trials)
            if choice.hides_ended:
                found = [row for row in found if not row.state.final]
            if words.strip():
                wanted = TrialFilter(words)
                found = [row for row in found if wanted.matches(row)]
            self._listed = sort_trials(display_order(found), choice)
        return self._listed

    def settings(self, snapshot: Snapshot) -> Mapping[int, str]:
        """Return for each trial the settings that differ within its experiment, as text."""
        if self._settings_of is not snapshot.trials:
            self._settings_of = snapshot.trials
            sizes = Counter(row.experiment for row in snapshot.trials)
            grown = {id for id, size in sizes.items() if self._sizes[id] != size}
            if grown or len(sizes) != len(self._sizes):
                self._sizes = sizes
                mine = [row for row in snapshot.trials if row.experiment in grown]
                self._settings = {**self._settings, **differing_settings(mine)}
                self._longest = max(map(len, self._settings.values()), default=0)
        return self._settings

    def told(self, shown: Sequence[TrialRow]) -> str:
        """Return `shared_wait` of these rows."""
        if self._told_of is not shown:
            self._told_of, self._told = shown, shared_wait(shown)
        return self._told

    def fit(
        self,
        columns: Sequence[Column],
        shown: Sequence[TrialRow],
        snapshot: Snapshot,
        choice: ListingChoice,
        cells: int,
    ) -> tuple[Column, ...]:
        """Return `fit_columns` of these rows."""
        self.settings(snapshot)
        return fit_columns(columns, shown, self._longest, choice, cells)


def sort_trials(trials: list[TrialRow], choice: ListingChoice) -> list[TrialRow]:
    """Return the trials sorted by the chosen column; equal ones keep their order."""
    value_of = SORTS.get(choice.sort)
    if value_of is None:
        return trials
    valued = [(value_of(row), row) for row in trials]
    known = [pair for pair in valued if pair[0] is not None]
    known.sort(key=lambda pair: pair[0], reverse=choice.falling)  # type: ignore[arg-type,return-value]
    return [row for _, row in known] + [row for value, row in valued if value is None]


def differing_settings(trials: Iterable[TrialRow]) -> dict[int, str]:
    """Return each trial's settings that differ within its experiment, as `lr=0.001 rank=8`.

    A trial whose settings all are shared, such as the only one of its experiment, shows all.
    """
    by_experiment: dict[int, list[TrialRow]] = defaultdict(list)
    for row in trials:
        by_experiment[row.experiment].append(row)
    found: dict[int, str] = {}
    for rows in by_experiment.values():
        tuned = [row for row in rows if row.kind is not Kind.BASE]
        shared = _shared_keys(tuned) if len(tuned) > 1 else set()
        for row in tuned:
            own = {key: value for key, value in row.settings.items() if key not in shared}
            found[row.id] = formatting.brief_settings(own or row.settings, short_keys=True)
    return found


def _shared_keys(rows: Sequence[TrialRow]) -> set[str]:
    """Return the settings that all of the trials have with one and the same value."""
    first, *others = rows
    shared = dict(first.settings)
    for row in others:
        for key in [key for key, value in shared.items() if row.settings.get(key) != value]:
            del shared[key]
    return {key for key in shared if not key.startswith("score.")}


def fit_columns(
    columns: Sequence[Column],
    shown: Sequence[TrialRow],
    longest: int,
    choice: ListingChoice,
    cells: int,
) -> tuple[Column, ...]:
    """Return the columns with that of the settings as wide as they need; the others yield to it.

    `longest` is the length of the longest settings. A column that the user hid is left out, and
    the experiment's where all trials share one.
    """
    room = max(_NARROWEST, cells - _OTHERS)
    wide = min(max(longest, _NARROWEST), room)
    one_experiment = len({row.experiment for row in shown[:200]}) == 1 and len(shown) > 1
    hidden = choice.hidden | ({"experiment"} if one_experiment else set())
    out = []
    for column in columns:
        if column.title == "settings":
            column = Column(title="settings", width=wide, most=max(wide, 24), grow=1)
        elif column.title in hidden:
            column = Column(title=column.title, width=10_000, drop=1_000)  # never has room
        out.append(column)
    return tuple(out)


def shared_wait(rows: Iterable[TrialRow]) -> str:
    """Return what all waiting trials among the rows wait for, if that is one thing; else empty."""
    waits = [row.waiting for row in rows if row.state is State.QUEUED]
    return waits[0] if len(waits) > 1 and waits[0] and len(set(waits)) == 1 else ""


def title(
    name: str,
    counts: tuple[int, int],
    words: str,
    marks: int,
    told: str = "",
    choice: ListingChoice | None = None,
) -> str:
    """Return the title of a list of trials: counts, marks, order, filter, a shared reason.

    `counts` are the listed trials and all of them.
    """
    shown, total = counts
    choice = choice or ListingChoice()
    parts = [name, f"{shown}" if shown == total else f"{shown} of {total}"]
    if marks:
        parts.append(f"{marks} marked")
    if choice.hides_ended:
        parts.append("ended ones hidden")
    if choice.sort:
        parts.append(f"by {choice.sort} {'↓' if choice.falling else '↑'}")
    if words:
        parts.append(f"filter: {words}")
    if told:
        # Those of the engine begin with `waits for …` or `waits its turn`, those of people do not.
        says = told.removeprefix("waits ")
        parts.append(f"all wait {says}" if says != told else f"all wait: {told}")
    return " · ".join(parts)

"""The state that all screens share: the newest picture, the marked trials, and the clock."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tui import present
from tui.chart import Curve
from tui.curves.charts import CurveChoice
from tui.keys.keymap import Keymap
from tui.messages import Picture, RequestDropped, Wish
from tui.paint import SERIES
from workbench import formatting
from workbench.service import Experiment, RequestAnswer, Snapshot, TrialRow
from workbench.trial import State

FOLLOW_S = 0.3
"""Seconds after the last cursor key until the log follows: a key repaints two rows, no more."""
_LAST = 4
"""Curves of ended trials that the dashboard draws where none is live."""
_UNDOS = 50
"""Actions that can be undone one after another."""


@dataclass(slots=True)
class ListingChoice:
    """The choices of a list of trials, which the screen remembers between two visits."""

    sort: str = ""
    """The title of the column to sort by; empty: live trials first, then as they ended."""
    falling: bool = False
    """True if the greatest value comes first."""
    hides_ended: bool = False
    hidden: set[str] = field(default_factory=set)
    """Titles of columns that are not shown."""

    def key(self) -> tuple[str, bool, bool]:
        """Return the part of the choice that decides which trials are listed in which order."""
        return (self.sort, self.falling, self.hides_ended)


@dataclass(slots=True)
class _Batch:
    """Requests that were sent together, with their answers so far."""

    size: int
    answers: list[tuple[RequestDropped, RequestAnswer]] = field(default_factory=list)


@dataclass(slots=True)
class _Expected:
    """The value that a request sets, until a picture read after its answer shows it."""

    wish: Wish
    value: Any
    answered: bool = False


@dataclass(frozen=True, slots=True)
class UndoStep:
    """The requests that undo one action, and what the action was."""

    text: str
    wishes: tuple[Wish, ...]


class ViewState:
    """The app's one shared state; its handlers change it, screens only read it."""

    def __init__(self, now: Callable[[], float], keymap: Keymap | None = None) -> None:
        self.now = now
        self.follow_s = FOLLOW_S
        self.keymap = keymap or Keymap()
        self.choice = ListingChoice()
        """How the list of trials is sorted, and which columns it has."""
        self.curve_choice = CurveChoice()
        self.keep_choice: Callable[[], None] = lambda: None
        """Remembers the choice for the next visit."""
        self.picture: Picture | None = None
        self.read_error = ""
        self.readonly = False
        """True if no key may ask the engine for anything (`--readonly`)."""
        self._slots: dict[int, int | None] = {}
        """The marked trials; the first ones have the slot of a curve each."""
        self._by_id: dict[int, TrialRow] = {}
        self._trials: Sequence[TrialRow] | None = None
        self.live = self.waiting = 0
        """Trials that run or start, and trials in the queue, as the command line counts them."""
        self._live_ids: tuple[int, ...] = ()
        self._ended_ids: tuple[int, ...] = ()
        """The trials that ended last and have a loss."""
        self._failed: tuple[int, ...] = ()
        """Failed trials, the newest failure first."""
        self.seen_failures: set[int] = set()
        """Failed trials that the user has looked at."""
        self._undos: list[UndoStep] = []
        self._sent: dict[str, _Batch] = {}
        """Requests without an answer so far, each with those that were sent with it."""
        self._expected: dict[tuple[str, object], _Expected] = {}

    @property
    def snapshot(self) -> Snapshot | None:
        """The newest snapshot; None before the first reading."""
        return self.picture.snapshot if self.picture else None

    @property
    def marked(self) -> frozenset[int]:
        """The trials whose curves the user chose to draw together."""
        return frozenset(self._slots)

    def update(self, picture: Picture) -> None:
        """Take over a new picture; a reading that succeeded clears the read error."""
        self.picture = picture
        self.read_error = ""
        trials = picture.snapshot.trials
        if self._trials is not trials:
            self._trials = trials
            self._by_id = {row.id: row for row in trials}
            self._count(trials)
        self._expected = {key: one for key, one in self._expected.items() if not one.answered}

    def trial(self, id: int | None) -> TrialRow | None:
        """Return the trial's row in the newest snapshot; None where it is not in it."""
        return self._by_id.get(id) if id is not None else None

    def toggle(self, trial: int) -> bool:
        """Mark or unmark a trial; return False where a mark gets no curve, after SERIES marks."""
        if trial in self._slots:
            del self._slots[trial]
            return True
        free = sorted(set(range(SERIES)) - set(self._slots.values()))
        self._slots[trial] = free[0] if free else None
        return bool(free)

    def _count(self, trials: Sequence[TrialRow]) -> None:
        self._live_ids = tuple(row.id for row in trials if row.state.live)
        self.live = sum(row.state.live and present.is_counted(row) for row in trials)
        ended = [row for row in trials if row.state.final and row.loss is not None]
        ended.sort(key=lambda row: -row.changed_utc)
        self._ended_ids = tuple(row.id for row in ended[:_LAST])
        queued = (row for row in trials if row.state is State.QUEUED)
        self.waiting = sum(map(present.is_counted, queued))
        failed = [row for row in trials if row.state is State.FAILED]
        failed.sort(key=lambda row: -row.changed_utc)
        self._failed = tuple(row.id for row in failed)

    @property
    def unseen_failures(self) -> int:
        """The number of failed trials that the user has not looked at."""
        return sum(id not in self.seen_failures for id in self._failed)

    def next_failure(self, after: int | None) -> int | None:
        """Return the newest failure not looked at; else the failure after the trial `after`."""
        unseen = (id for id in self._failed if id not in self.seen_failures)
        if (found := next(unseen, None)) is not None or not self._failed:
            return found
        at = self._failed.index(after) + 1 if after in self._failed else 0
        return self._failed[at % len(self._failed)]

    def look_at(self, trial: int) -> bool:
        """Count a failure as looked at; return whether it was not before."""
        if trial in self.seen_failures or trial not in self._failed:
            return False
        self.seen_failures.add(trial)
        return True

    def clear_marks(self) -> None:
        """Unmark all trials."""
        self._slots.clear()

    # --- requests ---

    def expect(self, wish: Wish) -> None:
        """Take over what a request will change, so that the next key counts from there."""
        experiment = wish.args.get("experiment")
        if wish.verb == "priority":
            self._expected[("priority", experiment)] = _Expected(wish, wish.args["priority"])
        elif wish.verb in ("hold", "release"):
            self._expected[("held", experiment)] = _Expected(wish, wish.verb == "hold")

    def priority(self, experiment: Experiment) -> int:
        """Return the experiment's priority once the requests sent so far are carried out."""
        sent = self._expected.get(("priority", experiment.id))
        return experiment.priority if sent is None else int(sent.value)

    def held(self, experiment: Experiment | None) -> bool:
        """Return whether an experiment, or the queue for None, will be held after all requests."""
        sent = self._expected.get(("held", experiment and experiment.id))
        if sent is not None:
            return bool(sent.value)
        if experiment is None:
            return self.snapshot is not None and self.snapshot.held
        return experiment.held

    def waiting_for(self, dropped: Sequence[RequestDropped]) -> None:
        """Wait for the answers to requests that were sent together."""
        batch = _Batch(len(dropped))
        self._sent |= {one.request: batch for one in dropped}

    def answered(
        self, dropped: RequestDropped, answer: RequestAnswer
    ) -> list[tuple[RequestDropped, RequestAnswer]] | None:
        """Take an answer; return all of its batch once the last one is here, else None."""
        for one in self._expected.values():
            one.answered |= one.wish == dropped.wish
        batch = self._sent.pop(dropped.request, None) or _Batch(1)
        batch.answers.append((dropped, answer))
        return batch.answers if len(batch.answers) == batch.size else None

    def keep_undo(self, step: UndoStep) -> None:
        """Keep what undoes the newest action."""
        self._undos.append(step)
        del self._undos[:-_UNDOS]

    def take_undo(self) -> UndoStep | None:
        """Return and forget what undoes the newest action; None where nothing does."""
        return self._undos.pop() if self._undos else None

    @property
    def can_undo(self) -> bool:
        """Return whether there is an action to undo."""
        return bool(self._undos)

    # --- curves ---

    def drawn(self) -> dict[int, int]:
        """Return the charted trials with their slots: marked, else live, else those ended last."""
        if self._slots:
            return {id: slot for id, slot in self._slots.items() if slot is not None}
        shown = self._live_ids or self._ended_ids
        return {id: slot for slot, id in enumerate(shown[:SERIES])}

    @property
    def curves_of(self) -> str:
        """The trials on the dashboard's chart, in a word: marked, live or ended."""
        return "marked" if self._slots else "live" if self._live_ids else "last"

    def curves(self, name: str) -> list[Curve]:
        """Return the curve `name` of every drawn trial that has values in the newest picture."""
        if self.picture is None:
            return []
        out = []
        for id, slot in self.drawn().items():
            row = self.trial(id)
            points = self.picture.series.get((id, name), ())
            if row is not None and points:
                out.append(Curve(label=formatting.trial_label(row), slot=slot, points=points))
        return out

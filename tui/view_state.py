"""The state that all screens share: the newest picture, the marked trials, and the clock."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tui.chart import Curve
from tui.keys.keymap import Keymap
from tui.messages import Picture, RequestDropped, Wish
from tui.paint import SERIES
from workbench import formatting
from workbench.service import Experiment, RequestAnswer, Snapshot, TrialRow

FOLLOW_S = 0.3
"""Seconds after the last cursor key until the log follows: a key repaints two rows, no more."""
_UNDOS = 50
"""Actions that can be undone one after another."""


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
        self.picture: Picture | None = None
        self.read_error = ""
        self.readonly = False
        """True if no key may ask the engine for anything (`--readonly`)."""
        self._slots: dict[int, int | None] = {}
        """The marked trials; the first ones have the slot of a curve each."""
        self._by_id: dict[int, TrialRow] = {}
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
        self._by_id = {row.id: row for row in picture.snapshot.trials}
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
        """Return the trials on the dashboard's chart with their slots: marked, else live ones."""
        if self._slots:
            return {id: slot for id, slot in self._slots.items() if slot is not None}
        trials = self.snapshot.trials if self.snapshot else []
        live = [row.id for row in trials if row.state.live]
        return {id: slot for slot, id in enumerate(live[:SERIES])}

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

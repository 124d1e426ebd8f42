"""Whose turn it is: priority first, then who runs least, then who had least of the cards."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from heapq import heapify, heappop, heappush
from typing import Generic, TypeVar

from workbench.store.reader import Reader
from workbench.store.rows import Experiment, Queued, Waiting

T = TypeVar("T", bound=Waiting)
FAR = 64
"""Trials whose turns are foretold; who comes behind is told by priority and place alone."""
TRIAL_S = 600.0
"""Foretold of a trial where none of its experiment has ended yet."""


class Turns(Generic[T]):
    """Queued trials in the order they may be placed; it changes as they are.

    Among experiments of one priority a trial that a person put to the front comes first, then one
    of the experiment that runs fewest, and of those the one that had the fewest card-hours: with
    one card they take turns by time spent, with more they share the cards. Costs one comparison
    an experiment and trial.
    """

    def __init__(
        self,
        queued: Iterable[T],
        priority: Mapping[int, int],
        running: Mapping[int, int],
        card_s: Mapping[int, float],
    ) -> None:
        self.left: dict[int, deque[T]] = {}
        for trial in queued:
            self.left.setdefault(trial.experiment, deque()).append(trial)
        self.running, self.card_s = dict(running), dict(card_s)
        self._priority = priority

    def __iter__(self) -> Iterator[T]:
        while self.left:
            yield self.next_of(self.left)

    def next_of(self, experiments: Iterable[int]) -> T:
        """The first of these experiments' trials, taken out of what is left."""
        next_one = min(experiments, key=self._standing)
        trials = self.left[next_one]
        trial = trials.popleft()
        if not trials:
            del self.left[next_one]
        return trial

    def _standing(self, experiment: int) -> tuple[int, float, int, float, int]:
        return (
            -self._priority.get(experiment, 0),
            min(self.left[experiment][0].rank or 0, 0),
            self.running.get(experiment, 0),
            self.card_s.get(experiment, 0.0),
            experiment,
        )

    def placed(self, trial: T, for_s: float = 0.0) -> None:
        """It got its card: others come before the next of its experiment."""
        self.running[trial.experiment] = self.running.get(trial.experiment, 0) + 1
        self.card_s[trial.experiment] = self.card_s.get(trial.experiment, 0.0) + for_s


def take_turns(
    reader: Reader,
    now: float,
    queued: Sequence[T],
    known: Mapping[int, Experiment],
    running: Mapping[int, int],
) -> Turns[T]:
    """The turns of what is queued now. One query, and none where a single experiment waits."""
    waiting = {trial.experiment for trial in queued}
    if len(waiting) < 2:
        return Turns(queued, {}, running, {})
    spent = reader.card_seconds(_since([known[id] for id in waiting]), now)
    return Turns(queued, {id: known[id].priority for id in waiting}, running, spent)


def _since(waiting: Sequence[Experiment]) -> float:
    """Card-hours count from when the youngest of them came: what one had before, while nobody else
    wanted the cards, is not held against it."""
    return max(one.created_utc for one in waiting)


# --- for people ---


def line_up(reader: Reader, now: float) -> list[Queued]:
    """What is queued, in the order it will be placed by what is known now: as if every trial took
    as long as those of its experiment that have ended. Held ones last."""
    queued = sorted(reader.queued(), key=place_of)
    known = {one.id: one for one in reader.experiments()}
    if len({trial.experiment for trial in queued}) < 2:
        return queued
    turns = take_turns(reader, now, queued, known, reader.running_by_experiment())
    each_s = reader.trial_seconds()
    on_cards = []
    for attempt in reader.live_attempts():
        experiment = reader.trial(attempt.trial).experiment
        end_utc = attempt.started_utc + each_s.get(experiment, TRIAL_S)
        on_cards.append((max(now, end_utc), experiment))
    slots = sum(card.present and not (card.drained or card.quarantined) for card in reader.cards())
    lined = _foretell(turns, known, on_cards, max(1, slots), now, each_s)
    rest = [trial for left in turns.left.values() for trial in left]
    return lined + sorted(rest, key=lambda trial: _by_rule(trial, known[trial.experiment]))


def _foretell(
    turns: Turns[Queued],
    known: Mapping[int, Experiment],
    on_cards: list[tuple[float, int]],
    slots: int,
    now: float,
    each_s: Mapping[int, float],
) -> list[Queued]:
    """The first trials to come, taken out of `turns`; `on_cards`: when whose trials will end."""
    lined: list[Queued] = []
    heapify(on_cards)
    while len(lined) < FAR:
        able = [id for id in turns.left if _able(known[id], turns.running.get(id, 0))]
        due = on_cards and (on_cards[0][0] <= now or not able or len(on_cards) >= slots)
        if due:
            end_utc, experiment = heappop(on_cards)
            turns.running[experiment] -= 1
            now = max(now, end_utc)
        elif not able:
            break
        else:
            trial = turns.next_of(able)
            for_s = each_s.get(trial.experiment, TRIAL_S)
            turns.placed(trial, for_s)
            heappush(on_cards, (now + for_s, trial.experiment))
            lined.append(trial)
    return lined


def _able(experiment: Experiment, running: int) -> bool:
    limit = experiment.max_parallel
    return not experiment.held and (limit is None or running < limit)


def place_of(trial: Waiting) -> float:
    """Within its experiment; lower goes first."""
    return float(trial.id) if trial.rank is None else trial.rank


def _by_rule(trial: Queued, experiment: Experiment) -> tuple[bool, int, float, float]:
    place = place_of(trial)
    return (experiment.held, -experiment.priority, min(trial.rank or 0.0, 0.0), place)

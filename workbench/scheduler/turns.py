"""Whose turn it is: priority first, then who runs least, then who had least of the cards."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence

from workbench.scheduler.desk import Desk
from workbench.store.rows import Experiment, TrialRow


class Turns:
    """Queued trials in the order they may be placed; it changes as they are.

    Among experiments of one priority a trial that a person put to the front comes first, then one
    of the experiment that runs fewest, and of those the one that had the fewest card-hours: with
    one card they take turns by time spent, with more they share the cards. Costs one comparison
    an experiment and trial.
    """

    def __init__(
        self,
        queued: Sequence[TrialRow],
        priority: Mapping[int, int],
        running: Mapping[int, int],
        card_s: Mapping[int, float],
    ) -> None:
        self._left: dict[int, deque[TrialRow]] = {}
        for trial in queued:
            self._left.setdefault(trial.experiment, deque()).append(trial)
        self._priority, self._running, self._card_s = priority, dict(running), card_s

    def __iter__(self) -> Iterator[TrialRow]:
        while self._left:
            next_one = min(self._left, key=self._standing)
            trials = self._left[next_one]
            trial = trials.popleft()
            if not trials:
                del self._left[next_one]
            yield trial

    def _standing(self, experiment: int) -> tuple[int, float, int, float, int]:
        return (
            -self._priority.get(experiment, 0),
            min(self._left[experiment][0].rank or 0, 0),
            self._running.get(experiment, 0),
            self._card_s.get(experiment, 0.0),
            experiment,
        )

    def placed(self, trial: TrialRow) -> None:
        """It got its card: others come before the next of its experiment."""
        self._running[trial.experiment] = self._running.get(trial.experiment, 0) + 1


def take_turns(
    desk: Desk,
    queued: Sequence[TrialRow],
    known: Mapping[int, Experiment],
    running: Mapping[int, int],
) -> Turns:
    """The turns of what is queued now. One query, and none where a single experiment waits."""
    waiting = {trial.experiment for trial in queued}
    if len(waiting) < 2:
        return Turns(queued, {}, running, {})
    spent = desk.store.card_seconds(_since([known[id] for id in waiting]), desk.store.clock())
    return Turns(queued, {id: known[id].priority for id in waiting}, running, spent)


def _since(waiting: Sequence[Experiment]) -> float:
    """Card-hours count from when the youngest of them came: what one had before, while nobody else
    wanted the cards, is not held against it."""
    return max(one.created_utc for one in waiting)

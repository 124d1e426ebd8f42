"""Fair share of the cards: whose queued trial is placed next.

Priority decides first, then who has fewest cards now, then who had least card time so far.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from heapq import heapify, heappop, heappush
from typing import Generic, TypeVar

from workbench.store.reader import Reader
from workbench.store.rows import Experiment, Queued, Waiting
from workbench.store.trial_queue import running_counts
from workbench.trial import State

T = TypeVar("T", bound=Waiting)
FORECAST_TRIALS = 64
"""Trials whose turns are simulated; those behind are listed by priority and place alone."""
DEFAULT_TRIAL_S = 600.0
"""Seconds assumed for a trial whose experiment has none that ended yet."""
RECENT_ATTEMPTS = 512
"""Newest attempts that the average duration of trials is taken from."""


class Turns(Generic[T]):
    """Queued trials in the order in which they may be placed; placing one changes the order.

    Among experiments of one priority a trial that a person put to the front comes first, then one
    of the experiment that has fewest cards, and of those the one that had least card time: with
    one card they take turns by time spent, with more they share the cards. Each trial taken costs
    one comparison for each experiment that waits.
    """

    def __init__(
        self,
        queued: Iterable[T],
        priority: Mapping[int, int],
        running: Mapping[int, int],
        card_s: Mapping[int, float],
    ) -> None:
        """Take `queued` in the order of each experiment; the maps go by experiment id.

        `running` counts cards held now, `card_s` card-seconds used so far.
        """
        self.left: dict[int, deque[T]] = {}
        for trial in queued:
            self.left.setdefault(trial.experiment, deque()).append(trial)
        self.running, self.card_s = dict(running), dict(card_s)
        self._priority = priority

    def __iter__(self) -> Iterator[T]:
        while self.left:
            yield self.next_of(self.left)

    def next_of(self, experiments: Iterable[int]) -> T:
        """Remove and return the trial of these experiments whose turn it is."""
        next_one = min(experiments, key=self._turn_key)
        trials = self.left[next_one]
        trial = trials.popleft()
        if not trials:
            del self.left[next_one]
        return trial

    def _turn_key(self, experiment: int) -> tuple[int, float, int, float, int]:
        return (
            -self._priority.get(experiment, 0),
            min(self.left[experiment][0].rank or 0, 0),
            self.running.get(experiment, 0),
            self.card_s.get(experiment, 0.0),
            experiment,
        )

    def placed(self, trial: T, for_s: float = 0.0) -> None:
        """Count a card for the trial's experiment, for `for_s` seconds where that is foreseen."""
        self.running[trial.experiment] = self.running.get(trial.experiment, 0) + 1
        self.card_s[trial.experiment] = self.card_s.get(trial.experiment, 0.0) + for_s


def take_turns(
    reader: Reader,
    now: float,
    queued: Sequence[T],
    known: Mapping[int, Experiment],
    running: Mapping[int, int],
) -> Turns[T]:
    """Return the turns of what is queued now; `known` has the experiments by id.

    Costs one query, and none where a single experiment waits.
    """
    waiting = {trial.experiment for trial in queued}
    if len(waiting) < 2:
        return Turns(queued, {}, running, {})
    spent = card_seconds(reader, _count_from([known[id] for id in waiting]), now)
    return Turns(queued, {id: known[id].priority for id in waiting}, running, spent)


def card_seconds(reader: Reader, since_utc: float, now: float) -> dict[int, float]:
    """Return the seconds for which each experiment has held cards since then, over all cards."""
    rows = reader.db.execute(
        """select t.experiment,
                  sum(max(0, coalesce(a.ended_utc, :now) - max(a.started_utc, :since)))
           from attempts a join trials t on t.id = a.trial
           where a.ended_utc is null or a.ended_utc > :since group by 1""",
        {"since": since_utc, "now": now},
    )
    return {row[0]: float(row[1]) for row in rows}


def _count_from(waiting: Sequence[Experiment]) -> float:
    """Return the UTC time from which card time counts: when the youngest of them was submitted.

    What an experiment used before, while nobody else wanted the cards, is not held against it.
    """
    return max(one.created_utc for one in waiting)


# --- for people ---


def forecast_order(reader: Reader, now: float) -> list[Queued]:
    """Return what is queued in the order in which it will be placed, as far as is known now.

    Every trial is assumed to take as long as those of its experiment that have ended. Trials of
    held experiments come last.
    """
    queued = sorted(_queued(reader), key=queue_place)
    known = {one.id: one for one in reader.experiments()}
    if len({trial.experiment for trial in queued}) < 2 and not any(one.is_base for one in queued):
        return queued
    turns = take_turns(reader, now, queued, known, running_counts(reader))
    each_s = _trial_seconds(reader)
    on_cards = []
    for attempt in reader.live_attempts():
        experiment = reader.trial(attempt.trial).experiment
        end_utc = attempt.started_utc + each_s.get(experiment, DEFAULT_TRIAL_S)
        on_cards.append((max(now, end_utc), experiment))
    slots = sum(card.present and not (card.drained or card.quarantined) for card in reader.cards())
    first = _simulate(turns, known, on_cards, max(1, slots), now, each_s)
    rest = [trial for left in turns.left.values() for trial in left]
    return first + sorted(rest, key=lambda trial: _static_key(trial, known[trial.experiment]))


def _queued(reader: Reader) -> list[Queued]:
    """Return all queued trials by id, in a tenth of the time that `Reader.trials` takes."""
    query = "select id, experiment, rank, kind = 'base' from trials where state = ? order by id"
    return [Queued(*row) for row in reader.db.execute(query, (State.QUEUED,))]


def _trial_seconds(reader: Reader) -> dict[int, float]:
    """Return the average seconds of each experiment's trials among the newest attempts."""
    rows = reader.db.execute(
        f"""select t.experiment, avg(a.ended_utc - a.started_utc)
            from attempts a join trials t on t.id = a.trial
            where a.outcome in ('done', 'stopped') and t.kind = 'tune'
            and a.id > (select max(id) from attempts) - {RECENT_ATTEMPTS} group by 1"""
    )
    return {row[0]: float(row[1]) for row in rows}


def _simulate(
    turns: Turns[Queued],
    known: Mapping[int, Experiment],
    on_cards: list[tuple[float, int]],
    slots: int,
    now: float,
    each_s: Mapping[int, float],
) -> list[Queued]:
    """Remove and return the next trials of `turns`, by playing ends and placings forward.

    `on_cards` holds (end in UTC seconds, experiment) of what runs, `slots` the number of cards.
    """
    order: list[Queued] = []
    bases = _take_bases(turns, known)
    heapify(on_cards)
    while len(order) < FORECAST_TRIALS:
        able = [id for id in turns.left if _may_run(known[id], turns.running.get(id, 0))]
        if not able and len(on_cards) < slots:  # a card that no trial takes
            able = [id for id in bases if _may_run(known[id], turns.running.get(id, 0))][:1]
            turns.left |= {id: deque([bases.pop(id)]) for id in able}
        due = on_cards and (on_cards[0][0] <= now or not able or len(on_cards) >= slots)
        if due:
            end_utc, experiment = heappop(on_cards)
            turns.running[experiment] -= 1
            now = max(now, end_utc)
            if base := bases.pop(experiment, None):  # it is answered, and goes in its place
                others = turns.left.get(experiment, ())
                turns.left[experiment] = deque(sorted([base, *others], key=queue_place))
        elif not able:
            break
        else:
            trial = turns.next_of(able)
            for_s = each_s.get(trial.experiment, DEFAULT_TRIAL_S)
            turns.placed(trial, for_s)
            heappush(on_cards, (now + for_s, trial.experiment))
            order.append(trial)
    for experiment, base in bases.items():
        turns.left.setdefault(experiment, deque()).appendleft(base)
    return order


def _take_bases(turns: Turns[Queued], known: Mapping[int, Experiment]) -> dict[int, Queued]:
    """Remove and return by experiment the bases that wait for a trial beside which they go.

    Where a trial is done already, it has answered the base.
    """
    found = {}
    for id, left in list(turns.left.items()):
        base = next((one for one in left if one.is_base and one.rank is None), None)
        trains = len(left) > 1 or turns.running.get(id)
        waits = trains and not known[id].counts.get("done") and base_goes_beside(known[id])
        if base is not None and waits:
            found[id] = base
            left.remove(base)
            if not left:
                del turns.left[id]
    return found


def base_goes_beside(experiment: Experiment) -> bool:
    """Return whether the base is answered in the pass that scores a trial of the experiment.

    Losses alone would gain nothing, and tasks of lm-evaluation-harness have a pass of their own.
    """
    if experiment.prepared is not None and "subjects" in experiment.prepared:
        return False  # an evaluation, whose trials train nothing
    evaluate = experiment.recipe.get("evaluate") or {}
    generates = evaluate.get("answer_pattern") is not None or bool(evaluate.get("scorer"))
    return generates and evaluate.get("task") is None


def _may_run(experiment: Experiment, running: int) -> bool:
    limit = experiment.max_parallel
    return not experiment.held and (limit is None or running < limit)


def queue_place(trial: Waiting) -> float:
    """Return a queued trial's place within its experiment; the lowest is placed first."""
    return float(trial.id) if trial.rank is None else trial.rank


def _static_key(trial: Queued, experiment: Experiment) -> tuple[bool, int, float, float]:
    place = queue_place(trial)
    return (experiment.held, -experiment.priority, min(trial.rank or 0.0, 0.0), place)

"""Progress of an experiment to its end as plain lines, for any terminal, pipe or log file."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from workbench import formatting
from workbench.errors import EngineError, WorkbenchError
from workbench.service import Service, Snapshot
from workbench.store.rows import Experiment, TrialRow
from workbench.text import safe_line
from workbench.trial import Kind, State

POLL_S = 0.05
"""Seconds between two looks at the store's version, which take 0.1 ms each."""
LOOK_S = 2.0
"""Seconds between two looks where the store did not change: a standstill is worth a line too."""
STUCK_S = 4.0
"""Seconds that the queue waits for the same reason before the reason is printed."""
MOST_LISTED = 4
"""Running trials named in one status line."""
QUIET_S, MOST_QUIET_S = 10.0, 600.0
"""Seconds until a running trial gets a line; they double with each line, up to the maximum."""
_CHANGING = re.compile(r" \(.*?\)| at -?\d+ °C")
"""Bytes and degrees in the reason for which a card is left out: they change all the time."""
STARTS = 3
"""Starts of a dead engine before following ends with an error."""


@dataclass(slots=True)
class Narrator:
    """A record of the lines printed about an experiment, so that each fact is printed once."""

    clock: Callable[[], float] = time.time
    why_requeued: Callable[[TrialRow], str] = lambda trial: ""
    """Returns why a trial that was at work is in the queue again."""
    states: dict[int, str] = field(default_factory=dict)
    waits: tuple[str, float, bool] = ("", 0.0, False)
    """The reason why nothing runs, since when (UTC seconds), and whether it was printed."""
    progress: dict[int, tuple[int, float, float]] = field(default_factory=dict)
    """By trial: quarters printed, when (UTC seconds), and the seconds until its next line."""
    cards_used: str = ""
    """How many cards are used and why not all, without bytes and degrees, as last printed."""

    def news(self, trials: list[TrialRow]) -> Iterator[tuple[str, TrialRow | None]]:
        """Yield a line for each change since the last call, with the trial that it is about."""
        for trial in trials:
            for line in self._lines_of(trial):
                yield f"{formatting.clock(self.clock())}  {line}", trial
        if why := self._why_idle(trials):
            yield f"{formatting.clock(self.clock())}  nothing runs now: {why}", None

    def card_news(self, trials: list[TrialRow], cards_used: str) -> Iterator[str]:
        """Yield a line where trials run and other cards than before are left out."""
        gist = _CHANGING.sub("", cards_used)
        if gist != self.cards_used and any(trial.state.live for trial in trials):
            self.cards_used = gist
            yield f"{formatting.clock(self.clock())}  {cards_used or 'all cards are used again'}"

    def _why_idle(self, trials: list[TrialRow]) -> str:
        """Return the reason why nothing runs, once, after it has lasted for STUCK_S."""
        idle = not any(trial.state.live for trial in trials)
        queued = (safe_line(t.waiting) for t in trials if t.state is State.QUEUED and t.waiting)
        why = next(queued, "") if idle else ""
        was, since_utc, printed = self.waits
        if why != was:
            self.waits = (why, self.clock(), False)
        elif why and not printed and self.clock() - since_utc >= STUCK_S:
            self.waits = (why, since_utc, True)
            return why
        return ""

    def _lines_of(self, trial: TrialRow) -> Iterator[str]:
        if self.states.get(trial.id) != trial.state:
            first = trial.id not in self.states
            self.states[trial.id] = trial.state
            self.progress[trial.id] = (0, self.clock(), QUIET_S)
            if not (first and trial.state is State.QUEUED):
                yield self._arrival(trial)
        if trial.state is State.RUNNING and self._due(trial):
            yield _progress(trial, self.clock())

    def _arrival(self, trial: TrialRow) -> str:
        """Return the line for a trial's new state."""
        word = formatting.outcome_word(trial.state, trial.reason)
        about = [formatting.trial_name(trial)]
        if trial.state.live:
            on = f"on {safe_line(trial.card)}" if trial.card else ""
            about += [word, on, formatting.brief_settings(trial.settings)]
        elif trial.score is not None:
            about += [word, f"score {formatting.score(trial.score)}"]
        elif trial.state is State.QUEUED:
            about += [word, safe_line(self.why_requeued(trial))]
        else:
            about += formatting.word_and_reason(word, trial.reason)
        if trial.state is State.FAILED and trial.hint:
            about.append(f"→ {safe_line(trial.hint)}")
        return "  ".join(part for part in about if part)

    def _due(self, trial: TrialRow) -> bool:
        """Return whether a line is due: at each quarter of the steps, and at growing intervals."""
        quarter = 4 * trial.step // trial.total_steps if trial.total_steps else 0
        printed, at_utc, quiet_s = self.progress[trial.id]
        if (
            trial.step == 0
            or trial.loss is None
            or (quarter <= printed and self.clock() - at_utc < quiet_s)
        ):
            return False
        longer_s = quiet_s if quarter > printed else min(2 * quiet_s, MOST_QUIET_S)
        self.progress[trial.id] = (quarter, self.clock(), longer_s)
        return True


def _progress(trial: TrialRow, now_utc: float, *, brief: bool = False) -> str:
    """Return name, step, loss, rate and time left of a running trial; `brief` without the rate."""
    left = trial.seconds_left(now_utc)
    parts = [
        f"trial {trial.id}" if brief else formatting.trial_name(trial),
        f"step {formatting.steps(trial.step, trial.total_steps)}",
        f"loss {formatting.number(trial.loss)}",
        "" if brief else f"{formatting.rate(trial.tokens_per_s)} tokens/s",
        "" if left is None else formatting.time_left_phrase(left),
    ]
    return (" " if brief else "  ").join(part for part in parts if part)


def status_line(experiment: Experiment, trials: list[TrialRow], at_utc: float) -> str:
    """Return the counts of an experiment and its running trials in one line."""
    counts = Counter(formatting.outcome_word(t.state, t.reason) for t in trials if t.kind == "tune")
    parts = [formatting.counts_line(counts)]
    running = [t for t in trials if t.state is State.RUNNING and t.kind == "tune"]
    parts += [_progress(trial, at_utc, brief=True) for trial in running[:MOST_LISTED]]
    held = ["held by a person"] if experiment.held else []
    return f"{formatting.clock(at_utc)}  {safe_line(experiment.name)}: {'; '.join(parts + held)}"


def follow_experiment(
    service: Service,
    experiment: int,
    say: Callable[[str], None],
    beat_s: float | None = None,
    on_trial: Callable[[TrialRow], None] | None = None,
) -> Experiment:
    """Pass a line to `say` for each change until every trial has ended, the base included.

    Blocks, at next to no cost. With `beat_s`, a status line follows after so many silent seconds.
    With `on_trial`, a change of a trial is passed there as the trial, instead of a line. A dead
    engine is started again, three times at most. Raises WorkbenchError with the reason where the
    experiment was refused, EngineError where no engine continues it.
    """
    narrator = Narrator(why_requeued=lambda trial: last_move_to_queue(service, trial))
    starts, trouble = 0, ("", False)
    spoke_s = time.monotonic()
    seen, looked_s = None, 0.0
    while True:
        version = service.version()
        if version != seen or time.monotonic() - looked_s > LOOK_S:
            seen, snapshot = version, service.snapshot()
            found = find_followed(snapshot, experiment)
            if looked_s == 0.0 and found[0].state == "preparing":
                say(f"{formatting.clock(time.time())}  checking model and data")
            for line, trial in narrator.news(found[1]):
                if trial is None or on_trial is None:
                    say(line)
                else:
                    on_trial(trial)
                spoke_s = time.monotonic()
            if _ended(*found):
                return found[0]
            for line in narrator.card_news(
                found[1], formatting.cards_used(snapshot.cards, snapshot.slots)
            ):
                say(line)
                spoke_s = time.monotonic()
            if snapshot.engine.state == "down":
                starts += 1
                _restart(service, starts, say)
            _check_engine(service, snapshot, found[1])
            now = (snapshot.engine.state, snapshot.engine.braked)
            if now != trouble and snapshot.engine.detail:
                say(f"engine: {snapshot.engine.detail}")
            trouble = now
            if beat_s is not None and time.monotonic() - spoke_s >= beat_s:
                say(status_line(*found, time.time()))
                spoke_s = time.monotonic()
            looked_s = time.monotonic()
        time.sleep(POLL_S)


def last_move_to_queue(service: Service, trial: TrialRow) -> str:
    """Return why the trial went back to the queue, such as a lost worker; '' if it never did."""
    moves = service.trial(trial.id).moves
    return next((move.why for move in reversed(moves) if move.after == State.QUEUED), "")


def find_followed(snapshot: Snapshot, id: int) -> tuple[Experiment, list[TrialRow]]:
    """Return the experiment and its trials with the base; chats belong to those who chat."""
    experiment = next(one for one in snapshot.experiments if one.id == id)
    trials = [
        trial
        for trial in snapshot.trials
        if (trial.experiment == id and trial.kind is not Kind.CHAT)
        or trial.id == experiment.base_trial
    ]
    return experiment, trials


def _ended(experiment: Experiment, trials: list[TrialRow]) -> bool:
    if experiment.state == "refused":
        raise WorkbenchError(
            f"{safe_line(experiment.name)} was refused: {experiment.reason}", hint=experiment.hint
        )
    over = experiment.state == "ready" and not experiment.searching
    # Finals and test scores follow when all others have ended, in the tick that sees it.
    more = _adds_trials(experiment) and experiment.ended_utc is None
    return over and not more and all(trial.state.final for trial in trials)


def _adds_trials(experiment: Experiment) -> bool:
    """Return True where the engine adds trials of its own before the experiment has ended."""
    data = (experiment.prepared or {}).get("data") or {}
    return bool(data.get("test_rows") or (experiment.recipe.get("sweep") or {}).get("finals"))


def _restart(service: Service, starts: int, say: Callable[[str], None]) -> None:
    if starts > STARTS:
        raise EngineError(
            "the engine keeps ending",
            hint=f"see {service.home.logs}/keeper.log and loop.log, or run `workbench doctor`",
        )
    say("the engine has ended: starting it again")
    service.start_engine()
    service.wait_for_engine(running=True, timeout_s=60)


def _check_engine(service: Service, snapshot: Snapshot, trials: list[TrialRow]) -> None:
    """Raise EngineError where the engine was stopped, or starts nothing while nothing runs."""
    if snapshot.engine.state == "stopped":
        raise EngineError(
            "the engine was stopped; nothing is lost",
            hint="`workbench engine start` continues training",
        )
    braked = snapshot.engine.state == "running" and snapshot.engine.braked
    if (
        braked
        and not service.waits_for_a_person()
        and not any(trial.state.live for trial in trials)
    ):
        raise EngineError(snapshot.engine.detail, hint=f"see {service.home.logs}/loop.log")

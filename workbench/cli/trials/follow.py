"""Following an experiment to its end in plain lines, for any terminal, pipe or log."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from workbench import formatting
from workbench.errors import EngineError, WorkbenchError
from workbench.service import Service, Snapshot
from workbench.store.rows import Experiment, TrialRow
from workbench.text import safe_line
from workbench.trial import State

POLL_S = 0.2
LOOK_S = 2.0
"""Looked at so often even where nothing changed: quiet is news too."""
STUCK_S = 4.0
MOST_TOLD = 4
"""Running trials in a line that says how it stands."""
QUIET_S, MOST_QUIET_S = 10.0, 600.0
"""A running trial is heard of after so long, then after twice that, and so on up to the most."""
STARTS = 3
"""How often a dead engine is started again before we say that it keeps ending."""


@dataclass(slots=True)
class Story:
    """What was told of an experiment, so that only news is told."""

    clock: Callable[[], float] = time.time
    states: dict[int, str] = field(default_factory=dict)
    waits: tuple[str, float, bool] = ("", 0.0, False)
    """Why nothing runs, since when, and whether that was told."""
    progress: dict[int, tuple[int, float, float]] = field(default_factory=dict)
    """Quarters told of a trial, when, and how long it may stay quiet now."""

    def news(self, trials: list[TrialRow]) -> Iterator[str]:
        """Lines about what changed since the last call."""
        for trial in trials:
            for line in self._of(trial):
                yield f"{formatting.clock(self.clock())}  {line}"
        if why := self._stuck(trials):
            yield f"{formatting.clock(self.clock())}  nothing runs now: {why}"

    def _stuck(self, trials: list[TrialRow]) -> str:
        """What the queue has been waiting for, once that is no passing thing."""
        idle = not any(trial.state.live for trial in trials)
        queued = (safe_line(t.waiting) for t in trials if t.state is State.QUEUED and t.waiting)
        why = next(queued, "") if idle else ""
        was, since_utc, told = self.waits
        if why != was:
            self.waits = (why, self.clock(), False)
        elif why and not told and self.clock() - since_utc >= STUCK_S:
            self.waits = (why, since_utc, True)
            return why
        return ""

    def _of(self, trial: TrialRow) -> Iterator[str]:
        if self.states.get(trial.id) != trial.state:
            first = trial.id not in self.states
            self.states[trial.id] = trial.state
            self.progress[trial.id] = (0, self.clock(), QUIET_S)
            if not (first and trial.state is State.QUEUED):
                yield _arrival(trial)
        if trial.state is State.RUNNING and self._due(trial):
            yield _progress(trial)

    def _due(self, trial: TrialRow) -> bool:
        """At every quarter of the way, and ever more rarely in between."""
        quarter = 4 * trial.step // trial.total_steps if trial.total_steps else 0
        told, at_utc, quiet_s = self.progress[trial.id]
        if (
            trial.step == 0
            or trial.loss is None
            or (quarter <= told and self.clock() - at_utc < quiet_s)
        ):
            return False
        longer_s = quiet_s if quarter > told else min(2 * quiet_s, MOST_QUIET_S)
        self.progress[trial.id] = (quarter, self.clock(), longer_s)
        return True


def _arrival(trial: TrialRow) -> str:
    """The line for a trial's new state."""
    about = [f"{formatting.who(trial)}  {trial.state}"]
    if trial.state.live:
        on = f"on {safe_line(trial.card)}" if trial.card else ""
        about += [on, formatting.brief(trial.settings)]
    elif trial.score is not None:
        about.append(f"score {formatting.score(trial.score)}")
    elif trial.reason:
        about.append(safe_line(trial.reason))
    if trial.state is State.FAILED and trial.hint:
        about.append(f"→ {safe_line(trial.hint)}")
    return "  ".join(part for part in about if part)


def _progress(trial: TrialRow) -> str:
    return (
        f"{formatting.who(trial)}  step {formatting.steps(trial.step, trial.total_steps)}"
        f"  loss {formatting.number(trial.loss)}  {formatting.rate(trial.tokens_per_s)} tokens/s"
    )


def heartbeat(experiment: Experiment, trials: list[TrialRow], at_utc: float) -> str:
    """How it stands, in a line."""
    counts = dict(Counter(str(t.state) for t in trials if t.kind == "tune"))
    told = [formatting.counts_line(counts)]
    told += [
        f"trial {t.id} step {formatting.steps(t.step, t.total_steps)} "
        f"loss {formatting.number(t.loss)}"
        for t in trials
        if t.state is State.RUNNING and t.kind == "tune"
    ][:MOST_TOLD]
    held = ["held by a person"] if experiment.held else []
    return f"{formatting.clock(at_utc)}  {safe_line(experiment.name)}: {'; '.join(told + held)}"


def follow(
    service: Service,
    experiment: int,
    say: Callable[[str], None],
    beat_s: float | None = None,
) -> Experiment:
    """Say what happens until every trial has ended, base included. Waits; costs next to nothing.
    With `beat_s`, how it stands after so long a silence.

    Raises what refused the experiment, and EngineError when nobody goes on with it.
    """
    story, starts, trouble = Story(), 0, ""
    said_s = time.monotonic()
    seen, looked_s = None, 0.0
    while True:
        version = service.version()
        if version != seen or time.monotonic() - looked_s > LOOK_S:
            seen, snapshot = version, service.snapshot()
            found = _mine(snapshot, experiment)
            if looked_s == 0.0 and found[0].state == "preparing":
                say(f"{formatting.clock(time.time())}  model and data are checked first")
            for line in story.news(found[1]):
                say(line)
                said_s = time.monotonic()
            if _ended(*found):
                return found[0]
            if snapshot.engine.state == "down":
                starts += 1
                _restart(service, starts, say)
            _check(service, snapshot, found[1])
            if snapshot.engine.state != trouble and snapshot.engine.detail:
                say(f"engine: {snapshot.engine.detail}")
            trouble = snapshot.engine.state
            if beat_s is not None and time.monotonic() - said_s >= beat_s:
                say(heartbeat(*found, time.time()))
                said_s = time.monotonic()
            looked_s = time.monotonic()
        time.sleep(POLL_S)


def _mine(snapshot: Snapshot, id: int) -> tuple[Experiment, list[TrialRow]]:
    experiment = next(one for one in snapshot.experiments if one.id == id)
    trials = [
        trial
        for trial in snapshot.trials
        if trial.experiment == id or trial.id == experiment.base_trial
    ]
    return experiment, trials


def _ended(experiment: Experiment, trials: list[TrialRow]) -> bool:
    if experiment.state == "refused":
        raise WorkbenchError(
            f"{safe_line(experiment.name)} was refused: {experiment.reason}", hint=experiment.hint
        )
    over = experiment.state == "ready" and not experiment.searching
    return over and all(trial.state.final for trial in trials)


def _restart(service: Service, starts: int, say: Callable[[str], None]) -> None:
    if starts > STARTS:
        raise EngineError(
            "the engine keeps ending",
            hint=f"see {service.home.logs}/keeper.log and loop.log, or run `workbench doctor`",
        )
    say("the engine has ended: starting it again")
    service.start_engine()
    service.wait_for_engine(running=True, timeout_s=60)


def _check(service: Service, snapshot: Snapshot, trials: list[TrialRow]) -> None:
    """EngineError when a person stopped the engine, or it places nothing and nothing runs."""
    if snapshot.engine.state == "stopped":
        raise EngineError(
            "the engine was stopped; nothing is lost",
            hint="`workbench engine start` lets training go on",
        )
    braked = snapshot.engine.state == "running" and snapshot.engine.braked
    if (
        braked
        and not service.waits_for_a_person()
        and not any(trial.state.live for trial in trials)
    ):
        raise EngineError(snapshot.engine.detail, hint=f"see {service.home.logs}/loop.log")

"""Following an experiment to its end in plain lines, for any terminal, pipe or log."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from workbench import present
from workbench.errors import EngineError, WorkbenchError
from workbench.service import Service, Snapshot
from workbench.store.rows import Experiment, TrialRow
from workbench.text import safe_line
from workbench.trial import State

POLL_S = 0.2
QUIET_S = 60.0
"""A running trial is heard of at least so often."""
STARTS = 3
"""How often a dead engine is started again before we say that it keeps ending."""


@dataclass(slots=True)
class Story:
    """What was told of an experiment, so that only news is told."""

    clock: Callable[[], float] = time.time
    states: dict[int, str] = field(default_factory=dict)
    waits: dict[int, str] = field(default_factory=dict)
    progress: dict[int, tuple[int, float]] = field(default_factory=dict)

    def news(self, trials: list[TrialRow]) -> Iterator[str]:
        """Lines about what changed since the last call."""
        for trial in trials:
            for line in self._of(trial):
                yield f"{present.clock(self.clock())}  {line}"

    def _of(self, trial: TrialRow) -> Iterator[str]:
        if self.states.get(trial.id) != trial.state:
            first = trial.id not in self.states
            self.states[trial.id] = trial.state
            self.progress[trial.id] = (0, self.clock())
            if not (first and trial.state is State.QUEUED):
                yield _arrival(trial)
        if trial.state is State.QUEUED and trial.waiting != self.waits.get(trial.id, ""):
            self.waits[trial.id] = trial.waiting
            if trial.waiting:
                yield f"{present.who(trial)}  waits: {safe_line(trial.waiting)}"
        if trial.state is State.RUNNING and self._due(trial):
            yield _progress(trial)

    def _due(self, trial: TrialRow) -> bool:
        """At every quarter of the way, and after a minute without a word."""
        quarter = 4 * trial.step // trial.total_steps if trial.total_steps else 0
        told, at_utc = self.progress[trial.id]
        if trial.step == 0 or (quarter <= told and self.clock() - at_utc < QUIET_S):
            return False
        self.progress[trial.id] = (quarter, self.clock())
        return True


def _arrival(trial: TrialRow) -> str:
    """The line for a trial's new state."""
    about = [f"{present.who(trial)}  {trial.state}"]
    if trial.state.live:
        on = f"on {safe_line(trial.card)}" if trial.card else ""
        about += [on, present.settings_line(trial.settings)]
    elif trial.score is not None:
        about.append(f"score {present.score(trial.score)}")
    elif trial.reason:
        about.append(safe_line(trial.reason))
    if trial.state is State.FAILED and trial.mend:
        about.append(f"→ {safe_line(trial.mend)}")
    return "  ".join(part for part in about if part)


def _progress(trial: TrialRow) -> str:
    return (
        f"{present.who(trial)}  step {present.steps(trial.step, trial.total_steps)}"
        f"  loss {present.number(trial.loss)}  {present.rate(trial.tokens_per_s)} tokens/s"
    )


def follow(service: Service, experiment: int, say: Callable[[str], None]) -> Experiment:
    """Say what happens until every trial has ended, base included. Waits; costs next to nothing.

    Raises what refused the experiment, and EngineError when nobody goes on with it.
    """
    story, starts, seen, trouble = Story(), 0, None, ""
    while True:
        version = service.version()
        if version != seen or version[1] != "running":
            seen, snapshot = version, service.snapshot()
            found = _mine(snapshot, experiment)
            for line in story.news(found[1]):
                say(line)
            if _ended(*found):
                return found[0]
            if snapshot.engine.state == "down":
                starts += 1
                _restart(service, starts, say)
            _check(service, snapshot, found[1])
            if snapshot.engine.state != trouble and snapshot.engine.detail:
                say(f"engine: {snapshot.engine.detail}")
            trouble = snapshot.engine.state
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
            f"{safe_line(experiment.name)} was refused: {experiment.reason}", mend=experiment.mend
        )
    return experiment.state == "ready" and all(trial.state.final for trial in trials)


def _restart(service: Service, starts: int, say: Callable[[str], None]) -> None:
    if starts > STARTS:
        raise EngineError(
            "the engine keeps ending",
            mend=f"see {service.home.logs}/keeper.log and loop.log, or run `workbench doctor`",
        )
    say("the engine has ended: starting it again")
    service.start_engine()
    service.wait_for_engine(running=True, timeout_s=60)


def _check(service: Service, snapshot: Snapshot, trials: list[TrialRow]) -> None:
    """EngineError when a person stopped the engine, or it places nothing and nothing runs."""
    if snapshot.engine.state == "stopped":
        raise EngineError(
            "the engine was stopped; nothing is lost",
            mend="`workbench engine start` lets training go on",
        )
    braked = snapshot.engine.state == "running" and snapshot.engine.detail
    if braked and not any(trial.state.live for trial in trials):
        raise EngineError(snapshot.engine.detail, mend=f"see {service.home.logs}/loop.log")

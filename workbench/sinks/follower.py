"""Hands what is new in the database to one sink: each step of each trial once, in order."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from workbench.home import Home
from workbench.machine.files import write_durably
from workbench.sinks.run import Run, Sink, about_run
from workbench.store.queries.logged_steps import (
    MOST_STEPS,
    LoggedStep,
    changed_trials,
    scores_of,
    steps_after,
)
from workbench.store.reader import Reader
from workbench.store.rows import TrialRow
from workbench.trial import State

LOOK_S = 2.0
"""Seconds between two looks at the database."""
LATE_S = 60.0
"""Seconds by which a change may be older than the look that first sees it."""


class Follower:
    """A sink that follows one home. A file in the home holds how far each trial was sent.

    Trials that had ended before the sink was first started are left out.
    """

    def __init__(
        self, home: Home, sink: Sink, file: Path, clock: Callable[[], float] = time.time
    ) -> None:
        self._home, self._sink, self._file, self._clock = home, sink, file, clock
        self._runs: dict[int, Run] = {}
        self._first_utc, self._sent = _read(file, clock())
        self._looked_utc = self._first_utc
        self._save()

    def look(self) -> None:
        """Hand on what is new. Raises whatever the sink raises; nothing is lost then."""
        if not self._home.database.exists():
            return
        began_utc = self._clock()
        since_utc = max(self._first_utc, self._looked_utc - LATE_S)
        reader = Reader.open(self._home.database)
        try:
            for trial in changed_trials(reader, since_utc, self._open_trials()):
                self._hand_on(reader, trial)
        finally:
            reader.close()
        self._looked_utc = began_utc

    def close(self) -> None:
        """Let every run go."""
        for run in self._runs.values():
            run.close(failed=False)
        self._runs.clear()

    def _open_trials(self) -> list[int]:
        return [int(key) for key, one in self._sent.items() if not one["ended"]]

    def _hand_on(self, reader: Reader, trial: TrialRow) -> None:
        sent = self._sent.get(str(trial.id))
        if sent is None or sent["created_utc"] != trial.created_utc:
            sent = {"created_utc": trial.created_utc, "step": -1, "ended": False}
        if trial.id not in self._runs and steps_after(reader, trial, sent["step"]):
            sent = self._open(reader, trial, sent)
        while steps := steps_after(reader, trial, sent["step"]):
            last = len(steps) < MOST_STEPS
            if last and trial.state.final:
                steps = _with_scores(steps, scores_of(reader, trial.id))
            self._runs[trial.id].send(steps)
            sent = {**sent, "step": steps[-1].step, "ended": False}
            self._remember(trial, sent)
            if last:
                break
        if trial.state.final and not sent["ended"]:
            if (ended := self._runs.pop(trial.id, None)) is not None:
                ended.close(failed=trial.state is State.FAILED)
            self._remember(trial, {**sent, "ended": True})

    def _open(self, reader: Reader, trial: TrialRow, sent: dict[str, Any]) -> dict[str, Any]:
        """Open the trial's run; return `sent` as the sink itself has it, where it can tell."""
        about = about_run(trial, reader.experiment(trial.experiment))
        self._runs[trial.id] = run = self._sink.open_run(about)
        return sent if run.last_step is None else {**sent, "step": run.last_step}

    def _remember(self, trial: TrialRow, sent: dict[str, Any]) -> None:
        if self._sent.get(str(trial.id)) != sent:
            self._sent[str(trial.id)] = sent
            self._save()

    def _save(self) -> None:
        body = {"since_utc": self._first_utc, "trials": self._sent}
        write_durably(self._file, json.dumps(body).encode())


def follow(follower: Follower, stopped: Callable[[float], bool]) -> None:
    """Look every LOOK_S seconds until `stopped(seconds)`, which waits, is True; then once more."""
    while not stopped(LOOK_S):
        follower.look()
    follower.look()
    follower.close()


def _with_scores(steps: list[LoggedStep], scores: dict[str, float]) -> list[LoggedStep]:
    """Return the steps with the trial's held-out scores at the last one."""
    last = steps[-1]
    named = {f"score/{name}": value for name, value in scores.items()}
    return [*steps[:-1], LoggedStep(last.step, {**last.values, **named})]


def _read(file: Path, now_utc: float) -> tuple[float, dict[str, dict[str, Any]]]:
    """Return since when trials are sent, and how far each was; a damaged file begins anew."""
    try:
        body = json.loads(file.read_bytes())
        return float(body["since_utc"]), dict(body["trials"])
    except (OSError, ValueError, KeyError, TypeError):
        return now_utc, {}

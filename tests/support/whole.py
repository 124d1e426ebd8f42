"""A whole engine on a home of its own - real processes, real Ray, the real trainer on the demo
model, two CPU cards - and what can be done to it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support.sound import SECRET, newest_event, of_home, sound
from tests.support.waiting import wait_for
from workbench import fault_points
from workbench.home import Home
from workbench.keeper import CRASHES
from workbench.machine.locks import lock_holder
from workbench.machine.processes import end_home_processes, find_marked, identify_process
from workbench.recipe import Recipe, find_recipe, load_recipe
from workbench.service import Service
from workbench.store.requests import drop_request
from workbench.store.rows import AttemptRow, TrialRow
from workbench.trial import DesiredState, State

LIMIT_S = 240.0
LONG = ["train.max_steps=100000", "train.epochs=1000", "train.save_every=8", "train.log_every=1"]
TWO = "{parameters: {train.learning_rate: [0.001, 0.002]}}"


def short_recipe(*more: str, sweep: str = "null") -> Recipe:
    overrides = [
        "data.eval_rows=8",
        "train.batch_size=1",
        "evaluate.answer_pattern=null",
        "evaluate.every=null",
        f"sweep={sweep}",
        *LONG,
        *more,
    ]
    return load_recipe(find_recipe("demo"), overrides)


def workbench(home: Home, *words: str) -> subprocess.CompletedProcess[str]:
    """A command of a person."""
    return subprocess.run(
        [sys.executable, "-m", "workbench", *words],
        env={**os.environ, "WORKBENCH_HOME": str(home.root)},
        check=False,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )


def whose(pid: int, among: list[AttemptRow]) -> AttemptRow:
    """The attempt in which that process met the fault."""
    (met,) = (attempt for attempt in among if attempt.pid == pid)
    return met


@dataclass
class Whole:
    home: Home
    service: Service
    armed: Path
    """File that WORKBENCH_FAULT names for everything of this engine."""
    _units_before: int = field(default=0)

    # --- what there is

    def runtime(self) -> dict[str, object]:
        try:
            return dict(json.loads(self.home.runtime.read_text()))
        except (OSError, ValueError):
            return {}

    def pid(self, who: str) -> int:
        """Return the pid of head or loop; 0 while it is being started."""
        named = self.runtime().get(who)
        return int(named["pid"]) if isinstance(named, dict) else 0

    def keeper(self) -> int:
        return lock_holder(self.home.keeper_lock) or 0

    def process(self, name: str) -> int:
        """Return the pid of a process of this unit whose command line has `name`; 0 without one."""
        for pid in find_marked(str(self.runtime().get("unit"))):
            try:
                if name.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                    return pid
            except OSError:
                continue
        return 0

    def tuned(self) -> list[TrialRow]:
        return [t for t in self.service.snapshot().trials if t.kind == "tune"]

    def live(self) -> list[AttemptRow]:
        reader = self.service.reader()
        return reader.live_attempts() if reader else []

    def state(self, trial: int) -> State:
        return self.service.trial(trial).trial.state

    # --- what to wait for

    def until_both_commit(self) -> dict[int, int]:
        """Wait until two trials have committed in a live attempt; return trial → step."""

        def committed() -> dict[int, int]:
            fresh = {a.trial: a.checkpoint_step or 0 for a in self.live()}
            return fresh if len(fresh) == 2 and all(fresh.values()) else {}

        return wait_for(committed, "both trials commit a checkpoint", LIMIT_S)

    def until_later_attempts(self, than: list[AttemptRow]) -> None:
        """Wait until each of these trials has committed in a later attempt."""
        newest = {a.trial: a.id for a in than}

        def later() -> bool:
            live = {a.trial: a for a in self.live() if a.checkpoint_step}
            return all(t in live and live[t].id > id for t, id in newest.items())

        wait_for(later, "later attempts commit", LIMIT_S)

    def until_state(self, trial: int, *states: State) -> None:
        wait_for(lambda: self.state(trial) in states, f"trial {trial} is {states}", LIMIT_S)

    # --- what to do

    def two_running(self) -> dict[int, int]:
        """Wait until both cards train a long trial that has committed.

        Whatever earlier tests left behind is continued; missing trials are submitted.
        """
        self.armed.unlink(missing_ok=True)
        if self.crashes() >= CRASHES - 2:  # each test begins with a keeper that trusts its loop
            self.end_everything()
        self.start()
        for trial in self.tuned():
            pausing = trial.desired_state is DesiredState.PAUSE and not trial.state.final
            if pausing or trial.state is State.PAUSED:
                self.obeyed(self.service.resume(trial.id))
        for card in self.service.snapshot().cards:  # earlier tests' losses are not its fault
            self.obeyed(
                drop_request(self.home.requests, "undrain", {"card": card.uuid, "quarantine": True})
            )
        missing = 2 - len([t for t in self.tuned() if not t.state.final])
        if missing:
            sweep = TWO if missing == 2 else "null"
            self.obeyed(self.service.submit(short_recipe(sweep=sweep)))
        return self.until_both_commit()

    def start(self) -> None:
        """Start the engine where it is down and wait until it ticks."""
        if not self.keeper():
            self._units_before = self._units()
        self.service.start_engine()
        self.service.wait_for_engine(running=True, timeout_s=LIMIT_S)

    def obeyed(self, request: str) -> None:
        self.service.wait_for_answer(request, LIMIT_S)

    def give_up(self, experiment: int) -> None:
        """Kill the trials of the experiment, once it is prepared."""
        ready = lambda: self.service.experiment(experiment).state == "ready"  # noqa: E731
        wait_for(ready, "it is prepared", LIMIT_S)
        for trial in self.service.trials(experiment):
            if not trial.state.final:
                self.obeyed(self.service.stop(trial.id, kill=True))
                self.until_state(trial.id, State.STOPPED)

    def arm(self, told: str) -> None:
        fault_points.parse_faults(told)
        self.armed.with_suffix(".fired").unlink(missing_ok=True)
        staged = self.armed.with_suffix(".new")
        staged.write_text(told)
        staged.rename(self.armed)

    def fired(self) -> int:
        """Wait until the armed fault has happened; return the pid of the process it happened to."""
        path = self.armed.with_suffix(".fired")
        told = wait_for(lambda: path.exists() and path.read_text(), "the fault comes", LIMIT_S)
        return int(str(told).split()[1])

    def kill(self, pid: int) -> None:
        """Kill the process and wait until it has ended and released its locks."""
        assert pid
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: identify_process(pid) is None, f"{pid} ends")

    def end_everything(self) -> None:
        """Kill every process of this home at once, as a reboot does."""
        for pid in of_home(self.home) | {self.keeper()} - {0}:
            if identify_process(pid) is not None:
                os.kill(pid, signal.SIGKILL)
        _, stubborn = end_home_processes(self.home.root, self.runtime())
        assert stubborn == []
        wait_for(lambda: not self.keeper(), "the keeper ends")

    def _units(self) -> int:
        log = self.home.logs / "keeper.log"
        return len(re.findall(r" ends: ", log.read_text())) if log.exists() else 0

    def crashes(self) -> int:
        return self._units() - self._units_before

    def losses(self) -> int:
        """Return how many attempts so far count against their cards."""
        attempts = [a for trial in self.tuned() for a in self.service.trial(trial.id).attempts]
        return sum(attempt.outcome == "lost" for attempt in attempts)

    # --- what must hold

    def steps(self) -> dict[int, int]:
        """Return trial → step of the trials that have not ended."""
        return {trial.id: trial.step for trial in self.tuned() if not trial.state.final}

    def until_further(self, than: dict[int, int]) -> None:
        """Wait until each of these trials is beyond that step."""
        further = lambda: all(self.steps()[t] > step for t, step in than.items())  # noqa: E731
        wait_for(further, "training goes on", LIMIT_S)

    @contextmanager
    def unharmed(self, told: str = "", *, intervals: int = 1) -> Iterator[None]:
        """Check the nine promises after the block, which contains the fault."""
        since = newest_event(self.home)
        yield
        sound(self.home, told=told, since=since, intervals=intervals)


@contextmanager
def whole_engine(folder: Path, config: str = "", **env: str) -> Iterator[Whole]:
    """Yield a started engine with that configuration; end whatever is left of it afterwards."""
    with pytest.MonkeyPatch.context() as patch:
        (folder / "config" / "workbench").mkdir(parents=True)
        (folder / "config" / "workbench" / "config.toml").write_text(config)
        armed = folder / "fault"
        surroundings = {
            "WORKBENCH_CARDS": "cpu:4GiB,cpu:4GiB",
            fault_points.VARIABLE: str(armed),
            "XDG_CONFIG_HOME": str(folder / "config"),
            "HF_TOKEN": SECRET,
            **env,
        }
        for name, value in surroundings.items():
            patch.setenv(name, value)
        home = Home(folder / "home").make()
        made = Whole(home, Service(home), armed)
        made.start()
        try:
            yield made
        finally:
            made.end_everything()

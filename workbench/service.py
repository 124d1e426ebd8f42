"""Everything a front end may ask: snapshots of the store, requests to the engine, its start.

Nothing here talks to the engine or to Ray: the store is read, request files are dropped.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from workbench import fault_points
from workbench.errors import EngineError, NotThere
from workbench.home import STOPPED_BY_A_PERSON, Home, find_home
from workbench.importance import LEAST_TRIALS, Importance, Outcome, importance
from workbench.machine.locks import holder
from workbench.store.board import board
from workbench.store.fair_share import line_up
from workbench.store.history import in_order_of_merit
from workbench.store.journal import gone, was_there
from workbench.store.reader import Reader
from workbench.store.requests import drop
from workbench.store.rows import (
    Answer,
    Attempt,
    BoardRow,
    CardRow,
    EventRow,
    Experiment,
    MoveRow,
    Point,
    Sample,
    TrialRow,
)
from workbench.text import safe_line
from workbench.trial import State

if TYPE_CHECKING:  # pydantic costs a front end 0.1 s at its start
    from workbench.recipe import Recipe

__all__ = [
    "Answer",
    "Attempt",
    "BoardRow",
    "CardRow",
    "Engine",
    "EngineState",
    "EventRow",
    "Experiment",
    "ImportanceReport",
    "MoveRow",
    "Point",
    "Sample",
    "Service",
    "Snapshot",
    "TrialDetail",
    "TrialRow",
]

LATE_S = 10.0
"""A loop that has not ticked for so long is shown as not answering."""

EngineState = Literal["running", "starting", "late", "stopped", "down"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    state: EngineState
    """running; starting (a keeper lives, no tick yet); late (no tick for 10 s); stopped (by a
    person: offer to start it); down (was never started, or died: the next command starts it)."""
    pid: int | None
    """The keeper's."""
    tick_age_s: float | None
    detail: str
    """A line for people, empty when all is well."""
    braked: bool = False
    """Nothing new is placed, for the reason in `detail`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """One consistent picture for a screen."""

    engine: Engine
    cards: list[CardRow]
    experiments: list[Experiment]
    trials: list[TrialRow]
    """Of all experiments, oldest first; `kind` base rows too."""
    held: bool = False
    """A person holds the whole queue."""
    guards: dict[str, Any] = field(default_factory=dict)
    """The [guards] that the engine holds to; empty before one ran. See user_config.Guards."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialDetail:
    trial: TrialRow
    experiment: Experiment
    attempts: list[Attempt]
    moves: list[MoveRow]
    samples: list[Sample]
    metric_names: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportanceReport:
    experiment: str
    trials: int
    """Those that were scored or ended early."""
    least: int
    """So many it takes to tell anything."""
    settings: list[Importance]
    """The most telling first."""

    @property
    def enough(self) -> bool:
        return self.trials >= self.least


class Service:
    """One person's view of one home. Not thread-safe: one for each thread that asks."""

    def __init__(self, home: Home | None = None, clock: Callable[[], float] = time.time) -> None:
        self.home = home or find_home()
        self.clock = clock
        self._reader: Reader | None = None
        self._inode: int | None = None

    # --- reading ---

    def reader(self) -> Reader | None:
        """The store, or None where no engine ever ran. Opened anew when the file was replaced."""
        try:
            inode = self.home.database.stat().st_ino
        except (FileNotFoundError, NotADirectoryError):
            if was_there(self.home.database):
                raise gone(self.home.database) from None
            return None
        if self._reader is None or inode != self._inode:
            reader = Reader.open(self.home.database)
            if reader.db.execute("pragma user_version").fetchone()[0] == 0:
                reader.close()  # being created this very moment
                return None
            self._reader, self._inode = reader, inode
        return self._reader

    def _need_reader(self) -> Reader:
        reader = self.reader()
        if reader is None:
            raise NotThere(
                f"nothing has run in {self.home.root} yet",
                hint="try `workbench demo`, or `workbench run RECIPE`",
            )
        return reader

    def version(self) -> tuple[int, str]:
        """Differs from the last one when there is something new to show. Costs 0.1 ms."""
        reader = self.reader()
        return (reader.data_version() if reader else -1, self.engine().state)

    def snapshot(self) -> Snapshot:
        reader = self.reader()
        engine = self.engine()
        if reader is None:
            return Snapshot(engine=engine, cards=[], experiments=[], trials=[])
        with reader.one_view():
            return Snapshot(
                engine=engine,
                cards=reader.cards(),
                experiments=reader.experiments(),
                trials=reader.trials(),
                held=bool(reader.fact("held")),
                guards=json.loads(reader.fact("guards") or "{}"),
            )

    def experiments(self) -> list[Experiment]:
        """Newest first; none where nothing ran."""
        reader = self.reader()
        return reader.experiments() if reader else []

    def any_trials(self, states: frozenset[State]) -> bool:
        """Whether any trial, a base's too, is in one of them. Looks at one."""
        reader = self.reader()
        return reader is not None and reader.any_trials(states)

    def experiment(self, key: int | str) -> Experiment:
        return self._need_reader().experiment(key)

    def trials(self, experiment: int) -> list[TrialRow]:
        return self._need_reader().trials(experiment)

    def queue(self) -> list[int]:
        """Queued trials in the order they will be placed, by what is known now."""
        reader = self.reader()
        if reader is None:
            return []
        with reader.one_view():
            return [trial.id for trial in line_up(reader, self.clock())]

    def trial(self, id: int) -> TrialDetail:
        """NotThere when there is no such trial."""
        reader = self._need_reader()
        with reader.one_view():
            trial = reader.trial(id)
            return TrialDetail(
                trial=trial,
                experiment=reader.experiment(trial.experiment),
                attempts=reader.attempts(id),
                moves=reader.moves(id),
                samples=reader.samples(id),
                metric_names=reader.metric_names(id),
            )

    def series(self, trial: int, name: str, points: int = 200) -> list[Point]:
        reader = self.reader()
        return reader.series(trial, name, points) if reader else []

    def events(
        self, *, trial: int | None = None, after: int = 0, limit: int = 200
    ) -> list[EventRow]:
        reader = self.reader()
        return reader.events(trial=trial, after=after, limit=limit) if reader else []

    def board(self, key: int | str) -> tuple[Experiment, list[BoardRow]]:
        """The experiment and its ranked rows, best first; see store.board."""
        reader = self._need_reader()
        with reader.one_view():
            experiment = reader.experiment(key)
            return experiment, board(reader, experiment, self.clock())

    def measured(self) -> list[tuple[str, dict[str, Any], int, dict[str, Any]]]:
        """(card, plan, peak bytes, model's config) of attempts done on GPUs, newest first."""
        reader = self.reader()
        return reader.measured() if reader else []

    def importance(self, key: int | str) -> ImportanceReport:
        """Which settings mattered; see workbench.importance. Some tenths of a second."""
        reader = self._need_reader()
        with reader.one_view():
            experiment = reader.experiment(key)
            trials = in_order_of_merit(reader, experiment)
        outcomes = [Outcome(settings=t, place=n) for n, t in enumerate(trials, start=1)]
        return ImportanceReport(
            experiment=experiment.name,
            trials=len(outcomes),
            least=LEAST_TRIALS,
            settings=importance(outcomes),
        )

    # --- commanding ---

    def submit(self, recipe: Recipe, warm_trial: int | None = None) -> str:
        """Ask for an experiment; the request's id. The answer's data: {"experiment", "name"}."""
        return self.send("submit", recipe=recipe.model_dump(mode="json"), warm_trial=warm_trial)

    def send(self, verb: str, **args: Any) -> str:
        """Ask for any of docs/control.md's verbs; the request's id."""
        return self._drop(verb, args)

    def stop(self, trial: int, *, kill: bool = False) -> str:
        """End it: keeping its last checkpoint as the adapter, or (kill) keeping nothing."""
        return self._drop("kill" if kill else "stop", {"trial": trial})

    def pause(self, trial: int) -> str:
        return self._drop("pause", {"trial": trial})

    def resume(self, trial: int) -> str:
        return self._drop("resume", {"trial": trial})

    def _drop(self, verb: str, args: dict[str, Any]) -> str:
        return drop(self.home.make().requests, verb, args)

    def answer(self, request: str) -> Answer | None:
        """The engine's answer; None until there is one."""
        reader = self.reader()
        return reader.answer(request) if reader else None

    def wait_for_answer(self, request: str, timeout_s: float = 60.0) -> Answer:
        """Blocks; EngineError when the engine does not answer in time (the request stays)."""
        until = time.monotonic() + timeout_s
        while time.monotonic() < until:
            answer = self.answer(request)
            if answer is not None:
                return answer
            time.sleep(0.05)
        raise EngineError(
            f"the engine has not answered within {timeout_s:.0f} s; the request waits for it",
            hint="see `workbench engine status` and the logs in " + str(self.home.logs),
        )

    # --- the engine ---

    def engine(self) -> Engine:
        """Read from locks and files; costs well under a millisecond."""
        keeper = holder(self.home.keeper_lock)
        age = _age_s(self.home.tick)
        if keeper is None:
            why = self._why_stopped()
            return Engine(
                state="down" if why is None else "stopped",
                pid=None,
                tick_age_s=age,
                detail="not running" if why is None else why[0] or "stopped by you",
            )
        loop = holder(self.home.loop_lock)
        state: EngineState = "running"
        detail, braked = self._trouble()
        if loop is None and self._why_stopped() is not None:  # the marker goes when it starts
            detail = "the engine is stopping; Ray is being ended"
        elif loop is None or age is None:
            state, detail = "starting", "starting Ray and the workers"
        elif age > LATE_S:
            state, detail = "late", f"no tick for {age:.0f} s"
        return Engine(state=state, pid=keeper, tick_age_s=age, detail=detail, braked=braked)

    def _why_stopped(self) -> tuple[str, str] | None:
        """Why the engine ended by itself, and the mend; empty when a person stopped it."""
        try:
            told = self.home.stopped.read_bytes()[:4_000]
        except (FileNotFoundError, NotADirectoryError):
            return None
        if told in (b"", STOPPED_BY_A_PERSON):
            return ("", "")
        what, _, hint = told.decode(errors="replace").partition("\n")
        return (safe_line(what), safe_line(hint))

    def _trouble(self) -> tuple[str, bool]:
        """What is wrong although the engine runs, and whether nothing new is placed for it."""
        reader = self.reader()
        if reader is None:
            return "", False
        if reader.fact("stopping"):
            return "the engine is stopping; what runs checkpoints first", True
        held = "the queue is held; `workbench release` lets it go on"
        brake = reader.fact("brake") or (held if reader.fact("held") else "")
        facts = ("cards-problem", "disk-low")
        brake = brake or next((told for fact in facts if (told := reader.fact(fact))), "")
        return (brake, True) if brake else (reader.fact("config-problem") or "", False)

    def waits_for_a_person(self) -> bool:
        """True while a person holds the queue, or stops the engine: nothing is wrong."""
        reader = self.reader()
        return bool(reader and (reader.fact("held") or reader.fact("stopping")))

    def stopping(self) -> bool:
        """True while it carries out a stop."""
        if holder(self.home.keeper_lock) is None:
            return False
        reader = self.reader()
        return self.home.stopped.exists() or bool(reader and reader.fact("stopping"))

    def start_engine(self) -> None:
        """Start a keeper unless one lives; forgets that the engine was stopped. StoreError, with
        nothing started, where the database cannot be used."""
        fault_points.check()
        self.reader()
        self.home.make()
        if holder(self.home.keeper_lock) is not None:
            if self.stopping():
                self._drop("engine-start", {})
            return
        self.home.stopped.unlink(missing_ok=True)
        with (self.home.logs / "keeper.log").open("ab") as log:
            subprocess.run(  # returns when the keeper has its lock, or found another's
                [sys.executable, "-m", "workbench.keeper"],
                check=False,
                env={**os.environ, "WORKBENCH_HOME": str(self.home.root)},
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def ensure_engine(self) -> bool:
        """Start it if it died or never ran, not if a person stopped it. True when it runs."""
        state = self.engine().state
        if state == "down":
            self.start_engine()
        return state != "stopped"

    def stop_engine(self) -> str:
        """Ask for checkpoints, the cards back, and an end; the request's id."""
        return self._drop("engine-stop", {"keeper": holder(self.home.keeper_lock)})

    def wait_for_engine(self, *, running: bool, timeout_s: float) -> None:
        """Blocks until it ticks, or until its keeper has gone; EngineError after `timeout_s`."""
        until, was_stopping = time.monotonic() + timeout_s, self.stopping()
        while time.monotonic() < until:
            stopping = self.stopping()  # before the state: a keeper that is gone stops nothing
            state = self.engine().state
            gone = state in ("stopped", "down")
            if running and state == "stopped" and (why := self._why_stopped()) and why[0]:
                raise EngineError(f"the engine does not start: {why[0]}", hint=why[1])
            if gone if not running else state == "running" and not stopping:
                return
            if running and gone and was_stopping:  # too late to go on: it is started anew
                self.start_engine()
                state = "starting"
            if not running and was_stopping and not stopping and state == "running":
                raise EngineError("it was started again before it had ended", hint="stop it again")
            was_stopping = stopping
            time.sleep(0.05)
        raise EngineError(
            f"the engine did not {'start' if running else 'stop'} within {timeout_s:.0f} s",
            hint=f"look into {self.home.logs}/keeper.log and loop.log, or run `workbench doctor`",
        )


def _age_s(path: Path) -> float | None:
    try:
        return max(0.0, time.time() - path.stat().st_mtime)
    except (FileNotFoundError, NotADirectoryError):
        return None

"""Everything that a front end may ask: views of the store, requests to the engine, its start.

Nothing here talks to the engine or to Ray: the store is read, and request files are written. The
public Python API (`workbench.api`) is a thin layer over this.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from workbench import fault_points
from workbench.engine_status import (
    EngineState,
    EngineStatus,
    is_stopping,
    read_status,
    stop_reason,
)
from workbench.errors import EngineError, NotThere, WorkbenchError
from workbench.home import Home, find_home, read_runtime
from workbench.importance import LEAST_TRIALS, Importance, RankedTrial, rank_settings
from workbench.judging.comparison import Comparison, compare_trials
from workbench.judging.held_out_power import ShownDifference, shown_differences
from workbench.judging.judged_rows import Baseline, BoardJudge
from workbench.library.marks import archived_experiments
from workbench.library.removed import find_hidden, hidden_stamp
from workbench.machine.history.minutes import CardMinute, HistoryReader
from workbench.machine.locks import lock_holder
from workbench.machine.processes import (
    end_home_processes,
    end_process,
    identify_process,
    is_frozen,
)
from workbench.machine.python_children import python_command, python_environment
from workbench.machine.reserve_file import release_reserve
from workbench.store.queries import attempt_history
from workbench.store.queries.fair_share import forecast_order
from workbench.store.queries.history import settings_by_merit
from workbench.store.reader import Reader
from workbench.store.recovery.journal import database_existed, database_gone
from workbench.store.requests import drop_request
from workbench.store.rows import (
    CARD_SLOTS,
    AnswerSample,
    AttemptRow,
    BoardRow,
    CardRow,
    EventRow,
    Experiment,
    JudgedBoard,
    MoveRow,
    Point,
    RequestAnswer,
    TrialRow,
    card_of,
)
from workbench.trial import State

if TYPE_CHECKING:  # pydantic costs a front end 0.1 s at its start
    from workbench.recipe import Recipe

__all__ = [
    "AnswerSample",
    "AttemptRow",
    "Baseline",
    "BoardRow",
    "CardDetail",
    "CardMinute",
    "CardRow",
    "Comparison",
    "EngineState",
    "EngineStatus",
    "EventRow",
    "Experiment",
    "ImportanceReport",
    "JudgedBoard",
    "MoveRow",
    "Point",
    "RequestAnswer",
    "Service",
    "Snapshot",
    "TrialDetail",
    "TrialRow",
    "refusal_error",
]

POLL_S = 0.02
"""Seconds between two looks while waiting for the engine."""
GRACE_S = 8.0
"""Seconds that a new keeper may take to acquire its lock before it counts as dead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """One consistent picture for a screen."""

    engine: EngineStatus
    cards: list[CardRow]
    experiments: list[Experiment]
    """Newest first."""
    trials: list[TrialRow]
    """The trials of all experiments, oldest first, base trials included."""
    held: bool = False
    """A person holds the whole queue."""
    guards: dict[str, Any] = field(default_factory=dict)
    """The [guards] settings that the engine works by; empty before an engine ran. See
    `user_config.Guards`."""
    slots: dict[str, tuple[int, str]] = field(default_factory=dict)
    """Each GPU's number in nvidia-smi and its slot on the PCI bus, by UUID."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialDetail:
    """Everything the store has about one trial, but its metrics."""

    trial: TrialRow
    experiment: Experiment
    attempts: list[AttemptRow]
    """Oldest first."""
    moves: list[MoveRow]
    """Oldest first."""
    samples: list[AnswerSample]
    base_samples: list[AnswerSample]
    """The answers of the untrained base of the experiment; empty for the base's own trial."""
    metric_names: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class CardDetail:
    """What one card does over time, and the methods by which it trains."""

    uuid: str
    history: tuple[CardMinute, ...]
    """The minutes of the last day, oldest first; one without readings is missing."""
    attention: str
    """Attention in training and in scoring, in words, with the reason."""
    precision: str
    """The precision with its reason, in words."""
    planned_for: int | None
    """The trial whose plan on this card the two are from; None: what any recipe gets that names
    none itself."""
    worker_pid: int | None
    """The process that trains on it now; None where none does, or it has not reported."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportanceReport:
    """The share of the differences between trials that each setting of a sweep explains."""

    experiment: str
    trials: int
    """Trials that were used: those that finished with a score, or ended early."""
    least: int
    """Trials below which no setting can be told from chance."""
    settings: list[Importance]
    """The settings that explain most come first."""
    left_out: dict[str, int] = field(default_factory=dict)
    """Trials that were not used, by state, killed ones apart."""

    @property
    def enough(self) -> bool:
        """True where there are enough trials for a result."""
        return self.trials >= self.least


def _card_detail(reader: Reader, card: CardRow, history: tuple[CardMinute, ...]) -> CardDetail:
    """Return how the card trains by the newest plan on it, or as a recipe that names nothing."""
    from workbench.machine.attention import precision_reason

    known, found = card_of(card), attempt_history.newest_on_card(reader, card.uuid)
    trial, plan, pid = found or (None, {}, None)
    if plan.get("attention_why"):
        precision, attention = str(plan["precision"]), str(plan["attention_why"])
    else:
        from workbench.footprint.card_limits import precision_for, usual_attention

        trial, precision, attention = None, precision_for(known, "auto"), usual_attention(known)
    return CardDetail(
        uuid=card.uuid,
        history=history,
        attention=attention,
        precision=f"{precision}: {precision_reason(known, precision)}",
        planned_for=trial,
        worker_pid=pid,
    )


def refusal_error(answer: RequestAnswer) -> WorkbenchError:
    """Return the engine's refusal as an error with the exit code that the engine chose."""
    error = WorkbenchError(answer.text, hint=answer.hint)
    error.exit_code = int(answer.data.get("exit_code", 1))
    return error


class Service:
    """One person's view of one home. Not thread-safe: each thread needs one of its own."""

    def __init__(self, home: Home | None = None, clock: Callable[[], float] = time.time) -> None:
        """Open nothing yet; `home` is `find_home()` unless given. `clock` returns UTC seconds."""
        self.home = home or find_home()
        self.clock = clock
        self._reader: Reader | None = None
        self._inode: int | None = None
        self._hidden_stamp: int | None = None
        self._judge = BoardJudge()
        self._history = HistoryReader(self.home.card_history)

    # --- reading ---

    def reader(self) -> Reader | None:
        """Return the store, or None where no engine ever ran.

        The database is opened again when its file was replaced, for example by a repair, or an
        engine has migrated it. Raises
        DatabaseDamaged where it is damaged or lost.
        """
        try:
            inode = self.home.database.stat().st_ino
        except (FileNotFoundError, NotADirectoryError):
            if database_existed(self.home.database):
                raise database_gone(self.home.database) from None
            return None
        if self._reader is None or inode != self._inode or self._reader.migrated:
            reader = Reader.open(self.home.database)
            if reader.db.execute("pragma user_version").fetchone()[0] == 0:
                reader.close()  # an engine is creating it this very moment
                return None
            self._reader, self._inode, self._hidden_stamp = reader, inode, None
        stamp = hidden_stamp(self.home)
        if stamp != self._hidden_stamp:
            self._hidden_stamp, self._reader.hidden = stamp, find_hidden(self.home)
            self._judge = BoardJudge()  # it knows results by the database's state alone
        return self._reader

    def close(self) -> None:
        """Close the database; a later question opens it again."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def opened_reader(self) -> Reader:
        """Return the store of the home; raise NotThere where nothing has run."""
        reader = self.reader()
        if reader is None:
            raise NotThere(
                f"nothing has run in {self.home.root} yet",
                hint="try `workbench demo`, or `workbench run RECIPE`",
            )
        return reader

    def version(self) -> tuple[int, str]:
        """Return a value that changes when there is something new to show. Takes 0.1 ms."""
        reader = self.reader()
        version = reader.data_version() + hidden_stamp(self.home) if reader else -1
        return (version, self.engine().state)

    def snapshot(self) -> Snapshot:
        """Return cards, experiments and trials as they are at one moment.

        Where no engine ever ran, all of them are empty.
        """
        reader = self.reader()
        engine = self.engine()
        if reader is None:
            return Snapshot(engine=engine, cards=[], experiments=[], trials=[])
        with reader.one_view():
            archived = self.archived()
            return Snapshot(
                engine=engine,
                cards=reader.cards(),
                experiments=[one for one in reader.experiments() if one.id not in archived],
                trials=[one for one in reader.trials() if one.experiment not in archived],
                held=bool(reader.fact("held")),
                guards=json.loads(reader.fact("guards") or "{}"),
                slots={
                    uuid: (int(number), str(slot))
                    for uuid, (number, slot) in json.loads(reader.fact(CARD_SLOTS) or "{}").items()
                },
            )

    def experiments(self) -> list[Experiment]:
        """Return all experiments, newest first; none where nothing ran."""
        reader = self.reader()
        return reader.experiments() if reader else []

    def archived(self) -> frozenset[int]:
        """Return the ids of the archived experiments, which lists leave out.

        One that has unfinished work again, for example by a clone, is listed again.
        """
        known = archived_experiments(self.home)
        found = self.experiments() if known else []
        return frozenset(
            one.id
            for one in found
            if known.get(one.id) == one.created_utc and not one.is_unfinished
        )

    def any_trials(self, states: frozenset[State]) -> bool:
        """Return True if any trial, base trials included, is in one of `states`."""
        reader = self.reader()
        return reader is not None and reader.any_trials(states)

    def experiment(self, key: int | str) -> Experiment:
        """Return the experiment with this id or name; NotThere lists the newest names."""
        return self.opened_reader().experiment(key)

    def trials(self, experiment: int) -> list[TrialRow]:
        """Return the trials of one experiment by id, oldest first; its base trial is among them."""
        return self.opened_reader().trials(experiment)

    def queue(self) -> list[int]:
        """Return the ids of queued trials in the order in which they will probably be placed."""
        reader = self.reader()
        if reader is None:
            return []
        with reader.one_view():
            return [trial.id for trial in forecast_order(reader, self.clock())]

    def trial(self, id: int) -> TrialDetail:
        """Return everything about one trial; NotThere where there is no such trial."""
        reader = self.opened_reader()
        with reader.one_view():
            trial = reader.trial(id)
            experiment = reader.experiment(trial.experiment)
            base = experiment.base_trial
            return TrialDetail(
                trial=trial,
                experiment=experiment,
                attempts=reader.attempts(id),
                moves=reader.moves(id),
                samples=reader.samples(id),
                base_samples=[] if base is None or base == id else reader.samples(base),
                metric_names=reader.metric_names(id),
            )

    def card(self, uuid: str) -> CardDetail:
        """Return the last day of a card, and how it trains and why; NotThere for an unknown card.

        Imports the planner for a card that has run nothing yet, which takes 0.2 s once.
        """
        reader = self.opened_reader()
        card = next((one for one in reader.cards() if one.uuid == uuid), None)
        if card is None:
            raise NotThere(f"there is no card {uuid}", hint="`workbench cards` lists them")
        return _card_detail(reader, card, self._history.minutes(uuid, self.clock()))

    def series(
        self, trial: int, name: str, points: int = 200, span: tuple[int, int] | None = None
    ) -> list[Point]:
        """Return one metric of a trial as at most `points` points; see `Reader.series`."""
        reader = self.reader()
        return reader.series(trial, name, points, span) if reader else []

    def events(
        self,
        *,
        trial: int | None = None,
        after: int = 0,
        limit: int = 200,
        debug: bool = True,
        levels: Sequence[str] = (),
        cards: Sequence[str] = (),
    ) -> list[EventRow]:
        """Return the newest `limit` events with an id above `after`, the oldest of them first.

        See `Reader.events` for what leaves events out.
        """
        reader = self.reader()
        if reader is None:
            return []
        return reader.events(
            trial=trial, after=after, limit=limit, debug=debug, levels=levels, cards=cards
        )

    def judged_board(self, key: int | str) -> JudgedBoard:
        """Return the board of the experiment with this id or name, with intervals and verdict.

        Judging takes some tenths of a second, and imports numpy. It is done once for the same
        results: the same board costs as much as its ranking afterwards.
        """
        return self._judge.judge_experiment(self.opened_reader(), key, self.clock())

    def baseline(self, key: int | str, trial: int) -> Baseline:
        """Return the paired differences of an experiment's trials from one of them.

        Takes some milliseconds a trial, and imports numpy; see `BoardJudge.compare_with`.
        """
        return self._judge.compare_with(self.opened_reader(), key, trial, self.clock())

    def board(self, key: int | str) -> tuple[Experiment, list[BoardRow]]:
        """Return the experiment with this id or name, and the rows of `judged_board`."""
        board = self.judged_board(key)
        return board.experiment, board.rows

    def verdict(self, key: int | str) -> str:
        """Return the verdict on an experiment in one sentence, or why there is none."""
        return self.judged_board(key).verdict

    def compare(self, trials: Sequence[int]) -> Comparison:
        """Return the comparison of two or more trials on the rows that all were scored on.

        Takes some tenths of a second. Raises UsageError for fewer than two.
        """
        reader = self.opened_reader()
        with reader.one_view():
            return compare_trials(reader, self.home.root, trials)

    def shown_differences(
        self, rows: int, scores: Sequence[str], evaluation: str
    ) -> list[ShownDifference]:
        """Return the smallest differences that held-out rows can show; see `held_out_power`."""
        return shown_differences(rows, scores, self.reader(), evaluation)

    def measured(self) -> list[tuple[str, dict[str, Any], int, dict[str, Any]]]:
        """Return measured memory peaks; see `attempt_history.measured_peaks`."""
        reader = self.reader()
        return attempt_history.measured_peaks(reader) if reader else []

    def importance(self, key: int | str) -> ImportanceReport:
        """Return how much each setting of a sweep mattered. Takes some tenths of a second."""
        reader = self.opened_reader()
        with reader.one_view():
            experiment = reader.experiment(key)
            trials, left_out = settings_by_merit(reader, experiment)
        outcomes = [RankedTrial(settings=t, place=n) for n, t in enumerate(trials, start=1)]
        return ImportanceReport(
            experiment=experiment.name,
            trials=len(outcomes),
            least=LEAST_TRIALS,
            settings=rank_settings(outcomes),
            left_out=left_out,
        )

    # --- requests ---
    # Each returns the request's id at once. The engine answers it when it runs, also much later.

    def submit(self, recipe: Recipe, warm_trial: int | None = None) -> str:
        """Ask for an experiment; the answer's data has its id and name as `experiment`, `name`."""
        return self.send("submit", recipe=recipe.model_dump(mode="json"), warm_trial=warm_trial)

    def evaluate(
        self, recipe: Recipe, adapters: Sequence[int | str], *, same_base: bool = False
    ) -> str:
        """Ask to score adapters, by trial or folder, on the recipe's `data.eval`.

        The answer's data is that of `submit`. `same_base` says that folders belong to the recipe's
        base, whatever their configurations name.
        """
        given = recipe.model_dump(mode="json")
        return self.send("evaluate", recipe=given, subjects=list(adapters), same_base=same_base)

    def send(self, verb: str, **args: Any) -> str:
        """Ask for anything that docs/control.md lists."""
        return drop_request(self.home.make().requests, verb, args)

    def stop(self, trial: int, *, kill: bool = False) -> str:
        """Ask to end a trial, with its last checkpoint kept as the adapter, or nothing (`kill`)."""
        return self.send("kill" if kill else "stop", trial=trial)

    def pause(self, trial: int) -> str:
        """Ask to checkpoint a trial and give its card back."""
        return self.send("pause", trial=trial)

    def resume(self, trial: int) -> str:
        """Ask to let a paused trial go on."""
        return self.send("resume", trial=trial)

    def answer(self, request: str) -> RequestAnswer | None:
        """Return the engine's answer to a request; None while there is none."""
        reader = self.reader()
        return reader.answer(request) if reader else None

    def wait_for_answer(self, request: str, timeout_s: float = 60.0) -> RequestAnswer:
        """Wait for the engine's answer to a request and return it, a refusal too.

        Raises EngineError where the engine has ended or has not answered within `timeout_s`. The
        request stays queued.
        """
        began = time.monotonic()
        while True:
            answer = self.answer(request)
            if answer is not None:
                return answer
            waited_s = time.monotonic() - began
            if waited_s > GRACE_S and self.engine().state in ("down", "stopped"):
                raise EngineError(
                    "the engine ended before it answered; the request is kept for its next start",
                    hint=f"see {self.home.logs}/keeper.log, or run `workbench doctor`",
                )
            if waited_s > timeout_s:
                raise EngineError(
                    f"the engine has not answered within {timeout_s:.0f} s; the request is kept",
                    hint=f"see `workbench engine status` and the logs in {self.home.logs}",
                )
            time.sleep(POLL_S)

    # --- the engine ---

    def engine(self) -> EngineStatus:
        """Return the engine's status in well under a millisecond."""
        return read_status(self.home, self.reader)

    def waits_for_a_person(self) -> bool:
        """Return True while a person holds the queue or stops the engine: nothing is wrong."""
        reader = self.reader()
        return bool(reader and (reader.fact("held") or reader.fact("stopping")))

    def stopping(self) -> bool:
        """Return True while the engine carries out a stop."""
        return is_stopping(self.home, self.reader)

    def start_engine(self) -> None:
        """Start a keeper unless one lives, and forget that the engine was stopped.

        Raises StoreError, with nothing started, where the database cannot be used.
        """
        fault_points.check_armed()
        self.reader()
        self.home.make()
        if lock_holder(self.home.keeper_lock) is not None:
            if self.stopping():
                self.send("engine-start")
            return
        self.home.stopped.unlink(missing_ok=True)
        with (self.home.logs / "keeper.log").open("ab") as log:
            subprocess.run(  # returns when the keeper has its lock, or found another's
                python_command("workbench.keeper"),
                check=False,
                env=python_environment({**os.environ, "WORKBENCH_HOME": str(self.home.root)}),
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def ensure_engine(self) -> bool:
        """Start the engine if it died or never ran, but not where it was stopped.

        Returns False where it was stopped, and so does not run.
        """
        state = self.engine().state
        if state == "down":
            self.start_engine()
        return state != "stopped"

    def stop_engine(self) -> str:
        """Ask the engine to checkpoint what runs, give the cards back, and end."""
        return self.send("engine-stop", keeper=lock_holder(self.home.keeper_lock))

    def end_without_room(self) -> bool:
        """End the engine by a signal to its keeper, where the disk has no room for a request.

        Trials continue later from their last checkpoints: there is no room for another. Returns
        False where not even the empty file could be made that keeps the engine stopped.
        """
        release_reserve(self.home.reserve_file)
        try:
            self.home.stopped.touch()  # first: from its end on, any command may start an engine
            marked = True
        except OSError:
            marked = False
        keeper = lock_holder(self.home.keeper_lock)
        if keeper:
            with suppress(ProcessLookupError):
                os.kill(keeper, signal.SIGTERM)
        return marked

    def _keeper_is_frozen(self) -> bool:
        keeper = lock_holder(self.home.keeper_lock)
        return keeper is not None and is_frozen(keeper)

    def end_leftovers(self) -> list[str]:
        """End what an engine without a working keeper left behind; return what each process ran.

        Does nothing while a keeper works. A keeper that is stopped by a signal (SIGSTOP) does not
        work; it is ended first. Raises EngineError for processes that do not end.
        """
        keeper = lock_holder(self.home.keeper_lock)
        if keeper is not None and not is_frozen(keeper):
            return []
        runtime = read_runtime(self.home)
        if keeper and (known := identify_process(keeper)) is not None:
            end_process(known)
        ended, stubborn = end_home_processes(self.home.root, runtime)
        if stubborn:
            raise EngineError(
                f"processes {', '.join(map(str, stubborn))} of the engine do not end",
                hint="they wait for a driver or a disk; stop again later, or reboot the machine",
            )
        return ended

    def wait_for_engine(self, *, running: bool, timeout_s: float) -> None:
        """Wait until the engine ticks, or (`running` False) until its keeper has gone or hangs.

        Raises EngineError after `timeout_s`, and where it cannot start or is started again.
        """
        until, was_stopping = time.monotonic() + timeout_s, self.stopping()
        while time.monotonic() < until:
            # Asked before the state: once the keeper has gone, nothing is being stopped.
            stopping = self.stopping()
            state = self.engine().state
            gone = state in ("stopped", "down")
            if running and state == "stopped" and (why := stop_reason(self.home)) and why[0]:
                raise EngineError(f"the engine does not start: {why[0]}", hint=why[1])
            if gone if not running else state == "running" and not stopping:
                return
            if not running and self.home.stopped.exists() and self._keeper_is_frozen():
                return  # the loop has ended; `end_leftovers` does what the keeper cannot
            if running and gone and was_stopping:  # it ended before it saw that it should go on
                self.start_engine()
                state = "starting"
            if not running and was_stopping and not stopping and state == "running":
                raise EngineError("it was started again before it had ended", hint="stop it again")
            was_stopping = stopping
            time.sleep(POLL_S)
        raise EngineError(
            f"the engine did not {'start' if running else 'stop'} within {timeout_s:.0f} s",
            hint=f"look into {self.home.logs}/keeper.log and loop.log, or run `workbench doctor`",
        )

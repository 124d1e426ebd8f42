"""Reading a home: views of its store, and the status of its engine."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from workbench import formatting
from workbench.cluster.settings import boxes_file, read_json
from workbench.engine_status import EngineStatus, is_stopping, read_status
from workbench.errors import EngineError, NotThere
from workbench.home import Home, find_home
from workbench.importance import LEAST_TRIALS, RankedTrial, rank_settings
from workbench.judging.comparison import Comparison, compare_trials
from workbench.judging.held_out_power import ShownDifference, shown_differences
from workbench.judging.judged_rows import Baseline, BoardJudge
from workbench.library.marks import archived_experiments
from workbench.library.removed import find_hidden, hidden_stamp
from workbench.machine.history.minutes import HistoryReader
from workbench.service.card_detail import card_detail
from workbench.service.snapshots import CardDetail, ImportanceReport, Snapshot, TrialDetail
from workbench.store.board import read_costs
from workbench.store.board_rows import BoardRow, JudgedBoard
from workbench.store.queries import attempt_history
from workbench.store.queries.fair_share import forecast_order
from workbench.store.queries.history import settings_by_merit
from workbench.store.queries.metrics import metric_names, read_series
from workbench.store.reader import Reader
from workbench.store.recovery.journal import database_existed, database_gone
from workbench.store.rows import CARD_SLOTS, EventRow, Experiment, Point, TrialRow
from workbench.trial import State


def nothing_ran(home: Home) -> str:
    """Return that nothing has run in a home, and whether its folder exists at all."""
    if home.root.exists():
        return f"nothing has run in {home.root} yet"
    return f"nothing has run yet: there is no folder {home.root}"


def nothing_ran_hint(home: Home) -> str:
    """Return what to do where nothing has run; a home that exists elsewhere can be named."""
    elsewhere = "" if home.root.exists() else "; if yours lies elsewhere, set WORKBENCH_HOME to it"
    return f"try `workbench demo`, or `workbench run RECIPE`{elsewhere}"


def _slots(reader: Reader) -> dict[str, tuple[int, str]]:
    """Return each GPU's number in nvidia-smi and its slot on the PCI bus, by UUID."""
    known = json.loads(reader.fact(CARD_SLOTS) or "{}")
    return {uuid: (int(number), str(slot)) for uuid, (number, slot) in known.items()}


def _boxes(home: Home) -> dict[str, dict[str, Any]]:
    """Return the boxes of a cluster as the loop saw them last, by name; {} on one machine."""
    listed = read_json(boxes_file(home)).get("boxes", [])
    return {str(one["box"]): one for one in listed}


class StoreReading:
    """The part of a service that reads: the store, and the engine's status."""

    def __init__(self, home: Home | None = None, clock: Callable[[], float] = time.time) -> None:
        """Open nothing yet; `home` is `find_home()` unless given. `clock` returns UTC seconds."""
        self.home = home or find_home()
        self.clock = clock
        self._reader: Reader | None = None
        self._inode: int | None = None
        self.had_database = False
        """True once the home's database was there: where it is gone, no new home is made."""
        self._costed: dict[int, tuple[TrialRow, TrialRow]] = {}
        """Trials as `with_board_costs` was given them, and as it returned them."""
        self._hidden_stamp: int | None = None
        self._judge = BoardJudge()
        self._history = HistoryReader(self.home.card_history)

    def reader(self) -> Reader | None:
        """Return the store, or None where no engine ever ran.

        The database is opened again when its file was replaced, for example by a repair, or an
        engine has migrated it. Raises DatabaseDamaged where it is damaged or lost, and EngineError
        where the home is gone that this service has read.
        """
        try:
            inode = self.home.database.stat().st_ino
        except (FileNotFoundError, NotADirectoryError):
            if database_existed(self.home.database):
                raise database_gone(self.home.database) from None
            self.refuse_without_home()
            return None
        self.had_database = True
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

    def refuse_without_home(self) -> None:
        """Raise EngineError where the home that this service has read is gone.

        A start of the engine, or a request, would make a new and empty home at its path.
        """
        database = self.home.database
        if self.had_database and not (database.exists() or database_existed(database)):
            raise EngineError(
                f"the folder {self.home.root} is gone, or its files are: it was moved or removed, "
                "or its disk is not mounted",
                hint="put it back to go on; until then nothing is started or sent",
            )

    def close(self) -> None:
        """Close the database; a later question opens it again."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def opened_reader(self) -> Reader:
        """Return the store of the home; raise NotThere where nothing has run."""
        reader = self.reader()
        if reader is None:
            raise NotThere(nothing_ran(self.home), hint=nothing_ran_hint(self.home))
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
                slots=_slots(reader),
                boxes=_boxes(self.home),
            )

    def with_board_costs(self, trials: Sequence[TrialRow]) -> list[TrialRow]:
        """Return the trials with the rate and the peak that the board shows.

        Those of a TrialRow are its newest attempt's alone. Reads at most 200 metric rows for each
        trial that is another object than at the last call.
        """
        reader = self.reader()
        if reader is None:
            return list(trials)
        return [self._with_board_costs(reader, one) for one in trials]

    def _with_board_costs(self, reader: Reader, trial: TrialRow) -> TrialRow:
        known = self._costed.get(trial.id)
        if known is None or known[0] is not trial:
            found = trial
            if trial.attempts:
                costs: dict[str, Any] = read_costs(reader, trial.id)
                found = replace(trial, **costs)
            known = self._costed[trial.id] = (trial, found)
        return known[1]

    def cards_used(self) -> str:
        """Return how many cards are used and why others are left out; empty while none is."""
        reader = self.reader()
        return "" if reader is None else formatting.cards_used(reader.cards(), _slots(reader))

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
                metric_names=metric_names(reader, id),
            )

    def card(self, uuid: str) -> CardDetail:
        """Return the last day of a card, and how it trains and why; NotThere for an unknown card.

        Imports the planner for a card that has run nothing yet, which takes 0.2 s once.
        """
        reader = self.opened_reader()
        card = next((one for one in reader.cards() if one.uuid == uuid), None)
        if card is None:
            raise NotThere(f"there is no card {uuid}", hint="`workbench cards` lists them")
        return card_detail(reader, card, self._history.minutes(uuid, self.clock()))

    def series(
        self, trial: int, name: str, points: int = 200, span: tuple[int, int] | None = None
    ) -> list[Point]:
        """Return one metric of a trial as at most `points` points; see `metrics.read_series`."""
        reader = self.reader()
        return read_series(reader, trial, name, points, span) if reader else []

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

    def engine(self) -> EngineStatus:
        """Return the engine's status in well under a millisecond."""
        return read_status(self.home, self.reader)

    def waits_for_a_person(self) -> bool:
        """Return True while a person holds the queue, stops the engine, or has to free disk.

        Nothing is wrong with the engine then, and it goes on by itself.
        """
        reader = self.reader()
        return reader is not None and any(map(reader.fact, ("held", "stopping", "disk-low")))

    def stopping(self) -> bool:
        """Return True while the engine carries out a stop."""
        return is_stopping(self.home, self.reader)

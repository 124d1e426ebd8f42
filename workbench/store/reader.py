"""Reading the store, by any number of processes, with or without a living writer.

`Reader` holds what front ends and the scheduler both ask. Queries that one part of the scheduler
asks are functions that take a Reader, in `queries`, `trial_queue` and `board`.
"""

from __future__ import annotations

import json
import sqlite3
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self, TypeVar

from workbench.errors import NotThere
from workbench.store.connection import SCHEMA_VERSION, open_readonly
from workbench.store.decode import (
    attempt_from_row,
    card_from_row,
    experiment_from_row,
    trial_from_row,
)
from workbench.store.rows import (
    NOTHING_HIDDEN,
    AnswerSample,
    AttemptRow,
    CardRow,
    EventRow,
    Experiment,
    MoveRow,
    RequestAnswer,
    TrialRow,
)
from workbench.trial import KILLED, State

Key = TypeVar("Key")
Value = TypeVar("Value")

REMOVED_HINT = "`workbench trash ls` shows whether it can be restored"

TRIALS = """
select t.*, e.name as experiment_name,
       a.card, a.phase, coalesce(a.last_step, 0) as step, a.total_steps, a.loss, a.tokens_per_s,
       a.peak_bytes, a.started_utc, coalesce(a.from_step, 0) as from_step, a.ends_utc,
       (select count(*) from attempts where trial = t.id) as attempts,
       s.value as score
from trials t
join experiments e on e.id = t.experiment
left join attempts a on a.id = (select max(id) from attempts where trial = t.id)
left join scores s on s.trial = t.id and s.name = e.rank_by
"""
"""Selects trials with their newest attempt and score, for `Reader.cached_trials`."""


_COUNTED = """(kind = 'tune' or (kind = 'score' and settings not like '%"score.rows": "test"%'))"""
"""True for the trials that an experiment is about: tuned ones, and those of an evaluation. Scores
on test rows belong to tuned trials, which are counted."""
_KILLED = f"sum(state = 'stopped' and reason = '{KILLED}')"
"""Counts the trials of a group that were killed."""


def _close_connection(connection: sqlite3.Connection) -> None:
    with suppress(sqlite3.Error):  # another thread's connection closes when it is collected
        connection.close()


class Reader:
    """One connection to the database, with the questions that its users share."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.db = connection
        # Most rows are as they were at the last read, and building a TrialRow costs 10 µs.
        self._cards: dict[str, tuple[sqlite3.Row, CardRow]] = {}
        self._live: dict[int, tuple[sqlite3.Row, AttemptRow]] = {}
        self._trials: dict[int, tuple[tuple[Any, ...], TrialRow]] = {}
        # A reader that nobody closes closes with its last reference: Python 3.13 warns otherwise.
        weakref.finalize(self, _close_connection, connection).atexit = False
        self.hidden = NOTHING_HIDDEN
        """What front ends leave out of lists; the engine sees every row."""

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open the database read-only; see `connection.open_readonly` for what is raised."""
        return cls(open_readonly(path))

    def close(self) -> None:
        """Close the connection."""
        self.db.close()

    @property
    def migrated(self) -> bool:
        """True where an engine has migrated the database since it was opened: open it again.

        What stands in for the newer tables would hide them. Takes 10 µs.
        """
        if not self.db.execute("select 1 from temp.sqlite_master limit 1").fetchone():
            return False
        return int(self.db.execute("pragma user_version").fetchone()[0]) == SCHEMA_VERSION

    @property
    def root(self) -> Path:
        """The folder of the database: the home."""
        return Path(self.db.execute("pragma database_list").fetchone()["file"]).parent

    def data_version(self) -> int:
        """Return a number that changes when another connection has committed. Takes 0.1 ms."""
        return int(self.db.execute("pragma data_version").fetchone()[0])

    @contextmanager
    def one_view(self) -> Iterator[None]:
        """Let all reads inside see the database as it is at the first of them."""
        self.db.execute("begin")
        try:
            yield
        finally:
            self.db.execute("rollback")

    # --- experiments and trials ---

    def experiments(self) -> list[Experiment]:
        """Return all experiments, newest first."""
        counts: dict[int, dict[str, int]] = {}
        killed: Counter[int] = Counter()
        for row in self.db.execute(
            f"""select experiment, state, count(*) as n, {_KILLED} as killed
                from trials where {_COUNTED} {self._listed()} group by 1, 2"""
        ):
            counts.setdefault(row["experiment"], {})[row["state"]] = row["n"]
            killed[row["experiment"]] += row["killed"]
        rows = self.db.execute("select * from experiments order by id desc")
        return [
            experiment_from_row(row, counts.get(row["id"], {}), killed[row["id"]])
            for row in rows
            if self.hidden.experiments.get(row["id"]) != row["created_utc"]
        ]

    def experiment(self, key: int | str) -> Experiment:
        """Return the experiment with this id or name; NotThere lists the newest names."""
        word = str(key).encode(errors="replace").decode()  # no name is all digits
        id = int(word) if word.isascii() and word.isdecimal() and len(word) < 19 else -1
        row = self.db.execute(
            "select * from experiments where name = ? or id = ?",
            (word, id if str(id) == word else -1),
        ).fetchone()
        if row is None:
            newest = self.db.execute("select name from experiments order by id desc limit 8")
            names = ", ".join(one["name"] for one in newest) or "none yet"
            raise NotThere(f"there is no experiment {word}", hint=f"there are: {names}")
        if self.hidden.experiments.get(row["id"]) == row["created_utc"]:
            raise NotThere(f"experiment {row['name']} was removed", hint=REMOVED_HINT)
        counts = self.db.execute(
            f"""select state, count(*) as n, {_KILLED} as killed
                from trials where experiment = ? and {_COUNTED} {self._listed()} group by 1""",
            (row["id"],),
        ).fetchall()
        return experiment_from_row(
            row, {one["state"]: one["n"] for one in counts}, sum(one["killed"] for one in counts)
        )

    def trials(
        self, experiment: int | None = None, states: frozenset[State] | None = None
    ) -> list[TrialRow]:
        """Return the trials of one experiment, or of all, that are in `states`; lowest id first.

        Base trials are among them.
        """
        where, args = ["1"], list[Any]()
        if experiment is not None:
            where.append("t.experiment = ?")
            args.append(experiment)
        if states is not None:
            where.append(f"t.state in ({','.join('?' * len(states))})")
            args.extend(states)
        rows = self.db.execute(f"{TRIALS} where {' and '.join(where)} order by t.id", args)
        found = self.cached_trials(rows)
        return [one for one in found if not self.is_hidden(one)] if self.hidden.trials else found

    def _listed(self) -> str:
        """Return the SQL condition that leaves hidden trials out; empty where there are none."""
        if not self.hidden.trials:
            return ""
        created = dict(tuple(row) for row in self.db.execute("select id, created_utc from trials"))
        ids = [id for id, at_utc in self.hidden.trials.items() if created.get(id) == at_utc]
        return f"and id not in ({', '.join(map(str, ids))})"

    def is_hidden(self, trial: TrialRow) -> bool:
        """Return True for a trial that lists leave out, because a person removed it."""
        return self.hidden.trials.get(trial.id) == trial.created_utc

    def any_trials(self, states: frozenset[State]) -> bool:
        """Return True if any trial, base trials included, is in one of `states`."""
        marks = ",".join("?" * len(states))
        query = f"select exists (select 1 from trials where state in ({marks}))"
        return bool(self.db.execute(query, [*states]).fetchone()[0])

    def trial(self, id: int) -> TrialRow:
        """Return one trial; NotThere gives the range of ids."""
        known = id if 0 < id < 1 << 63 else 0  # what SQLite can hold
        row = self.db.execute(f"{TRIALS} where t.id = ?", (known,)).fetchone()
        if row is None:
            last = self.db.execute("select max(id) from trials").fetchone()[0]
            raise NotThere(
                f"there is no trial {id}",
                hint=f"trials go from 1 to {last}; see `workbench ls`"
                if last
                else "none was made yet; start one with `workbench run RECIPE`",
            )
        found = trial_from_row(dict(row))
        if self.is_hidden(found):
            raise NotThere(f"trial {id} was removed", hint=REMOVED_HINT)
        return found

    def cached_trials(self, cursor: sqlite3.Cursor) -> list[TrialRow]:
        """Return the rows of a `TRIALS` query; unchanged ones are the objects of the last read."""
        names = [column[0] for column in cursor.description]
        cursor.row_factory = None  # plain tuples compare faster than sqlite3.Row
        return [self._same_or_new_trial(row, names) for row in cursor]

    def _same_or_new_trial(self, row: tuple[Any, ...], names: list[str]) -> TrialRow:
        known = self._trials.get(row[0])
        if known is None or known[0] != row:
            known = (row, trial_from_row(dict(zip(names, row, strict=True))))
            self._trials[row[0]] = known
        return known[1]

    def attempts(self, trial: int) -> list[AttemptRow]:
        """Return the attempts of a trial, oldest first."""
        rows = self.db.execute("select * from attempts where trial = ? order by id", (trial,))
        return [attempt_from_row(row) for row in rows]

    def live_attempts(self) -> list[AttemptRow]:
        """Return the attempts that have not ended, oldest first: at most one for each card."""
        rows = self.db.execute("select * from attempts where outcome is null order by id")
        self._live = _same_or_new(rows, "id", self._live, attempt_from_row)
        return [attempt for _, attempt in self._live.values()]

    def attempt(self, id: int) -> AttemptRow:
        """Return one attempt, which must exist."""
        row = self.db.execute("select * from attempts where id = ?", (id,)).fetchone()
        return attempt_from_row(row)

    def adapter_sha256(self, trial: int) -> str | None:
        """Return the SHA-256 of the trial's adapter weights; None when it left no adapter."""
        row = self.db.execute("select sha256 from adapters where trial = ?", (trial,)).fetchone()
        return None if row is None else str(row[0])

    def moves(self, trial: int) -> list[MoveRow]:
        """Return every change of the trial's state, oldest first."""
        rows = self.db.execute("select * from moves where trial = ? order by id", (trial,))
        return [
            MoveRow(
                trial=r["trial"],
                before=r["before"],
                after=r["after"],
                by=r["made_by"],
                why=r["why"],
                at_utc=r["at_utc"],
            )
            for r in rows
        ]

    def samples(self, trial: int) -> list[AnswerSample]:
        """Return the answers that the trial's last attempt kept as examples."""
        rows = self.db.execute("select * from samples where trial = ? order by n", (trial,))
        return [
            AnswerSample(
                question=r["question"],
                expected=r["expected"],
                answer=r["answer"],
                correct=None if r["correct"] is None else bool(r["correct"]),
            )
            for r in rows
        ]

    # --- cards, events, answers ---

    def cards(self) -> list[CardRow]:
        """Return every card ever seen: present ones first, GPUs before CPU cards."""
        rows = self.db.execute(
            """select c.*, a.trial from cards c
               left join attempts a on a.card = c.uuid and a.outcome is null
               order by c.present desc, c.kind desc, c.uuid"""
        )
        self._cards = _same_or_new(rows, "uuid", self._cards, card_from_row)
        return [card for _, card in self._cards.values()]

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

        `debug` includes those of the level debug, such as facts about kernels. Without it the
        events of one trial still hold the steps it has reached. `levels` and `cards`, where they
        are given, leave only events of these levels, and of attempts on these cards (UUIDs) or
        about them.
        """
        where = "id > ?"
        args: list[object] = [after]
        if trial is not None:
            where, args = f"{where} and trial = ?", [after, trial]
        if levels:
            where += f" and level in ({_marks(levels)})"
            args += levels
        if cards:
            named = " or ".join("instr(text, ?)" for _ in cards)
            on = f"attempt in (select id from attempts where card in ({_marks(cards)}))"
            where += f" and ({on} or {named})"
            args += [*cards, *cards]
        if not debug:
            kept = " or kind = 'progress'" if trial is not None else ""
            where += f" and (level <> 'debug'{kept})"
        rows = self.db.execute(
            f"select * from events where {where} order by id desc limit ?", (*args, limit)
        ).fetchall()
        return [EventRow(**dict(row)) for row in reversed(rows)]

    def answer(self, request: str) -> RequestAnswer | None:
        """Return the engine's answer to a request; None while there is none."""
        row = self.db.execute("select * from requests where id = ?", (request,)).fetchone()
        if row is None:
            return None
        return RequestAnswer(
            ok=bool(row["ok"]),
            text=row["answer"],
            hint=row["mend"],
            data=json.loads(row["data"]),
        )

    def fact(self, key: str) -> str | None:
        """Return a value of the engine's own, for example whether the queue is held."""
        row = self.db.execute("select value from facts where key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])


def _same_or_new(
    rows: Iterable[sqlite3.Row],
    key: str,
    before: Mapping[Key, tuple[sqlite3.Row, Value]],
    from_row: Callable[[sqlite3.Row], Value],
) -> dict[Key, tuple[sqlite3.Row, Value]]:
    """Return each row with its object by the column `key`.

    The object is that of `before` where the row has not changed since.
    """
    found: dict[Key, tuple[sqlite3.Row, Value]] = {}
    for row in rows:
        known = before.get(row[key])
        found[row[key]] = known if known and known[0] == row else (row, from_row(row))
    return found


def _marks(values: Sequence[object]) -> str:
    """Return as many placeholders of SQL as there are values."""
    return ", ".join("?" * len(values))

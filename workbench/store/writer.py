"""The one writer of the database: only the engine's loop opens it, holding the loop's lock.

Writes that belong to one topic are functions that take a Store, in `results` (what attempts
report), `card_table`, `trial_queue` (reasons to wait) and `queries.sweep_progress`.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from workbench.errors import IllegalMove, StoreError
from workbench.store.connection import BUSY_TIMEOUT_S, check_connection
from workbench.store.reader import Reader
from workbench.store.recovery.damage import is_transient, look_through, to_store_error
from workbench.store.recovery.journal import (
    Journal,
    database_existed,
    database_gone,
    journal_of,
    last_commit,
)
from workbench.store.requests import Request
from workbench.store.rows import RequestAnswer
from workbench.store.schema.migrations import migrate
from workbench.text import safe_line, safe_text
from workbench.text.redact import redact
from workbench.trial import LEGAL, DesiredState, Kind, State

Blocked = sqlite3.OperationalError
"""Raised for a full disk or another process's lock: nothing was written, and a later try may
succeed; see `damage.is_transient`."""


class Store(Reader):
    """The database for reading and writing.

    Every method is one commit, or part of the `writing()` around it.
    """

    def __init__(
        self, path: Path, clock: Callable[[], float] = time.time, *, journal: bool = True
    ) -> None:
        """Open the database, or create it; `clock` gives the UTC time that rows get.

        Raises StoreError, with its hint, for a database that is damaged or cannot be written, and
        Blocked where another process keeps it locked. Reads all of it, for five seconds at most.
        Without `journal` nothing is written beside it: for a database that is being rebuilt.
        """
        self.clock = clock
        journal_commit = last_commit(journal_of(path)) if journal else 0
        if journal and not path.exists() and database_existed(path):
            raise database_gone(path)
        path.touch(mode=0o600)  # SQLite gives its -wal file the same permissions
        with suppress(OSError):  # a database that was copied here may be readable by others
            path.chmod(path.stat().st_mode & 0o700)
        try:
            connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None)
            super().__init__(check_connection(connection, path, journal_commit))
            look_through(self.db, path)
            for pragma in ("journal_mode = wal", "synchronous = full"):
                self.db.execute(f"pragma {pragma}")
            migrate(self.db, path)
            self._journal = Journal(self.db, journal_of(path)) if journal else None
        except sqlite3.Error as refused:
            if is_transient(refused):
                raise
            raise to_store_error(refused, path) from refused

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Commit everything inside together, or nothing of it. Nested uses join the outermost."""
        if self.db.in_transaction:
            yield
            return
        self.db.execute("begin immediate")
        try:
            yield
            if self._journal is not None:
                self._journal.prepare()
            self.db.execute("commit")
        except BaseException:
            if self.db.in_transaction:  # on a full disk SQLite may have rolled back by itself
                self.db.execute("rollback")
            raise
        if self._journal is not None:
            self._journal.committed()

    def close(self) -> None:
        """Close the database and its journal."""
        super().close()
        if self._journal is not None:
            self._journal.close()

    def insert_row(self, table: str, **values: Any) -> int:
        """Add one row and return its id."""
        names, marks = ", ".join(values), ", ".join(f":{name}" for name in values)
        with self.writing():
            cursor = self.db.execute(f"insert into {table} ({names}) values ({marks})", values)
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    def update_row(self, table: str, id: int, **values: Any) -> None:
        """Set columns of one row; StoreError where there is no such row."""
        sets = ", ".join(f"{name} = :{name}" for name in values)
        with self.writing():
            done = self.db.execute(
                f"update {table} set {sets} where id = :id", {**values, "id": id}
            )
            if done.rowcount != 1:
                raise StoreError(f"{table} has no row {id}")

    # --- experiments ---

    def add_experiment(
        self, recipe: dict[str, Any], rank_by: str, warm_trial: int | None = None
    ) -> int:
        """Add an experiment in PREPARING and return its id.

        It gets its recipe's name, or `name-2`, `name-3`, … when that is taken.
        """
        with self.writing():
            return self.insert_row(
                "experiments",
                name=self._free_name(safe_line(recipe["name"], 80) or "experiment"),
                state="preparing",
                recipe=json.dumps(recipe),
                rank_by=rank_by,
                max_parallel=(recipe.get("sweep") or {}).get("max_parallel"),
                warm_trial=warm_trial,
                created_utc=self.clock(),
            )

    def _free_name(self, name: str) -> str:
        taken = {row[0] for row in self.db.execute("select name from experiments")}
        number, free = 1, name
        while free in taken or free.isdecimal():
            number += 1
            free = f"{name}-{number}"
        return free

    def mark_ready(
        self,
        experiment: int,
        prepared: dict[str, Any],
        resolved: dict[str, Any],
        base_trial: int | None,
    ) -> None:
        """Record what preparing an experiment found, and move it to READY.

        `resolved` are the settings decided once for all its trials; `base_trial` scores its base.
        """
        self.update_row(
            "experiments",
            experiment,
            state="ready",
            prepared=json.dumps(prepared),
            resolved=json.dumps(resolved),
            base_trial=base_trial,
        )

    def mark_refused(self, experiment: int, reason: str, hint: str) -> None:
        """Move an experiment to REFUSED: it can never run as it is."""
        self.update_row(
            "experiments",
            experiment,
            state="refused",
            reason=safe_text(reason),
            mend=safe_text(hint),
        )

    def mark_ended(self, experiment: int) -> None:
        """Record that all of an experiment has ended; `add_trial` takes that back."""
        self.update_row("experiments", experiment, ended_utc=self.clock())

    def set_searching(self, experiment: int, *, on: bool, most_trials: int | None = None) -> None:
        """Set whether its sweep asks for more trials, and how many it may have in all."""
        self.update_row("experiments", experiment, searching=int(on), most_trials=most_trials)

    def steer_experiment(self, experiment: int, **values: Any) -> None:
        """Set what a person wants of its queue: priority, max_parallel, held."""
        self.update_row("experiments", experiment, **values)

    # --- trials ---

    def add_trial(
        self,
        experiment: int,
        number: int,
        kind: Kind,
        settings: dict[str, object],
        warm_trial: int | None = None,
        finals_of: int | None = None,
    ) -> int:
        """Add a QUEUED trial behind the others of its experiment and return its id.

        A tuned trial without a `warm_trial` of its own gets its experiment's. `finals_of` is the
        finalist that it trains again with another seed.
        """
        now = self.clock()
        with self.writing():
            if kind is not Kind.CHAT:  # a chat with its adapters makes nothing new to report
                self.update_row("experiments", experiment, ended_utc=None)
            if warm_trial is None and kind is Kind.TUNE:
                query = "select warm_trial from experiments where id = ?"
                warm_trial = self.db.execute(query, (experiment,)).fetchone()[0]
            return self.insert_row(
                "trials",
                experiment=experiment,
                number=number,
                kind=kind,
                state=State.QUEUED,
                settings=json.dumps(settings),
                warm_trial=warm_trial,
                created_utc=now,
                changed_utc=now,
                finals_of=finals_of,
            )

    def next_number(self, experiment: int) -> int:
        """Return the number that the experiment's next trial gets, from 1; 0 is the base's."""
        row = self.db.execute(
            "select coalesce(max(number), 0) + 1 from trials where experiment = ?", (experiment,)
        ).fetchone()
        return int(row[0])

    def move(
        self,
        trial: int,
        before: State,
        after: State,
        *,
        by: str,
        why: str,
        reason: str = "",
        hint: str = "",
    ) -> None:
        """Make one move of `trial.MOVES` and record it in the trial's history.

        Raises IllegalMove where the table has no such move, or the trial is not in `before`.
        """
        if (before, after, by) not in LEGAL:
            raise IllegalMove(f"{by} may not move a trial from {before} to {after}")
        now = self.clock()
        with self.writing():
            done = self.db.execute(
                """update trials set state = ?, reason = ?, mend = ?, waiting = '', changed_utc = ?
                   where id = ? and state = ?""",
                (after, safe_text(reason), safe_text(hint), now, trial, before),
            )
            if done.rowcount != 1:
                raise IllegalMove(f"trial {trial} is not {before}; it cannot become {after}")
            self.insert_row(
                "moves",
                trial=trial,
                before=before,
                after=after,
                made_by=by,
                why=safe_text(why),
                at_utc=now,
            )

    def set_desired_state(self, trial: int, desired: DesiredState) -> None:
        """Set what a person wants of a trial; reconcile works until it is so."""
        self.update_row("trials", trial, wanted=desired)

    def steer_trial(self, trial: int, **values: Any) -> None:
        """Set what a person wants of its placing: rank, desired_card."""
        if "desired_card" in values:
            values["wanted_card"] = values.pop("desired_card")
        self.update_row("trials", trial, **values)

    def to_front(self, trial: int) -> None:
        """Put a trial before every other queued trial of its experiment's priority."""
        with self.writing():
            first = self.db.execute(
                "select min(0, coalesce(min(rank), 0)) from trials where state = 'queued'"
            ).fetchone()[0]
            self.update_row("trials", trial, rank=float(first) - 1)

    def mark_pruned(self, trial: int, reason: str) -> None:
        """Mark a trial as ending early: reconcile stops it, and its adapter is scored and kept."""
        self.update_row("trials", trial, pruned=safe_text(reason))

    # --- attempts ---

    def add_attempt(
        self,
        trial: int,
        card: str,
        plan: dict[str, Any],
        predicted_bytes: int,
        from_step: int,
        *,
        outcome: str | None = None,
    ) -> int:
        """Add a live attempt that starts at step `from_step`, and return its id.

        `card` is a UUID. The database refuses a second live attempt of a trial or on a card. With
        `outcome` the attempt has ended already, and may name a card on which another one is live.
        """
        return self.insert_row(
            "attempts",
            trial=trial,
            card=card,
            plan=json.dumps(plan),
            predicted_bytes=predicted_bytes,
            started_utc=self.clock(),
            from_step=from_step,
            last_step=from_step,
            outcome=outcome,
            ended_utc=None if outcome is None else self.clock(),
        )

    def touch_attempt(self, attempt: int, **values: Any) -> None:
        """Set columns that an attempt's events report: phase, pid, last_step, loss, offset, …"""
        self.update_row("attempts", attempt, **values)

    def end_attempt(
        self, attempt: int, outcome: str, reason: str, *, cause: str = "", stage: str = ""
    ) -> None:
        """Record the end of an attempt; StoreError where it has ended before."""
        with self.writing():
            done = self.db.execute(
                """update attempts set outcome = ?, reason = ?, cause = ?, stage = ?,
                   ended_utc = ?, phase = '', ends_utc = null where id = ? and outcome is null""",
                (
                    outcome,
                    safe_text(reason),
                    safe_text(cause),
                    safe_text(stage),
                    self.clock(),
                    attempt,
                ),
            )
            if done.rowcount != 1:
                raise StoreError(f"attempt {attempt} has ended already")

    # --- events, requests, facts ---

    def note(
        self,
        kind: str,
        text: str,
        *,
        level: str = "info",
        experiment: int | None = None,
        trial: int | None = None,
        attempt: int | None = None,
        at_utc: float | None = None,
    ) -> None:
        """Add a line for people, shown among the events and in the trial's log."""
        self.insert_row(
            "events",
            at_utc=self.clock() if at_utc is None else at_utc,
            experiment=experiment,
            trial=trial,
            attempt=attempt,
            kind=kind,
            level=level,
            text=safe_text(text),
        )

    def answered(self, request: str) -> bool:
        """Return True where the request has an answer: sending it again changes nothing."""
        return self.answer(request) is not None

    def record_answer(self, request: Request, answer: RequestAnswer) -> None:
        """Record a request with the engine's answer; secrets in its arguments are blanked out."""
        self.insert_row(
            "requests",
            id=request.id,
            verb=request.verb,
            args=redact(json.dumps(request.args)),
            sent_utc=request.sent_utc,
            answered_utc=self.clock(),
            ok=int(answer.ok),
            answer=safe_text(answer.text),
            mend=safe_text(answer.hint),
            data=json.dumps(answer.data),
        )

    def set_fact(self, key: str, value: str) -> None:
        """Set a value of the engine's own; `fact` reads it."""
        with self.writing():
            self.db.execute(
                "insert into facts values (?, ?) on conflict do update set value = excluded.value",
                (key, value),
            )

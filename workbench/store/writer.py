"""The one writer. Only the engine's loop opens it, holding the loop's lock."""

from __future__ import annotations

import json
import math
import sqlite3
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from importlib.resources import files
from pathlib import Path
from typing import Any

from workbench.errors import IllegalMove, StoreError
from workbench.redact import redact
from workbench.store.backup import back_up
from workbench.store.damage import in_words, look_through, passes
from workbench.store.journal import Journal, gone, journal_of, stands_at, was_there
from workbench.store.reader import BAND_STEPS, SCHEMA_VERSION, Reader, _ours
from workbench.store.requests import Request
from workbench.store.rows import Answer
from workbench.text import safe, safe_line
from workbench.trial import LEGAL, DesiredState, Kind, State

MIGRATIONS: tuple[str, ...] = ((files("workbench.store") / "schema.sql").read_text(),)
"""Script n takes a database from user_version n to n + 1."""

Blocked = sqlite3.OperationalError
"""A full disk or somebody else's lock: nothing was written, and it is worth trying again."""

_TOLD_BY_DRIVERS = frozenset({"uuid", "name", "problem"})


class Store(Reader):
    """Reads and writes. Every method is one commit, or part of the `writing()` around it."""

    def __init__(
        self, path: Path, clock: Callable[[], float] = time.time, *, journal: bool = True
    ) -> None:
        """StoreError, with its mend, for a database that is damaged or cannot be written.

        Looks through all of it, for five seconds at most.
        """
        self.clock = clock
        told = stands_at(journal_of(path)) if journal else 0
        if journal and not path.exists() and was_there(path):
            raise gone(path)
        path.touch(mode=0o600)  # its log takes after it
        with suppress(OSError):  # one that was copied here is nobody else's either
            path.chmod(path.stat().st_mode & 0o700)
        try:
            connection = sqlite3.connect(path, timeout=5, isolation_level=None)
            super().__init__(_ours(connection, path, told))
            look_through(self.db, path)
            for pragma in ("journal_mode = wal", "foreign_keys = on", "synchronous = full"):
                self.db.execute(f"pragma {pragma}")
            self._migrate(path)
            self.db.execute(f"pragma user_version = {SCHEMA_VERSION}")  # a read-only one is told
            self._journal = Journal(self.db, journal_of(path)) if journal else None
        except sqlite3.Error as refused:
            if passes(refused):
                raise
            raise in_words(refused, path) from refused

    def _migrate(self, path: Path) -> None:
        version = self.db.execute("pragma user_version").fetchone()[0]
        if 0 < version < SCHEMA_VERSION:
            back_up(path, path.parent / "backups")
        for number, script in enumerate(MIGRATIONS[version:], start=version + 1):
            self.db.executescript(f"begin; {script}; pragma user_version = {number}; commit;")
        assert self.db.execute("pragma user_version").fetchone()[0] == SCHEMA_VERSION

    @contextmanager
    def writing(self) -> Iterator[None]:
        """All or nothing. Nested uses join the outermost."""
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
        super().close()
        if self._journal is not None:
            self._journal.close()

    def _insert(self, table: str, **values: Any) -> int:
        names, marks = ", ".join(values), ", ".join(f":{name}" for name in values)
        with self.writing():
            cursor = self.db.execute(f"insert into {table} ({names}) values ({marks})", values)
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    def _update(self, table: str, id: int, **values: Any) -> None:
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
        """PREPARING, under the recipe's name, or `name-2`, `name-3`, … when that is taken."""
        with self.writing():
            return self._insert(
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

    def ready(
        self,
        experiment: int,
        prepared: dict[str, Any],
        resolved: dict[str, Any],
        base_trial: int | None,
    ) -> None:
        self._update(
            "experiments",
            experiment,
            state="ready",
            prepared=json.dumps(prepared),
            resolved=json.dumps(resolved),
            base_trial=base_trial,
        )

    def search(self, experiment: int, *, on: bool, most_trials: int | None = None) -> None:
        """Whether its sweep asks for more trials, and how many it may come to."""
        self._update("experiments", experiment, searching=int(on), most_trials=most_trials)

    def refuse(self, experiment: int, reason: str, hint: str) -> None:
        self._update(
            "experiments", experiment, state="refused", reason=safe(reason), mend=safe(hint)
        )

    # --- trials ---

    def add_trial(
        self,
        experiment: int,
        number: int,
        kind: Kind,
        settings: dict[str, object],
        warm_trial: int | None = None,
    ) -> int:
        """QUEUED, behind the others of its experiment, which has something to do again."""
        now = self.clock()
        with self.writing():
            self._update("experiments", experiment, ended_utc=None)
            if warm_trial is None and kind is Kind.TUNE:
                warm_trial = self.experiment_warm_trial(experiment)
            return self._insert(
                "trials",
                experiment=experiment,
                number=number,
                kind=kind,
                state=State.QUEUED,
                settings=json.dumps(settings),
                warm_trial=warm_trial,
                created_utc=now,
                changed_utc=now,
            )

    def experiment_warm_trial(self, experiment: int) -> int | None:
        row = self.db.execute("select warm_trial from experiments where id = ?", (experiment,))
        found: int | None = row.fetchone()[0]
        return found

    def next_number(self, experiment: int) -> int:
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
        """One step of `trial.MOVES`, with its row of history. IllegalMove when it is not there."""
        if (before, after, by) not in LEGAL:
            raise IllegalMove(f"{by} may not move a trial from {before} to {after}")
        now = self.clock()
        with self.writing():
            done = self.db.execute(
                """update trials set state = ?, reason = ?, mend = ?, waiting = '', changed_utc = ?
                   where id = ? and state = ?""",
                (after, safe(reason), safe(hint), now, trial, before),
            )
            if done.rowcount != 1:
                raise IllegalMove(f"trial {trial} is not {before}; it cannot become {after}")
            self._insert(
                "moves",
                trial=trial,
                before=before,
                after=after,
                made_by=by,
                why=safe(why),
                at_utc=now,
            )

    def set_desired_state(self, trial: int, desired: DesiredState) -> None:
        self._update("trials", trial, wanted=desired)

    def steer_trial(self, trial: int, **values: Any) -> None:
        """What a person wants of its placing: rank, desired_card."""
        if "desired_card" in values:
            values["wanted_card"] = values.pop("desired_card")
        self._update("trials", trial, **values)

    def steer_experiment(self, experiment: int, **values: Any) -> None:
        """What a person wants of its queue: priority, max_parallel, held."""
        self._update("experiments", experiment, **values)

    def to_front(self, trial: int) -> None:
        """Before every other queued trial of its experiment's priority."""
        with self.writing():
            first = self.db.execute(
                "select min(0, coalesce(min(rank), 0)) from trials where state = 'queued'"
            ).fetchone()[0]
            self._update("trials", trial, rank=float(first) - 1)

    def conclude(self, experiment: int) -> None:
        """All of it has ended; forgotten when a trial is added."""
        self._update("experiments", experiment, ended_utc=self.clock())

    def prune(self, trial: int, why: str) -> None:
        """It is to end early, scored and kept."""
        self._update("trials", trial, pruned=safe(why))

    def prune_unbegun(self, experiment: int, why: str) -> None:
        """Its queued trials that no card ever had are given up."""
        with self.writing():
            self.db.execute(
                """update trials set pruned = ? where experiment = ? and state = 'queued'
                   and kind = 'tune' and id not in (select trial from attempts)""",
                (safe(why), experiment),
            )

    def wait_for(self, trial: int, what: str) -> None:
        """Why it is still queued. Writes only when that changed."""
        with self.writing():
            self.db.execute(
                "update trials set waiting = :w where id = :id and waiting <> :w",
                {"w": what, "id": trial},
            )

    def wait_experiment(self, experiment: int, what: str) -> None:
        """The same reason for all of an experiment that is queued."""
        with self.writing():
            self.db.execute(
                """update trials set waiting = :w
                   where experiment = :id and state = 'queued' and waiting <> :w""",
                {"w": what, "id": experiment},
            )

    def wait_all(self, what: str) -> None:
        """The same reason for everything queued."""
        with self.writing():
            self.db.execute(
                "update trials set waiting = :w where state = 'queued' and waiting <> :w",
                {"w": what},
            )

    def wait_rest(self, told: Collection[int], experiments: Collection[int], what: str) -> None:
        """The reason of everything queued but the trials `told`, and those of `experiments`."""
        with self.writing():
            self.db.execute(
                """update trials set waiting = :w where state = 'queued' and waiting <> :w
                   and id not in (select value from json_each(:told))
                   and experiment not in (select value from json_each(:experiments))""",
                {"w": what, "told": json.dumps([*told]), "experiments": json.dumps([*experiments])},
            )

    # --- attempts ---

    def add_attempt(
        self, trial: int, card: str, plan: dict[str, Any], predicted_bytes: int, from_step: int
    ) -> int:
        return self._insert(
            "attempts",
            trial=trial,
            card=card,
            plan=json.dumps(plan),
            predicted_bytes=predicted_bytes,
            started_utc=self.clock(),
            from_step=from_step,
            last_step=from_step,
        )

    def end_attempt(
        self, attempt: int, outcome: str, reason: str, *, cause: str = "", stage: str = ""
    ) -> None:
        with self.writing():
            done = self.db.execute(
                """update attempts set outcome = ?, reason = ?, cause = ?, stage = ?,
                   ended_utc = ?, phase = '' where id = ? and outcome is null""",
                (outcome, safe(reason), safe(cause), safe(stage), self.clock(), attempt),
            )
            if done.rowcount != 1:
                raise StoreError(f"attempt {attempt} has ended already")

    # --- cards ---

    def see_cards(self, cards: list[dict[str, Any]]) -> None:
        """The newest sample: known cards are updated, new ones added, absent ones marked so."""
        now = self.clock()
        with self.writing():
            self.db.execute("update cards set present = 0")
            for card in cards:
                row = {"present": 1, "seen_utc": now, **card}
                row |= {k: safe_line(v) for k, v in row.items() if k in _TOLD_BY_DRIVERS and v}
                names = ", ".join(row)
                marks = ", ".join(f":{name}" for name in row)
                sets = ", ".join(f"{name} = excluded.{name}" for name in row)
                self.db.execute(
                    f"""insert into cards ({names}) values ({marks})
                        on conflict (uuid) do update set {sets}""",
                    row,
                )

    def touch_card(self, card: str, **values: Any) -> None:
        """What the guards found out about it."""
        sets = ", ".join(f"{name} = :{name}" for name in values)
        with self.writing():
            self.db.execute(f"update cards set {sets} where uuid = :uuid", {**values, "uuid": card})

    def bill(self, card: str, since_utc: float, until_utc: float, energy_wh: float) -> None:
        """Energy that a card drew between two moments, to the attempts it had meanwhile: to each
        the share of that time in which it ran."""
        span = {"card": card, "since": since_utc, "until": until_utc, "wh": energy_wh}
        with self.writing():
            for row in self.db.execute(
                """select id, ended_utc is not null as ended,
                          (min(coalesce(ended_utc, :until), :until) - max(started_utc, :since))
                          / (:until - :since) * :wh as wh
                   from attempts where card = :card and started_utc < :until
                     and (ended_utc is null or ended_utc > :since)""",
                span,
            ).fetchall():
                self.db.execute(  # its outcome, too: that is what the journal watches
                    """update attempts set energy_wh = coalesce(energy_wh, 0) + ?,
                       outcome = outcome where id = ?"""
                    if row["ended"]
                    else "update attempts set energy_wh = coalesce(energy_wh, 0) + ? where id = ?",
                    (row["wh"], row["id"]),
                )
                self.db.execute(
                    "update cards set energy_wh = coalesce(energy_wh, 0) + ? where uuid = ?",
                    (row["wh"], card),
                )

    def next_generation(self, card: str) -> int:
        """A number no worker of this card has had."""
        with self.writing():
            row = self.db.execute(
                "update cards set generation = generation + 1 where uuid = ? returning generation",
                (card,),
            ).fetchone()
            if row is None:
                raise StoreError(f"there is no card {card}")
            return int(row[0])

    def drain(self, card: str, drained: bool) -> None:
        with self.writing():
            self.db.execute("update cards set drained = ? where uuid = ?", (int(drained), card))

    def quarantine(self, card: str, why: str) -> None:
        """Or, without a reason, release it: what it lost before no longer counts."""
        with self.writing():
            self.db.execute(
                """update cards set quarantined = ?,
                   forgiven = (select coalesce(max(id), 0) from attempts) where uuid = ?""",
                (safe(why), card),
            )

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
        """A line for people, shown in Events and in the trial's log."""
        self._insert(
            "events",
            at_utc=self.clock() if at_utc is None else at_utc,
            experiment=experiment,
            trial=trial,
            attempt=attempt,
            kind=kind,
            level=level,
            text=safe(text),
        )

    def answered(self, request: str) -> bool:
        return self.answer(request) is not None

    def record_answer(self, request: Request, answer: Answer) -> None:
        self._insert(
            "requests",
            id=request.id,
            verb=request.verb,
            args=redact(json.dumps(request.args)),
            sent_utc=request.sent_utc,
            answered_utc=self.clock(),
            ok=int(answer.ok),
            answer=safe(answer.text),
            mend=safe(answer.hint),
            data=json.dumps(answer.data),
        )

    def set_fact(self, key: str, value: str) -> None:
        with self.writing():
            self.db.execute(
                "insert into facts values (?, ?) on conflict do update set value = excluded.value",
                (key, value),
            )

    # --- what attempts report ---

    def put_metrics(self, trial: int, step: int, values: dict[str, float | None]) -> None:
        """A later attempt's value for the same step wins."""
        band = step // BAND_STEPS
        with self.writing():
            for name, value in values.items():
                finite = value if value is not None and math.isfinite(value) else None
                row = (trial, name, step, finite)
                if self.db.execute(
                    "insert or ignore into metrics values (?, ?, ?, ?)", row
                ).rowcount:
                    self._widen_band(trial, name, band, finite)
                    continue
                self.db.execute("insert or replace into metrics values (?, ?, ?, ?)", row)
                self.db.execute(
                    """insert or replace into metric_bands
                       select trial, name, ?, min(value), max(value) from metrics
                       where trial = ? and name = ? and step >= ? and step < ?""",
                    (band, trial, name, band * BAND_STEPS, (band + 1) * BAND_STEPS),
                )

    def _widen_band(self, trial: int, name: str, band: int, value: float | None) -> None:
        """Take in a new step's value; min and max of a null and a number are null in SQLite."""
        self.db.execute(
            """insert into metric_bands values (?1, ?2, ?3, ?4, ?4) on conflict do update set
               low = min(coalesce(low, ?4), coalesce(?4, low)),
               high = max(coalesce(high, ?4), coalesce(?4, high))""",
            (trial, name, band, value),
        )

    def touch_attempt(self, attempt: int, **values: Any) -> None:
        """What an attempt's events told of it: phase, pid, last_step, loss, offset, …"""
        self._update("attempts", attempt, **values)

    def put_rung(self, trial: int, rung: int, step: int, value: float | None) -> None:
        """It has come so far; what was judged once stays."""
        with self.writing():
            self.db.execute(
                "insert or ignore into rungs (trial, rung, step, value) values (?, ?, ?, ?)",
                (trial, rung, step, value),
            )

    def put_checkpoint(self, trial: int, attempt: int, step: int) -> None:
        with self.writing():
            self._update("trials", trial, checkpoint_step=step)
            self._update("attempts", attempt, checkpoint_step=step)

    def put_scores(
        self, trial: int, attempt: int, step: int, values: dict[str, float | None]
    ) -> None:
        with self.writing():
            for name, value in values.items():
                self.db.execute(
                    "insert or replace into scores values (?, ?, ?, ?, ?)",
                    (trial, name, value, step, attempt),
                )

    def put_sample(self, trial: int, attempt: int, n: int, sample: dict[str, Any]) -> None:
        with self.writing():
            self.db.execute(
                "delete from samples where trial = ? and attempt <> ?", (trial, attempt)
            )
            self.db.execute(
                "insert or replace into samples values (?, ?, ?, ?, ?, ?, ?)",
                (
                    trial,
                    attempt,
                    n,
                    safe(sample.get("question", "")),
                    safe(sample.get("expected", "")),
                    safe(sample.get("answer", "")),
                    sample.get("right"),
                ),
            )

    def put_adapter(
        self,
        trial: int,
        attempt: int,
        path: str,
        size: int,
        sha256: str,
        at_utc: float | None = None,
    ) -> None:
        """`path` is relative to the home, or absolute."""
        made = self.clock() if at_utc is None else at_utc
        with self.writing():
            self.db.execute(
                "insert or replace into adapters values (?, ?, ?, ?, ?, ?)",
                (trial, attempt, path, size, sha256, made),
            )

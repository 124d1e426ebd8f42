"""The store built anew from what the home still holds.

Rows come from the journal (store.journal), or where it is gone from the folders (store.salvage),
over those of the last backup; metrics, scores, adapters, samples, log lines and progress from the
attempts' event files. Nothing is deleted: the database that stood there is put aside.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

from workbench.errors import DatabaseDamaged, EngineError, NotThere, WorkbenchError
from workbench.events import Event, Outcome, read_events
from workbench.home import STOPPED_BY_A_PERSON, Home
from workbench.machine.files import sync, write_durably
from workbench.machine.locks import Lock, holder
from workbench.store import journal, salvage
from workbench.store.backup import backups
from workbench.store.damage import look_through
from workbench.store.ingest import ingest
from workbench.store.reader import SCHEMA_VERSION, Reader, open_readonly
from workbench.store.rows import Attempt
from workbench.store.writer import Store
from workbench.text import safe_line
from workbench.trial import DesiredState, State

WHY = "the database was repaired"
REBUILT = ("experiments", "trials", "attempts", "metrics", "adapters", "scores", "rungs")
"""What is equal to what it was, up to the last line that an attempt wrote."""
RETOLD = (*journal.TABLES, "metrics", "metric_bands", "scores", "samples", "adapters", "events")
"""Tables filled here; all others are the last backup's."""
_PASSING = {"trials": {"waiting"}, "attempts": {"phase", "halt"}}
"""Columns of the moment: the next tick writes them anew."""
_TAIL_BYTES = 2 << 20

Rows = dict[str, dict[Any, dict[str, Any]]]
Say = Callable[[str], None]


@dataclass(slots=True)
class Repaired:
    """What came back, and in words what did not."""

    sound: bool = False
    """Nothing was wrong, and nothing was done."""
    wrong: str = ""
    counts: dict[str, int] = field(default_factory=dict)
    paused: list[int] = field(default_factory=list)
    """Trials that wait to be resumed."""
    held: list[int] = field(default_factory=list)
    """Experiments that would have made more trials: they wait to be released."""
    pending: list[int] = field(default_factory=list)
    """Trials that ended while nobody looked: the engine takes them in when it starts."""
    lost: list[str] = field(default_factory=list)
    salvaged: bool = False
    """There was no journal: the folders told what they know."""
    backup: str = ""
    aside: str = ""
    """Where the old database is."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def repair(home: Home, *, anyway: bool = False, say: Say = lambda line: None) -> Repaired:
    """Rebuild the database, everything paused. EngineError while an engine runs on the home.

    May be killed at any moment and run again: the old one goes aside when the new one is whole.
    """
    if not home.root.is_dir():
        raise NotThere(f"there is no workbench at {home.root}", hint="see WORKBENCH_HOME")
    locks = [Lock(home.keeper_lock), Lock(home.loop_lock)]
    try:
        for lock in locks:
            if not lock.take():
                raise EngineError(
                    f"process {holder(lock.path)} runs an engine on {home.root}",
                    hint="stop it first: workbench engine stop",
                )
        wrong = whats_wrong(home.database)
        if not wrong and not anyway:
            return Repaired(sound=True)
        return _repair(home, wrong, say)
    finally:
        for lock in locks:
            lock.release()


def whats_wrong(database: Path) -> str:
    """In words; empty for a sound one. Reads all of it. Raises what no repair mends."""
    try:
        connection = open_readonly(database)
        try:
            look_through(connection, database, limit_s=float("inf"))
        finally:
            connection.close()
    except DatabaseDamaged as broken:
        return broken.what
    except NotThere:
        return f"{database} is gone"
    return ""


def _repair(home: Home, wrong: str, say: Say) -> Repaired:
    staging = home.root / ".repair"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(mode=0o700)
    found = Repaired(wrong=wrong)
    source = journal.journal_of(home.database)
    backup = _last_backup(home, journal.era_of(source), found)
    rows = _rows_of_backup(backup) if backup else {}
    for table, id, row in journal.committed_rows(source, None):
        rows.setdefault(table, {})[id] = row
    last = max(
        (int(line.get("c", line.get("done", 0))) for line in journal.read(source)), default=0
    )
    if damaged := journal.damaged_lines(source):
        found.lost.append(f"{damaged} lines of {journal.NAME} cannot be read")
    found.salvaged = not last
    if found.salvaged:
        found.lost.append(f"{journal.NAME} is gone, and with it moves, answers, priorities, rungs")
        found.lost += salvage.fill(home, rows)
    store = Store(staging / home.database.name, journal=False)
    try:
        store.db.execute("pragma synchronous = off")
        store.db.execute("pragma foreign_keys = off")
        if backup:
            _copy_the_rest(store, backup)
        _retell(home, store, rows, found, say)
        _pause(store, found)
        _check(store, found)
        # Ahead of the journal, so that the next engine writes that anew from these rows.
        store.set_fact(journal.STAND, str(last + 1))
        store.set_fact(journal.ERA, journal.era_of(source) or journal.new_era())
        store.note("repaired", f"{WHY}: {wrong or 'somebody asked for it'}", level="warning")
        found.counts = _counts(store)
    finally:
        store.close()
    found.backup = backup.name if backup else ""
    found.aside = _swap(home, staging / home.database.name)
    shutil.rmtree(staging, ignore_errors=True)
    if home.stopped.exists():  # it may say that the database is damaged
        write_durably(home.stopped, STOPPED_BY_A_PERSON)
    return found


# --- rows ---


def _last_backup(home: Home, era: str | None, found: Repaired) -> Path | None:
    """The newest that is sound, of this schema, and of the same database."""
    for path in backups(home.backups):
        try:
            reader = sqlite3.connect(f"{path.as_uri()}?mode=ro&immutable=1", uri=True)
            try:
                look_through(reader, path, limit_s=float("inf"))
                version = reader.execute("pragma user_version").fetchone()[0]
                if version == SCHEMA_VERSION and era in (None, journal.fact(reader, journal.ERA)):
                    return path
            finally:
                reader.close()
        except (sqlite3.Error, WorkbenchError) as broken:
            found.lost.append(f"backup {path.name} cannot be used: {safe_line(broken)}")
    return None


def _rows_of_backup(path: Path) -> Rows:
    reader = sqlite3.connect(f"{path.as_uri()}?mode=ro&immutable=1", uri=True)
    reader.row_factory = sqlite3.Row
    try:
        return {
            table: {row["id"]: dict(row) for row in reader.execute(f"select * from {table}")}
            for table in journal.TABLES
        }
    finally:
        reader.close()


def _copy_the_rest(store: Store, backup: Path) -> None:
    """Cards, facts, and whatever else is no story of a trial's."""
    store.db.execute("attach ? as backup", (f"{backup.as_uri()}?mode=ro&immutable=1",))
    tables = store.db.execute(
        "select name from backup.sqlite_master where type = 'table' and name not like 'sqlite%'"
    ).fetchall()
    for (table,) in tables:
        if table not in RETOLD:
            store.db.execute(f"insert or replace into main.{table} select * from backup.{table}")
    store.db.execute("detach backup")


def _retell(
    home: Home,
    store: Store,
    rows: Rows,
    found: Repaired,
    say: Say,
    offsets: dict[int, int] | None = None,
) -> None:
    """Rows first, then what the event files say: of live attempts up to `offsets`, or all."""
    with store.writing():
        for table in journal.TABLES:
            for id in sorted(rows.get(table, {})):
                _insert(store, table, rows[table][id], found)
    attempts = rows.get("attempts", {})
    ended = [id for id in sorted(attempts) if attempts[id]["outcome"] is not None]
    for number, id in enumerate(ended, start=1):
        if number % 100 == 0 or number == len(ended):
            say(f"reading what attempts wrote: {number} of {len(ended)}")
        _retell_attempt(home, store, id, attempts[id]["offset"], found)
    with store.writing():  # their own rows were written last, when they had ended
        for table, ids in (("attempts", ended), ("trials", sorted(rows.get("trials", {})))):
            for id in ids:
                _insert(store, table, rows[table][id], found)
    for attempt in store.live_attempts():
        if offsets is None and _has_ended(home, attempt.id):
            found.pending.append(attempt.trial)
        else:
            _retell_attempt(home, store, attempt.id, (offsets or {}).get(attempt.id), found)


def _insert(store: Store, table: str, row: dict[str, Any], found: Repaired) -> None:
    known = [r["name"] for r in store.db.execute(f"pragma main.table_info({table})")]
    row = {name: value for name, value in row.items() if name in known}
    names, marks = ", ".join(row), ", ".join(f":{name}" for name in row)
    sets = ", ".join(f"{name} = excluded.{name}" for name in row)
    try:
        store.db.execute(
            f"""insert into {table} ({names}) values ({marks})
                on conflict (id) do update set {sets}""",
            row,
        )
    except sqlite3.IntegrityError as broken:
        found.lost.append(f"a row of {table} ({row.get('id')}): {broken}")


def _retell_attempt(home: Home, store: Store, id: int, until: int | None, found: Repaired) -> None:
    file = home.attempt(id) / "events.jsonl"
    with store.writing():
        store.touch_attempt(id, offset=0)
        before = -1
        attempt = store.attempt(id)
        while attempt.offset != before and (until is None or attempt.offset < until):
            before = attempt.offset
            ingest(store, attempt, file, until)
            attempt = store.attempt(id)
    if until is not None and attempt.offset < until:
        what = f"{until - attempt.offset:,} of the {until:,} bytes that attempt {id} wrote"
        found.lost.append(f"{what} are gone from {file}")


def _has_ended(home: Home, attempt: int) -> bool:
    """True when its worker wrote its end, which is always its last line."""
    file = home.attempt(attempt) / "events.jsonl"
    size = file.stat().st_size if file.exists() else 0
    events, _ = read_events(file, max(0, size - _TAIL_BYTES))
    return any(isinstance(event, Event) and event.kind == "end" for event in events)


def _pause(store: Store, found: Repaired) -> None:
    """By wish, and at once where no engine is needed for it."""
    with store.writing():
        for attempt in store.live_attempts():
            if attempt.trial not in found.pending:
                _cut(store, attempt)
        for trial in store.trials():
            if trial.state.final:
                continue
            store.set_desired_state(trial.id, DesiredState.PAUSE)
            found.paused.append(trial.id)
            if trial.id not in found.pending and trial.state is not State.PAUSED:
                store.move(trial.id, trial.state, State.PAUSED, by="reconcile", why=WHY)
        held = "update experiments set held = 1 where state = 'preparing' or searching returning id"
        found.held = sorted(row[0] for row in store.db.execute(held))


def _cut(store: Store, attempt: Attempt) -> None:
    store.end_attempt(attempt.id, Outcome.CUT, WHY)


def _check(store: Store, found: Repaired) -> None:
    for table, _, parent, _ in store.db.execute("pragma foreign_key_check"):
        found.lost.append(f"a row of {table} belongs to one of {parent} that is gone")


def _counts(store: Store) -> dict[str, int]:
    one = "select count(*) from "
    return {table: store.db.execute(one + table).fetchone()[0] for table in REBUILT}


def _swap(home: Home, whole: Path) -> str:
    """The new one in the old one's place. Killed in between: there is none, and the journal."""
    sync(whole)
    aside, number = "", 1
    if home.database.exists():
        while (old := home.database.with_name(f"{home.database.name}.damaged-{number}")).exists():
            number += 1
        for tail in ("-wal", "-shm", ""):
            part = Path(f"{home.database}{tail}")
            if part.exists():
                part.rename(f"{old}{tail}")
        aside = old.name
    for tail in ("-wal", "-shm"):  # without their database they are nothing
        Path(f"{home.database}{tail}").unlink(missing_ok=True)
    whole.rename(home.database)
    sync(home.root)
    return aside


# --- equality ---


def equals_repaired(home: Home) -> list[str]:
    """How the database differs from what a repair would make of this home; empty when it does not.

    Compares experiments, trials, attempts, metrics, adapters and scores, row by row, before
    anything is paused. The database and the home are only read; an engine may run.
    """
    reader = Reader.open(home.database)
    with tempfile.TemporaryDirectory(prefix="workbench-equal-") as folder:
        found = Repaired()
        store = Store(Path(folder) / "workbench.db", journal=False)
        try:
            store.db.execute("pragma synchronous = off")
            store.db.execute("pragma foreign_keys = off")
            with reader.one_view():
                rows: Rows = {}
                source = journal.journal_of(home.database)
                for table, id, row in journal.committed_rows(source, journal.stand(reader.db)):
                    rows.setdefault(table, {})[id] = row
                offsets = {one.id: one.offset for one in reader.live_attempts()}
                _retell(home, store, rows, found, lambda line: None, offsets)
                return [*found.lost, *(d for t in REBUILT for d in _differences(t, reader, store))]
        finally:
            store.close()
            reader.close()


def _differences(table: str, reader: Reader, store: Store, most: int = 20) -> Iterator[str]:
    keys = [row for row in reader.db.execute(f"pragma table_info({table})") if row["pk"]]
    order = ", ".join(row["name"] for row in sorted(keys, key=lambda row: row["pk"]))
    query = f"select * from {table} order by {order}"
    told = 0
    for ours, theirs in zip_longest(reader.db.execute(query), store.db.execute(query)):
        a, b = (None if row is None else _settled(table, dict(row)) for row in (ours, theirs))
        if a == b:
            continue
        told += 1
        if told > most:
            yield f"{table}: and more"
            return
        yield f"{table}: {_difference(a, b)}"


def _settled(table: str, row: dict[str, Any]) -> dict[str, Any]:
    passing = _PASSING.get(table, set())
    if table == "attempts" and row["outcome"] is None:  # it is written down at its end
        passing = {*passing, "energy_wh"}
    return {k: v for k, v in row.items() if k not in passing}


def _difference(a: dict[str, Any] | None, b: dict[str, Any] | None) -> str:
    if a is None or b is None:
        return f"only in {'the rebuilt' if a is None else 'the database'}: {_brief(a or b or {})}"
    differs = {k: (v, b.get(k)) for k, v in a.items() if v != b.get(k)}
    return f"{_brief(a)}: {safe_line(json.dumps(differs), 300)}"


def _brief(row: dict[str, Any]) -> str:
    return safe_line(json.dumps(dict(list(row.items())[:3])), 120)

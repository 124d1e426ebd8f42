"""Repair: the database rebuilt from what the home still holds.

Rows come from the journal (`store.recovery.journal`), or where that is lost from the folders
(`store.recovery.salvage`), on top of the last backup's rows. Metrics, scores, adapters, samples,
log lines and progress come from the attempts' event files, and results of single held-out rows from
the files that those name. Nothing is deleted: the old database is kept under another name.
"""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from workbench.attempts.events import Event, Outcome, read_events
from workbench.errors import DatabaseDamaged, EngineError, NotThere, WorkbenchError
from workbench.home import STOPPED_BY_A_PERSON, Home, read_runtime
from workbench.machine.files import sync_path, write_durably
from workbench.machine.locks import Lock, lock_holder
from workbench.machine.processes import find_home_processes
from workbench.store.connection import SCHEMA_VERSION, open_readonly
from workbench.store.ingest import ingest_events
from workbench.store.reader import Reader
from workbench.store.recovery import journal, salvage
from workbench.store.recovery.backup import list_backups
from workbench.store.recovery.damage import look_through
from workbench.store.recovery.equality import table_differences
from workbench.store.rows import AttemptRow
from workbench.store.writer import Store
from workbench.text import safe_line
from workbench.trial import DesiredState, State

WHY = "the database was repaired"
REBUILT = (
    "experiments",
    "trials",
    "attempts",
    "metrics",
    "adapters",
    "scores",
    "row_results",
    "rungs",
)
"""Tables that come back equal, up to the last line that an attempt wrote."""
REFILLED = (
    *journal.TABLES,
    "metrics",
    "metric_bands",
    "scores",
    "row_results",
    "samples",
    "adapters",
    "events",
)
"""Tables that are filled here; all others come from the last backup."""
_TAIL_BYTES = 2 << 20
"""Bytes at the end of an event file in which its last line is looked for."""

Rows = dict[str, dict[Any, dict[str, Any]]]
Say = Callable[[str], None]


@dataclass(slots=True)
class RepairReport:
    """The result of a repair: what came back, and in words what did not."""

    sound: bool = False
    """Nothing was wrong, and nothing was done."""
    wrong: str = ""
    """The fault of the database, in words."""
    counts: dict[str, int] = field(default_factory=dict)
    """Rows by table."""
    paused: list[int] = field(default_factory=list)
    """Trials that wait to be resumed."""
    held: list[int] = field(default_factory=list)
    """Experiments that may add trials of their own; they are held until a person releases them."""
    pending: list[int] = field(default_factory=list)
    """Trials whose end nobody has read yet; the engine does when it starts."""
    lost: list[str] = field(default_factory=list)
    """The things that could not be restored, a line for each."""
    salvaged: bool = False
    """There was no journal, so that the rows come from the folders."""
    backup: str = ""
    """The name of the backup that was used, if any."""
    aside: str = ""
    """The name under which the old database is kept."""

    def to_json(self) -> dict[str, Any]:
        """Return the report as `workbench repair --json` prints it."""
        return asdict(self)


def repair_database(
    home: Home, *, anyway: bool = False, say: Say = lambda line: None
) -> RepairReport:
    """Rebuild the home's database, with every unfinished trial paused, and return a report.

    A sound database is left alone unless `anyway`. `say` gets lines about progress. It may be
    killed at any moment and run again: the old database is moved when the new one is whole. Raises
    EngineError while an engine runs on the home, NotThere where there is no home. Reads every
    event file once.
    """
    if not home.root.is_dir():
        raise NotThere(f"there is no workbench at {home.root}", hint="see WORKBENCH_HOME")
    locks = [Lock(home.keeper_lock), Lock(home.loop_lock)]
    try:
        for lock in locks:
            if not lock.take():
                raise EngineError(
                    f"process {lock_holder(lock.path)} runs an engine on {home.root}",
                    hint="stop it first: workbench engine stop",
                )
        if left := find_home_processes(home.root, read_runtime(home)):
            # Workers of a killed engine still write events and checkpoints.
            raise EngineError(
                f"processes {', '.join(map(str, left[:8]))} of an engine that was killed still run "
                f"on {home.root}",
                hint="end them first: workbench engine stop",
            )
        wrong = find_damage(home.database)
        if not wrong and not anyway:
            return RepairReport(sound=True)
        return _repair(home, wrong, say)
    finally:
        for lock in locks:
            lock.release()


def find_damage(database: Path) -> str:
    """Return in words what is wrong with the database; empty for a sound one.

    Reads all of it. Raises StoreError for what no repair can help, for example permissions.
    """
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


def _repair(home: Home, wrong: str, say: Say) -> RepairReport:
    staging = home.root / ".repair"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(mode=0o700)
    found = RepairReport(wrong=wrong)
    source = journal.journal_of(home.database)
    backup = _last_backup(home, journal.era_of(source), found)
    rows = _rows_of_backup(backup) if backup else {}
    for table, id, row in journal.committed_rows(source, None):
        rows.setdefault(table, {})[id] = row
    last = journal.last_number(source)
    if damaged := journal.damaged_lines(source):
        found.lost.append(f"{damaged} lines of {journal.NAME} cannot be read")
    found.salvaged = not last
    if found.salvaged:
        found.lost.append(
            f"{journal.NAME} is lost, and with it moves, answers, priorities and rungs"
        )
        found.lost += salvage.salvage_rows(home, rows)
    store = Store(staging / home.database.name, journal=False)
    try:
        store.db.execute("pragma synchronous = off")
        store.db.execute("pragma foreign_keys = off")
        if backup:
            _copy_the_rest(store, backup)
        _refill(home, store, rows, found, say)
        _pause(store, found)
        _check(store, found)
        # One ahead of the journal, so that the next engine rewrites it from these rows.
        store.set_fact(journal.LAST_COMMIT, str(last + 1))
        store.set_fact(journal.ERA, journal.era_of(source) or journal.new_era())
        store.note("repaired", f"{WHY}: {wrong or 'somebody asked for it'}", level="warning")
        found.counts = _counts(store)
    finally:
        store.close()
    found.backup = backup.name if backup else ""
    found.aside = _swap(home, staging / home.database.name)
    shutil.rmtree(staging, ignore_errors=True)
    if home.stopped.exists():  # the old reason may be the damage
        write_durably(home.stopped, STOPPED_BY_A_PERSON)
    return found


# --- rows ---


def _last_backup(home: Home, era: str | None, found: RepairReport) -> Path | None:
    """Return the newest backup that is sound, of this schema or an earlier one, and of the same
    database."""
    for path in list_backups(home.backups):
        try:
            reader = sqlite3.connect(f"{path.as_uri()}?mode=ro&immutable=1", uri=True)
            try:
                look_through(reader, path, limit_s=float("inf"))
                version = reader.execute("pragma user_version").fetchone()[0]
                if 0 < version <= SCHEMA_VERSION and era in (
                    None,
                    journal.stored_fact(reader, journal.ERA),
                ):
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
    """Copy the tables that are not refilled: cards, facts and whatever else there is."""
    store.db.execute("attach ? as backup", (f"{backup.as_uri()}?mode=ro&immutable=1",))
    tables = store.db.execute(
        "select name from backup.sqlite_master where type = 'table' and name not like 'sqlite%'"
    ).fetchall()
    for (table,) in tables:
        if table not in REFILLED:
            # An earlier version's table may lack columns, or have some that are gone.
            names = ", ".join(_columns(store, "backup", table) & _columns(store, "main", table))
            store.db.execute(
                f"insert or replace into main.{table} ({names}) select {names} from backup.{table}"
            )
    store.db.execute("detach backup")


def _columns(store: Store, schema: str, table: str) -> set[str]:
    return {row["name"] for row in store.db.execute(f"pragma {schema}.table_info({table})")}


def _refill(
    home: Home,
    store: Store,
    rows: Rows,
    found: RepairReport,
    say: Say,
    offsets: dict[int, int] | None = None,
) -> None:
    """Insert `rows`, then read the event files, those of live attempts only up to `offsets`."""
    with store.writing():
        for table in journal.TABLES:
            for id in sorted(rows.get(table, {})):
                _insert(store, table, rows[table][id], found)
    attempts = rows.get("attempts", {})
    ended = [id for id in sorted(attempts) if attempts[id]["outcome"] is not None]
    for number, id in enumerate(ended, start=1):
        if number % 100 == 0 or number == len(ended):
            say(f"reading what attempts wrote: {number} of {len(ended)}")
        _reread_attempt(home, store, id, attempts[id]["offset"], found)
    with store.writing():  # the journaled rows were written at the end, so they win over events
        for table, ids in (("attempts", ended), ("trials", sorted(rows.get("trials", {})))):
            for id in ids:
                _insert(store, table, rows[table][id], found)
    for attempt in store.live_attempts():
        if offsets is None and _has_ended(home, attempt.id):
            found.pending.append(attempt.trial)
        else:
            _reread_attempt(home, store, attempt.id, (offsets or {}).get(attempt.id), found)


def _insert(store: Store, table: str, row: dict[str, Any], found: RepairReport) -> None:
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


def _reread_attempt(
    home: Home, store: Store, id: int, until: int | None, found: RepairReport
) -> None:
    file = home.attempt(id) / "events.jsonl"
    with store.writing():
        store.touch_attempt(id, offset=0)
        before = -1
        attempt = store.attempt(id)
        while attempt.offset != before and (until is None or attempt.offset < until):
            before = attempt.offset
            ingest_events(store, attempt, file, until)
            attempt = store.attempt(id)
    if until is not None and attempt.offset < until:
        what = f"{until - attempt.offset:,} of the {until:,} bytes that attempt {id} wrote"
        found.lost.append(f"{what} are gone from {file}")


def _has_ended(home: Home, attempt: int) -> bool:
    """Return True where the attempt's worker wrote its end, which is always the last line."""
    file = home.attempt(attempt) / "events.jsonl"
    size = file.stat().st_size if file.exists() else 0
    events, _ = read_events(file, max(0, size - _TAIL_BYTES))
    return any(isinstance(event, Event) and event.kind == "end" for event in events)


def _pause(store: Store, found: RepairReport) -> None:
    """Set every unfinished trial to be paused, and move it there where that needs no engine.

    Experiments that would add trials are held: a person looks first at what came back.
    """
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


def _cut(store: Store, attempt: AttemptRow) -> None:
    store.end_attempt(attempt.id, Outcome.CUT, WHY)


def _check(store: Store, found: RepairReport) -> None:
    for table, _, parent, _ in store.db.execute("pragma foreign_key_check"):
        found.lost.append(f"a row of {table} belongs to one of {parent} that is gone")


def _counts(store: Store) -> dict[str, int]:
    one = "select count(*) from "
    return {table: store.db.execute(one + table).fetchone()[0] for table in REBUILT}


def _swap(home: Home, whole: Path) -> str:
    """Put the new database in the old one's place, and return the name under which that is kept.

    Killed in between, there is no database but a journal, and the next repair starts from that.
    """
    sync_path(whole)
    aside, number = "", 1
    if home.database.exists():
        while (old := home.database.with_name(f"{home.database.name}.damaged-{number}")).exists():
            number += 1
        for tail in ("-wal", "-shm", ""):
            part = Path(f"{home.database}{tail}")
            if part.exists():
                part.rename(f"{old}{tail}")
        aside = old.name
    for tail in ("-wal", "-shm"):  # they belong to the old database
        Path(f"{home.database}{tail}").unlink(missing_ok=True)
    whole.rename(home.database)
    sync_path(home.root)
    return aside


# --- equality ---


def differences_from_repair(home: Home) -> list[str]:
    """Return how the database differs from what a repair would make of this home.

    Compares the rows of the tables in REBUILT, before anything is paused. The home is only read,
    and an engine may run. Empty: no difference.
    """
    reader = Reader.open(home.database)
    with tempfile.TemporaryDirectory(prefix="workbench-equal-") as folder:
        found = RepairReport()
        store = Store(Path(folder) / "workbench.db", journal=False)
        try:
            store.db.execute("pragma synchronous = off")
            store.db.execute("pragma foreign_keys = off")
            with reader.one_view():
                rows: Rows = {}
                source = journal.journal_of(home.database)
                for table, id, row in journal.committed_rows(
                    source, journal.committed_number(reader.db)
                ):
                    rows.setdefault(table, {})[id] = row
                offsets = {one.id: one.offset for one in reader.live_attempts()}
                _refill(home, store, rows, found, lambda line: None, offsets)
                return [
                    *found.lost,
                    *(d for t in REBUILT for d in table_differences(t, reader, store)),
                ]
        finally:
            store.close()
            reader.close()

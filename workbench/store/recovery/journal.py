"""The journal: rows that nothing else could restore, as lines of JSON beside the database.

`journal.jsonl` gets a line before each commit that adds or changes an experiment, a trial, an
attempt, a move, a request or a rung; `repair` reads it when the database is lost. Lines:

    {"era": "…"}                                       first: which database this belongs to
    {"c": 18, "rows": [["trials", 7, {"id": 7, …}]]}   commit 18: whole rows, synced before it
    {"done": 18}                                       commit 18 is in the database

A line counts once its `done` follows. Everything else can be read again: metrics, scores,
adapters and progress from the attempts' event files, cards from their driver.

The journal also shows when the database has lost commits (its -wal file was removed, or an older
copy was put in its place), which SQLite itself cannot see: then the journal is ahead of it.
"""

from __future__ import annotations

import json
import os
import sqlite3
import uuid
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from workbench.errors import DatabaseDamaged, StoreError
from workbench.machine.files import is_full_disk, sync_path
from workbench.store.recovery.damage import REPAIR

NAME = "journal.jsonl"
LAST_COMMIT, ERA = "journal", "era"
"""Keys of the database's facts: the number of its last journaled commit, and its journal's era."""

TABLES: dict[str, Callable[[str], bool] | None] = {
    "experiments": lambda column: True,
    "trials": lambda column: column != "waiting",
    "attempts": lambda column: column == "outcome",
    "moves": None,
    "requests": None,
    "rungs": None,
}
"""For each journaled table the columns whose changes are journaled; None: its rows never change."""

_DONE = b'{"done": '
_WINDOW = 1 << 16
"""Bytes read from the end of the file at once."""
_ROWS_PER_LINE = 500


class Journal:
    """The journal of one writer, which learns of changed rows by triggers of its connection.

    The triggers are temporary: another process that writes to the database by hand is not seen.
    """

    def __init__(self, db: sqlite3.Connection, path: Path) -> None:
        self._db = db
        self._path = path
        self._watch()
        self._number = self._done_number = committed_number(db)
        self._catch_up()
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        self.close = weakref.finalize(self, os.close, self._file)

    def prepare(self) -> None:
        """Write the rows that the open transaction adds or changes, durably, before its commit.

        Costs one fsync, and nothing where no journaled row changed. On a full disk it raises what
        SQLite raises there, so that callers know one error.
        """
        touched = self._db.execute("select tab, id from touched order by rowid").fetchall()
        if not touched:
            return
        self._db.execute("delete from touched")
        self._number += 1  # never used again, whatever becomes of this commit
        _set_fact(self._db, LAST_COMMIT, str(self._number))
        rows = [
            [table, id, dict(row)]
            for table, id in touched
            for row in self._db.execute(f"select * from {table} where id = ?", (id,))
        ]
        try:
            self._append(_line({"c": self._number, "rows": rows}))
            os.fsync(self._file)
        except OSError as refused:
            if not is_full_disk(refused):
                raise
            full = sqlite3.OperationalError(f"the disk of {self._path} is full")
            full.sqlite_errorname = "SQLITE_FULL"
            raise full from refused

    def committed(self) -> None:
        """Write that the prepared commit is in the database.

        This line is not synced: if it is lost, the database's own number says the same.
        """
        if self._number != self._done_number:
            with suppress(OSError):
                self._append(_done(self._number))
                self._done_number = self._number

    def _append(self, line: bytes) -> None:
        """Append the line whole or not at all, on a full disk too."""
        before = os.fstat(self._file).st_size
        left = memoryview(line)
        try:
            while left:
                left = left[os.write(self._file, left) :]
        except OSError:
            with suppress(OSError):
                os.ftruncate(self._file, before)
            raise

    def _watch(self) -> None:
        self._db.execute("create temp table touched (tab text, id, unique (tab, id))")
        for table, watched in TABLES.items():
            columns = [row[1] for row in self._db.execute(f"pragma main.table_info({table})")]
            when = ["insert"]
            if watched is not None:
                when.append(f"update of {', '.join(c for c in columns if watched(c))}")
            for number, what in enumerate(when):
                self._db.execute(
                    f"""create temp trigger journal_{table}_{number} after {what} on main.{table}
                        begin insert or ignore into touched values ('{table}', new.id); end"""
                )

    def _catch_up(self) -> None:
        """Bring the journal to where the database is; rewrite it whole where it lacks commits.

        `check_last_commit` has made sure that it is ahead by at most one commit, which was never
        carried out.
        """
        era = stored_fact(self._db, ERA)
        done, open_commit = _tail(self._path)
        if era is not None and self._path.exists() and self._number in (done, open_commit):
            with self._path.open("rb+") as file:
                file.truncate(_whole_bytes(self._path))
                file.seek(0, os.SEEK_END)
                file.write(_done(self._number))
            return
        if era is None:
            era = new_era()
            _set_fact(self._db, ERA, era)
        self._rewrite(era)

    def _rewrite(self, era: str) -> None:
        partial = self._path.with_name(f".{self._path.name}.tmp")
        partial.unlink(missing_ok=True)
        partial.touch(mode=0o600)
        with partial.open("wb") as file:
            file.write(_line({"era": era}))
            for table in TABLES:
                cursor = self._db.execute(f"select * from {table} order by rowid")
                while some := cursor.fetchmany(_ROWS_PER_LINE):
                    rows = [[table, row["id"], dict(row)] for row in some]
                    file.write(_line({"c": self._number, "rows": rows}))
            file.write(_done(self._number))
            file.flush()
            os.fsync(file.fileno())
        partial.rename(self._path)
        sync_path(self._path.parent)


def check_last_commit(db: sqlite3.Connection, path: Path, journal_commit: int) -> None:
    """Raise DatabaseDamaged where the database lacks commits that its journal has.

    `journal_commit` is what `last_commit` returned before the database was opened. Raises
    StoreError where the journal belongs to another database.
    """
    has = committed_number(db)
    if journal_commit and not has and stored_fact(db, ERA) is None:
        raise database_gone(path)
    if has < journal_commit:
        raise DatabaseDamaged(
            f"{path} has lost what was committed (it stands at {has}, its journal at "
            f"{journal_commit}): was its -wal file removed, or an older copy put in its place?",
            hint=REPAIR,
        )
    ours, theirs = stored_fact(db, ERA), era_of(journal_of(path))
    if ours is not None and theirs is not None and ours != theirs:
        raise StoreError(
            f"{path} is not the database that {NAME} beside it belongs to",
            hint="put the two files back that belong together",
        )


def database_existed(path: Path) -> bool:
    """Return True where a journal or experiments' folders are left of a database."""
    return bool(last_commit(journal_of(path)) or any((path.parent / "experiments").glob("[0-9]*")))


def database_gone(path: Path) -> DatabaseDamaged:
    """Return the error for a lost database whose journal or folders are still there."""
    return DatabaseDamaged(
        f"{path} is gone or empty, but its journal or folders are still there",
        hint=f"{REPAIR}. To start from nothing instead, move the whole folder aside",
    )


def new_era() -> str:
    """Return a random id that ties a journal to its database."""
    return uuid.uuid4().hex


def journal_of(database: Path) -> Path:
    """Return where the journal of this database is."""
    return database.with_name(NAME)


def committed_number(db: sqlite3.Connection) -> int:
    """Return the number of the last journaled commit that the database holds; 0 before one."""
    return int(stored_fact(db, LAST_COMMIT) or 0)


def stored_fact(db: sqlite3.Connection, key: str) -> str | None:
    """Return a value of the database's facts; None also where it has no tables yet."""
    if not db.execute("select 1 from sqlite_master where name = 'facts'").fetchone():
        return None
    row = db.execute("select value from facts where key = ?", (key,)).fetchone()
    return None if row is None else str(row[0])


def _set_fact(db: sqlite3.Connection, key: str, value: str) -> None:
    db.execute("insert or replace into facts values (?, ?)", (key, value))


def last_commit(path: Path) -> int:
    """Return the last commit that the journal says is in the database; 0 where there is none."""
    return _tail(path)[0]


def era_of(path: Path) -> str | None:
    """Return the era in the journal's first line; None where it cannot be read."""
    try:
        with path.open("rb") as file:
            first = json.loads(file.readline(_WINDOW))
    except (OSError, ValueError):
        return None
    return str(first["era"]) if isinstance(first, dict) and "era" in first else None


def _tail(path: Path) -> tuple[int, int | None]:
    """Return the last `done` number, and the commit in whole lines behind it, if there is one.

    Reads only the end of the file.
    """
    try:
        with path.open("rb") as file:
            size, window = os.fstat(file.fileno()).st_size, _WINDOW
            while True:
                file.seek(max(0, size - window))
                end = file.read()
                last = _last_done(end)
                if last is not None or window >= size:
                    break
                window *= 4
    except OSError:
        return 0, None
    number, behind = last or (0, 0)
    commits = [line["c"] for line in _lines(end[behind:].split(b"\n")[:-1]) if "c" in line]
    return number, commits[-1] if commits else None


def _whole_bytes(path: Path) -> int:
    """Return the file's length in bytes without a last line that was cut off."""
    with path.open("rb") as file:
        at = os.fstat(file.fileno()).st_size
        while at:
            start = max(0, at - _WINDOW)
            file.seek(start)
            newline = file.read(at - start).rfind(b"\n")
            if newline >= 0:
                return start + newline + 1
            at = start
    return 0


def _last_done(end: bytes) -> tuple[int, int] | None:
    """Return the number of the last whole `done` line, and where the next line begins."""
    at = len(end)
    while (at := end.rfind(b"\n" + _DONE, 0, at)) >= 0:
        line, newline, _ = end[at + 1 :].partition(b"\n")
        digits = line[len(_DONE) : -1]
        if newline and digits.isdigit():
            return int(digits), at + 1 + len(line) + 1
    return None


def committed_rows(path: Path, number: int | None) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """Yield (table, id, row) of every commit that counts, oldest first: later rows replace earlier.

    With `number`, only commits up to that one, which is where a database stands. Without, the
    last commit counts although no `done` follows it: losing it would be worse than repeating it.
    """
    waiting: list[dict[str, Any]] = []
    for line in read_lines(path):
        if "rows" in line:
            waiting.append(line)
        if "done" in line:
            counted = [one for one in waiting if one["c"] == line["done"]]
            waiting = []
            if number is None or line["done"] <= number:
                yield from _rows(counted)
    last = number if number is not None else max((one["c"] for one in waiting), default=0)
    yield from _rows([one for one in waiting if one["c"] == last])


def _rows(lines: list[dict[str, Any]]) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    for line in lines:
        for table, id, row in line["rows"]:
            if table in TABLES:
                yield table, id, row


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield every line that can be read; nothing where there is no journal."""
    try:
        with path.open("rb") as file:
            yield from _lines(file)
    except FileNotFoundError:
        return


def last_number(path: Path) -> int:
    """Return the highest number ever given to a commit, carried out or not; 0 without a journal."""
    return max((line.get("c") or line.get("done") or 0 for line in read_lines(path)), default=0)


def damaged_lines(path: Path) -> int:
    """Count the lines that cannot be read; a torn last line is normal and not counted."""
    try:
        with path.open("rb") as file:
            whole = [line for line in file if line.endswith(b"\n") and line != b"\n"]
    except FileNotFoundError:
        return 0
    return len(whole) - sum(1 for _ in _lines(whole))


def _lines(lines: Any) -> Iterator[dict[str, Any]]:
    for line in lines:
        try:
            data = json.loads(line)
            if "rows" in data:
                rows = [(table, id, dict(row)) for table, id, row in data["rows"]]
                yield {"c": int(data["c"]), "rows": rows}
            elif "done" in data:
                yield {"done": int(data["done"])}
            else:
                yield {"era": str(data["era"])}
        except (ValueError, TypeError, KeyError, RecursionError):
            continue


def _line(data: dict[str, Any]) -> bytes:
    return json.dumps(data).encode() + b"\n"


def _done(number: int) -> bytes:
    return _DONE + str(number).encode() + b"}\n"

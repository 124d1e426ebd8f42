"""Rows that nothing else could tell again, kept in lines of text beside the database.

`journal.jsonl` gets a line before each commit that makes or changes an experiment, a trial, an
attempt, a move, a request or a rung; `store.repair` reads it when the database is gone. Lines:

    {"era": "…"}                                       first: which database this belongs to
    {"c": 18, "rows": [["trials", 7, {"id": 7, …}]]}   commit 18: whole rows, synced before it
    {"done": 18}                                       commit 18 is in the database

A line counts once its `done` follows. What is not here is told elsewhere: metrics, scores,
adapters and progress by the attempts' event files, cards by their driver.

It also shows when the database has lost what was committed (its write-ahead log was removed, an
older copy put in its place), which SQLite itself cannot see: then the journal is ahead of it.
"""

from __future__ import annotations

import errno
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
from workbench.machine.files import sync
from workbench.store.damage import REPAIR

NAME = "journal.jsonl"
STAND, ERA = "journal", "era"
"""Facts of the database: the last commit it holds of its journal, and which journal is its own."""

TABLES: dict[str, Callable[[str], bool] | None] = {
    "experiments": lambda column: True,
    "trials": lambda column: column != "waiting",
    "attempts": lambda column: column == "outcome",
    "moves": None,
    "requests": None,
    "rungs": None,
}
"""Which columns' changes are written down; None: its rows never change."""

_DONE = b'{"done": '
_WINDOW = 1 << 16
_AT_ONCE = 500


class Journal:
    """Of one writer. It watches the tables itself, by triggers of its connection."""

    def __init__(self, db: sqlite3.Connection, path: Path) -> None:
        self._db = db
        self._path = path
        self._watch()
        self._number = self._told = stand(db)
        self._catch_up()
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        self.close = weakref.finalize(self, os.close, self._file)

    def prepare(self) -> None:
        """Before a commit: the rows it makes or changes, on disk. On a full one it raises as SQLite
        does."""
        touched = self._db.execute("select tab, id from touched order by rowid").fetchall()
        if not touched:
            return
        self._db.execute("delete from touched")
        self._number += 1  # never used again, whatever becomes of this commit
        _set_fact(self._db, STAND, str(self._number))
        rows = [
            [table, id, dict(row)]
            for table, id in touched
            for row in self._db.execute(f"select * from {table} where id = ?", (id,))
        ]
        try:
            self._append(_line({"c": self._number, "rows": rows}))
            os.fsync(self._file)
        except OSError as refused:
            if refused.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            full = sqlite3.OperationalError(f"the disk of {self._path} is full")
            full.sqlite_errorname = "SQLITE_FULL"
            raise full from refused

    def committed(self) -> None:
        """After it. Not synced: the next line is; and without it the database says the same."""
        if self._number != self._told:
            with suppress(OSError):
                self._append(_done(self._number))
                self._told = self._number

    def _append(self, line: bytes) -> None:
        """Whole or not at all, on a full disk too."""
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
        """Say where the database stands; written anew from it where the journal is behind.

        Called after `check_stand`, so it is not ahead by more than a commit that never was.
        """
        era = fact(self._db, ERA)
        told, open_commit = _tail(self._path)
        if era is not None and self._path.exists() and self._number in (told, open_commit):
            with self._path.open("rb+") as file:
                file.truncate(_whole_bytes(self._path))
                file.seek(0, os.SEEK_END)
                file.write(_done(self._number))
            return
        if era is None:
            era = new_era()
            _set_fact(self._db, ERA, era)
        self._write_anew(era)

    def _write_anew(self, era: str) -> None:
        partial = self._path.with_name(f".{self._path.name}.tmp")
        partial.unlink(missing_ok=True)
        partial.touch(mode=0o600)
        with partial.open("wb") as file:
            file.write(_line({"era": era}))
            for table in TABLES:
                cursor = self._db.execute(f"select * from {table} order by rowid")
                while some := cursor.fetchmany(_AT_ONCE):
                    rows = [[table, row["id"], dict(row)] for row in some]
                    file.write(_line({"c": self._number, "rows": rows}))
            file.write(_done(self._number))
            file.flush()
            os.fsync(file.fileno())
        partial.rename(self._path)
        sync(self._path.parent)


def check_stand(db: sqlite3.Connection, path: Path, told: int) -> None:
    """StoreError when the database lacks commits; `told` by `stands_at` before it was opened."""
    has = stand(db)
    if told and not has and fact(db, ERA) is None:
        raise gone(path)
    if has < told:
        raise DatabaseDamaged(
            f"{path} has lost what was committed (it stands at {has}, its journal at {told}): was "
            "its -wal file removed, or an older copy put in its place?",
            hint=REPAIR,
        )
    ours, theirs = fact(db, ERA), era_of(journal_of(path))
    if ours is not None and theirs is not None and ours != theirs:
        raise StoreError(
            f"{path} is not the database that {NAME} beside it belongs to",
            hint="put the two files back that belong together",
        )


def was_there(path: Path) -> bool:
    """True where journal or experiments tell of a database that is not there any more."""
    return bool(stands_at(journal_of(path)) or any((path.parent / "experiments").glob("[0-9]*")))


def gone(path: Path) -> DatabaseDamaged:
    return DatabaseDamaged(
        f"{path} is gone or empty, but what is beside it tells of its rows",
        hint=f"{REPAIR}. To begin anew instead, move the whole folder aside",
    )


def new_era() -> str:
    return uuid.uuid4().hex


def journal_of(database: Path) -> Path:
    return database.with_name(NAME)


def stand(db: sqlite3.Connection) -> int:
    return int(fact(db, STAND) or 0)


def fact(db: sqlite3.Connection, key: str) -> str | None:
    """Also of a database that has no tables yet."""
    if not db.execute("select 1 from sqlite_master where name = 'facts'").fetchone():
        return None
    row = db.execute("select value from facts where key = ?", (key,)).fetchone()
    return None if row is None else str(row[0])


def _set_fact(db: sqlite3.Connection, key: str, value: str) -> None:
    db.execute("insert or replace into facts values (?, ?)", (key, value))


def stands_at(path: Path) -> int:
    """The last commit that the journal knows to be in the database; 0 where there is none."""
    return _tail(path)[0]


def era_of(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            first = json.loads(file.readline(_WINDOW))
    except (OSError, ValueError):
        return None
    return str(first["era"]) if isinstance(first, dict) and "era" in first else None


def _tail(path: Path) -> tuple[int, int | None]:
    """The last `done`, and the commit in whole lines behind it, if there is one. Reads the end."""
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
    """Its length without a line that was cut off."""
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
    """The last whole `done` line: its number, and where the next line begins."""
    at = len(end)
    while (at := end.rfind(b"\n" + _DONE, 0, at)) >= 0:
        line, newline, _ = end[at + 1 :].partition(b"\n")
        digits = line[len(_DONE) : -1]
        if newline and digits.isdigit():
            return int(digits), at + 1 + len(line) + 1
    return None


def committed_rows(path: Path, stand: int | None) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """Table, id and row of every commit that counts, oldest first; a later row replaces it.

    With `stand`, those a database that stands there has; without, the last commit counts although
    nothing says that it was carried out: nothing says that it was not.
    """
    waiting: list[dict[str, Any]] = []
    for line in read(path):
        if "rows" in line:
            waiting.append(line)
        if "done" in line:
            counted = [one for one in waiting if one["c"] == line["done"]]
            waiting = []
            if stand is None or line["done"] <= stand:
                yield from _rows(counted)
    last = stand if stand is not None else max((one["c"] for one in waiting), default=0)
    yield from _rows([one for one in waiting if one["c"] == last])


def _rows(lines: list[dict[str, Any]]) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    for line in lines:
        for table, id, row in line["rows"]:
            if table in TABLES:
                yield table, id, row


def read(path: Path) -> Iterator[dict[str, Any]]:
    """Every line that can be read; damaged ones are left out."""
    try:
        with path.open("rb") as file:
            yield from _lines(file)
    except FileNotFoundError:
        return


def last_number(path: Path) -> int:
    """The highest that was ever given to a commit, carried out or not."""
    return max((line.get("c") or line.get("done") or 0 for line in read(path)), default=0)


def damaged_lines(path: Path) -> int:
    """How many cannot be read, a torn last one apart."""
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

"""Opening the database: the checks that a connection has to pass before anybody reads from it."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from workbench.errors import NotThere, StoreError
from workbench.store.recovery.damage import check_length, is_transient, to_store_error
from workbench.store.recovery.journal import (
    check_last_commit,
    database_existed,
    database_gone,
    journal_of,
    last_commit,
)

SCHEMA_VERSION = 3
_AS_VERSION_2 = """
create temp view trials as select *, null as finals_of from main.trials;
create temp table row_results (
  trial, evaluation, step, tokens, attempt, scored, rows, columns, packed)
"""
_AS_VERSION_3 = "create temp view attempts as select *, null as ends_utc from main.attempts"
_AS_TODAY = {1: (_AS_VERSION_2, _AS_VERSION_3), 2: (_AS_VERSION_3,)}
"""Scripts that show a database of an older version as one of today, because readers cannot migrate
it: a name without a schema finds what is temporary first."""
BUSY_TIMEOUT_S = 5.0
"""Seconds for which SQLite waits for another process's lock before it raises SQLITE_BUSY."""


def open_readonly(path: Path) -> sqlite3.Connection:
    """Return a connection that cannot write, and shows an older version's tables as today's.

    Raises NotThere where no workbench ever ran, DatabaseDamaged where the database is damaged,
    lost or behind its journal, and StoreError where a newer workbench wrote it.
    """
    # The journal is read first: a commit in between would put it ahead of the database.
    journal_commit = last_commit(journal_of(path))
    if not path.exists():
        if database_existed(path):
            raise database_gone(path)
        raise NotThere(
            f"there is no workbench at {path.parent}", hint="run `workbench demo`, or `workbench`"
        )
    connection = sqlite3.connect(
        f"{path.as_uri()}?mode=ro", uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None
    )
    checked = check_connection(connection, path, journal_commit)
    version = checked.execute("pragma user_version").fetchone()[0]
    for script in _AS_TODAY.get(version, ()):
        checked.executescript(script)
    return checked


def check_connection(
    connection: sqlite3.Connection, path: Path, journal_commit: int
) -> sqlite3.Connection:
    """Return `connection` with rows by name, or close it and raise StoreError.

    `journal_commit` is the last commit in the database's journal, read before it was opened.
    """
    connection.row_factory = sqlite3.Row
    try:
        version = connection.execute("pragma user_version").fetchone()[0]
        if version > SCHEMA_VERSION:
            raise StoreError(
                f"{path} was written by a newer workbench (schema {version}, this one knows "
                f"{SCHEMA_VERSION})",
                hint="upgrade this workbench",
            )
        check_length(connection, path)
        check_last_commit(connection, path, journal_commit)
    except sqlite3.Error as error:
        connection.close()
        if is_transient(error):
            raise
        raise to_store_error(error, path) from error
    except StoreError:
        connection.close()
        raise
    return connection

"""Brings a database to the schema that this build reads and writes."""

from __future__ import annotations

import sqlite3
from importlib.resources import files
from pathlib import Path

from workbench.store.connection import SCHEMA_VERSION
from workbench.store.recovery.backup import back_up

MIGRATIONS: tuple[str, ...] = tuple(
    (files("workbench.store.schema") / name).read_text()
    for name in ("version_1.sql", "version_2.sql", "version_3.sql")
)
"""Script n takes a database from user_version n to n + 1."""


def migrate(db: sqlite3.Connection, path: Path) -> None:
    """Run the scripts that the database lacks, in one commit; back up an older one first.

    Raises sqlite3.Error where a script fails, and the database is then as it was; likewise where
    the database is read-only, even if it lacks none.
    """
    version = db.execute("pragma user_version").fetchone()[0]
    if 0 < version < SCHEMA_VERSION:
        back_up(path, path.parent / "backups")
    db.execute("pragma foreign_keys = off")  # while tables are made again
    # In one commit, so that nobody ever reads a database of a version in between.
    scripts = "; ".join(MIGRATIONS[version:])
    try:
        db.executescript(f"begin; {scripts}; pragma user_version = {SCHEMA_VERSION}; commit;")
    except sqlite3.Error:
        if db.in_transaction:  # else it would keep the next try's lock from it
            db.execute("rollback")
        raise
    assert db.execute("pragma user_version").fetchone()[0] == SCHEMA_VERSION
    db.execute("pragma foreign_keys = on")
    # A write that changes nothing still raises where the database is read-only.
    db.execute(f"pragma user_version = {SCHEMA_VERSION}")

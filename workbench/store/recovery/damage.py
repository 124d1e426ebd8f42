"""Damage to the database: how it is found, and how SQLite's errors are put into words.

Everybody who opens the database uses this, so that all of them show the same hint.
"""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

from workbench.errors import DatabaseDamaged, StoreError
from workbench.text import safe_line

REPAIR = "run `workbench repair`: it rebuilds the database from what the home still holds"
CHECK_S = 5.0
"""Seconds for which a start may look for damage. Ten million metric rows take less; on a slow disk
the rest is trusted."""
CHECK_EVERY = 100_000
"""Instructions of SQLite's virtual machine between two looks at the clock."""


def is_transient(error: sqlite3.Error) -> bool:
    """Return True for a full disk and for another process's lock: a later try may succeed."""
    name = getattr(error, "sqlite_errorname", None) or ""
    return name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_FULL"))


def to_store_error(error: BaseException, path: Path | str = "the database") -> StoreError:
    """Return any error of SQLite's as a StoreError that says what is wrong and what to do.

    Damage that `workbench repair` can undo becomes a DatabaseDamaged.
    """
    name = getattr(error, "sqlite_errorname", None) or ""
    if name == "SQLITE_IOERR_SHORT_READ":  # a page that is known from the -wal is missing
        return cut_short(path)
    if name.startswith(("SQLITE_NOTADB", "SQLITE_CORRUPT")):
        return DatabaseDamaged(f"{path} is damaged: {error}", hint=REPAIR)
    if name.startswith("SQLITE_READONLY"):
        return StoreError(
            f"{path} cannot be written: it, or its disk, is read-only",
            hint="give it back to you (chown, chmod u+w), or mount its disk for writing",
        )
    if name.startswith(("SQLITE_CANTOPEN", "SQLITE_PERM", "SQLITE_AUTH")):
        return StoreError(
            f"{path} cannot be opened: {error}",
            hint="check who owns it and its folder; WORKBENCH_HOME names the workbench's folder",
        )
    if name.startswith("SQLITE_IOERR"):
        return StoreError(
            f"{path} cannot be read: {error}",
            hint="its disk fails or is full: look at `dmesg`, free space, then try again",
        )
    if name == "SQLITE_ERROR" and "no such" in str(error):  # a table or a column
        return DatabaseDamaged(f"{path} lacks what the workbench keeps there: {error}", hint=REPAIR)
    return StoreError(
        f"{path} cannot be read: {error}",
        hint="is its disk full, or is it being replaced? Try again, then `workbench doctor`",
    )


def check_length(db: sqlite3.Connection, path: Path) -> None:
    """Raise DatabaseDamaged where the file ends before its last page.

    Pages may still be in the -wal file, so nothing is said while that has any. SQLite does not
    check the length itself while another process has the file open, and reads zeros there.
    """
    (pages,), (size,) = (db.execute(f"pragma page_{what}").fetchone() for what in ("count", "size"))
    log = path.with_name(f"{path.name}-wal")
    if not (log.exists() and log.stat().st_size) and path.stat().st_size < pages * size:
        raise cut_short(path)


def cut_short(path: Path | str) -> DatabaseDamaged:
    """Return the error for a database file that ends too early."""
    return DatabaseDamaged(f"{path} is damaged: it was cut short", hint=REPAIR)


def look_through(db: sqlite3.Connection, path: Path, limit_s: float = CHECK_S) -> None:
    """Raise DatabaseDamaged when SQLite's quick check finds damage within `limit_s` seconds."""
    until = time.monotonic() + limit_s
    db.set_progress_handler(lambda: int(time.monotonic() > until), CHECK_EVERY)
    try:
        found = [str(row[0]) for row in db.execute("pragma quick_check(3)")]
    except sqlite3.OperationalError as error:
        if error.sqlite_errorname != "SQLITE_INTERRUPT":
            raise
        return
    finally:
        db.set_progress_handler(None, 0)
    if found != ["ok"]:
        raise DatabaseDamaged(f"{path} is damaged: {safe_line(found[0], 120)}", hint=REPAIR)

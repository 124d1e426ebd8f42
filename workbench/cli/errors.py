"""Error reports: words on stderr and an exit code, never a traceback.

Exit codes: 0 done · 1 failed · 2 usage or recipe · 3 not found · 130 interrupted.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
import traceback
from pathlib import Path

from workbench.cli.tables import print_note
from workbench.errors import WorkbenchError
from workbench.home import find_home
from workbench.machine.files import is_full_disk
from workbench.machine.processes import silence_streams
from workbench.store.recovery.damage import to_store_error
from workbench.text import safe_line
from workbench.text.redact import redact

INTERRUPTED = 130
ISSUES = "report it with that file"


def report_error(error: BaseException) -> int:
    """Print the error with its hint on stderr, and return its exit code.

    A closed pipe (`workbench ls | head`) ends quietly with 1. An error that nobody foresaw is
    written with its traceback to a file in the home's logs; WORKBENCH_DEBUG=1 prints it instead.
    """
    if isinstance(error, KeyboardInterrupt):
        print_note("interrupted")
        return INTERRUPTED
    if isinstance(error, BrokenPipeError):
        silence_streams(1)
        return 1
    if type(error).__module__ == "sqlite3":  # only the store imports it
        error = to_store_error(error)
    elif isinstance(error, OSError) and is_full_disk(error):
        error = WorkbenchError(
            safe_line(error, 200),
            hint="free space on that disk: `workbench du` and `prune` show what may go",
        )
    elif isinstance(error, OSError) and error.filename is not None:
        error = WorkbenchError(
            f"{safe_line(error.filename)}: {error.strerror}",
            hint="check that path and who owns it; WORKBENCH_HOME names the workbench's folder",
        )
    if isinstance(error, WorkbenchError):
        tell_error(error)
        return error.exit_code
    return _unexpected(error)


def tell_error(error: WorkbenchError) -> None:
    """Print `error: what`, and the hint on the line below."""
    print_note(f"error: {error.what}", "red")
    if error.hint:
        print_note(f"  → {error.hint}")


def _unexpected(error: BaseException) -> int:
    what = f"error: unexpected {type(error).__name__}: {safe_line(error, 200)}"
    if os.environ.get("WORKBENCH_DEBUG"):
        sys.stderr.write(redact("".join(traceback.format_exception(error))))
        print_note(what, "red")
        return 1
    print_note(what, "red")
    try:
        print_note(f"  → the traceback is in {_keep_traceback(error)}; {ISSUES}")
    except OSError:
        print_note("  → WORKBENCH_DEBUG=1 shows the traceback")
    return 1


def _keep_traceback(error: BaseException) -> Path:
    logs = find_home().logs
    folder = logs if logs.is_dir() and os.access(logs, os.W_OK) else Path(tempfile.gettempdir())
    stamp = time.strftime("%Y%m%d-%H%M%S")
    handle, name = tempfile.mkstemp(prefix=f"workbench-{stamp}-", suffix=".txt", dir=folder)
    with os.fdopen(handle, "w", encoding="utf-8", errors="replace") as file:
        file.write(redact("".join(traceback.format_exception(error))))
    return Path(name)

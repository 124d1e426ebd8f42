"""Where errors end: words on stderr and an exit code, never a traceback.

0 done · 1 failed · 2 usage or recipe · 3 nothing there · 130 interrupted
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
import traceback
from pathlib import Path

from workbench.cli.tables import tell
from workbench.errors import WorkbenchError
from workbench.home import find_home
from workbench.machine.processes import hush
from workbench.redact import redact
from workbench.store.damage import in_words
from workbench.text import safe_line

INTERRUPTED = 130
ISSUES = "report it with that file"


def report(error: BaseException) -> int:
    """Tell it on stderr; its exit code."""
    if isinstance(error, KeyboardInterrupt):
        tell("interrupted")
        return INTERRUPTED
    if isinstance(error, BrokenPipeError):
        hush(1)
        return 1
    if type(error).__module__ == "sqlite3":  # only the store imports it
        error = in_words(error)
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
    """`error: what`, and the mend below it."""
    tell(f"error: {error.what}", "red")
    if error.hint:
        tell(f"  → {error.hint}")


def _unexpected(error: BaseException) -> int:
    what = f"error: unexpected {type(error).__name__}: {safe_line(error, 200)}"
    if os.environ.get("WORKBENCH_DEBUG"):
        sys.stderr.write(redact("".join(traceback.format_exception(error))))
        tell(what, "red")
        return 1
    tell(what, "red")
    try:
        tell(f"  → the traceback is in {_keep_traceback(error)}; {ISSUES}")
    except OSError:
        tell("  → WORKBENCH_DEBUG=1 shows the traceback")
    return 1


def _keep_traceback(error: BaseException) -> Path:
    logs = find_home().logs
    folder = logs if logs.is_dir() and os.access(logs, os.W_OK) else Path(tempfile.gettempdir())
    stamp = time.strftime("%Y%m%d-%H%M%S")
    handle, name = tempfile.mkstemp(prefix=f"workbench-{stamp}-", suffix=".txt", dir=folder)
    with os.fdopen(handle, "w", encoding="utf-8", errors="replace") as file:
        file.write(redact("".join(traceback.format_exception(error))))
    return Path(name)

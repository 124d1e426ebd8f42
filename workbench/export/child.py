"""The way in which a child process makes an export: a report on stdout, refusals on stderr."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Mapping
from typing import Any

from workbench.errors import WorkbenchError


def print_report(
    make: Callable[[], Mapping[str, Any]], after_ctrl_c: Callable[[], str] = lambda: ""
) -> int:
    """Print the report of `make` as JSON and return the exit code; 130 after ctrl-c.

    `after_ctrl_c` returns what a person should know then; an empty text means that nothing was
    written.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        report = make()
    except WorkbenchError as refused:
        print(f"error: {refused.what}\n  → {refused.hint}", file=sys.stderr)
        return refused.exit_code
    except KeyboardInterrupt:
        print(f"interrupted: {after_ctrl_c() or 'nothing was written'}", file=sys.stderr)
        return 130
    print(json.dumps(report))
    return 0

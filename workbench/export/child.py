"""The way in which a child process makes an export: a report on stdout, refusals on stderr."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from typing import Any

from workbench.errors import WorkbenchError
from workbench.machine.packages import hide_kernel_packages
from workbench.text import safe_line
from workbench.user_config import hide_hub_kernels


def print_report(
    make: Callable[[], Mapping[str, Any]], after_ctrl_c: Callable[[], str] = lambda: ""
) -> int:
    """Print the report of `make` as JSON and return the exit code; 130 after ctrl-c.

    No library fetches compiled code from a hub of its own accord. Where no GPU is visible, as for
    every export that a command starts, models compute by PyTorch.

    `after_ctrl_c` returns what a person should know then; an empty text means that nothing was
    written.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    hide_hub_kernels()
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        hide_kernel_packages()
    try:
        report = make()
    except WorkbenchError as refused:
        print(f"error: {refused.what}\n  → {refused.hint}", file=sys.stderr)
        return refused.exit_code
    except OSError as refused:
        named = "" if refused.filename is None else f"{safe_line(refused.filename)}: "
        what = named + safe_line(refused.strerror or refused, 300)
        print(f"error: {what}\n  → check that path and who owns it", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"interrupted: {after_ctrl_c() or 'nothing was written'}", file=sys.stderr)
        return 130
    print(json.dumps(report))
    return 0

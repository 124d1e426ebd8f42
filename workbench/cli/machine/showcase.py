"""`workbench --demo-tui`: the screen over a scripted engine, in a home removed at its end."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from workbench.cli.tables import print_note
from workbench.errors import EngineError
from workbench.home import Home
from workbench.machine.locks import lock_holder
from workbench.machine.python_children import python_command, python_environment

_PREFIX = "workbench-demo-"
_YOUNG_S = 60.0
"""Seconds within which a folder may be one whose scripted engine has not begun yet."""
_END_S = 5.0
"""Seconds that the scripted engine may take to remove its folder."""


@contextmanager
def showcase_home() -> Iterator[Home]:
    """Yield a temporary home in which a scripted engine plays; end it and remove the home after.

    The engine removes the home, also where this process ends without a word: the pipe between them
    ends then. Raises EngineError where the scripted engine does not start, with its last words.
    """
    remove_left_behind(Path(tempfile.gettempdir()))
    folder = tempfile.mkdtemp(prefix=_PREFIX)
    print_note("filling a made-up home with trials that train nothing (some seconds)")
    log = Path(folder) / "showcase.log"
    with log.open("wb") as errors:
        child = subprocess.Popen(
            python_command("workbench.showcase", folder),
            env=python_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            cwd="/",
            start_new_session=True,  # the signal of a dropped line must not end it
        )
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        if child.stdout.readline() != b"ready\n":
            words = log.read_text(errors="replace").strip().splitlines() or ["no reason given"]
            raise EngineError(f"the scripted engine did not start: {words[-1]}")
        yield Home(Path(folder) / "home")
    finally:
        child.stdin.close()
        try:
            child.wait(_END_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
            shutil.rmtree(folder, ignore_errors=True)
        child.stdout.close()


def remove_left_behind(temporary: Path) -> None:
    """Remove our folders whose scripted engine was killed, for example by a machine that died."""
    for folder in temporary.glob(f"{_PREFIX}*"):
        try:
            found = folder.lstat()
        except FileNotFoundError:
            continue
        ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
        old = time.time() - found.st_mtime > _YOUNG_S
        if ours and old and lock_holder(Home(folder / "home").keeper_lock) is None:
            shutil.rmtree(folder, ignore_errors=True)

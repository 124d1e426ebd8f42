"""`workbench --demo-tui`: the screen over a scripted engine, in a home removed at its end."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from workbench.cli.tables import print_note
from workbench.errors import EngineError
from workbench.home import Home
from workbench.machine.python_children import python_command, python_environment


@contextmanager
def showcase_home() -> Iterator[Home]:
    """Yield a temporary home in which a scripted engine plays; end it and remove the home after.

    Raises EngineError where the scripted engine does not start, with its last words.
    """
    with tempfile.TemporaryDirectory(prefix="workbench-demo-") as folder:
        home = Home(Path(folder) / "home")
        print_note("filling a made-up home with trials that train nothing (some seconds)")
        log = Path(folder) / "showcase.log"
        with log.open("wb") as errors:
            child = subprocess.Popen(
                python_command("workbench.showcase", str(home.root)),
                env=python_environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd="/",
            )
        assert child.stdout is not None
        try:
            if child.stdout.readline() != b"ready\n":
                words = log.read_text(errors="replace").strip().splitlines() or ["no reason given"]
                raise EngineError(f"the scripted engine did not start: {words[-1]}")
            yield home
        finally:
            child.kill()
            child.wait()
            child.stdout.close()

"""Preparation of a recipe's data in a child process that sees no GPU, with progress on stderr."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.cli.tables import print_note
from workbench.home import Home
from workbench.machine.python_children import cpu_environment, python_command
from workbench.text import safe_line

if TYPE_CHECKING:
    from workbench.recipe import Recipe

MODULE = "workbench.training.prepare"
LOOK_S = 0.1
"""Seconds between two looks at the child's progress file."""
LEAVE_S = 5.0
"""Seconds that the child may take to clean up after ctrl-c."""


def prepare_in_child(recipe: Recipe, home: Home) -> dict[str, Any]:
    """Prepare the recipe's data and return the result: `ok`, then data, notes and examples.

    With `ok` false the result holds `error` and `hint` instead. Rows prepared earlier come from the
    cache that the engine uses too. Nothing else is left behind but logs/check.log. ctrl-c ends the
    child and is raised again.
    """
    with tempfile.TemporaryDirectory(prefix="check-", dir=home.root) as name:
        folder = Path(name)
        (folder / "recipe.json").write_text(recipe.model_dump_json(), encoding="utf-8")
        log = home.logs / "check.log"
        with log.open("wb") as file:
            child = subprocess.Popen(
                python_command(MODULE, name, str(home.cache), "--rows-only"),
                env=cpu_environment({**os.environ, "TOKENIZERS_PARALLELISM": "false"}),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,  # so that ctrl-c reaches it once, from us
            )
        code = _wait(child, Progress(folder / "prepare.progress.json"))
        try:
            return dict(json.loads((folder / "prepared.json").read_bytes()))
        except (OSError, ValueError):
            what = f"reading the data ended with exit code {code} and left no result"
            return {"ok": False, "error": what, "hint": f"see {log}"}


def _wait(child: subprocess.Popen[bytes], progress: Progress) -> int:
    try:
        while True:
            try:
                return child.wait(LOOK_S)
            except subprocess.TimeoutExpired:
                progress.update()
    except KeyboardInterrupt:
        child.send_signal(signal.SIGINT)
        try:
            child.wait(LEAVE_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        raise
    finally:
        progress.end()


class Progress:
    """A progress bar redrawn in place on a terminal, and one line for each stage elsewhere."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stage = ""
        self._paints = sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb"

    def update(self) -> None:
        """Read the child's progress file and show it; an unreadable file shows nothing new."""
        try:
            seen = json.loads(self._path.read_bytes())
            stage, done, total = safe_line(seen["stage"], 60), int(seen["done"]), int(seen["total"])
        except (OSError, ValueError, KeyError, TypeError):
            return
        if self._paints:
            sys.stderr.write(f"\r\x1b[K{progress_bar(stage, done, total)}")
            sys.stderr.flush()
        elif stage != self._stage:
            print_note(stage)
        self._stage = stage

    def end(self) -> None:
        """Clear the bar."""
        if self._paints and self._stage:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


def progress_bar(stage: str, done: int, total: int) -> str:
    """Return a line such as `tokenising train rows [######..............] 1,200 of 4,000`."""
    if total <= 0:
        return f"{stage} {done:,}" if done else stage
    share = min(1.0, done / total)
    filled = int(share * 20)
    return f"{stage} [{'#' * filled}{'.' * (20 - filled)}] {done:,} of {total:,}"

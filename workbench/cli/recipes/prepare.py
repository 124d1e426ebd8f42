"""A recipe's data made ready in a child that sees no GPU, its progress told on stderr."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.cli.tables import tell
from workbench.home import Home
from workbench.text import safe_line

if TYPE_CHECKING:
    from workbench.recipe import Recipe

MODULE = "workbench.training.prepare"
LOOK_S = 0.1
LEAVE_S = 5.0
"""After ctrl-c the child may tidy up for so long."""


def prepared(recipe: Recipe, home: Home) -> dict[str, Any]:
    """What preparing it leaves: `ok`, then data, notes and examples, or error and mend.

    Rows prepared before come from the cache that the engine uses too. Leaves nothing else behind
    but logs/check.log; ctrl-c ends the child.
    """
    with tempfile.TemporaryDirectory(prefix="check-", dir=home.root) as name:
        folder = Path(name)
        (folder / "recipe.json").write_text(recipe.model_dump_json(), encoding="utf-8")
        log = home.logs / "check.log"
        with log.open("wb") as file:
            child = subprocess.Popen(
                [sys.executable, "-m", MODULE, name, str(home.cache), "--rows-only"],
                env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "TOKENIZERS_PARALLELISM": "false"},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,  # ctrl-c reaches it by us, once
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
                progress.look()
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
    """A bar that is painted over on a terminal, a line for each stage elsewhere."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stage = ""
        self._paints = sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb"

    def look(self) -> None:
        try:
            seen = json.loads(self._path.read_bytes())
            stage, done, total = safe_line(seen["stage"], 60), int(seen["done"]), int(seen["total"])
        except (OSError, ValueError, KeyError, TypeError):
            return
        if self._paints:
            sys.stderr.write(f"\r\x1b[K{bar(stage, done, total)}")
            sys.stderr.flush()
        elif stage != self._stage:
            tell(stage)
        self._stage = stage

    def end(self) -> None:
        if self._paints and self._stage:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


def bar(stage: str, done: int, total: int) -> str:
    """`tokenising train rows [######..............] 1,200 of 4,000`."""
    if total <= 0:
        return f"{stage} {done:,}" if done else stage
    share = min(1.0, done / total)
    filled = int(share * 20)
    return f"{stage} [{'#' * filled}{'.' * (20 - filled)}] {done:,} of {total:,}"

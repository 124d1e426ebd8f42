"""The child process that reads and plans a recipe, and one that checks its data."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from workbench.home import Home
from workbench.machine.python_children import python_command, python_environment

MODULE = "workbench.cli.recipes.drafting"
Answer = dict[str, Any]


class DraftingChild:
    """A child that answers questions about a recipe; started at the first question.

    Not thread-safe; `close` may be called from any thread.
    """

    def __init__(self, home: Home) -> None:
        self._home = home
        self._child: subprocess.Popen[str] | None = None
        self._closed = False

    def ask(self, question: Mapping[str, Any]) -> Answer:
        """Return the answer to a question; `ok` is false where the child has ended."""
        try:
            child = self._child = self._child or self._start()
            assert child.stdin is not None
            assert child.stdout is not None
            child.stdin.write(json.dumps(question) + "\n")
            child.stdin.flush()
            return dict(json.loads(child.stdout.readline()))
        except (OSError, ValueError) as ended:
            self._end()
            return {"ok": False, "error": f"the planner ended: {ended}", "hint": "type once more"}

    def _start(self) -> subprocess.Popen[str]:
        if self._closed:
            raise OSError("the page was closed")
        return subprocess.Popen(
            python_command(MODULE),
            env=home_environment(self._home),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )

    def close(self) -> None:
        """End the child; later questions are refused."""
        self._closed = True
        self._end()

    def _end(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.kill()
            child.wait()
            for stream in (child.stdin, child.stdout):
                if stream is not None:
                    with suppress(OSError):  # what was not sent yet has nobody to read it
                        stream.close()


def home_environment(home: Home) -> dict[str, str]:
    """Return the environment of a child that works on this home."""
    return python_environment({**os.environ, "WORKBENCH_HOME": str(home.root)})


def check_data(home: Home, recipe: str, words: list[str]) -> Answer:
    """Run `workbench check --json` on the recipe and return what it prints; takes seconds."""
    settings = [part for word in words for part in ("-s", word)]
    done = subprocess.run(
        python_command("workbench", "check", recipe, *settings, "--json"),
        env=home_environment(home),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        return dict(json.loads(done.stdout))
    except ValueError:
        last = (done.stderr.strip().splitlines() or ["it left no answer"])[-1]
        return {"ok": False, "error": f"the check ended with {done.returncode}: {last}", "hint": ""}

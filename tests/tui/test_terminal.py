"""The app in a terminal of its own: signals, a lost connection, the editor."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.pty_app import IGNORING, RUN, PtyApp
from workbench.home import Home
from workbench.store.requests import Request, scan_requests

ENTER, LEAVE = b"\x1b[?1049h", b"\x1b[?1049l"


@pytest.fixture
def terminal(running: Home) -> Iterator[Callable[..., PtyApp]]:
    opened: list[PtyApp] = []

    def open_one(code: str, columns: int = 80, rows: int = 24) -> PtyApp:
        opened.append(PtyApp(running.root, columns=columns, rows=rows, code=code))
        opened[-1].read_until(lambda: b"Dashboard" in opened[-1].seen)
        return opened[-1]

    yield open_one
    for one in opened:
        one.close()


def test_a_terminated_app_restores_the_terminal(terminal: Callable[..., PtyApp]) -> None:
    one = terminal(RUN)
    one.process.send_signal(signal.SIGTERM)
    one.read_until(lambda: LEAVE in one.seen)
    assert one.process.wait(10) == 128 + signal.SIGTERM


def test_a_dropped_line_ends_the_app_even_where_hang_ups_are_ignored(
    terminal: Callable[..., PtyApp],
) -> None:
    one = terminal(IGNORING)
    one.hang_up()
    assert one.process.wait(10) == 128 + signal.SIGHUP


def test_a_clone_is_changed_in_ones_editor_and_the_screen_comes_back(
    whole: Home,
    terminal: Callable[..., PtyApp],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    editor = tmp_path / "editor"
    editor.write_text('#!/bin/sh\necho my editor\nsed -i "s/seed: .*/seed: 4711/" "$1"\n')
    editor.chmod(0o700)
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.setenv("EDITOR", str(editor))
    one = terminal(RUN, 120, 90)
    one.send(b"c")
    one.read_until(lambda: "data.train" in one.text())
    one.send(b"\x0f")
    one.read_until(lambda: b"my editor" in one.seen)
    one.read_until(lambda: "4711" in one.text())
    one.send(b"\r")
    one.read_until(lambda: bool(scan_requests(whole.requests)))
    ((_, request),) = scan_requests(whole.requests)
    assert isinstance(request, Request)
    assert (request.verb, request.args["settings"]) == ("clone", {"train.seed": 4711})
    assert one.seen.index(LEAVE) < one.seen.index(b"my editor") < one.seen.rindex(ENTER)


def test_the_screen_is_drawn_where_stderr_is_redirected(running: Home) -> None:
    one = PtyApp(running.root, columns=80, rows=24, stderr=subprocess.DEVNULL)
    try:
        one.read_until(lambda: b"Dashboard" in one.seen)
        one.send(b"q")
        one.read_until(lambda: b"Training goes on" in one.seen)
        assert one.seen.index(ENTER) < one.seen.index(b"Dashboard") < one.seen.rindex(LEAVE)
        assert one.process.wait(10) == 0
    finally:
        one.close()


BROKEN = """
import sys
from tui import app
from tui.screens.trials import Trials
Trials.paint_body = None
sys.exit(app.run_app())
"""


def test_a_screen_that_breaks_says_so_by_its_exit_code(
    terminal: Callable[..., PtyApp],
) -> None:
    one = terminal(BROKEN)
    one.send(b"2")
    one.read_until(lambda: one.process.poll() is not None)
    assert one.process.returncode == 1
    assert b"Training goes on" not in one.seen
    assert b"TypeError" in one.seen

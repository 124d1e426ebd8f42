"""The app in a terminal of its own: signals, a lost connection, the editor."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from workbench.home import Home
from workbench.store.requests import Request, scan_requests

ENTER, LEAVE = b"\x1b[?1049h", b"\x1b[?1049l"
CODE = "import sys; from tui.app import run_app; sys.exit(run_app())"
IGNORING = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN); " + CODE


class Terminal:
    """A pseudo-terminal in which the app runs."""

    def __init__(self, home: Home, code: str = CODE, stderr: int | None = None) -> None:
        self.master, line = pty.openpty()
        self.seen = b""
        self.process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=line,
            stdout=line,
            stderr=line if stderr is None else stderr,
            env={**os.environ, "WORKBENCH_HOME": str(home.root), "TERM": "xterm-256color"},
            start_new_session=True,
        )
        os.close(line)

    def read_until(self, fact: Callable[[], bool], limit_s: float = 20) -> None:
        end = time.monotonic() + limit_s
        while not fact():
            assert time.monotonic() < end, self.seen[-2_000:]
            if select.select([self.master], [], [], 0.05)[0]:
                try:
                    self.seen += os.read(self.master, 65_536)
                except OSError:  # the other side is closed
                    assert fact() or self.process.wait(5) is not None
                    return

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        if self.master >= 0:
            os.close(self.master)
            self.master = -1


@pytest.fixture
def terminal(running: Home) -> Iterator[Callable[[str], Terminal]]:
    opened: list[Terminal] = []

    def open_one(code: str) -> Terminal:
        opened.append(Terminal(running, code))
        opened[-1].read_until(lambda: b"Dashboard" in opened[-1].seen)
        return opened[-1]

    yield open_one
    for one in opened:
        one.close()


def test_a_terminated_app_restores_the_terminal(terminal: Callable[[str], Terminal]) -> None:
    one = terminal(CODE)
    one.process.send_signal(signal.SIGTERM)
    one.read_until(lambda: LEAVE in one.seen)
    assert one.process.wait(10) == 128 + signal.SIGTERM


def test_leaving_says_that_training_goes_on(terminal: Callable[[str], Terminal]) -> None:
    one = terminal(CODE)
    os.write(one.master, b"q")
    one.read_until(lambda: b"workbench engine stop" in one.seen)
    assert one.seen.index(LEAVE) < one.seen.index(b"Training goes on without you")
    assert one.process.wait(10) == 0


def test_a_dropped_line_ends_the_app_even_where_hang_ups_are_ignored(
    terminal: Callable[[str], Terminal],
) -> None:
    one = terminal(IGNORING)
    os.close(one.master)
    one.master = -1
    assert one.process.wait(10) == 128 + signal.SIGHUP


def test_a_clone_is_changed_in_ones_editor_and_the_screen_comes_back(
    whole: Home,
    terminal: Callable[[str], Terminal],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    editor = tmp_path / "editor"
    editor.write_text('#!/bin/sh\necho my editor\nsed -i "s/seed: .*/seed: 4711/" "$1"\n')
    editor.chmod(0o700)
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.setenv("EDITOR", str(editor))
    one = terminal(CODE)
    os.write(one.master, b"c")
    one.read_until(lambda: b"ctrl+o" in one.seen)
    os.write(one.master, b"\x0f")
    one.read_until(lambda: b"my editor" in one.seen)
    one.read_until(lambda: bool(scan_requests(whole.requests)))
    ((_, request),) = scan_requests(whole.requests)
    assert isinstance(request, Request)
    assert (request.verb, request.args["settings"]) == ("clone", {"train.seed": 4711})
    assert one.seen.index(LEAVE) < one.seen.index(b"my editor") < one.seen.rindex(ENTER)


def test_the_screen_is_drawn_where_stderr_is_redirected(running: Home) -> None:
    one = Terminal(running, stderr=subprocess.DEVNULL)
    try:
        one.read_until(lambda: b"Dashboard" in one.seen)
        os.write(one.master, b"q")
        one.read_until(lambda: b"Training goes on" in one.seen)
        assert one.seen.index(ENTER) < one.seen.index(b"Dashboard") < one.seen.rindex(LEAVE)
        assert one.process.wait(10) == 0
    finally:
        one.close()

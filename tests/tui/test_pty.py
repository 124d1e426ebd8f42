"""The screen in real terminals: bytes, lost and slow lines, tmux, xterm, screen.

Random keys and lines that are lost at any moment: tests/faults/test_screens.py.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyte
import pytest

from tests.support.pty_app import COMMAND, RUN, PtyApp
from workbench.home import Home


def needs(program: str) -> str:
    """Return the path of a terminal program, or skip out loud."""
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"{program} is not installed: apt-get install {program}")
    return found


# --- bytes ---


def test_the_commands_first_screen_and_a_cursor_key_take_few_bytes(
    running: Home,
) -> None:
    code = COMMAND.replace("sys.exit", "print('left', ") + ", 'typer' in sys.modules)"
    with PtyApp(running.root, code=code) as app:
        app.read_until(lambda: b"running" in app.seen)
        app.read_until_quiet(0.6)
        assert len(app.seen) <= 25_000
        taken = []
        for key in (b"j", b"j", b"k"):
            before = len(app.seen)
            app.send(key)
            app.read_until(lambda before=before: len(app.seen) > before)  # type: ignore[misc]
            taken.append(len(app.seen) - before)
            app.read_until_quiet(0.6)
        assert min(taken) <= 600, taken
        app.send(b"q")
        app.read_until(lambda: b"left 0 False" in app.seen)  # without the other commands


# --- lost lines ---


STUCK = """
import signal, sys, threading
signal.signal(signal.SIGHUP, signal.SIG_IGN)
from tui import app
class Stuck(app.WorkbenchApp):
    CSS_PATH = {css!r}
    async def on_unmount(self):
        threading.Event().wait()
app.WorkbenchApp = Stuck
sys.exit(app.run_app())
"""


def test_a_lost_line_ends_a_process_whose_exit_is_stuck(running: Home) -> None:
    import tui

    css = str(Path(tui.__file__).parent / "workbench.tcss")
    with PtyApp(running.root, columns=80, rows=24, code=STUCK.format(css=css)) as app:
        app.read_until(lambda: b"Dashboard" in app.seen)
        app.hang_up()
        assert app.process.wait(20) == 128 + signal.SIGHUP


# --- slow lines ---


def test_a_slow_line_drops_frames_and_ends_with_the_newest(running: Home) -> None:
    with PtyApp(running.root, columns=120, rows=40, bytes_per_s=20_000) as app:
        app.read_until(lambda: b"running" in app.seen)
        app.read_until_quiet(0.6)
        before = len(app.seen)
        app.send(b"23456" * 8 + b"2")
        app.read_until_quiet(1.0)
        assert len(app.seen) - before < 60_000  # forty views whole are more than 200,000
        picture = shown(app, 120, 40)
        assert re.search(r"Trials · \d+", picture), picture


def test_a_terminal_that_answers_nothing_is_drawn_on_all_the_same(running: Home) -> None:
    with PtyApp(running.root, columns=80, rows=24, answers=False) as app:
        app.read_until(lambda: b"running" in app.seen)
        app.send(b"q")
        app.read_until(lambda: b"workbench engine stop" in app.seen)
        assert app.seen.index(b"\x1b[?1049l") < app.seen.index(b"Training goes on without you")
        assert app.process.wait(20) == 0


# --- what the terminal shows ---


def emulate(data: bytes, columns: int, rows: int) -> pyte.Screen:
    """Return an emulated terminal that was fed `data`."""
    screen = pyte.Screen(columns, rows)
    # pyte takes the final letters of queries with a $ for text.
    text = re.sub(r"\x1b\[\?\d+\$p|\x1b\[[<>]\d*u", "", data.decode(errors="ignore"))
    pyte.Stream(screen).feed(text)
    return screen


def shown(app: PtyApp, columns: int, rows: int) -> str:
    return "\n".join(emulate(app.seen, columns, rows).display)


def test_drawing_again_shows_what_differences_had_built_up(running: Home) -> None:
    with PtyApp(running.root, columns=100, rows=30) as app:
        app.read_until(lambda: b"running" in app.seen)
        for key in (b"2", b"j", b"j", b"3", b"4", b"2", b"k"):
            before = len(app.seen)
            app.send(key)
            app.read_until(lambda before=before: len(app.seen) > before)  # type: ignore[misc]
        app.read_until_quiet(0.6, 10)  # the log follows 0.3 s after the last key
        built = emulate(app.seen, 100, 30)
        before = len(app.seen)
        app.send(b"\x0c")
        app.read_until_quiet(0.6, 10)
        again = emulate(b"\x1b[?7l" + app.seen[before:], 100, 30)
        # An hour may have gone by in the ages between the two.
        hours = re.compile(r"\d+ h ago")
        assert [hours.sub("", row) for row in again.display] == [
            hours.sub("", row) for row in built.display
        ]


# --- terminals of others ---


def program(home: Path) -> str:
    return f"env WORKBENCH_HOME={home} {sys.executable} -c '{RUN}'"


def wait_until(fact: object, limit_s: float = 60) -> None:
    end = time.monotonic() + limit_s
    while not fact():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.1)


def test_tmux_shows_the_screen_also_after_detaching_and_attaching(
    running: Home, tmp_path: Path
) -> None:
    tmux = [needs("tmux"), "-S", str(tmp_path / "socket"), "-f", "/dev/null"]

    def ask(*words: str) -> str:
        done = subprocess.run([*tmux, *words], capture_output=True, text=True, check=True)
        return done.stdout

    def pane() -> str:
        return ask("capture-pane", "-p", "-t", "w")

    ask("new-session", "-d", "-s", "w", "-x", "100", "-y", "30", program(running.root))
    try:
        wait_until(lambda: "running" in pane())
        ask("send-keys", "-t", "w", "2")
        wait_until(lambda: "Trials ·" in pane().splitlines()[1])
        attach = f"import os; os.execvp({tmux[0]!r}, {[*tmux, 'attach', '-t', 'w']!r})"
        for columns in (100, 80):
            with PtyApp(running.root, columns=columns, rows=24, code=attach) as client:
                client.read_until(lambda c=client: b"running" in c.seen)  # type: ignore[misc]
                ask("detach-client", "-s", "w")
                client.read_until(lambda c=client: c.process.poll() is not None)  # type: ignore[misc]
        ask("send-keys", "-t", "w", "1")
        wait_until(lambda: "Cards" in pane())
        assert "Traceback" not in pane()
    finally:
        ask("kill-server")


def test_gnu_screen_shows_the_screen(running: Home, tmp_path: Path) -> None:
    screen = needs("screen")
    folder = tmp_path / "s"
    folder.mkdir(mode=0o700)
    env = {"SCREENDIR": str(folder)}
    words = [screen, "-c", "/dev/null", "-S", "w", "sh", "-c", f"exec {program(running.root)}"]
    code = f"import os; os.execvp({screen!r}, {words!r})"
    try:
        with PtyApp(running.root, columns=80, rows=24, code=code, env=env) as app:
            app.read_until(lambda: b"running" in app.seen)
            app.read_until_quiet(1.0)
            assert b"Dashboard" in app.seen
            app.send(b"q")
            app.read_until(lambda: app.process.poll() is not None)
    finally:  # ends what a failure has left
        quit = [screen, "-S", "w", "-X", "quit"]
        subprocess.run(quit, env={**os.environ, **env}, stdout=subprocess.DEVNULL, check=False)


def test_xterm_shows_the_screen(running: Home, tmp_path: Path) -> None:
    xterm, server = needs("xterm"), needs("Xvfb")
    printed = tmp_path / "printed"
    read, write = os.pipe()
    x = subprocess.Popen(
        [server, "-displayfd", str(write), "-screen", "0", "900x600x24"],
        pass_fds=[write],
        stderr=subprocess.DEVNULL,
    )
    os.close(write)
    try:
        display = os.read(read, 16).decode().strip()
        one = subprocess.Popen(
            [
                *(xterm, "-u8", "-geometry", "80x24"),
                *("-xrm", f"*printerCommand: cat > {printed}"),
                *("-xrm", "*printerAutoClose: true", "-xrm", "*printAttributes: 0"),
                *("-e", "sh", "-c", f"exec {program(running.root)}"),
            ],
            env={**os.environ, "DISPLAY": f":{display}"},
        )
        try:
            wait_until(lambda: "running" in print_screen(running.root, printed))
            assert "Dashboard" in printed.read_text(errors="replace").splitlines()[0]
        finally:
            one.kill()
            one.wait()
    finally:
        os.close(read)
        x.terminate()
        x.wait()


def print_screen(home: Path, printed: Path) -> str:
    """Let xterm print what it shows (media copy, CSI i), and return it."""
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            mine = f"WORKBENCH_HOME={home}".encode() in path.read_bytes().split(b"\0")
            terminal = os.readlink(path.with_name("fd") / "0") if mine else ""
        except OSError:
            continue
        if terminal.startswith("/dev/pts/"):
            with open(terminal, "wb", buffering=0) as line:
                line.write(b"\x1b[i")
            time.sleep(0.2)
            break
    return printed.read_text(errors="replace") if printed.exists() else ""

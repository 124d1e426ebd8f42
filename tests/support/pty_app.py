"""The screen in a pseudo-terminal whose other end answers queries and may be slow."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pyte

RUN = "import sys; from tui.app import run_app; sys.exit(run_app())"
"""The program that shows the screen."""
COMMAND = (
    "import sys; sys.argv = ['workbench']; from workbench.__main__ import run_command_line; "
    "sys.exit(run_command_line())"
)
"""The command `workbench`, as a user types it."""
IGNORING = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN); " + RUN
"""The same where hang-ups are ignored, as under nohup and in some containers."""
CURSOR_QUERY, CURSOR_REPLY = b"\x1b[6n", b"\x1b[1;1R"
SYNC_QUERY, SYNC_REPLY = b"\x1b[?2026$p", b"\x1b[?2026;2$y"
_UNKNOWN = re.compile(rb"\x1b\[\?\d+\$p|\x1b\[[<>]\d*u")
SLICE_S = 0.02
"""Seconds of a slow line that are carried at once."""


def _inherited() -> dict[str, str]:
    """Return this process's environment without the size of a terminal, which is set on the pty."""
    return {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES")}


class PtyApp:
    """A process that shows the screen of `home`, and the terminal that it draws on.

    `bytes_per_s` limits what the terminal reads, as a slow line does. `answers` says whether the
    terminal answers the queries for its cursor and for synchronized output.
    """

    def __init__(
        self,
        home: Path,
        *,
        columns: int = 160,
        rows: int = 50,
        env: Mapping[str, str] | None = None,
        code: str = RUN,
        bytes_per_s: float | None = None,
        answers: bool = True,
        stderr: int | None = None,
        cwd: Path | None = None,
    ) -> None:
        self.master, line = pty.openpty()
        self._terminal = pyte.Screen(columns, rows)
        self._stream = pyte.ByteStream(self._terminal)
        self._drawn = 0
        """Bytes of `seen` that the emulated terminal has drawn."""
        self.resize(columns, rows)
        self.seen = b""
        self._answers, self._rate = answers, bytes_per_s
        self._asked = 0
        """Bytes of `seen` that were searched for queries."""
        settings = {"TERM": "xterm-256color", "COLORTERM": "truecolor"}
        self.began_s = time.monotonic()
        self._carried_s = self.began_s
        self.process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=line,
            stdout=line,
            stderr=line if stderr is None else stderr,
            env={**_inherited(), "WORKBENCH_HOME": str(home), **settings, **(env or {})},
            start_new_session=True,
            cwd=cwd,  # its packages are imported before installed ones
        )
        os.close(line)

    def resize(self, columns: int, rows: int) -> None:
        """Set the terminal's size; the process learns it by SIGWINCH where it is in front."""
        self._terminal.resize(rows, columns)
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def text(self) -> str:
        """Return what the terminal shows: the bytes are differences and need not hold its words."""
        # pyte takes the end of these queries for text.
        new = _UNKNOWN.sub(b"", self.seen[self._drawn :])
        self._drawn = len(self.seen)
        self._stream.feed(new)
        return "\n".join(self._terminal.display)

    def send(self, keys: bytes) -> None:
        """Type these bytes."""
        os.write(self.master, keys)

    def read(self, wait_s: float) -> bytes:
        """Return the bytes that come within `wait_s`, as soon as there are some."""
        if not select.select([self.master], [], [], wait_s)[0]:
            return b""
        most = 65_536
        if self._rate is not None:
            time.sleep(SLICE_S)
            now = time.monotonic()
            most = max(1, int(self._rate * min(now - self._carried_s, 2 * SLICE_S)))
            self._carried_s = now
        try:
            new = os.read(self.master, most)
        except OSError:  # the process closed its side
            time.sleep(min(wait_s, 0.01))
            return b""
        self.seen += new
        if self._answers:
            self._answer()
        return new

    def _answer(self) -> None:
        for query, reply in ((CURSOR_QUERY, CURSOR_REPLY), (SYNC_QUERY, SYNC_REPLY)):
            found = self.seen.count(query, max(0, self._asked - len(query) + 1))
            if found:
                os.write(self.master, reply * found)
        self._asked = len(self.seen)

    def read_for(self, seconds: float) -> bytes:
        """Return all bytes of the next `seconds`."""
        end, before = time.monotonic() + seconds, len(self.seen)
        while (left_s := end - time.monotonic()) > 0:
            self.read(left_s)
        return self.seen[before:]

    def read_until(self, fact: Callable[[], object], limit_s: float = 60) -> float:
        """Read until `fact` holds and return the seconds that took; fail after `limit_s`."""
        began = time.monotonic()
        while not fact():
            took_s = time.monotonic() - began
            assert took_s < limit_s, self.seen[-2_000:]
            ended = self.process.poll() is not None
            if not self.read(0.05) and ended:
                assert fact(), self.seen[-2_000:]
        return time.monotonic() - began

    def read_until_quiet(self, quiet_s: float = 0.5, limit_s: float = 60) -> float:
        """Read until nothing came for `quiet_s`; return the seconds until the last byte came."""
        began = last = time.monotonic()
        while time.monotonic() - last < quiet_s and time.monotonic() - began < limit_s:
            if self.read(quiet_s):
                last = time.monotonic()
        return last - began

    def hang_up(self) -> None:
        """Close the terminal, as a dropped connection does."""
        os.close(self.master)
        self.master = -1

    def cpu_s(self) -> float:
        """Return the CPU seconds of the process so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return sum(int(ticks) for ticks in fields[11:13]) / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        """End the process and close the terminal."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        if self.master >= 0:
            self.hang_up()

    def __enter__(self) -> PtyApp:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

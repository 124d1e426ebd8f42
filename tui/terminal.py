"""The terminal where Textual does not handle it: where to draw, and how to end in order.

Textual draws on stderr only, so `workbench 2>log` would show nothing while keys still act. SIGTERM
would leave the terminal in the alternate screen, and a dropped SSH connection with SIGHUP ignored
would leave a process that reads end-of-file at full speed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from textual.drivers.linux_driver import LinuxDriver
from textual.events import CursorPosition
from textual.message import Message

from tui.wire.display import WireApp
from tui.wire.output import Output

RESTORE = (
    b"\x1b[?1000l\x1b[?1002l\x1b[?1003l\x1b[?1006l\x1b[?1015l"  # mouse
    b"\x1b[?1004l\x1b[?2004l"  # focus, paste
    b"\x1b[<u"  # kitty keys
    b"\x1b[?25h\x1b[?1049l\x1b[0m"  # cursor, main screen, no colour
)
"""The bytes that undo every terminal mode Textual sets."""
PATIENCE_S = 3.0
"""Seconds that an orderly exit may take after SIGTERM; then the process ends at once."""
HANG_UP_S = 0.5
"""The same after a hang-up: nobody is left who sees the exit."""
ALARM_S = 0.8
"""Seconds after a hang-up until the kernel ends the process, whatever Python is doing."""
LAST_ANSWERS_S = 0.5
"""Seconds to wait for the terminal's last answers, which the shell would take for typed text."""
_GONE = select.POLLHUP | select.POLLERR | select.POLLNVAL


class TerminalDriver(LinuxDriver):
    """Textual's driver with an output that never blocks, on stdout where stderr is no terminal.

    The command line opens the screen only where stdout is one.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        self._output: Output | None = None
        super().__init__(*args, **options)
        if not (sys.__stderr__ and sys.__stderr__.isatty()) and sys.__stdout__ is not None:
            self._file = sys.__stdout__

    # Textual sets this attribute to its own thread before it starts that thread.
    @property  # type: ignore[override]
    def _writer_thread(self) -> Output | None:
        return self._output

    @_writer_thread.setter
    def _writer_thread(self, thread: object) -> None:
        assert self._file is not None
        self._output = None if thread is None else Output(self._file)

    def start_application_mode(self) -> None:
        """Enter the alternate screen, at the start and after an editor: it shows nothing yet."""
        super().start_application_mode()  # type: ignore[no-untyped-call]
        if isinstance(self._app, WireApp):
            self._app.frames.forget()

    def stop_application_mode(self) -> None:
        """Restore the terminal, once it has answered what it was asked."""
        end = time.monotonic() + LAST_ANSWERS_S
        if isinstance(self._app, WireApp):
            while self._app.frames.window.in_flight and time.monotonic() < end:
                time.sleep(0.005)
        super().stop_application_mode()

    def process_message(self, message: Message) -> None:
        """Take the terminal's answers to frames out of what the app hears."""
        if isinstance(message, CursorPosition) and isinstance(self._app, WireApp):
            self._app.frames.window.answered()
            self._loop.call_soon_threadsafe(self._app.send_frames)
        else:
            super().process_message(message)


class ExitGuard:
    """A guard that ends the process after SIGTERM, SIGHUP or the loss of its terminal.

    It stays armed until the process is gone: an orderly exit that blocks anywhere, also after the
    app has ended, is cut short.
    """

    def __init__(self) -> None:
        self._leave: Callable[[int], object] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        threading.Thread(target=self._watch, daemon=True, name="exit-guard").start()

    def attach(self, leave: Callable[[int], object]) -> None:
        """Call `leave(128 + signal)` from now on, for an orderly exit.

        Call it in the running event loop, in the main thread. The loop takes its signal handlers
        with it when it closes.
        """
        self._leave, self._loop = leave, asyncio.get_running_loop()
        self._loop.add_signal_handler(signal.SIGTERM, self._go, signal.SIGTERM, PATIENCE_S)
        self._loop.add_signal_handler(signal.SIGHUP, self._go, signal.SIGHUP, HANG_UP_S)

    def _go(self, number: int, patience_s: float) -> None:
        force = threading.Thread(target=end_process, args=(number, patience_s), daemon=True)
        force.start()
        if self._leave is not None:
            self._leave(128 + int(number))

    def _watch(self) -> None:
        """Wait until the terminal is gone; then leave in order, and by force where that takes long.

        Not in the event loop, which may be what blocks.
        """
        poll = select.poll()
        poll.register(sys.__stdin__.fileno() if sys.__stdin__ else 0, 0)
        while not any(what & _GONE for _, what in poll.poll()):
            pass
        # The default action of SIGALRM ends a process that no longer runs any Python, for example
        # one that is being torn down.
        signal.setitimer(signal.ITIMER_REAL, ALARM_S)
        if self._loop is not None and self._leave is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: the process is ending
                self._loop.call_soon_threadsafe(self._leave, 128 + int(signal.SIGHUP))
        end_process(signal.SIGHUP, HANG_UP_S)


def end_process(number: int, patience_s: float) -> None:
    """Restore the terminal and end the process, if it still runs after `patience_s`."""
    time.sleep(patience_s)
    try:
        import termios

        os.set_blocking(1, False)
        os.write(1, RESTORE)
        mode = termios.tcgetattr(0)
        mode[3] |= termios.ECHO | termios.ICANON | termios.ISIG
        termios.tcsetattr(0, termios.TCSANOW, mode)
    except (OSError, termios.error):
        pass  # the terminal is gone: there is nothing to restore
    os._exit(128 + int(number))


def terminal_erases() -> bool:
    """Return whether the terminal fills what it erases with the background colour (bce)."""
    try:
        import curses

        curses.setupterm(fd=1)
        return bool(curses.tigetflag("bce") > 0)
    except Exception:  # no terminfo here, or none for this terminal
        return False

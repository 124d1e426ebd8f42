"""The terminal where Textual does not handle it: where to draw, and how to end in order.

Textual draws on stderr only, so `workbench 2>log` would show nothing while keys still act. SIGTERM
would leave the terminal in the alternate screen, and a dropped SSH connection with SIGHUP ignored
would leave a process that reads end-of-file at full speed.
"""

from __future__ import annotations

import asyncio
import os
import select
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

from textual.drivers.linux_driver import LinuxDriver

RESTORE = (
    b"\x1b[?1000l\x1b[?1002l\x1b[?1003l\x1b[?1006l\x1b[?1015l"  # mouse
    b"\x1b[?1004l\x1b[?2004l"  # focus, paste
    b"\x1b[<u"  # kitty keys
    b"\x1b[?25h\x1b[?1049l\x1b[0m"  # cursor, main screen, no colour
)
"""The bytes that undo every terminal mode Textual sets."""
PATIENCE_S = 3.0
"""Seconds that an orderly exit may take; then the process ends at once."""
CHECK_S = 1.0
"""Period of checking whether the terminal is still there."""
_GONE = select.POLLHUP | select.POLLERR | select.POLLNVAL


class TerminalDriver(LinuxDriver):
    """Textual's driver, drawing on stdout where stderr is not a terminal.

    The command line opens the screen only where stdout is one.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        if not (sys.__stderr__ and sys.__stderr__.isatty()) and sys.__stdout__ is not None:
            self._file = sys.__stdout__


def handle_exit_signals(leave: Callable[[int], object]) -> Callable[[], None]:
    """Call `leave(128 + signal)` on SIGTERM, SIGHUP and a lost terminal.

    Returns a function that removes the handlers. Call both inside the running event loop, in the
    main thread.
    """
    loop = asyncio.get_running_loop()
    done = threading.Event()

    def go(number: int) -> None:
        threading.Thread(target=_force, args=(number, done), daemon=True).start()
        leave(128 + number)

    numbers = (signal.SIGTERM, signal.SIGHUP)
    for number in numbers:
        loop.add_signal_handler(number, go, int(number))

    def hung_up() -> None:
        loop.call_soon_threadsafe(go, int(signal.SIGHUP))

    threading.Thread(target=_watch, args=(done, hung_up), daemon=True).start()

    def undo() -> None:
        done.set()
        for number in numbers:
            loop.remove_signal_handler(number)

    return undo


def _watch(done: threading.Event, hung_up: Callable[[], None]) -> None:
    """Call `hung_up` once the terminal is gone, until `done`."""
    poll = select.poll()
    poll.register(sys.__stdin__.fileno() if sys.__stdin__ else 0, 0)
    while not done.wait(CHECK_S):
        if any(what & _GONE for _, what in poll.poll(0)):
            hung_up()
            return


def _force(number: int, done: threading.Event) -> None:
    """Restore the terminal and end the process, unless the orderly exit is `done` in time."""
    if done.wait(PATIENCE_S):
        return
    try:
        import termios

        os.set_blocking(1, False)
        os.write(1, RESTORE)
        mode = termios.tcgetattr(0)
        mode[3] |= termios.ECHO | termios.ICANON | termios.ISIG
        termios.tcsetattr(0, termios.TCSANOW, mode)
    except (OSError, termios.error):
        pass  # the terminal is gone: there is nothing to restore
    os._exit(128 + number)

"""A thread that writes to the terminal, so that a terminal that is slow or gone blocks nothing."""

from __future__ import annotations

import os
import queue
import threading
from typing import IO

STOP_S = 1.0
"""Seconds that the last bytes may take at the end."""


class Output(threading.Thread):
    """A stand-in for Textual's WriterThread, whose `write` and `stop` block for ever on a terminal
    that is gone."""

    def __init__(self, file: IO[str]) -> None:
        super().__init__(daemon=True, name="terminal-output")
        self._file = file
        self._queue: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._gone = False

    def write(self, text: str) -> None:
        """Take text to write; never blocks."""
        if not self._gone:
            encoding = getattr(self._file, "encoding", None) or "utf-8"
            self._queue.put(text.encode(encoding, "replace"))

    def isatty(self) -> bool:
        """Return True, as the thread of Textual does."""
        return True

    def fileno(self) -> int:
        """Return the file descriptor that is written to."""
        return self._file.fileno()

    def flush(self) -> None:
        """Do nothing: everything is written as soon as the terminal takes it."""

    def run(self) -> None:
        """Write until `stop`; drop everything once the terminal is gone."""
        fd = self._file.fileno()
        while (data := self._queue.get()) is not None:
            while data and not self._gone:
                try:
                    data = data[os.write(fd, data) :]
                except BlockingIOError:  # somebody made the terminal non-blocking
                    threading.Event().wait(0.01)
                except OSError:
                    self._gone = True

    def stop(self) -> None:
        """End the thread after what it has, but wait `STOP_S` at most."""
        self._queue.put(None)
        self.join(STOP_S)

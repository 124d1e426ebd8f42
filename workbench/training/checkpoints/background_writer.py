"""The thread that writes checkpoints and adapters while training or scoring goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType


class BackgroundWriter:
    """A writer with one write under way at most.

    What a write raises is raised once on the thread that calls `start`, `check` or `wait` next. As
    a context manager it waits for the last write at the end of the block.
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    @property
    def busy(self) -> bool:
        """True from `start` until the write's end was noticed by `check` or `wait`."""
        return self._thread is not None

    def start(self, write: Callable[[], None]) -> None:
        """Run `write` on a thread, once the write before has ended; raise what that one raised."""
        self.wait()
        self._begin(write)

    def queue(self, write: Callable[[], None]) -> None:
        """Run `write` after the write under way, and not at all where that one raises."""
        before = self._thread

        def after() -> None:
            if before is not None:
                before.join()
            if self._error is None:
                write()

        self._begin(after)

    def _begin(self, write: Callable[[], None]) -> None:
        # A daemon: a disk that hangs must not keep a process from its end.
        self._thread = threading.Thread(
            target=self._run, args=(write,), name="checkpoint writer", daemon=True
        )
        self._thread.start()

    def check(self) -> None:
        """Raise what a write raised that has ended; return at once while one is under way."""
        if self._thread is not None and not self._thread.is_alive():
            self.wait()

    def wait(self) -> None:
        """Wait for the write under way, if there is one; raise what it raised."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _run(self, write: Callable[[], None]) -> None:
        try:
            write()
        except BaseException as error:  # a replaced attempt ends by Superseded, which is none
            self._error = error

    def __enter__(self) -> BackgroundWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        """Wait for the write. Its error came first, and replaces a later Exception of the block.

        KeyboardInterrupt and Superseded stay what they are.
        """
        try:
            self.wait()
        except Exception:
            if error is None or isinstance(error, Exception):
                raise

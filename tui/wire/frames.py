"""The picture that the terminal shows, the one it should show, and the next bytes between them.

A frame is sent only when the terminal has drawn the ones before it: every frame ends with the
query for the cursor's position (DSR 6, ECMA-48 §8.3.35), which a terminal answers once it has come
so far. Frames that fall due meanwhile are dropped, because only the newest picture is compared with
what the terminal shows. Rows that changed last are sent first, so that a key is answered before the
rest of a large picture.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style

from tui.wire.cells import PenReader, Row, blank_row, segment_cells
from tui.wire.encode import Encoder
from tui.wire.pens import Pen

QUERY = "\x1b[6n"
"""Asks the terminal for the cursor's position."""
FIRST_WINDOW = 32_768
"""Bytes that may be on their way before the line's speed is known."""
LEAST_WINDOW, MOST_WINDOW = 3_072, 65_536
QUEUE_S = 0.3
"""Seconds of the line's speed that may be on their way."""
SILENCE_S = 5.0
"""A terminal that does not answer for so long is written to without waiting."""


class Window:
    """The number of bytes that may be on their way to the terminal, by how fast it answers.

    `answered` may be called from any thread, all else belongs to the app's.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self.bytes = FIRST_WINDOW
        self._lock = threading.Lock()
        self._sent: list[tuple[float, int]] = []
        """Time in seconds and bytes of each frame that is not answered."""
        self._answers = True

    @property
    def in_flight(self) -> int:
        """Bytes that the terminal has not answered."""
        with self._lock:
            return sum(count for _, count in self._sent)

    @property
    def room(self) -> int:
        """Bytes that may be sent now; 0 while the terminal is behind."""
        with self._lock:
            if self._sent and self._now() - self._sent[0][0] > SILENCE_S:
                self._sent.clear()
                self._answers = False
            if not self._answers:
                return self.bytes
            return max(0, self.bytes - sum(count for _, count in self._sent))

    def sent(self, count: int) -> None:
        """Note a frame of `count` bytes that ends with `QUERY`."""
        with self._lock:
            self._sent.append((self._now(), count))

    def answered(self) -> None:
        """Note an answer to the oldest query."""
        with self._lock:
            self._answers = True
            if not self._sent:
                return
            at_s, count = self._sent.pop(0)
            took_s = self._now() - at_s
            if took_s < QUEUE_S:
                self.bytes = min(MOST_WINDOW, self.bytes * 2)
            elif count >= LEAST_WINDOW:
                speed = int(count / took_s * QUEUE_S)
                self.bytes = min(MOST_WINDOW, max(LEAST_WINDOW, speed))

    def forget(self) -> None:
        """Expect no answers to what was sent so far."""
        with self._lock:
            self._sent.clear()


class Frames:
    """The cells that the terminal shows and those that it should show, row by row."""

    def __init__(self, read_pen: PenReader, *, erases: bool = False) -> None:
        self._read_pen = read_pen
        self._encoder = Encoder(erases=erases)
        self._wanted: list[Row] = []
        self._shown: list[Row | None] = []
        """None for a row of which nothing is known."""
        self._stale: dict[int, int] = {}
        """Rows that may differ, each with the number of the update that changed it last."""
        self._updates = 0
        self.window = Window()

    @property
    def wanted(self) -> list[Row]:
        """The rows of the newest picture."""
        return self._wanted

    def forget(self) -> None:
        """Assume nothing about what the terminal shows; the next frame sends everything."""
        self._shown = [None] * len(self._wanted)
        self._stale = dict.fromkeys(range(len(self._wanted)), self._updates)
        self._encoder.take()
        self._encoder.forget()
        self.window.forget()

    def resize(self, columns: int, rows: int) -> None:
        """Take over the terminal's size in cells; another size makes it forget."""
        if rows == len(self._wanted) and (not rows or columns == len(self._wanted[0])):
            return
        self._wanted = [blank_row(columns) for _ in range(rows)]
        self.forget()

    def begin_update(self, read_pen: PenReader | None = None) -> None:
        """Begin an update: rows that it places are sent before those of earlier ones.

        `read_pen` reads its styles, and those of later ones.
        """
        self._updates += 1
        self._read_pen = read_pen or self._read_pen

    def place(self, x: int, y: int, segments: list[tuple[str, Style | None]]) -> None:
        """Put styled text at column `x` of row `y`; what lies outside the screen is left out."""
        if not 0 <= y < len(self._wanted):
            return
        cells = segment_cells((Segment(*one) for one in segments), self._read_pen)
        row = self._wanted[y]
        cells = cells[: max(0, len(row) - x)]
        if row[x : x + len(cells)] != cells:
            row[x : x + len(cells)] = cells
            _mend_halves(row, x, x + len(cells))
            self._stale[y] = self._updates

    @property
    def pending(self) -> bool:
        """True if rows wait to be sent."""
        return bool(self._stale)

    def next_frame(self) -> str:
        """Return the bytes to send now, without the query; empty while there is nothing to send.

        Rows beyond what the window holds stay for the next frame.
        """
        room = self.window.room
        if not self._stale or room <= 0:
            return ""
        for y in sorted(self._stale, key=lambda y: (-self._stale[y], y)):
            del self._stale[y]
            self._send_row(y)
            if self._encoder.pending >= room:
                break
        return self._encoder.take()

    def _send_row(self, y: int) -> None:
        new, old = self._wanted[y], self._shown[y]
        if old is None or len(old) != len(new):
            # A cell that equals nothing: every cell of the row is sent.
            old = [("\0", Pen())] * len(new)
        self._encoder.write_row(y, old, new)
        self._shown[y] = list(new)

    def park(self, x: int, y: int) -> str:
        """Return the bytes that put the cursor there, where input methods look for it."""
        self._encoder.move(x, y)
        return self._encoder.take()


def _mend_halves(row: Row, start: int, end: int) -> None:
    """Blank what is left of wide characters of which the cells from `start` to `end` took half."""
    for edge in (start, end):
        at = edge
        while at < len(row) and not row[at][0]:
            row[at] = (" ", row[at][1].on_blanks)
            at += 1
    if start and cell_len(row[start - 1][0]) > 1:
        row[start - 1] = (" ", row[start - 1][1].on_blanks)

"""The bytes that turn one row of cells into another, with a pen and a cursor that stay."""

from __future__ import annotations

from tui.wire.cells import Row
from tui.wire.pens import PLAIN, Pen, blank_change, pen_change

BRIDGE = 4
"""Cells that are the same and are sent again, because moving the cursor takes as many bytes."""
ERASED = 10
"""Blanks from which erasing them is shorter than sending them."""


class Encoder:
    """A writer of differences that knows the terminal's pen and cursor.

    `erases` says that the terminal fills what it erases with the pen's background (terminfo: bce).
    """

    def __init__(self, *, erases: bool = False) -> None:
        self._erases = erases
        self._parts: list[str] = []
        self.forget()

    def forget(self) -> None:
        """Assume nothing about pen and cursor from now on: something else may have written."""
        self._pen: Pen = PLAIN
        self._at: tuple[int, int] | None = None
        self._parts.append("\x1b[m")

    def take(self) -> str:
        """Return what was written since the last call."""
        text = "".join(self._parts)
        self._parts.clear()
        return text

    @property
    def pending(self) -> int:
        """The number of characters that `take` will return."""
        return sum(len(part) for part in self._parts)

    def move(self, x: int, y: int) -> None:
        """Put the cursor at column `x` of row `y`, both from 0."""
        if self._at == (x, y):
            return
        if self._at is not None and self._at[1] == y and x > self._at[0]:
            by = x - self._at[0]
            self._parts.append(f"\x1b[{by}C" if by > 1 else "\x1b[C")
        elif x:
            self._parts.append(f"\x1b[{y + 1};{x + 1}H")
        else:
            self._parts.append(f"\x1b[{y + 1}H")
        self._at = (x, y)

    def write_row(self, y: int, old: Row, new: Row) -> None:
        """Write what turns the terminal's row `y`, which shows `old`, into `new`.

        Both have the same number of cells.
        """
        x, width = 0, len(new)
        while x < width:
            if old[x] == new[x]:
                x += 1
                continue
            x = self._write_run(y, x, old, new)

    def _write_run(self, y: int, start: int, old: Row, new: Row) -> int:
        """Write from the first cell that differs to the last before a gap; return its end."""
        while not new[start][0]:  # the second half of a wide character: begin with the first
            start -= 1
        end, x, width = start + 1, start + 1, len(new)
        while x < width and x - end <= BRIDGE:
            if old[x] != new[x]:
                end = x + 1
            x += 1
        while end < width and not new[end][0]:
            end += 1
        self._write_cells(y, start, end, new)
        return end

    def _write_cells(self, y: int, start: int, end: int, row: Row) -> None:
        self.move(start, y)
        x = start
        while x < end:
            char, pen = row[x]
            if char == " ":
                x = self._write_blanks(y, x, end, row)
                continue
            if pen is not self._pen:
                self._parts.append(pen_change(self._pen, pen))
                self._pen = pen
            self._parts.append(char)
            x += 1
            wide = x
            while x < end and not row[x][0]:
                x += 1
            # Terminals disagree about the width of some characters, and about the last column.
            moved = (x, y) if x == wide and x < len(row) and len(char) == 1 else None
            self._at = moved
            if moved is None and x < end:
                self.move(x, y)

    def _write_blanks(self, y: int, start: int, end: int, row: Row) -> int:
        blank, x, width = row[start], start, len(row)
        while x < end and row[x] == blank:
            x += 1
        change, self._pen = blank_change(self._pen, blank[1])
        self._parts.append(change)
        count = x - start
        if count > ERASED and (self._erases or blank[1] is PLAIN) and not blank[1].attributes:
            self._parts.append("\x1b[K" if x == width else f"\x1b[{count}X")
            self._at = (start, y)
            if x < end:
                self.move(x, y)
        else:
            self._parts.append(" " * count)
            self._at = (x, y) if x < width else None
        return x

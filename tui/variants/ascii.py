"""Everything the screen draws in ASCII, for terminals and fonts that have nothing else.

`to_ascii` works on what is about to be written, so that no widget knows of it: escape sequences are
ASCII already, and each character becomes as many characters as the cells it takes.
"""

from __future__ import annotations

from rich.cells import cell_len
from textual.driver import Driver

from tui.terminal import TerminalDriver

_SAME = {
    **dict.fromkeys("─━═┄┈╌╴╶▔▁", "-"),
    **dict.fromkeys("│┃║┆┊▌▐▏▎▍▋▊▉┤├", "|"),
    **dict.fromkeys("┌┐└┘╭╮╰╯┬┴┼", "+"),
    **dict.fromkeys("▂▃", "."),
    **dict.fromkeys("▄▅▖▗▃", "="),
    **dict.fromkeys("▆▇█▓▀", "#"),
    **dict.fromkeys("░▒", ":"),
    **dict.fromkeys("●•", "*"),
    **dict.fromkeys("○◦◌", "o"),
    **dict.fromkeys("◐◑◒◓", "@"),
    **dict.fromkeys("▲△▴↑", "^"),
    **dict.fromkeys("▼▽▾↓", "v"),
    **dict.fromkeys("▶▸▷›→»", ">"),
    **dict.fromkeys("◀◂◁‹←«", "<"),
    **dict.fromkeys("–—−", "-"),
    **dict.fromkeys("·∙…", "."),
    **dict.fromkeys("‘’", "'"),
    **dict.fromkeys("“”", '"'),
    "■": "#",
    "□": "%",
    "◆": "&",
    "◇": "~",
    "★": "*",
    "✓": "+",
    "✗": "x",
    "⊘": "/",
    "⟂": "T",
    "‖": "=",
    "×": "x",
    "±": "~",
    "≈": "~",
    "≤": "<",
    "≥": ">",
    "°": "o",
    "⟦": "[",
    "⟧": "]",
    "⏎": "<",
    "µ": "u",
    "\N{NO-BREAK SPACE}": " ",
}
_BRAILLE, _UPPER, _LOWER = 0x2800, 0x1B, 0xE4
"""The first braille pattern, and the bits of its upper and its lower four dots."""


class _Table(dict[int, str]):
    """A table for `str.translate` that knows a replacement for every character."""

    def __missing__(self, code: int) -> str:
        char = chr(code)
        if code < 0x80:
            found = char
        elif 0 <= code - _BRAILLE < 0x100:
            found = _braille(code - _BRAILLE)
        else:
            found = "?" * cell_len(char)
        self[code] = found
        return found


def _braille(bits: int) -> str:
    """Return a character that is dark above, below, or both, as the dots are."""
    upper, lower = bool(bits & _UPPER), bool(bits & _LOWER)
    return {(True, True): ":", (True, False): "'", (False, True): ".", (False, False): " "}[
        upper, lower
    ]


_TABLE = _Table({ord(char): plain for char, plain in _SAME.items()})


def to_ascii(text: str) -> str:
    """Return the text with every other character replaced, each as wide as before."""
    return text.translate(_TABLE)


class AsciiOutput(Driver):
    """The part of a driver that writes ASCII alone; it stands before the driver's own class."""

    def write(self, data: str) -> None:
        """Write `data` as ASCII."""
        super().write(to_ascii(data))  # type: ignore[safe-super]


class AsciiDriver(AsciiOutput, TerminalDriver):
    """The terminal's driver, writing ASCII alone."""

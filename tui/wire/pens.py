"""Pens: the colours and attributes that a terminal writes with, and the change between two."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from rich.color import Color, ColorSystem
from rich.style import Style

_CODES = {
    "bold": 1,
    "dim": 2,
    "italic": 3,
    "underline": 4,
    "blink": 5,
    "blink2": 6,
    "reverse": 7,
    "conceal": 8,
    "strike": 9,
    "underline2": 21,
    "frame": 51,
    "encircle": 52,
    "overline": 53,
}
"""The SGR code (ECMA-48 §8.3.117) of each attribute of a style."""
_OFF = {1: 22, 2: 22, 3: 23, 4: 24, 5: 25, 6: 25, 7: 27, 8: 28, 9: 29, 21: 24, 51: 54, 52: 54}
_OFF[53] = 55
_SEEN_ON_BLANKS = frozenset({4, 5, 6, 7, 9, 21, 51, 52, 53})
"""Attributes that show where there is no glyph."""


@dataclass(frozen=True, slots=True)
class Pen:
    """A foreground, a background and attributes, as SGR codes."""

    fg: str = "39"
    bg: str = "49"
    attributes: tuple[int, ...] = ()

    @property
    def on_blanks(self) -> Pen:
        """What of this pen shows on a blank: mostly its background alone."""
        seen = tuple(code for code in self.attributes if code in _SEEN_ON_BLANKS)
        return make_pen(self.fg if seen else "39", self.bg, seen)


PLAIN = Pen()
"""The pen of a terminal after a reset."""


@lru_cache(8_192)
def make_pen(fg: str, bg: str, attributes: tuple[int, ...]) -> Pen:
    """Return the one pen with these codes: equal pens are the same object."""
    return PLAIN if (fg, bg, attributes) == ("39", "49", ()) else Pen(fg, bg, attributes)


@lru_cache(4_096)
def pen_change(before: Pen, after: Pen) -> str:
    """Return the shortest SGR sequence from one pen to another; empty where they are the same."""
    if before is after:
        return ""
    colours = [code for old, code in ((before.fg, after.fg), (before.bg, after.bg)) if old != code]
    gone = [code for code in before.attributes if code not in after.attributes]
    off = {_OFF[code] for code in gone}
    # 22 ends bold and dim alike, so that the one that stays is set again.
    new = [code for code in after.attributes if code not in before.attributes or _OFF[code] in off]
    change = [*map(str, sorted(off)), *map(str, new), *colours]
    fresh = [""] + [str(code) for code in after.attributes]
    fresh += [code for code in (after.fg, after.bg) if code not in ("39", "49")]
    return f"\x1b[{min(';'.join(change), ';'.join(fresh), key=len)}m"


@lru_cache(4_096)
def blank_change(before: Pen, after: Pen) -> tuple[str, Pen]:
    """Return the SGR sequence before a blank of the pen `after`, and the pen that results.

    A foreground that nothing shows is left as it is, because the next glyph may want it.
    """
    if before.on_blanks is after:
        return "", before
    if not after.attributes and not before.on_blanks.attributes:
        after = make_pen(before.fg, after.bg, before.attributes)
    return pen_change(before, after), after


@lru_cache(8)
def pen_reader(system: ColorSystem, *, colourless: bool = False) -> Callable[[Style | None], Pen]:
    """Return a function that turns a style into a pen for a terminal of that colour system.

    `colourless` pens have attributes only, as NO_COLOR asks (no-color.org). Of 16 colours, white
    on black becomes the terminal's own foreground and background.
    """
    own = {"37": "39", "40": "49"} if system is ColorSystem.STANDARD else {}

    def codes(color: Color | None, *, foreground: bool) -> str:
        default = "39" if foreground else "49"
        if color is None or colourless:
            return default
        found = ";".join(color.downgrade(system).get_ansi_codes(foreground)) or default
        return own.get(found, found)

    @lru_cache(4_096)
    def read_pen(style: Style | None) -> Pen:
        if style is None:
            return PLAIN
        attributes = tuple(code for name, code in _CODES.items() if getattr(style, name))
        return make_pen(
            codes(style.color, foreground=True), codes(style.bgcolor, foreground=False), attributes
        )

    return read_pen

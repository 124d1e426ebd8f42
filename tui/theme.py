"""The palettes of the screen, with few colours and good contrast.

`SAFE` is the default: its colours differ for every kind of colour vision, by lightness too. `ANSI`
uses the 16 colours of the terminal's own palette, where a terminal has no more, and for NO_COLOR.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from textual.theme import Theme

_DARK_SERIES = (
    "#5fb3c4",
    "#dba65a",
    "#9cc47c",
    "#c39ad6",
    "#e08272",
    "#7fa3e0",
    "#cfc48a",
    "#d88fb0",
)
_LIGHT_SERIES = (
    "#0b6a80",
    "#9a5b00",
    "#3d7216",
    "#7a3fa0",
    "#b0382a",
    "#2a55b0",
    "#6d6300",
    "#a02f68",
)


_SAFE_SERIES = (
    "#56b4e9",
    "#e69f00",
    "#2fc79d",
    "#cc79a7",
    "#f0e442",
    "#7a9cff",
    "#d9dee3",
    "#e8743b",
)
# After Okabe & Ito 2008, "Color Universal Design", lightened for a dark background.
_ANSI_SERIES = (
    "#00aaaa",
    "#aa5500",
    "#00aa00",
    "#aa00aa",
    "#aa0000",
    "#5555ff",
    "#ffff55",
    "#ff55ff",
)
# Exactly the colours that rich takes for the 16 of a terminal, so that each becomes its number.


def _variables(
    series: tuple[str, ...],
    *,
    ink: str,
    dim: str,
    faint: str,
    rule: str,
    accent: str,
    good: str,
    live: str,
    warn: str,
    bad: str,
    cursor: str,
    cursor_blur: str,
    cursor_style: str = "bold",
    accent_style: str = "none",
) -> dict[str, str]:
    return {
        "wb-ink": ink,
        "wb-dim": dim,
        "wb-faint": faint,
        "wb-rule": rule,
        "wb-accent": accent,
        "wb-good": good,
        "wb-live": live,
        "wb-warn": warn,
        "wb-bad": bad,
        "wb-cursor": cursor,
        "wb-cursor-blur": cursor_blur,
        "wb-cursor-style": cursor_style,
        "wb-accent-style": accent_style,
        **{f"wb-s{n}": colour for n, colour in enumerate(series)},
        "scrollbar": rule,
        "scrollbar-hover": faint,
        "scrollbar-active": dim,
        "scrollbar-background": cursor_blur,
        "scrollbar-background-hover": cursor_blur,
        "scrollbar-background-active": cursor_blur,
        "scrollbar-corner-color": cursor_blur,
        "input-cursor-background": accent,
    }


DARK = Theme(
    name="workbench-dark",
    dark=True,
    primary="#5fb3c4",
    secondary="#7f8d99",
    accent="#dba65a",
    success="#9cc47c",
    warning="#e2a14c",
    error="#e57d72",
    foreground="#d9dee3",
    background="#12161a",
    surface="#181d22",
    panel="#20272e",
    variables=_variables(
        _DARK_SERIES,
        ink="#d9dee3",
        dim="#93a0ab",
        faint="#566570",
        rule="#33404a",
        accent="#dba65a",
        good="#9cc47c",
        live="#5fb3c4",
        warn="#e2a14c",
        bad="#e57d72",
        cursor="#2b3944",
        cursor_blur="#1b2127",
    ),
)
LIGHT = Theme(
    name="workbench-light",
    dark=False,
    primary="#0b6a80",
    secondary="#5c6670",
    accent="#8a5200",
    success="#3d7216",
    warning="#945400",
    error="#b0382a",
    foreground="#20262b",
    background="#faf8f3",
    surface="#f3f0e8",
    panel="#e9e5da",
    variables=_variables(
        _LIGHT_SERIES,
        ink="#20262b",
        dim="#59636c",
        faint="#a39f92",
        rule="#cbc6b8",
        accent="#8a5200",
        good="#3d7216",
        live="#0b6a80",
        warn="#945400",
        bad="#b0382a",
        cursor="#dfe6e4",
        cursor_blur="#f0ece2",
    ),
)
SAFE = Theme(
    name="workbench-safe",
    dark=True,
    primary="#56b4e9",
    secondary="#7f8d99",
    accent="#e69f00",
    success="#2fc79d",
    warning="#f0e442",
    error="#ff8a5c",
    foreground="#d9dee3",
    background="#12161a",
    surface="#181d22",
    panel="#20272e",
    variables=_variables(
        _SAFE_SERIES,
        ink="#d9dee3",
        dim="#93a0ab",
        faint="#667682",
        rule="#33404a",
        accent="#e69f00",
        good="#2fc79d",
        live="#56b4e9",
        warn="#f0e442",
        bad="#ff7f6a",
        cursor="#2b3944",
        cursor_blur="#1b2127",
    ),
)
ANSI = Theme(
    name="workbench-ansi",
    dark=True,
    primary="#00aaaa",
    secondary="#555555",
    accent="#aa00aa",
    success="#00aa00",
    warning="#aa5500",
    error="#aa0000",
    foreground="#aaaaaa",
    background="#000000",
    surface="#000000",
    panel="#000000",
    variables=_variables(
        _ANSI_SERIES,
        ink="#aaaaaa",
        dim="#555555",
        faint="#555555",
        rule="#555555",
        accent="#aa00aa",
        good="#00aa00",
        live="#00aaaa",
        warn="#aa5500",
        bad="#aa0000",
        cursor="#000000",
        cursor_blur="#000000",
        # No background suits all 16 colours: the row under the cursor is reversed as a whole.
        cursor_style="bold reverse",
        accent_style="bold",
    ),
)
THEMES = (SAFE, DARK, LIGHT, ANSI)
DEFAULTS = SAFE.variables
"""Variables for any other theme of Textual, so that our styles always resolve."""


def choose_theme(
    environ: Mapping[str, str] = os.environ, *, colours: str | None = "truecolor"
) -> str:
    """Return the name of the theme to start with; `colours` is rich's name of the colour system.

    NO_COLOR and a terminal of 16 colours or fewer leave ANSI alone. `WORKBENCH_THEME`
    (safe, dark, light, ansi) decides; else the background in COLORFGBG, which some terminals set;
    else SAFE.
    """
    if "NO_COLOR" in environ or colours in (None, "standard", "windows"):
        return ANSI.name
    asked = f"workbench-{environ.get('WORKBENCH_THEME', '')}"
    if asked in {one.name for one in THEMES}:
        return asked
    # COLORFGBG is "foreground;background" in ANSI colour numbers; 7 and 15 are white.
    background = environ.get("COLORFGBG", "").rpartition(";")[2]
    return LIGHT.name if background in ("7", "15") else SAFE.name


def next_theme(name: str) -> str:
    """Return the name of the theme that follows the one of that name."""
    names = [one.name for one in THEMES]
    return names[(names.index(name) + 1) % len(names)] if name in names else names[0]

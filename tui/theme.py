"""The two palettes of the screen, dark and light, with few colours and good contrast."""

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
THEMES = (DARK, LIGHT)
DEFAULTS = DARK.variables
"""Variables for any other theme of Textual, so that our styles always resolve."""


def choose_theme(environ: Mapping[str, str] = os.environ) -> str:
    """Return the name of the theme to start with.

    `WORKBENCH_THEME=light|dark` decides; else the background in COLORFGBG, which some terminals
    set; else dark.
    """
    asked = environ.get("WORKBENCH_THEME", "")
    if asked in ("light", "dark"):
        return f"workbench-{asked}"
    # COLORFGBG is "foreground;background" in ANSI colour numbers; 7 and 15 are white.
    background = environ.get("COLORFGBG", "").rpartition(";")[2]
    return LIGHT.name if background in ("7", "15") else DARK.name

"""Colours: told apart in every theme, on every terminal, by every eye, and absent where asked."""

from __future__ import annotations

import itertools
import math
import re

import pytest
from rich.color import Color, ColorSystem
from rich.style import Style
from textual.theme import Theme

from tests.support.pty_app import PtyApp
from tests.tui.conftest import shown
from tui import theme
from tui.widgets.rowlist import RowList
from tui.wire.pens import pen_reader
from workbench.home import Home

SYSTEMS = (ColorSystem.TRUECOLOR, ColorSystem.EIGHT_BIT, ColorSystem.STANDARD)
# Linear RGB to what eyes without L or without M cones see: Viénot, Brettel & Mollon 1999.
DICHROMATS = {
    "protan": ((0.11238, 0.88762, 0.0), (0.11238, 0.88762, 0.0), (0.00401, -0.00401, 1.0)),
    "deutan": ((0.29275, 0.70725, 0.0), (0.29275, 0.70725, 0.0), (-0.02234, 0.02234, 1.0)),
    "nobody": ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)),
}


def variable(one: Theme, name: str) -> str:
    return str(one.variables[f"wb-{name}"])


def linear(colour: str) -> list[float]:
    parts = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
    return [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]


def luminance(rgb: list[float]) -> float:
    return 0.2126 * rgb[0] + 0.7152 * rgb[1] + 0.0722 * rgb[2]


def contrast(one: str, other: str) -> float:
    """Return the contrast ratio of WCAG 2.2, 1 to 21."""
    low, high = sorted((luminance(linear(one)), luminance(linear(other))))
    return (high + 0.05) / (low + 0.05)


def lab(rgb: list[float]) -> list[float]:
    """Return CIELAB of linear RGB, D65."""
    r, g, b = rgb
    xyz = (
        (0.4124 * r + 0.3576 * g + 0.1805 * b) / 0.9505,
        luminance(rgb),
        (0.0193 * r + 0.1192 * g + 0.9505 * b) / 1.089,
    )
    x, y, z = (max(v, 0.0) ** (1 / 3) if v > 0.008856 else 7.787 * v + 16 / 116 for v in xyz)
    return [116 * y - 16, 500 * (x - y), 200 * (y - z)]


def difference(one: str, other: str, eye: str) -> float:
    """Return the distance in CIELAB between two colours as that eye sees them."""
    seen = []
    for colour in (one, other):
        rgb = linear(colour)
        seen.append(
            lab([sum(w * v for w, v in zip(row, rgb, strict=True)) for row in DICHROMATS[eye]])
        )
    return math.dist(*seen)


@pytest.mark.parametrize("eye", DICHROMATS)
def test_the_default_theme_is_told_apart_by_every_eye(eye: str) -> None:
    assert theme.choose_theme({}) == theme.SAFE.name
    tones = ("good", "live", "warn", "bad")
    for one, other in itertools.combinations(tones, 2):
        found = difference(variable(theme.SAFE, one), variable(theme.SAFE, other), eye)
        assert found > 15, f"{one} and {other}: {found:.0f}"


@pytest.mark.parametrize("one", [theme.SAFE, theme.DARK, theme.LIGHT], ids=lambda one: one.name)
def test_every_tone_can_be_read_on_its_background(one: Theme) -> None:
    assert one.background is not None
    for name in ("ink", "dim", "accent", "good", "live", "warn", "bad"):
        assert contrast(variable(one, name), one.background) >= 4.5, name
        assert contrast(variable(one, name), variable(one, "cursor")) >= 3, name


@pytest.mark.parametrize("system", SYSTEMS)
def test_tones_stay_apart_on_terminals_of_few_colours(system: ColorSystem) -> None:
    name = theme.choose_theme({}, colours=system.name.lower())
    one = next(one for one in theme.THEMES if one.name == name)
    read_pen = pen_reader(system)
    tones = ("ink", "dim", "accent", "good", "live", "warn", "bad")
    pens = {tone: read_pen(Style(color=variable(one, tone))).fg for tone in tones}
    assert len(set(pens.values())) == len(tones), pens
    cursor = read_pen(Style(bgcolor=variable(one, "cursor"))).bg
    rest = Color.parse(variable(one, "faint")).downgrade(system).get_ansi_codes(foreground=False)
    assert cursor != ";".join(rest)


def test_a_terminal_of_16_colours_gets_its_own_colours() -> None:
    assert theme.choose_theme({}, colours="standard") == theme.ANSI.name
    assert theme.choose_theme({"NO_COLOR": "1"}) == theme.ANSI.name
    assert theme.choose_theme({"WORKBENCH_THEME": "light"}) == theme.LIGHT.name
    assert theme.choose_theme({"COLORFGBG": "0;15"}) == theme.LIGHT.name


async def test_the_row_under_the_cursor_is_reversed_as_a_whole_in_16_colours(
    running: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORKBENCH_THEME", "ansi")
    async with shown(running) as (app, _):
        strip = app.screen.query_one("#trials", RowList).render_line(1)
        assert all(style is not None and style.reverse for _, style, _ in strip)
        assert len({style.color for _, style, _ in strip if style is not None}) == 1
        assert "━" in strip.text


async def test_the_theme_key_goes_round(running: Home) -> None:
    async with shown(running) as (app, _):
        names = []
        for _ in theme.THEMES:
            app.action_other_theme()
            names.append(app.theme)
        assert sorted(names) == sorted(one.name for one in theme.THEMES)


COLOUR = re.compile(rb"\x1b\[(?:[0-9;]*;)?(?:[349][0-8]|10[0-7])(?:;[0-9;]*)?m")
"""SGR sequences that set a colour, not those that end one."""


@pytest.mark.parametrize("term", ["xterm-256color", "screen"])
def test_no_color_sends_no_colour_at_all(running: Home, term: str) -> None:
    with PtyApp(running.root, columns=80, rows=24, env={"TERM": term, "NO_COLOR": "1"}) as app:
        app.read_until(lambda: b"running" in app.seen)
        app.send(b"j2?")
        app.read_until_quiet(0.5)
        assert COLOUR.search(app.seen) is None
        assert b"\x1b[7m" in app.seen or b"\x1b[7;" in app.seen or b";7m" in app.seen


def test_plain_terminals_get_sixteen_colours_that_differ(running: Home) -> None:
    with PtyApp(running.root, columns=80, rows=24, env={"TERM": "screen", "COLORTERM": ""}) as app:
        app.read_until(lambda: b"running" in app.seen)
        app.read_until_quiet(0.5)
        found = re.findall(rb"\x1b\[([0-9;]*)m", app.seen)
        codes = {code for one in found for code in one.split(b";")}
        assert {b"90", b"35", b"36", b"33"} <= codes  # dim, accent, live, warn
        assert b"38" not in codes

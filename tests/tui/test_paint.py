from __future__ import annotations

from rich.cells import cell_len

from tui.paint import Gauge, fit, plain, text_of, width, wrap
from tui.widgets.rowlist import Column, arrange


def test_a_line_is_cut_by_cells_with_an_ellipsis() -> None:
    line = (("漢字", "good"), ("abc", ""))
    assert text_of(fit(line, 6)) == "漢字a…"
    assert width(fit(line, 3)) == 3
    assert text_of(fit(line, 9)) == "漢字abc  "
    assert text_of(fit(line, 9, "right")) == "  漢字abc"


def test_wrapping_breaks_between_words_and_cuts_what_is_longer_than_a_line() -> None:
    lines = wrap((("one two ", ""), ("three", "bad"), (" " + "x" * 30, "")), 12, indent=2)
    assert [text_of(line) for line in lines[:2]] == ["one two ", "  three"]
    assert all(cell_len(text_of(line)) <= 12 for line in lines)
    assert "".join(text_of(line).strip() for line in lines).endswith("x" * 30)


def test_foreign_text_loses_its_escapes() -> None:
    assert plain("[red]x[/]\x1b]52;c;aGk=\x07\x9b31m\n\ty") == ("[red]x[/] y", "")


def test_a_gauge_reads_without_colour() -> None:
    assert text_of(Gauge(0.5).line(8)) == "━━━━────"
    assert text_of(Gauge(0.5, percent=True).line(9)) == "━━──  50%"
    assert text_of(Gauge(None).line(3)) == "┄┄┄"


def test_columns_that_matter_least_go_first() -> None:
    columns = (
        Column(title="a", width=4),
        Column(title="b", width=4, drop=2),
        Column(title="c", width=4, drop=1, grow=1),
    )
    assert arrange(columns, 20) == [4, 4, 8]
    assert arrange(columns, 12) == [4, None, 6]
    assert arrange(columns, 5) == [4, None, None]


def test_spare_cells_go_to_those_that_grow_up_to_their_most() -> None:
    columns = (
        Column(title="a", width=2, grow=1, most=4),
        Column(title="b", width=2, grow=1),
    )
    assert arrange(columns, 20) == [4, 14]

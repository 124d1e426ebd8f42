from __future__ import annotations

from rich.cells import cell_len

from tui.paint import Gauge, fit_line, line_text, line_width, plain_part, wrap_line
from tui.widgets.columns import Column, arrange_columns


def test_a_line_is_cut_by_cells_with_an_ellipsis() -> None:
    line = (("漢字", "good"), ("abc", ""))
    assert line_text(fit_line(line, 6)) == "漢字a…"
    assert line_width(fit_line(line, 3)) == 3
    assert line_text(fit_line(line, 9)) == "漢字abc  "
    assert line_text(fit_line(line, 9, "right")) == "  漢字abc"


def test_wrapping_breaks_between_words_and_cuts_what_is_longer_than_a_line() -> None:
    lines = wrap_line((("one two ", ""), ("three", "bad"), (" " + "x" * 30, "")), 12, indent=2)
    assert [line_text(line) for line in lines[:2]] == ["one two ", "  three"]
    assert all(cell_len(line_text(line)) <= 12 for line in lines)
    assert "".join(line_text(line).strip() for line in lines).endswith("x" * 30)


def test_foreign_text_loses_its_escapes() -> None:
    assert plain_part("[red]x[/]\x1b]52;c;aGk=\x07\x9b31m\n\ty") == ("[red]x[/] y", "")


def test_a_gauge_reads_without_colour() -> None:
    assert line_text(Gauge(0.5).line(8)) == "━━━━────"
    assert line_text(Gauge(0.5, percent=True).line(9)) == "━━──  50%"
    assert line_text(Gauge(None).line(3)) == "┄┄┄"


def test_columns_that_matter_least_go_first() -> None:
    columns = (
        Column(title="a", width=4),
        Column(title="b", width=4, drop=2),
        Column(title="c", width=4, drop=1, grow=1),
    )
    assert arrange_columns(columns, 20) == [4, 4, 8]
    assert arrange_columns(columns, 12) == [4, None, 6]
    assert arrange_columns(columns, 5) == [4, None, None]


def test_spare_cells_go_to_those_that_grow_up_to_their_most() -> None:
    columns = (
        Column(title="a", width=2, grow=1, most=4),
        Column(title="b", width=2, grow=1),
    )
    assert arrange_columns(columns, 20) == [4, 14]

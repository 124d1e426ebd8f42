"""Tables and colours."""

from __future__ import annotations

import io
import json
import math

import pytest

from workbench.cli.tables import as_json, colour_text, count_cells, cut_to_width, format_table


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _eighty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)


def test_numbers_that_json_does_not_have_are_null(capsys: pytest.CaptureFixture[str]) -> None:
    as_json({"low": math.nan, "ends": [math.inf, 1.5]})
    assert json.loads(capsys.readouterr().out) == {"low": None, "ends": [None, 1.5]}


def test_columns_are_aligned() -> None:
    lines = format_table(("id", "name"), [(1, "a"), (22, "bb")], right=("id",))
    assert lines == ["id  name", " 1  a", "22  bb"]


def test_one_long_text_takes_no_column_from_the_others() -> None:
    rows = [("0.71–0.87", "lr=0.004 " * n) for n in (1, 1, 1, 1, 9)]
    heads, *lines = format_table(("95 %", "settings"), rows, optional=("95 %",), dear=("95 %",))
    assert heads.split() == ["95", "%", "settings"]
    assert len(lines[-1]) == 80
    assert lines[-1].endswith("…")
    wide = [("0.71–0.87", "lr=0.004 " * 9) for _ in range(5)]
    assert (
        format_table(("95 %", "settings"), wide, optional=("95 %",), dear=("95 %",))[0]
        == "settings"
    )


def test_a_long_line_is_cut_in_its_flexible_column() -> None:
    (_, line) = format_table(("id", "name"), [(1, "x" * 200)])
    assert count_cells(line) == 80
    assert line.endswith("…")


def test_a_long_name_is_cut_before_the_flexible_column(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [(1, "n" * 80, "ready", "1 paused, 3 done")]
    (_, line) = format_table(("id", "name", "state", "trials"), rows)
    assert line == f"1   {'n' * 50}…  ready  1 paused, 3 done"
    monkeypatch.setenv("COLUMNS", "50")
    (_, line) = format_table(("id", "name", "state", "trials"), rows)
    assert line == f"1   {'n' * 23}…  ready  1 paused, 3 …"


def test_optional_columns_go_first() -> None:
    rows = [("a" * 30, "b" * 30, "c" * 30)]
    assert format_table(("a", "b", "c"), rows, flexible="a", optional=("b",))[0].split() == [
        "a",
        "c",
    ]


def test_wide_characters_take_two_columns() -> None:
    assert count_cells("語") == 2
    assert cut_to_width("語語語", 5) == "語語…"


def test_colour_is_for_terminals_that_want_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert colour_text("done", "green", Terminal()) == "\x1b[32mdone\x1b[0m"
    assert colour_text("done", "green", io.StringIO()) == "done"
    monkeypatch.setenv("NO_COLOR", "1")
    assert colour_text("done", "green", Terminal()) == "done"
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert colour_text("done", "green", Terminal()) == "done"


def test_without_a_terminal_lines_are_as_long_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS")
    assert format_table(["why"], [["x" * 300]])[1] == "x" * 300

"""One text for each value, on the command line and on the screen alike."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

import tui
from tui.paint import line_text
from tui.tables import board
from tui.widgets.lazy_rows import ListRow
from workbench import formatting
from workbench.cli.trials.board import print_board
from workbench.home import Home
from workbench.machine.cards import GPU_START_GAP_S
from workbench.recipe.source import parse_yaml
from workbench.service import BoardRow, JudgedBoard, Service
from workbench.store.board_rows import ScoreDifference
from workbench.user_config import Guards

GIB = 1 << 30


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [
        (None, "-"),
        (0, "0 B"),
        (507_120, "495 KiB"),
        (312 << 20, "312 MiB"),
        (GIB - 1, "1.0 GiB"),
        ((1 << 20) - 1, "1 MiB"),
        (int(7.94 * GIB), "7.9 GiB"),
        (-GIB, "-1.0 GiB"),
    ],
)
def test_a_size_has_the_unit_that_keeps_it_short(n_bytes: int | None, text: str) -> None:
    assert formatting.size(n_bytes) == text


@pytest.mark.parametrize(
    ("seconds", "exact", "rough"),
    [
        (None, "-", "-"),
        (float("nan"), "-", "-"),
        (-3, "0 s", "0 s"),
        (42.4, "42 s", "42 s"),
        (59.6, "1 min 00 s", "59 s"),
        (200, "3 min 20 s", "3 min"),
        (18_120, "5 h 02 min", "5 h 02 min"),
        (273_600, "3 d 4 h", "3 d 4 h"),
    ],
)
def test_a_duration_has_two_units_at_most(seconds: float | None, exact: str, rough: str) -> None:
    assert formatting.duration(seconds) == exact
    assert formatting.rough_duration(seconds) == rough


def test_estimates_and_ages_are_rough() -> None:
    assert [formatting.time_left(s) for s in (None, 0.4, 700)] == ["-", "almost done", "~11 min"]
    assert [formatting.time_left_phrase(s) for s in (0.4, 700)] == ["almost done", "~11 min left"]
    assert [formatting.age(s) for s in (None, 1, 100)] == ["-", "just now", "1 min ago"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (math.inf, "inf"),
        (-math.inf, "-inf"),
        (math.nan, "NaN"),
        (0.0, "0"),
        (0.91234, "0.9123"),
        (12.3456, "12.35"),
        (12_345.6, "12346"),
        (1_048_576.0, "1048576"),
        (2e-5, "2e-5"),
        (3.2e9, "3.2e9"),
    ],
)
def test_a_number_has_an_exponent_only_where_it_would_be_long(
    value: float | None, text: str
) -> None:
    assert formatting.number(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        (16, "16"),
        (2e-4, "0.0002"),
        (1e-5, "1e-5"),
        (1_048_576.0, "1048576"),
        (0.000123456789, "0.000123456789"),
        (["q_proj", 1e-4, None], "[q_proj, 0.0001, null]"),
        ({"a": 1, "b": False}, "{a: 1, b: false}"),
        ("\x1b[31mauto", "auto"),
    ],
)
def test_a_setting_reads_as_it_is_typed_in_a_recipe(value: object, text: str) -> None:
    assert formatting.setting_text(value) == text


def test_settings_are_short_where_a_column_is() -> None:
    settings = {"train.learning_rate": 1e-3, "lora.rank": 8}
    assert formatting.settings_line(settings) == "train.learning_rate=0.001 lora.rank=8"
    assert formatting.brief_settings(settings) == "learning_rate=0.001 rank=8"
    assert formatting.brief_settings(settings, short_keys=True) == "lr=0.001 rank=8"
    assert formatting.brief_settings({"a.seed": 8, "b.seed": 1}) == "a.seed=8 b.seed=1"
    assert formatting.brief_settings({"chat.models": [12, None]}) == "chat=trial 12, the base"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (formatting.relative_change(109, 100), "+9%"),
        (formatting.relative_change(50, 100), "-50%"),
        (formatting.relative_change(507_120, 0), ""),
        (formatting.relative_change(507_120, 1_000), "507 times"),
        (formatting.score(0.12345), "0.123"),
        (formatting.score(math.nan), "NaN"),
        (formatting.score(0.5, sign=True), "+0.500"),
        (formatting.score(-0.1, sign=True), "-0.100"),
        (formatting.percent(0.7), "70%"),
        (formatting.rate(1960.4), "1,960"),
        (formatting.size_of_total(None, 24 * GIB), "-/24.0 GiB"),
        (formatting.ranking_rule("perplexity"), "perplexity (lower is better)"),
        (formatting.ranking_rule("exact_match"), "exact_match (higher is better)"),
        (formatting.counts_line({"done": 2, "running": 1}), "1 running, 2 done"),
        (formatting.plural(1, "trial"), "1 trial"),
        (formatting.short_uuid("GPU-6f1a2b3c-0d4e"), "GPU-6f1a"),
        (formatting.short_uuid("attic:GPU-6f1a2b3c-0d4e"), "attic:GPU-6f1a"),
        (formatting.short_uuid("a-very-long-name:GPU-6f1a2b3c"), "a-very-:GPU-6f1a"),
        (formatting.short_uuid("attic:cpu-0"), "attic:cpu-0"),
    ],
)
def test_other_values(text: str, words: str) -> None:
    assert text == words


def _board_row(settings: dict[str, object]) -> BoardRow:
    fields: dict[str, object] = dict.fromkeys(BoardRow.__dataclass_fields__)
    fields |= {"rank": 1, "trial": 7, "number": 1, "kind": "tune", "state": "done", "reason": ""}
    fields |= {"score": 0.91234, "base_score": 1.2, "gain": 0.28766, "scores": {}}
    fields |= {"settings": settings, "attempts": 1, "tokens_per_s": 1960.4, "wall_s": 200.0}
    fields |= {"peak_bytes": 312 << 20, "energy_wh": 1.234}
    fields |= {"score_low": 0.81234, "score_high": 1.01234, "score_rows": 64, "score_note": ""}
    fields |= {"vs_base": ScoreDifference(difference=-0.28766, low=-0.4, high=-0.2, p=0.001)}
    fields |= {"score_approximate": True, "tied_for_first": True, "optimism": 0.0123}
    return BoardRow(**fields)  # type: ignore[arg-type]


def test_the_board_has_the_same_words_on_both_sides(
    home: Home, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    row = _board_row({"train.learning_rate": 2e-5, "lora.rslora": True, "lora.targets": None})
    experiment = next(one for one in Service(home).experiments() if one.rank_by == "loss")
    judged = JudgedBoard(experiment=experiment, rows=[row], verdict="trial 7 is best", notes=())
    print_board(judged)
    printed = capsys.readouterr().out
    columns = board.board_columns(judged)
    shown = dict(
        zip((one.title for one in columns), _texts(board.board_rows(judged)[0]), strict=True)
    )
    assert shown["time"] == "3 min 20 s"
    assert (shown["loss"], shown["95 %"]) == ("0.912*", "~0.812–1.012")
    for title in ("loss", "95 %", "vs base", "tok/s", "peak", "time", "energy"):
        assert f" {shown[title]} " in printed, title
    for title in ("lr", "rslora", "targets"):
        assert f"={shown[title]}" in printed, title


def _texts(row: ListRow) -> list[str]:
    return [line_text(cell) for cell in row.cells if isinstance(cell, tuple)]


@pytest.mark.parametrize(
    "value",
    [
        1.25e-5,
        1e-4,
        1_048_576.0,
        123_456_789.5,
        42,
        True,
        None,
        "auto",
        ["q_proj", 1e-7],
        {"min": 0.5},
    ],
)
def test_a_setting_can_be_read_back_from_its_text(value: object) -> None:
    source = parse_yaml(f"value: {formatting.setting_text(value)}", "recipe.yaml")
    assert source.mistakes == []
    assert source.data == {"value": value}


SCREEN_MODULES = sorted(Path(tui.__file__).parent.rglob("*.py"))


def test_the_guards_line_has_the_gap_that_the_engine_keeps_to() -> None:
    guards = Guards().model_dump()
    assert f"; {GPU_START_GAP_S:g} s between starts of GPUs" in formatting.guards_line(guards)
    assert "; 3 s between starts" in formatting.guards_line({**guards, "start_gap_s": 3.0})


FORMAT = re.compile(r"strftime|:[+,>]*\.\d[eg%f]|GiB|MiB")


@pytest.mark.parametrize("path", SCREEN_MODULES, ids=lambda path: path.name)
def test_the_screen_has_no_formats_of_its_own(path: Path) -> None:
    """The labels of a chart's axis are the exception: they depend on the distance of ticks."""
    lines = path.read_text().splitlines()
    axes = ("chart.py", "log_axis.py")
    assert path.name in axes or not [line for line in lines if FORMAT.search(line)]

from __future__ import annotations

import math

import pytest

from tui.chart import (
    Curve,
    axis_ticks,
    column_ranges,
    draw_curves,
    spark_text,
    tick_label,
    value_range,
)
from tui.paint import line_text, line_width
from workbench.service import Point


def points(*values: float) -> tuple[Point, ...]:
    return tuple(Point(step=10 * n, low=v, high=v) for n, v in enumerate(values))


def test_columns_keep_the_lowest_and_the_highest() -> None:
    many = [Point(step=s, low=math.sin(s), high=math.sin(s) + 1) for s in range(10_000)]
    columns = column_ranges(many, 0, 9_999, 50)
    assert len(columns) == 50
    assert all(run is not None and run[0] < -0.99 and run[1] > 1.99 for run in columns[:-1])


def test_a_gap_between_two_points_is_bridged() -> None:
    assert column_ranges(points(0.0, 4.0), 0, 10, 5) == [
        (0.0, 0.0),
        (1.0, 1.0),
        (2.0, 2.0),
        (3.0, 3.0),
        (4.0, 4.0),
    ]


def test_a_first_outlier_does_not_flatten_the_rest() -> None:
    low, high = value_range(
        [[(900.0, 900.0), *[(1.0 + n / 100, 1.0 + n / 100) for n in range(30)]]]
    )
    assert low == 1.0
    assert high < 2.0


def test_a_steady_fall_is_shown_whole() -> None:
    fall = [(2.4 * 0.97**n, 2.4 * 0.97**n) for n in range(100)]
    assert value_range([fall])[1] == 2.4


def test_a_constant_has_room_around_it() -> None:
    low, high = value_range([[(2.0, 2.0)]])
    assert low < 2.0 < high


def test_ticks_are_round_and_few() -> None:
    assert axis_ticks(0.83, 2.41, 4) == pytest.approx([1.0, 1.5, 2.0])
    assert axis_ticks(1.0, 1.0, 4) == []


@pytest.mark.parametrize(
    ("value", "step", "high", "text"),
    [
        (1.5, 0.5, 2.4, "1.5"),
        (1.75, 0.25, 2.4, "1.75"),
        (12.0, 2.0, 14.0, "12"),
        (16_000.0, 2_000.0, 20_000.0, "16k"),
        (2_250.0, 250.0, 3_000.0, "2250"),
        (2e-4, 1e-4, 4e-4, "2.0e-4"),
        (0.0, 1e-4, 4e-4, "0"),
    ],
)
def test_a_label_has_the_places_its_step_needs(
    value: float, step: float, high: float, text: str
) -> None:
    assert tick_label(value, step, high) == text


def test_a_chart_is_as_large_as_asked_and_has_its_axes() -> None:
    lines = draw_curves([Curve("a", 0, points(3, 2, 1)), Curve("b", 1, points(1, 2, 3))], 60, 10)
    assert [line_width(line) for line in lines] == [60] * 10
    assert "┤" in "".join(line_text(line) for line in lines)
    assert line_text(lines[-1]).strip().startswith("└0")
    assert line_text(lines[-1]).endswith("20 step")


def test_each_curve_ends_in_its_own_glyph() -> None:
    lines = draw_curves([Curve("a", 0, points(3, 2, 1)), Curve("b", 1, points(1, 2, 3))], 60, 10)
    assert line_text(lines[-2])[-1] == "●"
    assert line_text(lines[0])[-1] == "▲"
    tones = {tone for line in lines for _, tone in line}
    assert {"s0", "s1"} <= tones


@pytest.mark.parametrize("size", [(0, 0), (10, 2), (16, 3), (200, 60)])
def test_no_size_breaks_it(size: tuple[int, int]) -> None:
    assert len(draw_curves([Curve("a", 0, points(1.0))], *size)) == size[1]
    assert len(draw_curves([], *size)) == size[1]


def test_a_spark_is_one_line_of_blocks() -> None:
    assert spark_text(points(0, 1, 2, 3), 4) == "▁▃▆█"
    assert spark_text((), 4) == ""

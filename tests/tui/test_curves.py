"""Smoothing, the logarithmic axis, and the window of steps, as plain functions."""

from __future__ import annotations

import math

import pytest

from tests.tui.test_chart import points
from tui.chart import Curve, draw_curves
from tui.curves.log_axis import power_label, power_ticks, to_powers
from tui.curves.smoothing import smooth_points
from tui.curves.zoom import Window, move_window, zoom_in, zoom_out
from tui.paint import line_text


def test_smoothing_keeps_a_constant_and_the_first_value() -> None:
    assert [p.low for p in smooth_points(points(2, 2, 2), 0.9)] == pytest.approx([2, 2, 2])
    first, second = (p.low for p in smooth_points(points(4, 0), 0.5))
    assert first == 4
    assert second == pytest.approx(4 / 3)  # (0.25 * 4 + 0.5 * 0) / (1 - 0.5 ** 2)


def test_smoothing_lessens_noise_and_keeps_the_level() -> None:
    noisy = points(*(1 + (-1) ** n for n in range(200)))
    smooth = smooth_points(noisy, 0.9)[50:]
    assert all(0.9 < p.low < 1.1 for p in smooth)


def test_a_logarithmic_axis_leaves_out_what_has_no_logarithm() -> None:
    assert [p.low for p in to_powers(points(0, 1, 100))] == [0, 2]


@pytest.mark.parametrize(
    ("low", "high", "most", "values"),
    [
        (0.01, 10, 4, [0.01, 0.1, 1, 10]),
        (0.8, 12, 4, [1, 2, 5, 10]),
        (1e-9, 1, 3, [1e-9, 1e-5, 1e-1]),
        (1.1, 1.9, 4, []),
    ],
)
def test_ticks_stand_at_round_values(
    low: float, high: float, most: int, values: list[float]
) -> None:
    ticks = power_ticks(math.log10(low), math.log10(high), most)
    assert [10**tick for tick in ticks] == pytest.approx(values)


@pytest.mark.parametrize(
    ("value", "text"), [(0.02, "0.02"), (5, "5"), (2_000, "2k"), (2e-5, "2e-5"), (1.1, "1.1")]
)
def test_a_tick_is_labelled_with_its_value(value: float, text: str) -> None:
    assert power_label(math.log10(value)) == text


def test_a_fall_by_equal_factors_is_a_straight_line_on_a_logarithmic_axis() -> None:
    curve = Curve("a", 0, points(1000, 100, 10, 1))
    lines = [line_text(line) for line in draw_curves([curve], 40, 13, logarithmic=True)]
    assert [line.split("┤")[0].strip() for line in lines if "┤" in line] == ["1k", "100", "10", "1"]
    assert lines != [line_text(line) for line in draw_curves([curve], 40, 13)]


def test_a_logarithmic_axis_without_a_value_says_so() -> None:
    lines = draw_curves([Curve("a", 0, points(0, 0))], 60, 6, logarithmic=True)
    assert line_text(lines[0]) == " no value above 0, so none on a logarithmic axis"
    assert len(lines) == 6


def test_a_window_is_halved_doubled_and_moved_and_follows_at_the_end() -> None:
    once = zoom_in(None, 400)
    assert once == Window(200)
    assert once.span(400) == (201, 400)
    assert once.span(410) == (211, 410)
    back = move_window(once, -1, 400)
    assert back == Window(200, 300)
    assert back.span(410) == (101, 300)
    assert move_window(back, -9, 400) == Window(200, 200)
    assert move_window(back, 1, 400) == Window(200)
    assert zoom_out(back, 400) is None
    assert zoom_out(Window(50, 300), 400) == Window(100, 300)
    assert zoom_in(Window(8), 400) == Window(8)
    assert move_window(None, 1, 400) is None

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.report.plots import (
    HEIGHT,
    WIDTH,
    Curve,
    Dot,
    curve_plot,
    interval_plot,
    nice_ticks,
    setting_plot,
)

finite = st.floats(-1e9, 1e9, allow_nan=False)


def _dot(score: float, at: object = None, *, best: bool = False) -> Dot:
    return Dot(label="trial 1", score=score, low=score - 1, high=score + 1, best=best, at=at)


@given(finite, finite)
def test_ticks_are_round_rising_and_inside_the_range(one: float, other: float) -> None:
    low, high = sorted((one, other))
    ticks = nice_ticks(low, high)
    assert ticks == sorted(ticks)
    assert len(ticks) <= 7
    room = (high - low) * 1e-6
    assert all(low - room <= tick <= high + room for tick in ticks)


def test_ticks_are_multiples_of_the_nearest_round_step() -> None:
    assert nice_ticks(0, 1) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])
    assert nice_ticks(25, 975) == [200, 400, 600, 800]
    assert nice_ticks(0, 8) == [0, 2, 4, 6, 8]
    assert nice_ticks(3, 3) == [3]


def test_every_plot_is_well_formed_and_stays_in_its_drawing() -> None:
    curves = [
        Curve(label=f"trial <{n}> & co", points=[(1, 2.0 + n), (2, 1.0), (3, math.nan)], best=n < 2)
        for n in range(4)
    ]
    plots = [
        curve_plot(curves, name="eval loss"),
        interval_plot([_dot(0.5), _dot(0.7, best=True)], name="exact_match"),
        setting_plot([_dot(0.5, 8), _dot(0.7, 64)], key="lora.rank", name="loss"),
        setting_plot([_dot(0.5, 1e-5), _dot(0.7, 1e-3)], key="train.learning_rate", name="loss"),
        setting_plot([_dot(0.5, "cosine"), _dot(0.7, True)], key="train.schedule", name="loss"),
    ]
    for plot in plots:
        root = ElementTree.fromstring(plot)
        assert root.get("role") == "img"
        assert root.get("aria-label")
        for circle in root.iter("circle"):
            assert 0 < float(circle.get("cx", "nan")) < WIDTH
            assert 0 < float(circle.get("cy", "nan")) < HEIGHT


def test_settings_that_span_more_than_ten_times_stand_on_a_logarithmic_axis() -> None:
    plot = setting_plot(
        [_dot(1, 1e-5), _dot(1, 1e-4), _dot(1, 1e-3)], key="train.learning_rate", name="loss"
    )
    xs = [float(c.get("cx", "nan")) for c in ElementTree.fromstring(plot).iter("circle")]
    assert xs[1] - xs[0] == pytest.approx(xs[2] - xs[1], abs=0.2)


def test_values_of_a_list_are_the_ticks_and_equal_ones_stand_side_by_side() -> None:
    dots = [_dot(1.0 + n, at) for n, at in enumerate([8, 8, 16, 32, 64])]
    root = ElementTree.fromstring(setting_plot(dots, key="lora.rank", name="loss"))
    labels = [t.text for t in root.iter("text") if t.get("class") == "mid"]
    assert labels == ["8", "16", "32", "64"]
    xs = [float(c.get("cx", "nan")) for c in root.iter("circle")]
    assert 0 < xs[1] - xs[0] < 20 < xs[2] - xs[1]


def test_labels_of_curves_that_end_at_the_same_height_do_not_cover_one_another() -> None:
    curves = [Curve(label=f"trial {n}", points=[(0, 2.0), (1, 1.0)], best=True) for n in range(3)]
    root = ElementTree.fromstring(curve_plot(curves, name="loss"))
    ys = [float(t.get("y", "nan")) for t in root.iter("text") if (t.text or "").startswith("trial")]
    assert len(ys) == 3
    assert min(b - a for a, b in pairwise(ys)) >= 12
    assert max(ys) < HEIGHT - 30  # above the labels of the axis


def test_nothing_is_drawn_where_there_is_nothing_to_compare() -> None:
    assert curve_plot([], name="loss") == ""
    assert curve_plot([Curve(label="a", points=[(1, math.nan)], best=True)], name="loss") == ""
    assert interval_plot([], name="loss") == ""
    assert setting_plot([_dot(0.5, 8), _dot(0.6, 8)], key="lora.rank", name="loss") == ""


def test_labels_from_outside_are_escaped() -> None:
    dot = Dot(label="<script>", score=1.0, low=None, high=None, best=True, at="<b>")
    other = Dot(label="x", score=2.0, low=None, high=None, best=False, at="b")
    for plot in (
        interval_plot([dot], name="<i>"),
        setting_plot([dot, other], key="<k>", name="<i>"),
    ):
        assert "<script>" not in plot
        assert "<i>" not in plot

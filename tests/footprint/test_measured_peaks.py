"""Measured peaks correct the next predictions; one odd run does not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.footprint.measured_peaks import (
    CEILING,
    FLOOR,
    Measured,
    class_key,
    correction_factors,
)

GIB = 1 << 30
KEY = ("cuda", "RTX 3090")


def measured(*ratios: float) -> list[Measured]:
    """Newest first."""
    return [
        Measured(key=KEY, predicted_bytes=10 * GIB, peak_bytes=int(ratio * 10 * GIB))
        for ratio in ratios
    ]


def test_the_median_of_the_newest_corrects() -> None:
    assert correction_factors(measured(1.05, 1.04, 1.06))[KEY] == 1.05
    assert correction_factors(measured(*[1.1] * 9, *[1.3] * 20))[KEY] == 1.1


@pytest.mark.parametrize("held", ["recompute", "long_recompute", "resident"])
def test_how_layers_are_held_makes_a_class_of_plans(held: str) -> None:
    plan = {"layers": 32, "recompute_layers": 0, "long_recompute_layers": 0, "resident_layers": 0}
    none, some, more, every = (
        class_key(KEY, {}, {**plan, f"{held}_layers": count}) for count in (0, 3, 9, 32)
    )
    assert some == more
    assert len({none, some, every}) == 3


@pytest.mark.parametrize("odd", [0.01, 9.0])
def test_one_odd_run_moves_it_by_no_more_than_its_neighbours_differ(odd: float) -> None:
    assert 1.03 <= correction_factors(measured(odd, 1.03, 1.04, 1.05))[KEY] <= 1.05


def test_two_runs_say_nothing_yet() -> None:
    assert KEY not in correction_factors(measured(1.2, 1.2))


def test_a_ratio_is_of_its_own_kind_of_card_and_plan() -> None:
    other = [Measured(key=("cuda", "T4"), predicted_bytes=100, peak_bytes=130)] * 3
    found = correction_factors([*measured(1.01, 1.01, 1.01), *other])
    assert found == {KEY: 1.01, ("cuda", "T4"): 1.3}


@given(st.lists(st.floats(0.001, 50), min_size=3, max_size=20))
def test_a_prediction_is_never_lowered_by_more_than_two_percent(ratios: list[float]) -> None:
    assert FLOOR <= correction_factors(measured(*ratios))[KEY] <= CEILING


def test_a_prediction_of_nothing_is_no_ratio() -> None:
    assert correction_factors([Measured(key=KEY, predicted_bytes=0, peak_bytes=5)] * 4) == {}

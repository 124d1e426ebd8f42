from __future__ import annotations

from dataclasses import replace

import pytest

from tui.time_left import Pace
from workbench.home import Home
from workbench.service import Service, TrialRow
from workbench.trial import State


@pytest.fixture
def row(home: Home) -> TrialRow:
    """A running first attempt, half done after 100 s."""
    found = next(row for row in Service(home).snapshot().trials if row.state is State.RUNNING)
    return replace(found, attempts=1, step=50, total_steps=100, started_utc=1_000.0)


def test_a_first_attempt_is_timed_from_its_start(row: TrialRow) -> None:
    pace = Pace()
    pace.observe([row], now=1_100.0)
    assert pace.left_s(row, now=1_100.0) == pytest.approx(100)
    assert pace.left_s(row, now=1_110.0) == pytest.approx(90)


def test_a_later_attempt_is_timed_by_the_steps_that_were_seen(row: TrialRow) -> None:
    resumed = replace(row, attempts=2)
    pace = Pace()
    pace.observe([resumed], now=1_100.0)
    assert pace.left_s(resumed, now=1_100.0) is None
    later = replace(resumed, step=60)
    pace.observe([later], now=1_105.0)
    assert pace.left_s(later, now=1_105.0) == pytest.approx(20)


def test_a_new_attempt_is_timed_again(row: TrialRow) -> None:
    pace = Pace()
    pace.observe([row], now=1_100.0)
    again = replace(row, attempts=2, started_utc=1_200.0, step=25)
    pace.observe([again], now=1_210.0)
    assert pace.left_s(again, now=1_210.0) is None


def test_a_trial_that_does_not_run_has_no_time_left(row: TrialRow) -> None:
    pace = Pace()
    pace.observe([replace(row, state=State.PAUSED)], now=1_100.0)
    assert pace.left_s(row, now=1_100.0) is None

"""The driver that reports the cards stalls or fails: trials train on, and a warning is shown."""

from __future__ import annotations

import pytest

from tests.support.waiting import wait_for
from tests.support.whole import LIMIT_S, Whole

pytestmark = pytest.mark.fault


@pytest.mark.begins_early
def test_a_sampler_that_stalls_is_replaced_and_training_continues(whole: Whole) -> None:
    whole.two_running()
    attempts = {a.id for a in whole.live()}
    with whole.unharmed():
        whole.arm("sampler.asking=hang")
        stalled = whole.fired()
        wait_for(lambda: _problem(whole), "the cards' silence is told", LIMIT_S)
        assert "no reading of the cards" in _problem(whole)
        assert "the driver may hang" in whole.service.engine().detail
        whole.until_further(whole.steps())
        wait_for(lambda: not _problem(whole), "a new sampler tells", LIMIT_S)
    assert {a.id for a in whole.live()} == attempts
    assert stalled


@pytest.mark.slow
def test_a_sampler_that_fails_is_restarted_and_training_continues(whole: Whole) -> None:
    whole.two_running()
    attempts = {a.id for a in whole.live()}
    with whole.unharmed():
        whole.arm("sampler.asking=raise")
        whole.fired()
        seen = {card.uuid: card.seen_utc for card in whole.service.snapshot().cards}
        whole.until_further(whole.steps())
        later = lambda: all(c.seen_utc > seen[c.uuid] for c in whole.service.snapshot().cards)  # noqa: E731
        wait_for(later, "a new sampler tells", LIMIT_S)
    assert {a.id for a in whole.live()} == attempts


def _problem(whole: Whole) -> str:
    reader = whole.service.reader()
    assert reader is not None
    return reader.fact("cards-problem") or ""

from __future__ import annotations

import pytest

from tui import present

GIB = 1 << 30


@pytest.mark.parametrize(
    ("n", "told"),
    [
        (None, "—"),
        (int(7.94 * GIB), "7.9 GiB"),
        (0, "0 MiB"),
        (50 << 20, "50 MiB"),
        (507_120, "495 KiB"),
    ],
)
def test_bytes_are_told_in_gib_and_small_ones_in_mib(n: int | None, told: str) -> None:
    assert present.gib(n) == told


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (None, "—"),
        (float("nan"), "—"),
        (-3, "0 s"),
        (42.9, "42 s"),
        (61, "1 min"),
        (3_900, "1 h 05 min"),
        (90_000, "1 d 1 h"),
    ],
)
def test_a_span_has_two_units_at_most(seconds: float | None, told: str) -> None:
    assert present.span(seconds) == told


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (None, "—"),
        (float("inf"), "—"),
        (0.0, "0"),
        (0.91234, "0.912"),
        (12.3456, "12.35"),
        (0.0002, "2e-4"),
        (123_456.0, "1.23e5"),
    ],
)
def test_numbers_keep_what_matters(value: float | None, told: str) -> None:
    assert present.number(value) == told


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (2e-4, "2e-4"),
        (0.05, "0.05"),
        (16, "16"),
        (True, "yes"),
        (None, "—"),
        (["a", "b"], "a,b"),
        ({"a": 1}, "a: 1"),
    ],
)
def test_a_setting_is_told_as_one_would_type_it(value: object, told: str) -> None:
    assert present.value(value) == told


def test_settings_are_short_and_clean() -> None:
    told = present.settings({"train.learning_rate": 1e-3, "lora.rank": "\x1b[31m8"})
    assert told == "lr 1e-3 · rank 8"


def test_the_time_left_is_a_dash_while_nothing_is_known() -> None:
    assert [present.eta(s) for s in (None, 0.4, 700)] == ["—", "almost done", "~11 min"]


def test_gains_of_exact_match_are_points_and_of_a_loss_nats() -> None:
    assert present.score_gain(0.125, "exact_match") == "+12.5 pt"
    assert present.score_gain(-0.1, "loss") == "-0.100"
    assert present.ranked_by("perplexity") == "perplexity, down is better"


def test_every_state_has_a_glyph_and_a_word() -> None:
    for word in ("queued", "starting", "running", "paused", "done", "stopped", "pruned", "failed"):
        glyph, _, told = present.state_word(word)
        assert glyph[0].strip()
        assert told[0] == word

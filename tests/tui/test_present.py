"""States, event levels and cards as the screen shows them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tui import present
from tui.paint import line_text
from tui.tables import cards
from workbench.home import Home
from workbench.service import Service, TrialRow
from workbench.trial import DesiredState, State


@pytest.fixture
def row(home: Home) -> TrialRow:
    found = next(row for row in Service(home).snapshot().trials if row.state is State.RUNNING)
    return replace(found, phase="training")


def test_every_state_has_a_glyph_and_a_word() -> None:
    for word in ("queued", "starting", "running", "paused", "done", "stopped", "pruned", "failed"):
        glyph, _, shown = present.named_state(word)
        assert glyph[0].strip()
        assert shown[0] == word


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "● running"),
        ({"phase": "evaluating"}, "● evaluating"),
        ({"desired_state": DesiredState.PAUSE}, "● pausing"),
        ({"desired_state": DesiredState.STOP}, "● stopping"),
        ({"desired_state": DesiredState.KILL}, "● killing"),
        ({"state": State.PAUSED, "desired_state": DesiredState.RUN}, "‖ resuming"),
        ({"state": State.PAUSED, "desired_state": DesiredState.PAUSE}, "‖ paused"),
        ({"state": State.STOPPED, "reason": "stopped by you"}, "■ stopped"),
        ({"state": State.STOPPED, "reason": "killed"}, "■ killed"),
    ],
)
def test_a_state_shows_what_it_is_about_to_become(
    row: TrialRow, changes: dict[str, object], words: str
) -> None:
    assert line_text(present.trial_state(replace(row, **changes))) == words  # type: ignore[arg-type]


def test_the_board_distinguishes_a_kill_from_a_stop() -> None:
    assert line_text(present.named_state("stopped", "killed")) == "■ killed"
    assert line_text(present.named_state("stopped", "it has learned enough")) == "■ stopped"


def test_the_done_share_is_unknown_without_a_total(row: TrialRow) -> None:
    assert present.done_share(replace(row, total_steps=None)) is None
    assert present.done_share(replace(row, step=30, total_steps=60)) == 0.5


def test_cards_without_sensors_have_no_columns_for_them(home: Home) -> None:
    known = Service(home).snapshot().cards
    bare = [replace(card, temperature_c=None, power_w=None) for card in known]
    for shown, titles in ((known, {"temp", "power"}), (bare, set())):
        columns = cards.card_columns(shown)
        assert {column.title for column in columns} & {"temp", "power"} == titles
        assert {len(row.cells) for row in cards.card_rows(shown, [], 0.0)} == {len(columns)}

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import pytest

from tests.tui.filled import NOW
from tui.actions import farewell_text
from tui.messages import DataNeeds, Picture
from tui.paint import Line, line_text, line_width
from tui.view_state import ViewState
from tui.widgets.frame import banner_lines, counts_line, key_line, top_line
from workbench.home import Home
from workbench.service import EngineState, EngineStatus, Service, Snapshot
from workbench.store.writer import Store
from workbench.trial import Kind, State


@pytest.fixture
def snapshot(home: Home) -> Snapshot:
    return Service(home).snapshot()


def engine(
    snapshot: Snapshot, state: EngineState, detail: str = "", braked: bool = False
) -> Snapshot:
    now = EngineStatus(state=state, pid=1, tick_age_s=12.0, detail=detail, braked=braked)
    return replace(snapshot, engine=now)


def joined(lines: list[Line]) -> str:
    return " ".join(line_text(line) for line in lines)


def test_a_healthy_engine_has_no_banner(snapshot: Snapshot) -> None:
    assert banner_lines(engine(snapshot, "running"), 0, 0, "") == []


def test_the_banner_says_why_nothing_new_is_started(snapshot: Snapshot) -> None:
    lines = banner_lines(engine(snapshot, "running", "five crashes [x]", braked=True), 0, 0, "")
    assert joined(lines) == "! Nothing new is started: five crashes [x]"


def test_the_banner_names_a_mistake_in_the_configuration(running: Home) -> None:
    store = Store(running.database, clock=lambda: NOW)
    store.set_fact("config-problem", "config.toml:2: guards.start_gap is not a setting")
    store.close()
    lines = banner_lines(Service(running).snapshot(), 0, 0, "")
    assert joined(lines) == "! config.toml:2: guards.start_gap is not a setting"


def test_a_late_engine_ages_between_readings(snapshot: Snapshot) -> None:
    lines = banner_lines(engine(snapshot, "late"), 100, 130, "")
    assert "answered for 42 s" in joined(lines)


@pytest.mark.parametrize("state", ["starting", "stopping", "stopped", "down"])
def test_every_other_state_says_what_it_means(snapshot: Snapshot, state: EngineState) -> None:
    assert len(joined(banner_lines(engine(snapshot, state, "Ray"), 0, 0, ""))) > 20


@pytest.mark.parametrize("cells", [40, 80, 120, 200])
def test_the_lines_above_and_below_fit(snapshot: Snapshot, cells: int) -> None:
    keys = (("enter", "open"), ("space", "mark"), ("/", "filter"), ("?", "keys"), ("q", "leave"))
    assert line_width(key_line(keys, cells)) <= cells
    assert "leave" in line_text(key_line(keys, cells))
    if cells >= 80:
        above = top_line("Board", engine(snapshot, "stopped"), cells)
        assert line_width(above) <= cells
        assert "■ engine stopped" in line_text(above)


@pytest.mark.parametrize("state", get_args(EngineState))
def test_counts_and_the_engines_state_in_words_fit_60_cells(
    snapshot: Snapshot, state: EngineState
) -> None:
    counts: Line = (("●3", "live"), (" ○12", "dim"), (" ✗1", "bad"))
    above = top_line("Dashboard", engine(snapshot, state), 60, counts)
    assert line_width(above) == 60
    assert "●3 ○12 ✗1  " in line_text(above)
    assert " engine " in line_text(above)


@pytest.mark.parametrize("state", get_args(EngineState))
@pytest.mark.parametrize("failures", ["✗1", "✗12", "✗123"])
def test_unseen_failures_leave_the_engines_word_and_the_views_names_at_80_cells(
    snapshot: Snapshot, state: EngineState, failures: str
) -> None:
    counts: Line = (("●3", "live"), (" ○12", "dim"), (f" {failures}", "bad"))
    above = line_text(top_line("Dashboard", engine(snapshot, state), 80, counts))
    assert len(above) == 80
    word = "late" if state == "late" else state
    assert f"●3 ○12 {failures}  " in above
    assert above.endswith(f" {word} ")
    assert "6 Events " in above


def test_a_read_error_is_a_sentence_of_its_own(snapshot: Snapshot) -> None:
    lines = banner_lines(snapshot, 0, 0, "the folder /tmp/x is gone")
    assert joined(lines) == "! the folder /tmp/x is gone. The screen keeps trying to read it."


def test_the_base_and_scores_on_test_rows_are_not_counted_as_the_command_line_does(
    snapshot: Snapshot,
) -> None:
    tuned = replace(snapshot.trials[0], kind=Kind.TUNE, state=State.QUEUED, settings={})
    base = replace(tuned, id=901, kind=Kind.BASE)
    score = replace(tuned, id=902, kind=Kind.SCORE)
    tested = replace(score, id=903, settings={"score.rows": "test"})
    running_base = replace(base, id=904, state=State.RUNNING)
    view_state = ViewState(lambda: NOW)
    trials = [tuned, base, score, tested, running_base]
    found = replace(snapshot, trials=trials)
    view_state.update(Picture(snapshot=found, needs=DataNeeds(), at_utc=NOW))
    assert line_text(counts_line(view_state)) == "●0 ○2"
    assert "2 waiting" in farewell_text(engine(found, "running"))


def test_leaving_does_not_say_that_nothing_is_left_while_trials_are_to_come(
    snapshot: Snapshot,
) -> None:
    running = engine(snapshot, "running")
    preparing = replace(snapshot.experiments[0], state="preparing", searching=False)
    text = farewell_text(replace(running, trials=[], experiments=[preparing]))
    assert text.startswith("Training goes on without you: 1 experiment with trials to come.")
    ended = replace(preparing, state="ready")
    paused = replace(snapshot.trials[0], kind=Kind.TUNE, state=State.PAUSED)
    text = farewell_text(replace(running, trials=[paused], experiments=[ended]))
    assert text.startswith("Nothing trains; 1 trial paused.")
    assert "Nothing is left" in farewell_text(replace(running, trials=[], experiments=[ended]))


def test_leaving_says_what_goes_on(snapshot: Snapshot) -> None:
    assert "3 trials training, 3 waiting" in farewell_text(engine(snapshot, "running"))
    for state in ("stopping", "stopped", "down"):
        assert "nothing trains" in farewell_text(engine(snapshot, state))
    assert "workbench demo" in farewell_text(None)

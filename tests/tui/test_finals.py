"""The finals on the Board: a table that fits 80 columns, the verdict, and their key."""

from __future__ import annotations

import pytest

from tests.support.row_results import made_up_answers, made_up_losses, put_rows
from tests.tui.conftest import press_and_settle, settled, shown, text, until
from tests.tui.filled import NOW, ROWS
from tui.paint import line_text, line_width
from tui.steering import Cards, input_panel, send_typed
from tui.tables.finals import finals_lines
from tui.widgets.rowlist import RowList
from workbench.errors import UsageError
from workbench.home import Home
from workbench.judging.judged_rows import BoardJudge
from workbench.service import Service
from workbench.store import results
from workbench.store.writer import Store
from workbench.trial import Kind, State

DEMO, BEST, NEXT = 1, 5, 4
"""The experiment of six finished trials, and the two best of them."""
RIGHT = {BEST: (50, 54, 58), NEXT: (44, 47, 46)}


@pytest.fixture
def with_finals(running: Home) -> Home:
    store = Store(running.database, clock=lambda: NOW - 3_600, journal=False)
    with store.writing():
        for finalist, right in RIGHT.items():
            for seed, count in enumerate(right):
                _final(store, finalist, 1_000 * finalist + seed, count)
    store.close()
    return running


def _final(store: Store, finalist: int, seed: int, right: int) -> None:
    settings = {**store.trial(finalist).settings, "train.seed": seed}
    number = store.next_number(DEMO)
    trial = store.add_trial(DEMO, number, Kind.TUNE, settings, finals_of=finalist)
    attempt = store.add_attempt(trial, f"cpu-{trial}", {}, 1, 0)
    scores = {"exact_match": right / ROWS, "loss": 1.0}
    results.put_scores(store, trial, attempt, 60, dict(scores))
    put_rows(
        store,
        trial,
        losses=made_up_losses(1.0, ROWS, seed=trial),
        right=made_up_answers(right, ROWS, seed=trial),
    )
    results.put_adapter(store, trial, attempt, f"trials/{trial}/adapter", 1, "0" * 64)
    store.end_attempt(attempt, "done", "")
    store.update_row("trials", trial, state=State.DONE)


@pytest.mark.parametrize("cells", [58, 78, 118])
def test_the_table_of_finals_fits_the_screen(with_finals: Home, cells: int) -> None:
    store = Store(with_finals.database, clock=lambda: NOW, journal=False)
    board = BoardJudge().judge_experiment(store, DEMO, NOW)
    store.close()
    lines = finals_lines(board, cells)
    assert max(map(line_width, lines)) <= cells
    title, heads, best, other = map(line_text, lines)
    assert title == "finals: means over new seeds"
    assert "ships" in heads
    assert "0.844" in best  # 54 of 64, the mean of its three seeds
    assert "0.714" in other
    assert "seed=" not in best
    assert ("vs base" in heads) == (cells > 100)


async def test_the_board_shows_finals_on_eighty_columns(with_finals: Home) -> None:
    async with shown(with_finals, 80, 24) as (app, pilot):
        await press_and_settle(app, pilot, "4")
        await press_and_settle(app, pilot, "[")
        await until(pilot, lambda: "finals: means over new seeds" in text(app))
        await settled(app, pilot)
        page = text(app)
        assert "finals: trial 5 is best: exact match 0.84" in page
        assert "mean of 3 new" in page
        assert "0.714" in page


async def test_a_pinned_baseline_has_a_column_in_the_finals(with_finals: Home) -> None:
    async with shown(with_finals, 80, 24) as (app, pilot):
        await press_and_settle(app, pilot, "4", "[", "end", "up", "b")
        pinned = app.screen.query_one("#board", RowList).key
        await until(pilot, lambda: text(app).count(f"vs #{pinned}") == 2)
        below = text(app).split("finals: means over new seeds")[1]
        _rest, heads, best, other, *_ = below.splitlines()
        at = heads.index(f"vs #{pinned}") + len(f"vs #{pinned}")
        assert isinstance(pinned, int)
        service = Service(with_finals, lambda: NOW)
        base, board = service.baseline(DEMO, pinned), service.judged_board(DEMO)
        assert service.baseline(DEMO, board.finals[0].trials[0]).finals == {}
        service.close()
        scores = {one.trial: one.score or 0.0 for one in board.rows}
        for line, row in zip((best, other), board.finals, strict=True):
            found = base.finals[row.trial]
            assert found is not None
            assert found.difference == pytest.approx((row.mean or 0.0) - scores[pinned])
            assert found.low < found.difference < found.high
            assert line[:at].endswith(f"{found.difference:+.3f}")


async def test_f_asks_for_finals_of_the_experiment(running: Home) -> None:
    async with shown(running) as (app, pilot):
        await press_and_settle(app, pilot, "4")
        await press_and_settle(app, pilot, "f")
        await until(pilot, lambda: "again with 3 other seeds each" in text(app))


def test_what_is_typed_becomes_the_request(running: Home) -> None:
    service = Service(running)
    experiment, row = service.experiment(DEMO), service.trial(BEST).trial
    cards = Cards.of_snapshot(service.snapshot())
    input_panel("finals", row, experiment, cards, "")
    with pytest.raises(UsageError, match="how many settings and seeds"):
        send_typed("finals", row, experiment, cards, "three")(service)
    send_typed("finals", row, experiment, cards, "2 5")(service)
    [file] = running.requests.glob("*.json")
    assert '"top": 2' in file.read_text()
    assert '"seeds": 5' in file.read_text()
    service.close()

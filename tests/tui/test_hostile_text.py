"""Text of strangers in every view: escapes, wide and zero-width characters, very long words."""

from __future__ import annotations

import json

import pytest
from rich.cells import cell_len

from tests.tui.conftest import frame, press_and_settle, settled, shown, until
from tests.tui.filled import NOW
from tui.screens.panel import Confirm
from tui.widgets.rowlist import RowList
from workbench.home import Home
from workbench.service import Service
from workbench.store import card_table, results, trial_queue
from workbench.store.writer import Store
from workbench.trial import Kind

HOSTILE = (
    "\x1b]52;c;ZXZpbA==\x07\x1b[2J\x9b31m\x90q\x1b\\日本語名前\u200b\u202ee\u0301👩‍👩‍👧[bold]x[/]"
    + "wide" * 200
)
"""Clipboard, erase and colour sequences in 7 and 8 bits, and what breaks widths and markup."""
SIZES = ((60, 16), (120, 40))
PLACES = (("1",), ("2",), ("3",), ("4",), ("4", "left_square_bracket"), ("5",), ("6",))
PAGES = (
    ("2", "enter"),
    ("2", "enter", "l"),
    ("2", "G", "enter"),
    ("5", "enter"),
    ("6", "G", "enter"),
)


@pytest.fixture
def hostile(running: Home) -> Home:
    """A home in which every text that came from outside is hostile."""
    store = Store(running.database, clock=lambda: NOW)
    with store.writing():
        store.db.execute("update experiments set name = ? || id", (HOSTILE,))
        store.db.execute("update trials set reason = ?, mend = ?, waiting = ?", (HOSTILE,) * 3)
        settings = json.dumps({"data.train": HOSTILE, "lora.rank": 8})
        store.db.execute("update trials set settings = ?", (settings,))
        store.db.execute("update events set text = ?", (HOSTILE,))
        store.db.execute("update cards set name = ?", (HOSTILE,))
        store.db.execute("update samples set question = ?, answer = ?", (HOSTILE, HOSTILE))
        store.db.execute("update moves set why = ?", (HOSTILE,))
    experiment = store.add_experiment({"name": HOSTILE, "model": {"name": HOSTILE}}, "loss")
    base = store.add_trial(experiment, 0, Kind.BASE, {})
    store.mark_ready(experiment, {}, {}, base)
    trial = store.add_trial(experiment, 1, Kind.TUNE, {HOSTILE: HOSTILE})
    trial_queue.explain_trial(store, trial, HOSTILE)
    store.note(HOSTILE, HOSTILE, trial=trial, level="warning")
    results.put_metrics(store, trial, 1, {HOSTILE: 1.0, "loss": 2.0})
    card = {"uuid": HOSTILE, "kind": "cuda", "name": HOSTILE, "total_bytes": 1, "problem": HOSTILE}
    card_table.record_cards(store, [card])
    store.close()
    return running


async def test_no_view_lets_foreign_text_act_or_break_its_columns(hostile: Home) -> None:
    sizes = list(SIZES)
    async with shown(hostile, *sizes[0]) as (app, pilot):

        async def check(*where: object) -> str:
            seen = ""
            for width, height in sizes:
                if app.size != (width, height):
                    await pilot.resize_terminal(width, height)
                    await settled(app, pilot)
                lines = frame(app)
                assert len(lines) == height, where
                assert {cell_len(line) for line in lines} == {width}, where
                seen += "\n".join(lines)
            sizes.reverse()  # the next place begins with the size of this one's end
            assert not set(seen) & set("\x1b\x9b\x90\x07\u200b\u202e"), where
            return seen

        seen = ""
        for keys in PLACES + PAGES:
            await press_and_settle(app, pilot, *keys)
            seen += await check(*keys)
            while len(app.screen_stack) > 1:  # back from a page to its view
                await press_and_settle(app, pilot, "escape")
        assert "[bold]x[/]" in seen
        await press_and_settle(app, pilot, "2")
        newest = max(row.id for row in Service(hostile).snapshot().trials)
        app.screen.query_one("#trials", RowList).to_key(newest)
        await pilot.press("s")
        await until(pilot, lambda: isinstance(app.screen, Confirm))
        await settled(app, pilot)
        await check("s")

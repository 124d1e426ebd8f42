"""Text of strangers in every view: escapes, wide and zero-width characters, very long words."""

from __future__ import annotations

import json

import pytest
from rich.cells import cell_len

from tests.tui.conftest import frame, press_and_settle, shown
from tests.tui.filled import NOW
from workbench.home import Home
from workbench.store.writer import Store

HOSTILE = (
    "\x1b]52;c;ZXZpbA==\x07\x1b[2J\x9b31m\x90q\x1b\\日本語名前\u200b\u202ee\u0301👩‍👩‍👧[bold]x[/]"
    + "wide" * 200
)
"""Clipboard, erase and colour sequences in 7 and 8 bits, and what breaks widths and markup."""
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
    store.close()
    return running


@pytest.mark.parametrize(("width", "height"), [(60, 16), (120, 40)])
async def test_no_view_lets_foreign_text_act_or_break_its_columns(
    hostile: Home, width: int, height: int
) -> None:
    async with shown(hostile, width, height) as (app, pilot):
        for keys in PLACES + PAGES:
            await press_and_settle(app, pilot, *keys)
            lines = frame(app)
            assert len(lines) == height, keys
            assert {cell_len(line) for line in lines} == {width}, keys
            assert not set("".join(lines)) & set("\x1b\x9b\x90\x07\u200b\u202e"), keys
            while len(app.screen_stack) > 1:  # back from a page to its view
                await press_and_settle(app, pilot, "escape")

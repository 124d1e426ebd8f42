"""The screen that only reads, and the screen in ASCII."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.cells import cell_len

from tests.support.pty_app import PtyApp
from tests.tui.conftest import GOLDENS, settled, text
from tests.tui.filled import NOW
from tui.app import WorkbenchApp
from tui.keys.table import TABLE
from tui.variants.ascii import to_ascii
from tui.variants.readonly import ReadOnly, ReadOnlyService, changes_something
from workbench.home import Home


@pytest.mark.parametrize("golden", sorted(path.stem for path in GOLDENS.glob("*.txt")))
def test_every_view_in_ascii_is_as_wide_as_before(golden: str) -> None:
    lines = (GOLDENS / f"{golden}.txt").read_text().splitlines()
    plain = [to_ascii(line) for line in lines]
    assert all(line.isascii() for line in plain)
    assert [len(line) for line in plain] == [cell_len(line) for line in lines]


def test_ascii_keeps_escape_sequences_and_replaces_all_else() -> None:
    assert to_ascii("\x1b[38;5;4m●\x1b[m 日本 e\u0301") == "\x1b[38;5;4m*\x1b[m ???? e"
    assert to_ascii("⣿⠉⣀⠀") == ":'. "


def test_a_terminal_gets_ascii_alone(running: Home) -> None:
    code = "import sys; from tui.app import run_app; sys.exit(run_app(ascii_only=True))"
    app = PtyApp(running.root, columns=80, rows=24, code=code)
    try:
        app.read_until(lambda: "420 step" in app.text())
        app.send(b"4")
        app.read_until(lambda: "meta-llama/Meta-Llama-3-8B" in app.text())
        assert app.seen.isascii()
    finally:
        app.process.kill()
        app.process.wait()


async def test_a_screen_that_only_reads_says_so_and_sends_nothing(running: Home) -> None:
    app = WorkbenchApp(ReadOnlyService(running, lambda: NOW), now=lambda: NOW, period_s=0.02)
    async with app.run_test(size=(120, 40), notifications=True) as pilot:
        await settled(app, pilot)
        for key in ("p", "s", "K", "c", "E", "S", "H"):
            await pilot.press(key)
            await settled(app, pilot)
            if app.screen_stack[-1] not in app._views():
                await pilot.press("escape")
        await pilot.press("question_mark")
        await settled(app, pilot)
        assert "this screen only reads" in text(app)
    assert list(running.requests.iterdir()) == []


def test_the_service_itself_refuses(tmp_path: Path) -> None:
    service = ReadOnlyService(Home(tmp_path / "home"))
    with pytest.raises(ReadOnly, match="pause was not sent"):
        service.pause(1)
    with pytest.raises(ReadOnly, match="the engine was not started"):
        service.start_engine()
    assert service.ensure_engine()
    assert not (tmp_path / "home").exists()


def test_keys_that_look_are_not_refused() -> None:
    refused = {row.id for row in TABLE if changes_something(row)}
    assert {"trial.stop", "trial.clone", "queue.up", "cards.drain", "engine"} <= refused
    looks = {"filter", "list.open", "list.mark", "trial.metric", "step-out", "go.board", "keys"}
    assert not looks & refused

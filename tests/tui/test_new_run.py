"""The page on which a run begins; its child process is the real one."""

from __future__ import annotations

from typing import Any

import pytest
from textual.pilot import Pilot
from textual.widgets import Input

from tests.tui.conftest import check_golden, settled, shown, text, until
from tests.tui.filled import NOW
from tui.app import WorkbenchApp
from tui.new_run import lines
from tui.new_run.page import NewRun
from tui.paint import line_text
from tui.variants.readonly import ReadOnlyService
from tui.widgets.rowlist import RowList
from workbench.cli.recipes.drafting import hinted_settings
from workbench.home import Home
from workbench.store.requests import Request, scan_requests
from workbench.store.writer import Store
from workbench.trial import State

SIZES = [(60, 16), (80, 24), (120, 40), (160, 50)]


async def opened(app: WorkbenchApp, pilot: Pilot[Any], key: str = "n") -> NewRun:
    """Press the key and return the page once its first plan is there."""
    await pilot.press(key)
    await until(pilot, lambda: isinstance(app.screen, NewRun))
    page = app.screen
    assert isinstance(page, NewRun)
    await until(pilot, lambda: page.answer)
    return page


async def typed(pilot: Pilot[Any], page: NewRun, words: str) -> None:
    """Type settings and wait until they are planned."""
    before = page.answer
    page.query_one(Input).value = words
    await until(pilot, lambda: page.answer is not before and page.answer)


async def choose(pilot: Pilot[Any], page: NewRun, name: str) -> None:
    rows = page.query_one("#recipes", RowList)
    while line_text(rows.rows[int(rows.key or 0)].cells[0]).split()[0] != name:  # type: ignore[arg-type]
        await pilot.press("down")
    await until(pilot, lambda: page.answer.get("name") == name)


async def test_n_plans_a_recipe_on_every_card_and_names_mistakes(
    running: Home,
) -> None:
    async with shown(running, 120, 40) as (app, pilot):
        page = await opened(app, pilot)
        await choose(pilot, page, "llama3-8b-qlora")
        snapshot = app.view_state.snapshot
        assert snapshot is not None
        assert [one["name"] for one in page.answer["cards"]] == [
            card.name for card in snapshot.cards if card.present
        ]
        before = page.answer["cards"][0]["peak_bytes"]
        await typed(pilot, page, "lora.rnak=8")
        await pilot.pause()
        assert "Did you mean lora.rank?" in " ".join(text(app).split())
        await pilot.press("enter")
        await pilot.pause()
        assert app.screen is page
        assert list(scan_requests(running.requests)) == []
        await typed(pilot, page, "rank=64 max_tokens=2048")
        assert page.answer["changed"] == ["data.max_tokens", "lora.rank"]
        assert page.answer["cards"][0]["peak_bytes"] != before
        await pilot.pause()
        assert "▸  lora.rank" in text(app)
        await pilot.press("enter")
        await until(pilot, lambda: list(scan_requests(running.requests)))
        ((_, request),) = scan_requests(running.requests)
        assert isinstance(request, Request)
        assert request.verb == "submit"
        assert request.args["recipe"]["lora"]["rank"] == 64


async def test_c_on_a_failed_trial_begins_with_its_hint_applied(whole: Home) -> None:
    store = Store(whole.database, clock=lambda: NOW)
    failed = next(row.id for row in store.trials() if row.state is State.FAILED)
    store.close()
    async with shown(whole, 120, 40) as (app, pilot):
        await pilot.press("2")
        await settled(app, pilot)
        app.screen.query_one("#trials", RowList).to_key(failed)
        page = await opened(app, pilot, "c")
        await until(pilot, lambda: page.answer.get("changes"))
        key, value = page.query_one(Input).value.split("=")
        assert key == "train.learning_rate"
        assert float(value) == pytest.approx(page.answer["changes"]["train.learning_rate"])


async def test_a_screen_that_only_reads_opens_no_page(running: Home) -> None:
    app = WorkbenchApp(ReadOnlyService(running, lambda: NOW), now=lambda: NOW, period_s=0.02)
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(app, pilot)
        await pilot.press("n")
        await pilot.pause()
        assert not isinstance(app.screen, NewRun)


async def test_the_page_looks_as_its_golden_at_every_size(running: Home) -> None:
    async with shown(running, *SIZES[-1]) as (app, pilot):
        page = await opened(app, pilot)
        await choose(pilot, page, "llama3-8b-qlora")
        await typed(pilot, page, "rank=64")
        for width, height in reversed(SIZES):
            await pilot.resize_terminal(width, height)
            await settled(app, pilot)
            check_golden(app, f"new-run-{width}x{height}")


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        ("lower train.learning_rate, or raise train.warmup", "train.learning_rate=0.0001"),
        ("lower data.max_tokens to 1024, or stop trial 5", "data.max_tokens=1024"),
        ("set model.attention: eager", "model.attention=eager"),
        ("set model.precision: bf16 or fp32", "model.precision=bf16"),
        ("raise lora.rank", "lora.rank=32"),
        ("free some space", ""),
        ("lower train.learning_rte", ""),
    ],
)
def test_a_hint_becomes_settings(hint: str, words: str) -> None:
    settings = {"train.learning_rate": 2e-4, "data.max_tokens": 4096, "lora.rank": 16}
    assert hinted_settings(hint, settings) == words


def test_a_mistake_begins_with_what_was_typed_and_no_option_of_a_command() -> None:
    answer = {"ok": False, "error": "-s rnk=8: rnk is no setting\n-s x: write it as key=value"}
    assert [line_text(line) for line in lines.about_lines(answer)] == [
        "✗ rnk=8: rnk is no setting",
        "✗ x: write it as key=value",
    ]


def test_the_check_says_what_it_found() -> None:
    refused = {"ok": False, "error": "rows.jsonl:3: unknown role", "hint": "write user"}
    shown_lines = [line_text(line) for line in lines.check_lines(refused, None)]
    assert shown_lines == ["✗ rows.jsonl:3: unknown role", "  → write user"]

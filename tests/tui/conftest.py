"""A filled home, an app over it with a frozen clock, and functions that wait for a condition."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from textual import _wait
from textual.css.model import RuleSet
from textual.css.stylesheet import Stylesheet
from textual.css.types import CSSLocation
from textual.dom import DOMNode
from textual.pilot import Pilot
from textual.screen import Screen
from textual.widget import Widget

from tests.tui.filled import NOW, engine_running, fill
from tui.app import WorkbenchApp
from tui.screens.view import View
from workbench.home import Home
from workbench.recipe import Recipe
from workbench.service import Service
from workbench.store.requests import Request, scan_requests
from workbench.store.rows import RequestAnswer
from workbench.store.writer import Store

VALID = {"name": "whole", "model": {"name": "workbench:demo/model"}}
VALID |= {"data": {"train": "workbench:demo/data/train.jsonl"}}
GOLDENS = Path(__file__).parent / "goldens"


class NoEngine(Service):
    """A Service that writes a marker file where the real one would start a keeper."""

    def start_engine(self) -> None:
        self.home.make()
        self.home.stopped.unlink(missing_ok=True)
        (self.home.root / "started").touch()


_PARSED: dict[tuple[object, ...], list[RuleSet]] = {}
_parse_rules = Stylesheet._parse_rules


def _parse_rules_once(sheet: Stylesheet, css: str, read_from: CSSLocation, **how: Any) -> Any:
    """Return the rules of a style sheet from a cache of the process.

    Textual parses all sheets twice for every new view, a quarter of these tests' time.
    """
    key = (css, read_from, *sorted(how.items()), *sheet._variables.items())
    if key not in _PARSED:
        _PARSED[key] = _parse_rules(sheet, css, read_from, **how)
    return _PARSED[key]


@pytest.fixture(autouse=True)
def _plain_surroundings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("SSH_CONNECTION", "NO_COLOR", "COLORFGBG", "WORKBENCH_THEME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Stylesheet, "_parse_rules", _parse_rules_once)
    # After each key, Pilot waits twice until so long a time, together one frame, was idle.
    monkeypatch.setattr(_wait, "SLEEP_GRANULARITY", 0.01)
    monkeypatch.setattr(_wait, "SLEEP_IDLE", 0.001)
    monkeypatch.setenv("TERM", "xterm-256color")  # of 16 colours there is one theme only
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("filled") / "home"
    fill(Home(root))
    return root


@pytest.fixture
def home(template: Path, tmp_path: Path) -> Home:
    """A filled home without an engine."""
    shutil.copytree(template, tmp_path / "home")
    return Home(tmp_path / "home")


@pytest.fixture
def empty_home(tmp_path: Path) -> Home:
    return Home(tmp_path / "nothing" / "here")


@pytest.fixture
def running(home: Home) -> Iterator[Home]:
    """A filled home with an engine that ticks."""
    with engine_running(home):
        yield home


def answer(home: Home, ok: bool, said: str, hint: str = "") -> None:
    """Answer every request as the engine would: record it in the store and unlink its file."""
    store = Store(home.database, clock=lambda: NOW)
    for path, request in scan_requests(home.requests):
        assert isinstance(request, Request)
        store.record_answer(request, RequestAnswer(ok=ok, text=said, hint=hint, data={}))
        path.unlink()
    store.close()


@pytest.fixture
def whole(running: Home) -> Home:
    """A running home whose experiments have complete recipes, as those of a real engine do."""
    store = Store(running.database, clock=lambda: NOW)
    recipe = Recipe.model_validate(VALID).model_dump_json()
    with store.writing():
        store.db.execute("update experiments set recipe = ?", (recipe,))
    store.close()
    return running


async def until(pilot: Pilot[Any], fact: Callable[[], object], name: str = "the condition") -> None:
    """Wait until the condition of that name holds, 20 s at most."""
    end = time.monotonic() + 20
    while not fact():
        assert time.monotonic() < end, f"{name} did not hold within 20 s"
        await pilot.pause(0.01)


async def settled(app: WorkbenchApp, pilot: Pilot[Any]) -> None:
    """Wait until what the screen needs was read and painted."""

    def read() -> bool:
        picture = app.view_state.picture
        view = app.screen
        if picture is None or not isinstance(view, View):
            return picture is not None
        return view.there and picture.needs == view.needs()

    def painted() -> bool:
        return not any(_is_due(widget) for widget in app.screen.walk_children(with_self=True))

    # What was painted may ask for more, as a list does for its first row or a scroll bar for the
    # column it takes, and on a busy machine a pause ends before the layout is due.
    while True:
        await until(pilot, read)
        await pilot.pause()
        if read() and painted():
            return


def _is_due(widget: DOMNode) -> bool:
    """Return whether the widget has messages to handle, or is yet to be laid out or painted."""
    assert isinstance(widget, Widget)
    return bool(
        widget.message_queue_size
        or widget._layout_required
        or widget._scroll_required
        or widget._repaint_required
        or widget._recompose_required
        or (isinstance(widget, Screen) and (widget._dirty_widgets or widget._callbacks))
    )


async def press_and_settle(app: WorkbenchApp, pilot: Pilot[Any], *keys: str) -> None:
    """Press the keys one after another, and wait until what they lead to was read and painted."""
    for key in keys:
        await pilot.press(key)
        await settled(app, pilot)


@asynccontextmanager
async def shown(
    home: Home,
    width: int = 120,
    height: int = 40,
    *,
    now: Callable[[], float] = lambda: NOW,
    readable: bool = True,
) -> AsyncIterator[tuple[WorkbenchApp, Pilot[Any]]]:
    """Run the app over `home` and yield it once its first picture is painted."""
    app = WorkbenchApp(NoEngine(home, now), now=now, period_s=0.02)
    async with app.run_test(size=(width, height), notifications=True) as pilot:
        if readable:
            await settled(app, pilot)
        yield app, pilot


async def answer_all(
    app: WorkbenchApp, pilot: Pilot[Any], home: Home, said: str = "it is done"
) -> None:
    """Grant every request with these words, and wait until the screen has heard and said them."""
    answer(home, True, said)
    await until(pilot, lambda: said in text(app) and not app.view_state._expected)
    app.clear_notifications()
    await settled(app, pilot)


def frame(app: WorkbenchApp) -> list[str]:
    """Return the screen as lines of plain text."""
    strips = app.screen._compositor.render_strips()
    return ["".join(segment.text for segment in strip) for strip in strips]


def text(app: WorkbenchApp) -> str:
    return "\n".join(frame(app))


def check_golden(app: WorkbenchApp, name: str) -> None:
    """Compare the screen with `goldens/NAME.txt`; WORKBENCH_GOLDENS=write replaces the file."""
    compare_golden(name, frame(app))


def compare_golden(name: str, lines: list[str]) -> None:
    shown_now = "".join(f"{line.rstrip()}\n" for line in lines)
    path = GOLDENS / f"{name}.txt"
    if os.environ.get("WORKBENCH_GOLDENS") == "write":
        path.parent.mkdir(exist_ok=True)
        path.write_text(shown_now)
    assert path.exists(), f"no golden {name}; write it with WORKBENCH_GOLDENS=write"
    assert shown_now == path.read_text()

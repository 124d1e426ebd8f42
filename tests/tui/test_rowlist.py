"""A list costs what is in sight, and the log follows once the keys have paused."""

from __future__ import annotations

from textual.app import App, ComposeResult
from textual.screen import Screen

from tests.tui.conftest import settled, shown, until
from tui.messages import DataNeeds
from tui.poller import read_picture
from tui.screens.dashboard import Dashboard
from tui.theme import DEFAULTS
from tui.widgets import strips
from tui.widgets.columns import Column
from tui.widgets.lazy_rows import LazyRows, ListRow
from tui.widgets.rowlist import RowList
from workbench.home import Home
from workbench.service import Service

COLUMNS = (Column(title="row", width=20),)


class Listed(Screen[None]):
    COMPONENT_CLASSES = strips.CLASSES

    def compose(self) -> ComposeResult:
        yield RowList(id="rows")


class ListApp(App[None]):
    """An app with one list; `built` are the places of the rows that were built."""

    CSS = "RowList { height: 1fr; }"

    def __init__(self) -> None:
        super().__init__()
        self.built: list[int] = []

    def get_theme_variable_defaults(self) -> dict[str, str]:
        return DEFAULTS

    def on_mount(self) -> None:
        self.push_screen(Listed())

    def fill(self, rows: int = 10_000) -> RowList:
        def build(place: int) -> ListRow:
            self.built.append(place)
            return ListRow(place, (((f"row {place}", ""),),))

        listed = self.screen.query_one(RowList)
        listed.show(COLUMNS, LazyRows(range(rows), build))
        return listed


async def test_of_ten_thousand_rows_those_in_sight_are_built() -> None:
    app = ListApp()
    async with app.run_test(size=(40, 20)) as pilot:
        app.fill()
        await pilot.pause()
        await pilot.press("j", "G")
        await pilot.pause()
        app.fill()
        await pilot.pause()
        assert 0 < len(set(app.built)) <= 60
        assert 9_999 in app.built


async def test_a_list_that_was_scrolled_away_from_its_cursor_stays_there() -> None:
    app = ListApp()
    async with app.run_test(size=(40, 20)) as pilot:
        rows = app.fill()
        await pilot.pause()
        rows.scroll_to(y=500, animate=False, force=True)
        await pilot.pause()
        app.fill(10_001)
        await pilot.pause()
        assert rows.scroll_offset.y == 500
        await pilot.press("j")
        await pilot.pause()
        assert rows.scroll_offset.y < 20


async def test_the_log_follows_once_the_keys_have_paused(running: Home) -> None:
    async with shown(running) as (app, pilot):
        view = app.screen
        assert isinstance(view, Dashboard)
        app.view_state.follow_s = 3_600
        before = view.needs().events_of
        await pilot.press("j")
        await pilot.pause()
        assert view.chosen != before
        assert view.needs().events_of == before
        app.view_state.follow_s = 0.01
        await pilot.press("j")
        await until(pilot, lambda: view.needs().events_of == view.chosen)
        await settled(app, pilot)
        assert app.view_state.picture is not None
        assert app.view_state.picture.needs.events_of == view.chosen


def test_what_has_not_changed_is_not_read_again(running: Home) -> None:
    service = Service(running)
    first = read_picture(service, DataNeeds())
    again = read_picture(service, DataNeeds(events_of=13), first.snapshot)
    assert again.snapshot.trials is first.snapshot.trials
    assert again.events
    service.close()

"""The panel that chooses which columns of the list of trials are shown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import VerticalScroll

from tui.screens.panel import Overlay
from tui.widgets.columns import Column
from tui.widgets.lazy_rows import ListRow
from tui.widgets.linebox import set_title
from tui.widgets.rowlist import RowList


class ColumnsPanel(Overlay[None]):
    """A list of columns; space or enter shows or hides the one under the cursor."""

    BINDINGS: ClassVar[list[BindingType]] = [("escape,q", "dismiss(None)", "Close")]

    def __init__(self, titles: Sequence[str], hidden: set[str]) -> None:
        """`hidden` is changed as the user chooses."""
        super().__init__()
        self._titles, self._hidden = titles, hidden

    def compose(self) -> ComposeResult:
        with VerticalScroll(classes="panel"):
            yield RowList(id="columns", header=False)

    def fill(self) -> None:
        set_title(self.query_one(".panel"), " Columns ")
        self.query_one(".panel").border_subtitle = " space shows or hides · esc closes "
        self.query_one(RowList).styles.height = len(self._titles)
        self._paint()
        self.query_one(RowList).focus()

    def _paint(self) -> None:
        rows = [
            ListRow(title, ((("[ ]" if title in self._hidden else "[x]", ""),), ((title, ""),)))
            for title in self._titles
        ]
        columns = (Column(title="", width=3), Column(title="", width=12, grow=1))
        self.query_one(RowList).show(columns, rows)

    @on(RowList.Marked)
    @on(RowList.Opened)
    def _toggle(self, event: RowList.Reached) -> None:
        self._hidden ^= {str(event.key)}
        self._paint()

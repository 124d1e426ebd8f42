"""View 5: the cards, and every fact about the card under the cursor."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from textual import on
from textual.binding import BindingType
from textual.containers import Container
from textual.widget import Widget
from textual.widgets import Input

from tui.curves.area import area_lines, card_areas
from tui.keys.keymap import place_bindings
from tui.messages import DataNeeds, QuarantineAsked, SendAsked, TrialOpened
from tui.paint import Line
from tui.screens.view import View
from tui.tables import boxes, cards
from tui.tables.filters import rows_with
from tui.widgets.drawing import Drawing
from tui.widgets.lazy_rows import LazyRows
from tui.widgets.linebox import LineBox, set_title
from tui.widgets.rowlist import RowList
from workbench.service import CardRow, Snapshot

NO_CARDS = "no cards found yet; the engine lists them once it runs"

NO_HISTORY = "no minute has been recorded yet; the engine records one after another"


class Cards(View):
    """A list of cards above facts and history of one; trials are acted on through their card."""

    HERE = "Cards"
    FILTERS = True
    BINDINGS: ClassVar[list[BindingType]] = [*place_bindings("Cards")]

    history_alone = False
    """True while the card's facts make room for its history."""
    _groups: boxes.Groups = {}  # noqa: RUF012
    """The machines of a cluster with their cards, as far as the filter leaves them."""

    def body(self) -> Iterable[Widget]:
        yield RowList(id="cards", empty=NO_CARDS)
        yield Container(
            LineBox(id="about", wrapped=True, indent=20), Drawing(id="history"), id="card"
        )

    def needs(self) -> DataNeeds:
        card = self._card()
        return DataNeeds(card=card.uuid if card else None)

    def _card(self) -> CardRow | None:
        key = self.query_one("#cards", RowList).key
        known = self.view_state.snapshot.cards if self.view_state.snapshot else []
        return next((card for card in known if card.uuid == key), None)

    @property
    def chosen(self) -> int | None:
        card = self._card()
        return card.trial if card else None

    def action_drain(self, now: bool) -> None:
        card = self._card()
        if card is None:
            self.app.bell()
        elif card.quarantined and not now:
            self.post_message(QuarantineAsked(card))
        elif card.drained and not now:
            self.post_message(SendAsked("undrain", card=card.uuid))
        else:
            self.post_message(SendAsked("drain", card=card.uuid, now=now))

    def action_history(self) -> None:
        """Show the card's last hour and day in the room of its facts, or the facts again."""
        self.history_alone = not self.history_alone
        self.repaint()

    def paint_body(self, snapshot: Snapshot) -> None:
        now = self.view_state.now()
        rows = self.query_one("#cards", RowList)
        ordered = cards.number_order(snapshot.cards, snapshot.slots)
        self._groups = boxes.box_groups(ordered, self.filter) if boxes.is_cluster(ordered) else {}
        if boxes.is_cluster(ordered):
            columns = boxes.box_columns(ordered)
            shown, count = boxes.grouped_rows(
                self._groups, snapshot.trials, now, snapshot.slots, self.filter
            )
        else:
            columns = cards.card_columns(ordered)
            known = cards.card_rows(ordered, snapshot.trials, now, snapshot.slots)
            shown = LazyRows.from_rows(rows_with(known, self.filter))
            count = len(shown)
        empty = "no card matches the filter" if self.filter and ordered else NO_CARDS
        lines = len(shown) if self._groups else len(ordered)
        rows.styles.height = max(1, min(lines, self.size.height // 2 - 4)) + 2
        rows.show(columns, shown, empty)
        busy = cards.busy_count(snapshot.cards) or "0 of 0 busy"
        filtered = f" · {count} shown · filter: {self.filter}" if self.filter else ""
        set_title(rows, f"Cards · {busy}{filtered}")
        card, box = self._card(), boxes.box_of_key(rows.key)
        self.query_one("#card").display = card is not None or box in self._groups
        self.set_class(box in self._groups, "-box")
        if card is not None:
            self._paint_card(card, snapshot, now)
        elif box in self._groups:
            self._paint_box(box, snapshot)

    def _paint_box(self, box: str, snapshot: Snapshot) -> None:
        about = self.query_one("#about", LineBox)
        about.show(boxes.box_facts(box, self._groups[box], snapshot.boxes.get(box, {})))
        set_title(about, box)

    def _paint_card(self, card: CardRow, snapshot: Snapshot, now: float) -> None:
        about, history = self.query_one("#about", LineBox), self.query_one("#history", Drawing)
        picture = self.view_state.picture
        detail = picture.card if picture and picture.card else None
        if detail is not None and detail.uuid != card.uuid:
            detail = None  # that of this card is still being read
        self.set_class(self.history_alone, "-history")
        slot, name = snapshot.slots.get(card.uuid), cards.card_label(card, snapshot.slots)
        trial = self.view_state.trial(card.trial)
        about.show(cards.card_facts(card, trial, now, snapshot.guards, slot, detail))
        set_title(about, name)
        set_title(history, f"History · {name}")
        if detail is not None:
            areas = card_areas(detail.history, card)
            nothing: list[Line] = [((NO_HISTORY, "dim"),)]
            history.show(lambda cells, lines: area_lines(areas, now, cells, lines) or nothing)

    @on(RowList.Opened)
    def _open(self, event: RowList.Opened) -> None:
        """Open the card's trial; on a machine's line show its cards alone, or all again."""
        if box := boxes.box_of_key(event.key):
            only_it = f"{boxes.FIELD}{box}"
            self.query_one("#filter", Input).value = "" if self.filter == only_it else only_it
        elif self.chosen is not None:
            self.post_message(TrialOpened(self.chosen))

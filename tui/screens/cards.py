"""View 5: the cards, and every fact about the card under the cursor."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from textual import on
from textual.binding import BindingType
from textual.containers import Container
from textual.widget import Widget

from tui.curves.area import area_lines, card_areas
from tui.keys.keymap import place_bindings
from tui.messages import DataNeeds, QuarantineAsked, SendAsked, TrialOpened
from tui.paint import Line
from tui.screens.view import View
from tui.tables import cards
from tui.tables.filters import rows_with
from tui.widgets.drawing import Drawing
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
        rows.styles.height = max(1, min(len(snapshot.cards), self.size.height // 2 - 4)) + 2
        ordered = cards.number_order(snapshot.cards, snapshot.slots)
        known = cards.card_rows(ordered, snapshot.trials, now, snapshot.slots)
        shown = rows_with(known, self.filter)
        empty = "no card matches the filter" if self.filter and known else NO_CARDS
        rows.show(cards.card_columns(snapshot.cards), shown, empty)
        busy = cards.busy_count(snapshot.cards) or "0 of 0 busy"
        filtered = f" · {len(shown)} shown · filter: {self.filter}" if self.filter else ""
        set_title(rows, f"Cards · {busy}{filtered}")
        card = self._card()
        self.query_one("#card").display = card is not None
        if card is not None:
            self._paint_card(card, snapshot, now)

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
            areas = card_areas(detail.history, card.total_bytes, card.power_limit_w)
            nothing: list[Line] = [((NO_HISTORY, "dim"),)]
            history.show(lambda cells, lines: area_lines(areas, now, cells, lines) or nothing)

    @on(RowList.Opened)
    def _open(self, _event: RowList.Opened) -> None:
        if self.chosen is not None:
            self.post_message(TrialOpened(self.chosen))

"""View 1: cards, trials, the losses of live or marked trials, and the chosen trial's log."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from textual import on
from textual.containers import Horizontal
from textual.widget import Widget

from tui.messages import DataNeeds, TrialOpened
from tui.paint import Line, wrap_line
from tui.screens.view import View
from tui.screens.welcome import welcome_lines
from tui.tables import boxes, cards, events, listing, trials
from tui.tables.card_strip import strip_rows
from tui.view_state import ListingChoice, ViewState
from tui.widgets.columns import Column
from tui.widgets.curves import Curves
from tui.widgets.drawing import Drawing, Room
from tui.widgets.lazy_rows import ListRow
from tui.widgets.linebox import LineBox, set_title
from tui.widgets.rowlist import RowList
from workbench import formatting
from workbench.service import CardRow, Snapshot
from workbench.trial import State

_MOST_CARDS = {"-short": 4, "-mid": 6, "-tall": 8, "-high": 12}
"""Cards with a line of their own, by the class that the terminal's height gives the screen."""
_BELOW = {"-short": 8, "-mid": 11, "-tall": 15, "-high": 20}
"""Lines of the curves and the log at least, by the same class; the style sheet has them too."""
_WANT_CARDS = (State.QUEUED, State.STARTING, State.RUNNING)
_TAIL = 40
"""Events read for the log's tail."""


class Dashboard(View):
    """The view that answers what runs now, where, and how well."""

    HERE = "Dashboard"
    FILTERS = True
    LIST_ALONE = True
    LISTS_TRIALS = True

    def __init__(self, view_state: ViewState) -> None:
        super().__init__(view_state)
        self._listing = listing.TrialListing()

    def body(self) -> Iterable[Widget]:
        yield LineBox(id="welcome", wrapped=True)
        yield LineBox(id="preparing")
        yield RowList(
            id="cards",
            header=False,
            cursor=False,
            empty="no cards found yet; the engine lists them once it runs",
        )
        yield Room(
            RowList(id="trials", empty="no trial matches the filter"),
            Horizontal(
                Curves(id="curves", empty="no loss logged yet"), Drawing(id="tail"), id="below"
            ),
            id="work",
        )

    @property
    def chosen(self) -> int | None:
        key = self.query_one("#trials", RowList).key
        return key if isinstance(key, int) else None

    def needs(self) -> DataNeeds:
        series = tuple((id, "loss") for id in self.view_state.drawn())
        return DataNeeds(series=series, events_of=self.followed, events=_TAIL)

    def paint_body(self, snapshot: Snapshot) -> None:
        now = self.view_state.now()
        empty = not snapshot.trials and not snapshot.experiments
        self.query_one("#welcome").display = empty
        self.query_one("#work").display = not empty
        # Below 20 rows a chart would leave three rows for the trials.
        self.query_one("#below").display = not self.has_class("-tiny")
        steps = welcome_lines(self.view_state.keymap) if empty else ()
        self.query_one("#welcome", LineBox).show(steps)
        self._paint_preparing(snapshot)
        self._paint_cards(snapshot, now)
        if not empty:
            self._paint_trials(snapshot, now)
            self._paint_below()

    def _paint_preparing(self, snapshot: Snapshot) -> None:
        box = self.query_one("#preparing", LineBox)
        newest = max((one.id for one in snapshot.experiments), default=0)
        lines = [
            trials.preparing_line(one)
            for one in snapshot.experiments
            if one.state == "preparing" or (one.state == "refused" and one.id == newest)
        ]
        box.show(lines[:2])
        box.display = bool(lines)

    def _paint_cards(self, snapshot: Snapshot, now: float) -> None:
        rows = self.query_one("#cards", RowList)
        most = next((n for name, n in _MOST_CARDS.items() if self.has_class(name)), 4)
        ordered = cards.number_order(snapshot.cards, snapshot.slots)
        lines: Sequence[ListRow]
        if boxes.is_cluster(ordered):
            columns, lines = self._machines(ordered, snapshot, now, most)
        elif len(ordered) <= most:
            columns = cards.card_columns(ordered)
            lines = cards.card_rows(ordered, snapshot.trials, now, snapshot.slots)
        else:
            trial_of = {
                row.id: row
                for card in ordered
                if (row := self.view_state.trial(card.trial)) is not None
            }
            columns, lines = strip_rows(
                ordered, trial_of, now, snapshot.slots, self.size.width - 2, max(most, 8)
            )
        rows.styles.height = max(1, len(lines)) + 1
        rows.show(columns, lines)
        count = cards.busy_count(snapshot.cards)
        left_out = formatting.cards_used(ordered, snapshot.slots)
        if left_out and any(row.state in _WANT_CARDS for row in snapshot.trials):
            absent = count.partition(" · ")[2]
            count = f"{absent} · {left_out}" if absent else left_out
        set_title(rows, f"Cards · {count}" if count else "Cards")

    def _machines(
        self, ordered: list[CardRow], snapshot: Snapshot, now: float, most: int
    ) -> tuple[tuple[Column, ...], Sequence[ListRow]]:
        """Return a cluster's cards below their machines, or only these where they are many."""
        groups = boxes.box_groups(ordered)
        if len(ordered) + len(groups) > most:
            return boxes.strip_of_boxes(groups, self.size.width - 2, max(most, 8))
        rows, _ = boxes.grouped_rows(groups, snapshot.trials, now, snapshot.slots, "")
        return boxes.box_columns(ordered), rows

    def _paint_trials(self, snapshot: Snapshot, now: float) -> None:
        rows = self.query_one("#trials", RowList)
        choice = ListingChoice()  # the order of Trials belongs to Trials: live ones lead here
        shown = self._listing.listed(snapshot, self.filter, choice)
        settings, told = self._listing.settings(snapshot), self._listing.told(shown)
        runs = not snapshot.engine.has_ended
        facts = trials.RowFacts(
            view_state=self.view_state, now=now, settings=settings, engine_runs=runs, told=told
        )
        live = next((at for at, row in enumerate(shown) if not row.state.live), len(shown))
        rows.show(
            self._listing.fit(trials.DASHBOARD, shown, snapshot, choice, self.size.width),
            trials.dashboard_rows(shown, facts),
            self.empty_words("no trials yet"),
            frozen=live,
        )
        counts, marks = (len(shown), len(snapshot.trials)), len(self.view_state.marked)
        set_title(rows, listing.title("Trials", counts, self.filter, marks, told))
        self._share_room(len(shown))

    def _share_room(self, rows: int) -> None:
        """Give the lines that a short list leaves free to the curves and the log below it."""
        room, table = self.query_one("#work", Room), self.query_one("#trials", RowList)
        lowest = next((n for name, n in _BELOW.items() if self.has_class(name)), 0)
        needed = max(rows, 1) + 2  # with title and head
        short = bool(lowest) and needed + lowest <= room.size.height
        table.styles.height = needed if short else "1fr"
        self.query_one("#below").styles.height = "1fr" if short else None

    @on(Room.Resized)
    def _measured(self) -> None:
        self.paint()  # how much a short list leaves free is another

    def _paint_below(self) -> None:
        curves = self.query_one("#curves", Curves)
        curves.show(self.view_state.curves("loss"))
        set_title(curves, f"Loss · {self.view_state.curves_of} trials")
        picture, tail = self.view_state.picture, self.query_one("#tail", Drawing)
        row = self.view_state.trial(self.followed)
        set_title(tail, f"Log · {formatting.trial_label(row)}" if row else "Log")
        if picture is None or picture.needs.events_of != self.followed:
            return
        known = events.log_lines(picture.events) or [(("no events yet", "dim"),)]

        def draw(cells: int, lines: int) -> list[Line]:
            return [row for line in known for row in wrap_line(line, cells, 11)][-lines:]

        tail.show(draw)

    @on(RowList.Opened, "#trials")
    def _open(self, event: RowList.Opened) -> None:
        if isinstance(event.key, int):
            self.post_message(TrialOpened(event.key))

    @on(RowList.Marked, "#trials")
    def _mark(self, event: RowList.Marked) -> None:
        if isinstance(event.key, int):
            self.view_state.toggle(event.key)
        self.repaint()

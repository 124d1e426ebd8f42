"""View 4: the adapters of an experiment, best first."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from textual import on
from textual.binding import BindingType
from textual.widget import Widget

from tui.keys.keymap import place_bindings
from tui.messages import ChatAsked, ComparisonAsked, DataNeeds, ImportanceAsked, TrialOpened
from tui.paint import Line, plain_part
from tui.screens.view import View
from tui.tables import board
from tui.tables.filters import rows_with
from tui.tables.finals import finals_lines
from tui.widgets.linebox import LineBox, set_title
from tui.widgets.rowlist import RowList
from workbench import formatting
from workbench.service import Experiment, Snapshot
from workbench.trial import KILLED, State


class Board(View):
    """The ranked table of one experiment at a time."""

    HERE = "Board"
    FILTERS = True
    BINDINGS: ClassVar[list[BindingType]] = [*place_bindings("Board")]

    experiment: int | None = None
    """The experiment the user turned to; None shows the newest one with trials."""

    def body(self) -> Iterable[Widget]:
        yield LineBox(id="about", wrapped=True, indent=2)
        yield RowList(id="board", empty="no experiment has trials yet")
        yield LineBox(id="finals")
        yield LineBox(id="claims", wrapped=True, indent=2)
        yield LineBox(id="verdict", wrapped=True, indent=2)

    @property
    def chosen(self) -> int | None:
        key = self.query_one("#board", RowList).key
        return key if isinstance(key, int) else None

    def needs(self) -> DataNeeds:
        found = self._shown()
        return DataNeeds(board=found.id if found else None)

    def _choice(self) -> list[Experiment]:
        """Return the experiments with a board, oldest first; [ and ] turn them in this order."""
        known = self.view_state.snapshot.experiments if self.view_state.snapshot else []
        return [one for one in reversed(known) if one.state == "ready"]

    def _shown(self) -> Experiment | None:
        choice = self._choice()
        found = next((one for one in choice if one.id == self.experiment), None)
        return found or (choice[-1] if choice else None)

    def paint_body(self, snapshot: Snapshot) -> None:
        picture = self.view_state.picture
        rows, about = self.query_one("#board", RowList), self.query_one("#about", LineBox)
        claims, verdict = self.query_one("#claims", LineBox), self.query_one("#verdict", LineBox)
        finals = self.query_one("#finals", LineBox)
        found = self._shown()
        if found is None or picture is None:
            for box in (about, finals, claims, verdict):
                box.show([])
            rows.show((), ())
            set_title(rows, "Board")
            return
        judged = picture.board
        if judged is None or judged.experiment.id != found.id:
            return  # the board of this experiment is still being read
        about.show(self._about(judged.experiment))
        marked = self.view_state.marked
        known = board.board_rows(judged, marked)
        shown = rows_with(known, self.filter)
        empty = "no trial matches the filter" if self.filter else "no experiment has trials yet"
        rows.show(board.board_columns(judged), shown, empty)
        name = f"By {formatting.ranking_rule(judged.experiment.rank_by)}"
        if self.filter:
            self.show_count(rows, name, len(shown), len(known))
        else:
            set_title(rows, name)
        self.set_class(bool(judged.finals), "-finals")
        finals.show(finals_lines(judged, self.size.width - 2))
        claims.show(board.claim_lines(judged, self.chosen))
        verdict.show(board.verdict_lines(judged))

    def _about(self, experiment: Experiment) -> list[Line]:
        choice = self._choice()
        place = next(i for i, one in enumerate(choice, start=1) if one.id == experiment.id)
        words, found = (*State, KILLED), experiment.outcomes
        counts = " · ".join(f"{found[word]} {word}" for word in words if found.get(word))
        model = experiment.recipe.get("model")
        name = model.get("name", "") if isinstance(model, dict) else ""
        return [
            (
                ("‹ ", "accent" if len(choice) > 1 else "faint"),
                plain_part(experiment.name, "bold"),
                (" ›", "accent" if len(choice) > 1 else "faint"),
                (f"  {place} of {len(choice)}   ", "dim"),
                plain_part(name, "dim", 60),
            ),
            (("  ", ""), (counts, "dim")),
        ]

    def action_turn(self, by: int) -> None:
        choice, found = self._choice(), self._shown()
        if found is None:
            return
        at = next(i for i, one in enumerate(choice) if one.id == found.id)
        self.experiment = choice[(at + by) % len(choice)].id
        self.repaint()

    def action_importance(self) -> None:
        if (found := self._shown()) is None:
            self.app.bell()
        else:
            self.post_message(ImportanceAsked(found.id))

    def _chosen_rows(self) -> tuple[int, ...]:
        """Return the marked trials of this board, best first.

        The one under the cursor joins a single mark, and stands alone where nothing is marked.
        """
        picture = self.view_state.picture
        rows = picture.board.rows if picture is not None and picture.board is not None else []
        wanted = {row.trial for row in rows} & self.view_state.marked
        if len(wanted) < 2 and self.chosen is not None:
            wanted |= {self.chosen}
        return tuple(row.trial for row in rows if row.trial in wanted)

    def action_chat(self) -> None:
        """Chat with the chosen adapters; the base answers beside them anyway."""
        rows = self._chosen_rows()
        base = self.view_state.picture and self.view_state.picture.board
        tuned = {row.trial for row in base.rows if row.kind != "base"} if base else set()
        if trials := tuple(trial for trial in rows if trial in tuned):
            self.post_message(ChatAsked(trials))
        else:
            self.app.bell()

    @on(RowList.Marked)
    def _mark(self, event: RowList.Marked) -> None:
        if isinstance(event.key, int) and not self.view_state.toggle(event.key):
            self.notify("eight trials are marked, the most; unmark one first", markup=False)
        self.repaint()

    @on(RowList.Opened)
    def _open(self, event: RowList.Opened) -> None:
        """Compare where trials of this board are marked, else open the one under the cursor."""
        rows = self._chosen_rows()
        if len(rows) > 1:
            self.post_message(ComparisonAsked(rows))
        elif isinstance(event.key, int):
            self.post_message(TrialOpened(event.key))

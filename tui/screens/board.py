"""4: which adapter is best."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from textual import on
from textual.binding import Binding, BindingType
from textual.widget import Widget

from tui import present
from tui.messages import MatteredAsked, TrialOpened, Wants
from tui.paint import Line, plain
from tui.screens.view import View
from tui.tables import board
from tui.widgets.linebox import LineBox, entitle
from tui.widgets.rowlist import RowList
from workbench.service import Experiment, Snapshot
from workbench.trial import State


class Board(View):
    HERE = "Board"
    KEYS: ClassVar[tuple[tuple[str, str], ...]] = (
        ("[ ]", "other experiment"),
        ("enter", "open"),
        ("i", "what mattered"),
        ("c", "clone"),
        ("x", "extend"),
        ("s", "stop"),
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left_square_bracket", "turn(-1)", "The experiment before", key_display="["),
        Binding("right_square_bracket,tab", "turn(1)", "The next experiment", key_display="]"),
        Binding("i", "mattered", "Which settings mattered"),
        Binding("shift+tab", "turn(-1)", show=False),
    ]

    experiment: int | None = None
    """Shown now; the newest one with trials until a person turned to another."""

    def body(self) -> Iterable[Widget]:
        yield LineBox(id="about", wrapped=True, indent=2)
        yield RowList(id="board", empty="no experiment has trials yet")

    @property
    def chosen(self) -> int | None:
        key = self.query_one("#board", RowList).key
        return key if isinstance(key, int) else None

    def wants(self) -> Wants:
        found = self._shown()
        return Wants(board=found.id if found else None)

    def _choice(self) -> list[Experiment]:
        """Oldest first, as [ and ] turn them; refused ones have no board."""
        known = self.view_state.snapshot.experiments if self.view_state.snapshot else []
        return [one for one in reversed(known) if one.state == "ready"]

    def _shown(self) -> Experiment | None:
        choice = self._choice()
        found = next((one for one in choice if one.id == self.experiment), None)
        return found or (choice[-1] if choice else None)

    def paint_body(self, snapshot: Snapshot) -> None:
        picture = self.view_state.picture
        rows, about = self.query_one("#board", RowList), self.query_one("#about", LineBox)
        found = self._shown()
        if found is None or picture is None:
            about.show([])
            rows.show((), ())
            entitle(rows, "Board")
            return
        if picture.board is None or picture.board[0].id != found.id:
            return  # being read
        experiment, ranked = picture.board
        about.show(self._about(experiment))
        rows.show(board.columns(ranked, experiment.rank_by), board.rows(ranked, experiment.rank_by))
        entitle(rows, f"Ranked by {present.ranked_by(experiment.rank_by)}")

    def _about(self, experiment: Experiment) -> list[Line]:
        choice = self._choice()
        place = next(i for i, one in enumerate(choice, start=1) if one.id == experiment.id)
        counts = " · ".join(
            f"{experiment.counts[state]} {state}" for state in State if experiment.counts.get(state)
        )
        model = experiment.recipe.get("model")
        name = model.get("name", "") if isinstance(model, dict) else ""
        return [
            (
                ("‹ ", "accent" if len(choice) > 1 else "faint"),
                plain(experiment.name, "bold"),
                (" ›", "accent" if len(choice) > 1 else "faint"),
                (f"  {place} of {len(choice)}   ", "dim"),
                plain(name, "dim", 60),
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

    def action_mattered(self) -> None:
        if (found := self._shown()) is None:
            self.app.bell()
        else:
            self.post_message(MatteredAsked(found.id))

    @on(RowList.Opened)
    def _open(self, event: RowList.Opened) -> None:
        if isinstance(event.key, int):
            self.post_message(TrialOpened(event.key))

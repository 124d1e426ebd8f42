"""View 4: the adapters of an experiment, best first."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from textual import on
from textual.binding import BindingType
from textual.widget import Widget

from tui.comparing.choosing import compared_trials, comparison_refusal
from tui.comparing.scatter import plot_lines, setting_plots
from tui.keys.keymap import place_bindings
from tui.messages import (
    ActionRefused,
    ChatAsked,
    ComparisonAsked,
    DataNeeds,
    ExportAsked,
    ImportanceAsked,
    MergeAsked,
    TrialOpened,
)
from tui.paint import Line, Part, plain_part
from tui.screens.view import READING, View
from tui.tables import board
from tui.tables.filters import rows_with
from tui.tables.finals import finals_lines
from tui.variants.readonly import WHY as READ_ONLY
from tui.view_state import ViewState
from tui.widgets.drawing import Drawing, Room
from tui.widgets.linebox import LineBox, set_title
from tui.widgets.rowlist import RowList
from workbench import formatting
from workbench.service import Baseline, BoardRow, Experiment, JudgedBoard, Snapshot
from workbench.trial import KILLED, State

_NO_PLOT = "no setting has two values among the trials with a score"
_LEAST_FREE = 9
"""Lines that the table must leave free for plots to stand below it."""
_MOST_ROWS = 24
"""Lines of the plots at most; in higher ones distances look larger than they are."""


class Board(View):
    """The ranked table of one experiment at a time."""

    HERE = "Board"
    FILTERS = True
    BINDINGS: ClassVar[list[BindingType]] = [*place_bindings("Board")]

    def __init__(self, view_state: ViewState) -> None:
        super().__init__(view_state)
        self.experiment: int | None = None
        """The experiment the user turned to; None shows the newest one with trials."""
        self.scatter_alone = False
        """True while the table makes room for the score against each setting."""
        self._pinned: dict[int, int] = {}
        """The baseline of each experiment that has one."""

    def body(self) -> Iterable[Widget]:
        yield LineBox(id="about", wrapped=True, indent=2)
        yield Room(RowList(id="board", empty=READING), Drawing(id="scatter"), id="ranked")
        yield LineBox(id="finals")
        yield LineBox(id="claims", wrapped=True, indent=2)
        yield LineBox(id="verdict", wrapped=True, indent=2)

    @property
    def chosen(self) -> int | None:
        key = self.query_one("#board", RowList).key
        return key if isinstance(key, int) else None

    @property
    def baseline(self) -> int | None:
        """The trial that is pinned on the shown board."""
        found = self._shown()
        return self._pinned.get(found.id) if found else None

    def needs(self) -> DataNeeds:
        found = self._shown()
        return DataNeeds(board=found.id if found else None, baseline=self.baseline)

    def _choice(self) -> list[Experiment]:
        """Return the experiments with a board, oldest first; [ and ] turn them in this order."""
        known = self.view_state.snapshot.experiments if self.view_state.snapshot else []
        return [one for one in reversed(known) if one.state == "ready"]

    def _shown(self) -> Experiment | None:
        choice = self._choice()
        found = next((one for one in choice if one.id == self.experiment), None)
        return found or (choice[-1] if choice else None)

    # --- painting ---

    def paint_body(self, snapshot: Snapshot) -> None:
        picture, found = self.view_state.picture, self._shown()
        if found is None or picture is None:
            self._paint_nothing()
            return
        judged = picture.board
        if judged is None or judged.experiment.id != found.id:
            return  # the board of this experiment is still being read
        baseline = picture.baseline
        if baseline is not None and baseline.trial != self.baseline:
            baseline = None  # that of this baseline is still being read
        self._paint_table(judged, baseline)
        self._paint_scatter(judged)
        self._box("about").show(self._about(judged.experiment))
        self.set_class(bool(judged.finals), "-finals")
        self._box("finals").show(finals_lines(judged, self.size.width - 2, baseline))
        self._box("claims").show(board.claim_lines(judged, self.chosen, baseline))
        self._box("verdict").show(board.verdict_lines(judged))

    def _paint_nothing(self) -> None:
        for id in ("about", "finals", "claims", "verdict"):
            self._box(id).show([])
        self.query_one("#scatter", Drawing).show(None)
        self.remove_class("-roomy", "-scatter")
        rows = self.query_one("#board", RowList)
        key = self.view_state.keymap.shown_key("new")
        rows.show((), (), f"no experiment has trials yet; {key} begins a run")
        set_title(rows, "Board")

    def _paint_table(self, judged: JudgedBoard, baseline: Baseline | None) -> None:
        rows = self.query_one("#board", RowList)
        known = board.board_rows(judged, self.view_state.marked, baseline)
        shown = rows_with(known, self.filter)
        empty = "no trial matches the filter" if self.filter else "it has no trials yet"
        rows.show(board.board_columns(judged, baseline), shown, empty)
        name = f"By {formatting.ranking_rule(judged.experiment.rank_by)}"
        if self.filter:
            self.show_count(rows, name, len(shown), len(known))
        else:
            set_title(rows, name)

    def _paint_scatter(self, judged: JudgedBoard) -> None:
        box, rows = self.query_one("#scatter", Drawing), self.query_one("#board", RowList)
        self.set_class(self.scatter_alone, "-scatter")
        plots = setting_plots(judged.rows, board.swept_keys(judged.rows), self._dot_marks(judged))
        # What the table leaves free: its head and title take two lines, those of the plots one.
        free = self.query_one("#ranked").size.height - len(rows.rows) - 3
        self.set_class(bool(plots) and free >= _LEAST_FREE, "-roomy")
        if self.scatter_alone or self.has_class("-roomy"):
            rows.styles.height = None if self.scatter_alone else len(rows.rows) + 2
        else:
            rows.styles.height = "1fr"
        nothing: list[Line] = [((_NO_PLOT, "dim"),)]
        box.show(lambda cells, lines: plot_lines(plots, cells, min(lines, _MOST_ROWS)) or nothing)
        set_title(box, f"{judged.experiment.rank_by} against each setting")

    def _dot_marks(self, judged: JudgedBoard) -> dict[int, Part]:
        """Return the glyphs of the best trial, the marked ones, the baseline and the chosen one."""
        leader = judged.leader
        marks: dict[int, Part] = {} if leader is None else {leader.trial: ("★", "accent")}
        marks |= dict.fromkeys(self.view_state.marked, ("┃", "accent"))
        if self.baseline is not None:
            marks[self.baseline] = (board.PINNED, "accent")
        if self.chosen is not None:
            marks[self.chosen] = ("●", "bold")
        return marks

    def _box(self, id: str) -> LineBox:
        return self.query_one(f"#{id}", LineBox)

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

    @on(Room.Resized)
    def _measured(self) -> None:
        self.paint()  # what the table leaves free for plots is another

    # --- keys ---

    def refusal(self, id: str) -> str:
        if id == "board.compare":
            return comparison_refusal(self._compared())
        if id in ("board.baseline", "board.merge"):
            return self._board_refusal(id)
        if id.startswith("board.") and self._shown() is None:
            return "no experiment has trials yet"
        return super().refusal(id)

    def _board_refusal(self, id: str) -> str:
        row = next((one for one in self._rows() if one.trial == self.chosen), None)
        if row is None:
            return "no trial is under the cursor"
        if id == "board.merge" and self.view_state.readonly:
            return READ_ONLY
        if id == "board.merge" and row.kind == "base":
            return "the base has no adapter to merge"
        if id == "board.merge" and row.adapter is None:
            return f"trial {row.trial} has no adapter to merge"
        return ""

    def _rows(self) -> list[BoardRow]:
        picture = self.view_state.picture
        return picture.board.rows if picture is not None and picture.board is not None else []

    def action_turn(self, by: int) -> None:
        choice, found = self._choice(), self._shown()
        if found is None:
            return
        at = next(i for i, one in enumerate(choice) if one.id == found.id)
        self.experiment = choice[(at + by) % len(choice)].id
        self.repaint()

    def action_importance(self) -> None:
        if (found := self._shown()) is not None:
            self.post_message(ImportanceAsked(found.id))

    def action_baseline(self) -> None:
        """Pin the trial under the cursor as the baseline; the pinned one is let go."""
        if (found := self._shown()) is not None and self.chosen is not None:
            if self._pinned.pop(found.id, None) != self.chosen:
                self._pinned[found.id] = self.chosen
            self.repaint()

    def action_scatter(self) -> None:
        """Show the score against each setting in the room of the table, or the table again."""
        self.scatter_alone = not self.scatter_alone
        self.repaint()

    def action_export(self) -> None:
        if (found := self._shown()) is not None:
            self.post_message(ExportAsked(found.id, found.name))

    def action_merge(self) -> None:
        if self.chosen is not None:
            self.post_message(MergeAsked(self.chosen))

    def _compared(self) -> tuple[int, ...]:
        marked = self.view_state.marked
        return compared_trials(self._rows(), marked, self.chosen, self.baseline)

    def action_compare(self) -> None:
        self.post_message(ComparisonAsked(self._compared()))

    def action_chat(self) -> None:
        """Chat with the chosen adapters; the base answers beside them anyway."""
        tuned = {row.trial for row in self._rows() if row.kind != "base"}
        rows = compared_trials(self._rows(), self.view_state.marked, self.chosen, None)
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
        rows = compared_trials(self._rows(), self.view_state.marked, self.chosen, None)
        if len(rows) > 1:
            why_not = comparison_refusal(rows)
            self.post_message(ActionRefused(why_not) if why_not else ComparisonAsked(rows))
        elif isinstance(event.key, int):
            self.post_message(TrialOpened(event.key))

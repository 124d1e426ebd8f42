"""The part of the app for the Board: comparing trials, writing the board, merging an adapter."""

from __future__ import annotations

import asyncio
import os
import re

from textual import on, work

from tui import messages as facts
from tui.actions import read_comparison, read_importance
from tui.comparing.files import EXAMPLES, write_board
from tui.new_run.opening import NewRunApp
from tui.paint import Line, plain_part
from tui.screens.panel import InputPanel, Panel
from tui.tables.importance import importance_lines
from workbench.machine.python_children import python_command, python_environment

_LAST_LINES = 6
"""Lines of a merge that failed which are shown."""


class ComparingApp(NewRunApp):
    """An app that answers what the Board asks for."""

    @on(facts.ImportanceAsked)
    def _importance_asked(self, fact: facts.ImportanceAsked) -> None:
        self.poller.ask(read_importance(fact.experiment))

    @on(facts.ImportanceRead)
    def _importance_read(self, fact: facts.ImportanceRead) -> None:
        self.push_screen(Panel("Importance of settings", importance_lines(fact.report)))

    @on(facts.ComparisonAsked)
    def _comparison_asked(self, fact: facts.ComparisonAsked) -> None:
        self.poller.ask(read_comparison(fact.trials))

    @on(facts.ComparisonRead)
    def _comparison_read(self, fact: facts.ComparisonRead) -> None:
        from tui.comparing.page import Compare  # the first picture must not wait for it

        if isinstance(self.screen, Compare):
            self.screen.show_comparison(fact.found)
        else:
            self.push_screen(Compare(self.view_state, fact.found))

    # --- files of the board ---

    @on(facts.ExportAsked)
    def _export_asked(self, fact: facts.ExportAsked) -> None:
        def answered(text: str | None) -> None:
            if text:
                self.poller.ask(write_board(fact.experiment, text))

        name = re.sub(r"[^\w.-]+", "-", fact.name)
        self.push_screen(InputPanel("Write the board to", EXAMPLES, f"{name}.html"), answered)

    @on(facts.BoardWritten)
    def _board_written(self, fact: facts.BoardWritten) -> None:
        self.say(f"written to {fact.path}")

    # --- merging ---

    @on(facts.MergeAsked)
    def _merge_asked(self, fact: facts.MergeAsked) -> None:
        if self.refuses_unread():
            return
        lines: list[Line] = [
            (("A folder for the whole model: base and adapter as one, for any server.", ""),),
            (),
            (("It takes minutes and goes on in a process of its own if you leave.", "dim"),),
        ]

        def answered(text: str | None) -> None:
            if text:
                self.say(f"merging trial {fact.trial} into {text}")
                self._merge(fact.trial, text)

        title = f"Merge trial {fact.trial} into"
        self.push_screen(InputPanel(title, lines, f"merged-{fact.trial}"), answered)

    @work(exit_on_error=False, name="merge")
    async def _merge(self, trial: int, folder: str) -> None:
        """Run `workbench merge`, and show what it printed.

        The process has a session of its own and writes to a log, so that it outlives the screen.
        """
        path = self.home.logs / f"merge-{trial}.log"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as log:
            child = await asyncio.create_subprocess_exec(
                *python_command("workbench", "merge", str(trial), "--out", folder),
                env=python_environment({**os.environ, "WORKBENCH_HOME": str(self.home.root)}),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        code = await child.wait()
        lines = path.read_text(errors="replace").splitlines()
        if code:
            said = [line for line in lines if line.strip()][-_LAST_LINES:]
            self.show_error(" ".join(said) or f"it ended with {code}", f"see {path}")
            return
        shown: list[Line] = [(plain_part(line),) for line in lines]
        self.push_screen(Panel(f"Trial {trial} was merged", shown, indent=18))

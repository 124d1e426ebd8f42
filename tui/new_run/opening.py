"""The part of the app that opens the New run page, and sends what it asks for."""

from __future__ import annotations

from textual import on

from tui.actions import request_engine_start
from tui.acts.acting import ActingApp
from tui.messages import RequestAnswered, Wish
from tui.variants.readonly import WHY
from workbench.home import Home
from workbench.service import TrialRow


class NewRunApp(ActingApp):
    """An app with a page on which runs begin."""

    home: Home
    _unsent: dict[int | None, str]
    """What was typed on a page that was left or whose request was refused, by trial."""

    def action_new_run(self) -> None:
        self.open_new_run(None)

    def open_new_run(self, trial: TrialRow | None) -> None:
        """Open the page for a recipe, or for a clone of a trial."""
        if self.view_state.readonly:
            self.say(WHY, bad=True)
            return
        if self.refuses_unread():
            return
        from tui.new_run.page import NewRun  # 30 ms that the first picture must not wait for

        page = NewRun(self.view_state, self.home, trial, self._typed_before(trial))

        def answered(wish: Wish | None) -> None:
            self._unsent[trial.id if trial else None] = page.typed
            if wish is not None:
                self.poller.ask(request_engine_start(asked=False))
                self.send([wish])

        self.push_screen(page, answered)

    @on(RequestAnswered)
    def _forget_sent(self, fact: RequestAnswered) -> None:
        """Forget what was typed once it was carried out: an error loses nothing."""
        if fact.answer.ok and fact.dropped.wish.verb in ("submit", "clone"):
            self._unsent.clear()

    def _typed_before(self, trial: TrialRow | None) -> str:
        return self._unsent.get(trial.id if trial else None, "")

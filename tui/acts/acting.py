"""The part of the app that carries out what the user asks for, says how it ended, and undoes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from textual import on

from tui import messages as facts
from tui.actions import act_refusal, look_up_stop, send_wishes
from tui.acts.undo import undo_request
from tui.card_names import card_naming
from tui.keys.hints import hinted_row, repeated_row
from tui.keys.table import APP, ROWS
from tui.messages import RequestDropped, Wish
from tui.poller import Poller
from tui.screens.asking import experiment_panel, many_panel, quarantine_panel, stop_panel
from tui.screens.panel import ErrorPanel
from tui.screens.view import View
from tui.view_state import UndoStep, ViewState
from tui.wire.display import WireApp
from workbench.formatting import plural
from workbench.service import RequestAnswer, TrialRow

_DONE = {"stop": "stopping", "kill": "killed", "pause": "pausing", "resume": "resuming"}


class ActingApp(WireApp[int]):
    """An app whose handlers send requests for one trial, the marked ones, or an experiment."""

    view_state: ViewState
    poller: Poller

    def say(self, text: str, *, bad: bool = False) -> None:
        """Show a notification, the longer the longer its text; text is never markup."""
        kind: Literal["warning", "information"] = "warning" if bad else "information"
        self.notify(text, severity=kind, markup=False, timeout=4 + len(text) / 30)

    def send(self, wishes: Sequence[Wish]) -> None:
        """Drop the requests, each with the one that undoes it as things are now."""
        snapshot = self.view_state.snapshot
        for wish in wishes:
            self.view_state.expect(wish)
        self.poller.ask(send_wishes([(wish, undo_request(wish, snapshot)) for wish in wishes]))

    # --- what was asked ---

    @on(facts.ActionRefused)
    def _action_refused(self, fact: facts.ActionRefused) -> None:
        self.say(fact.why, bad=True)

    @on(facts.SendAsked)
    def _send_asked(self, fact: facts.SendAsked) -> None:
        self.send([fact.wish])

    @on(facts.ActAsked)
    def _act_asked(self, fact: facts.ActAsked) -> None:
        found = [self.view_state.trial(id) for id in fact.trials]
        rows = [row for row in found if row is not None]
        able = [row for row in rows if not act_refusal(fact.verb, row)]
        left = len(fact.trials) - len(able)
        if not able:
            self.say(_none_able(fact.verb, rows), bad=True)
        elif fact.verb not in ("stop", "kill"):
            self._act(fact.verb, able)
        elif len(fact.trials) == 1:
            self.poller.ask(look_up_stop(able[0].id, kill=fact.verb == "kill"))
        else:

            def answered(yes: bool | None) -> None:
                if yes:
                    self._act(fact.verb, able)

            self.push_screen(many_panel(able, left, kill=fact.verb == "kill"), answered)

    def _act(self, verb: str, rows: Sequence[TrialRow]) -> None:
        self.send([Wish(verb, {"trial": row.id}) for row in rows])
        if len(rows) > 1:
            self.view_state.clear_marks()

    @on(facts.StopLookedUp)
    def _stop_looked_up(self, fact: facts.StopLookedUp) -> None:
        def answered(yes: bool | None) -> None:
            if yes:
                self._act("kill" if fact.kill else "stop", [fact.detail.trial])

        self.push_screen(stop_panel(fact, self.view_state.now()), answered)

    @on(facts.ExperimentAsked)
    def _experiment_asked(self, fact: facts.ExperimentAsked) -> None:
        snapshot = self.view_state.snapshot
        known = snapshot.experiments if snapshot else []
        one = next((one for one in known if one.id == fact.experiment), None)
        if one is None or snapshot is None:
            return
        rows = [row for row in snapshot.trials if row.experiment == one.id and not row.state.final]

        def answered(verb: str | None) -> None:
            if verb in ("hold", "release"):
                self.send([Wish(verb, {"experiment": one.id})])
            elif verb in ("pause", "resume"):
                self.send([Wish(f"{verb}-experiment", {"experiment": one.id})])
            elif verb is not None:
                kill = verb == "kill"
                self.push_screen(
                    many_panel(rows, 0, kill=kill), lambda yes: end(verb) if yes else None
                )

        def end(verb: str) -> None:
            self.send([Wish(f"{verb}-experiment", {"experiment": one.id})])

        self.push_screen(experiment_panel(one, rows, self.view_state.keymap), answered)

    @on(facts.QuarantineAsked)
    def _quarantine_asked(self, fact: facts.QuarantineAsked) -> None:
        def answered(yes: bool | None) -> None:
            if yes:
                self.send([Wish("undrain", {"card": fact.card.uuid, "quarantine": True})])

        self.push_screen(quarantine_panel(fact.card), answered)

    @on(facts.UndoAsked)
    def _undo_asked(self) -> None:
        if (step := self.view_state.take_undo()) is not None:
            self.poller.ask(send_wishes([(wish, None) for wish in step.wishes]))

    # --- how it ended ---

    @on(facts.RequestsDropped)
    def _requests_dropped(self, fact: facts.RequestsDropped) -> None:
        """Say that requests wait, where no engine runs; else their answers follow at once."""
        self.view_state.waiting_for(fact.dropped)
        engine = self.view_state.snapshot.engine.state if self.view_state.snapshot else "down"
        if engine != "running":
            word = "the request is" if len(fact.dropped) == 1 else "the requests are"
            self.say(f"{word} carried out once the engine is running")

    @on(facts.RequestAnswered)
    def _request_answered(self, fact: facts.RequestAnswered) -> None:
        snapshot, answer = self.view_state.snapshot, fact.answer
        if snapshot is not None:
            answer = replace(answer, text=card_naming(snapshot)(answer.text))
        ended = self.view_state.answered(fact.dropped, answer)
        if ended is not None:
            self._say_ended(*zip(*ended, strict=True))

    def _say_ended(
        self, dropped: Sequence[RequestDropped], answers: Sequence[RequestAnswer]
    ) -> None:
        """Say how requests ended that were sent together, and keep what undoes them."""
        refused = [answer for answer in answers if not answer.ok]
        done = [(one, answer) for one, answer in zip(dropped, answers, strict=True) if answer.ok]
        reverts = [
            one.revert
            for one, answer in done
            if one.revert is not None and answer.data.get("changed", True)
        ]
        text = "" if not done else done[0][1].text
        if len(done) > 1:
            word = _DONE.get(done[0][0].wish.verb, "done")
            text = f"{plural(len(done), 'trial')}: {word}"
        if reverts:
            self.view_state.keep_undo(UndoStep(text, tuple(reverts)))
            text += f"\n{self.view_state.keymap.shown_key('undo')} undoes it"
        if text:
            self.say(text)
        if refused:
            of = f"{len(refused)} of {len(answers)} were refused. " if len(answers) > 1 else ""
            self.show_error(of + refused[0].text, refused[0].hint, dropped[0].wish.verb)

    # --- what went wrong ---

    def refuses_unread(self) -> bool:
        """Say why the store cannot be read; return False where it can.

        What works in the home, such as a new run, must not begin then: the home may be gone.
        """
        if self.view_state.read_error:
            self.say(self.view_state.read_error, bad=True)
        return bool(self.view_state.read_error)

    def show_error(self, what: str, hint: str, verb: str = "") -> None:
        """Show what went wrong, the hint, and the key that applies it.

        `verb` is the request that failed; where the hint has no key, what was typed for it can be
        typed again.
        """
        keymap, view = self.view_state.keymap, self._topmost_view()
        again = repeated_row(verb, keymap, view.place) if view is not None else None
        options = [
            (keymap.keys_of(id), id, words)
            for id, words in filter(None, (hinted_row(hint), again))
            if keymap.keys_of(id) and view is not None and not view.refusal(id)
        ]
        self.push_screen(ErrorPanel(what, hint, options[:1]), self._apply_hint)

    def _topmost_view(self) -> View | None:
        views = [screen for screen in self.screen_stack if isinstance(screen, View)]
        return views[-1] if views else None

    def _apply_hint(self, id: str | None) -> None:
        """Perform the row of the key table that was chosen in an error panel."""
        view = self._topmost_view()
        if id is None or view is None:
            return
        if ROWS[id].place == APP:
            self.call_later(self.run_action, ROWS[id].action)
        else:
            self.call_later(view.action_press, id)


def _none_able(verb: str, rows: Sequence[TrialRow]) -> str:
    """Return why none of the trials can be acted on."""
    if not rows:
        return "the trial does not exist any more"
    why = act_refusal(verb, rows[0])
    if len(rows) == 1:
        return f"trial {rows[0].id}: {why}"
    return f"none of the {len(rows)} marked trials can {verb}; trial {rows[0].id}: {why}"

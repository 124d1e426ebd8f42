"""The app: modes for the six views, one poller, and what a person's acts become."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, ClassVar, Literal

from textual import on, work
from textual.app import App, SuspendNotSupported, SystemCommand
from textual.binding import Binding, BindingType
from textual.screen import Screen

from tui import messages as facts
from tui import steering, theme
from tui.actions import Started, dropper, farewell, looker, mattered, refusal, starter
from tui.external_editor import edited
from tui.poller import Poller
from tui.screens.asking import help_panel, quarantine_panel, stop_panel
from tui.screens.board import Board
from tui.screens.cards import Cards
from tui.screens.dashboard import Dashboard
from tui.screens.events import Events
from tui.screens.panel import EDITOR, Panel, error_panel
from tui.screens.queue import Queue
from tui.screens.trial import Trial
from tui.screens.trials import Trials
from tui.screens.view import BackAsked, View
from tui.tables.importance import lines as mattered_lines
from tui.terminal import guard
from tui.view_state import ViewState
from workbench.errors import WorkbenchError
from workbench.formatting import counts_line, notice
from workbench.home import Home
from workbench.machine.processes import hush
from workbench.service import Experiment, Service, TrialRow
from workbench.text import safe, safe_line

VIEWS: tuple[type[View], ...] = (Dashboard, Trials, Queue, Board, Cards, Events)
_WITH_WORDS = {
    "clone": "Clone trial {} with other settings",
    "extend": "Extend trial {}",
    "add": "Add a trial beside trial {}",
    "move": "Move trial {} to another card",
    "max-parallel": "Run so many at once of the experiment of trial {}",
}
LOCAL_S = 0.5
REMOTE_S = 1.0


class WorkbenchApp(App[int]):
    """Shows one home. `now` is the clock of ages and times left; `guarded` minds signals."""

    TITLE = "workbench"
    CSS_PATH = "workbench.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [
        *(
            Binding(str(digit), f"app.view('{view.HERE}')", view.HERE)
            for digit, view in enumerate(VIEWS, start=1)
        ),
        Binding("E", "app.start_engine", "Start the engine"),
        Binding("question_mark", "app.keys", "The keys", key_display="?"),
        Binding("colon,ctrl+p", "app.command_palette", "The palette", key_display=":"),
        Binding("q,ctrl+q", "app.leave", "Leave; training goes on", priority=False),
    ]

    def __init__(
        self,
        service: Service,
        *,
        now: Callable[[], float] = time.time,
        guarded: bool = False,
        period_s: float | None = None,
    ) -> None:
        super().__init__()
        self.view_state = ViewState(now)
        remote = "SSH_CONNECTION" in os.environ
        period = period_s or (REMOTE_S if remote else LOCAL_S)
        self.poller = Poller(service, self.post_message, period)
        self._guarded = guarded
        self._typed: dict[tuple[str, int], str] = {}
        """What was typed for an act, kept until one is carried out: a slip loses nothing."""
        self._drafts: dict[int, Path] = {}
        self._ended: frozenset[int] | None = None
        self._unguard: Callable[[], None] = lambda: None

    def on_mount(self) -> None:
        for one in theme.THEMES:
            self.register_theme(one)
        self.theme = theme.choose()
        for view in VIEWS:
            self.add_mode(view.HERE, lambda view=view: view(self.view_state))  # type: ignore[misc]
        self.switch_mode(Dashboard.HERE)
        if self._guarded:
            self._unguard = guard(self.exit)
        self._poll()
        self.poller.ask(starter(asked=False))
        self.set_interval(1.0, self._tick)

    def on_unmount(self) -> None:
        self.poller.stop()
        self._unguard()

    def get_theme_variable_defaults(self) -> dict[str, str]:
        return theme.DEFAULTS

    @work(thread=True, exit_on_error=False, name="poller")
    def _poll(self) -> None:
        self.poller.run()

    # --- painting ---

    def _views(self) -> list[View]:
        """The topmost of the current mode, also under a panel; none while it is being composed."""
        views = [screen for screen in self.screen_stack if isinstance(screen, View)][-1:]
        return [view for view in views if view.there]

    def _tick(self) -> None:
        """Ages and times left go on while nothing changes; unchanged rows are not painted."""
        for view in self._views():
            view.paint()
            self.poller.want(view.wants())

    @on(facts.Seen)
    def _seen(self, fact: facts.Seen) -> None:
        self.view_state.see(fact.picture)
        self._ring(fact.picture.snapshot.experiments)
        try:
            self._tick()
        finally:
            self.call_later(self.poller.painted)  # behind what the paint itself has posted

    def _ring(self, experiments: Iterable[Experiment]) -> None:
        """Bell and desktop notice for what has ended since the last look."""
        ended = {one.id: one for one in experiments if one.ended_utc is not None}
        known, self._ended = self._ended, frozenset(ended)
        for id in sorted(frozenset(ended) - known) if known is not None else ():
            one = ended[id]
            told = counts_line(one.counts) if one.state == "ready" else one.state
            text = f"{one.name} has ended: {told}"
            self._say(text)
            if self._driver is not None:
                self._driver.write(notice(text))

    @on(facts.ReadFailed)
    def _read_failed(self, fact: facts.ReadFailed) -> None:
        self.view_state.read_error = fact.what
        self._tick()
        self.push_screen(error_panel(fact.what, fact.hint))

    @on(facts.WantsChanged)
    def _wants_changed(self) -> None:
        """Of whichever screen; what the one on top wants counts."""
        for view in self._views():
            self.poller.want(view.wants())

    # --- going about ---

    def action_view(self, name: str) -> None:
        while len(self.screen_stack) > 1 and isinstance(self.screen, Trial):
            self.pop_screen()
        self.switch_mode(name)

    @on(facts.TrialOpened)
    def _trial_opened(self, fact: facts.TrialOpened) -> None:
        self.push_screen(Trial(self.view_state, fact.trial))

    @on(BackAsked)
    def _back(self) -> None:
        if len(self.screen_stack) > 1:
            self.pop_screen()
        elif self.current_mode != Dashboard.HERE:
            self.switch_mode(Dashboard.HERE)

    def action_keys(self) -> None:
        self.push_screen(help_panel())

    def action_leave(self) -> None:
        self.exit(0)

    # --- acts ---

    @on(facts.ActAsked)
    def _act_asked(self, fact: facts.ActAsked) -> None:
        row = self.view_state.trial(fact.trial)
        why_not = "it is not there any more" if row is None else refusal(fact.verb, row)
        if why_not:
            self._say(f"trial {fact.trial}: {why_not}", bad=True)
        elif fact.verb in ("stop", "kill"):
            self.poller.ask(looker(fact.trial, kill=fact.verb == "kill"))
        else:
            self.poller.ask(dropper(fact.verb, fact.trial))

    @on(facts.StopLookedUp)
    def _stop_looked_up(self, fact: facts.StopLookedUp) -> None:
        trial = fact.detail.trial.id

        def answered(yes: bool | None) -> None:
            if yes:
                self.poller.ask(dropper("kill" if fact.kill else "stop", trial))

        self.push_screen(stop_panel(fact, self.view_state.now()), answered)

    @on(facts.MatteredAsked)
    def _mattered_asked(self, fact: facts.MatteredAsked) -> None:
        self.poller.ask(mattered(fact.experiment))

    @on(facts.MatteredTold)
    def _mattered_told(self, fact: facts.MatteredTold) -> None:
        self.push_screen(Panel("Which settings mattered", mattered_lines(fact.report)))

    @on(facts.QuarantineAsked)
    def _quarantine_asked(self, fact: facts.QuarantineAsked) -> None:
        def answered(yes: bool | None) -> None:
            if yes:
                self.poller.ask(steering.sender("undrain", card=fact.card.uuid, quarantine=True))

        self.push_screen(quarantine_panel(fact.card), answered)

    @on(facts.WordsAsked)
    def _words_asked(self, fact: facts.WordsAsked) -> None:
        row, snapshot = self.view_state.trial(fact.trial), self.view_state.snapshot
        if row is None or snapshot is None:
            return
        if why_not := steering.refusal(fact.verb, row):
            self._say(f"trial {fact.trial}: {why_not}", bad=True)
            return
        experiment = next(one for one in snapshot.experiments if one.id == row.experiment)
        key, cards = (fact.verb, fact.trial), list(snapshot.cards)

        def answered(words: str | None) -> None:
            if words == EDITOR:
                self._edit(row, experiment)
            elif words:
                self._typed[key] = words
                self.poller.ask(steering.asker(fact.verb, row, experiment, cards, words))

        typed = self._typed.get(key, "")
        self.push_screen(steering.words_panel(fact.verb, row, experiment, cards, typed), answered)

    def _edit(self, row: TrialRow, experiment: Experiment) -> None:
        """A clone, changed in the person's editor; the screen stands still meanwhile."""
        try:
            settings = edited(self, row, experiment, self._drafts)
        except SuspendNotSupported:
            self._say("this terminal cannot be lent to an editor", bad=True)
        except WorkbenchError as wrong:
            self.push_screen(error_panel(safe(wrong.what), safe(wrong.hint)))
        else:
            self.poller.ask(steering.sender("clone", trial=row.id, settings=settings))

    @on(facts.SendAsked)
    def _send_asked(self, fact: facts.SendAsked) -> None:
        self.poller.ask(steering.sender(fact.verb, undo=fact.undo, **fact.args))

    @on(facts.RequestDropped)
    def _request_dropped(self, _fact: facts.RequestDropped) -> None:
        """Its answer comes in a moment, where there is an engine."""
        engine = self.view_state.snapshot.engine.state if self.view_state.snapshot else "down"
        if engine != "running":
            self._say("it is carried out once the engine is running")

    @on(facts.RequestAnswered)
    def _request_answered(self, fact: facts.RequestAnswered) -> None:
        if not fact.answer.ok:
            self.push_screen(error_panel(fact.answer.text, fact.answer.hint))
        else:
            undo = f"\n{fact.dropped.undo}" if fact.dropped.undo else ""
            self._say(fact.answer.text + undo)
            if fact.dropped.trial is None:
                self._typed.clear()

    @on(facts.AskFailed)
    def _ask_failed(self, fact: facts.AskFailed) -> None:
        self.push_screen(error_panel(fact.what, fact.hint))

    def action_start_engine(self) -> None:
        self.poller.ask(starter(asked=True))

    @on(Started)
    def _started(self, fact: Started) -> None:
        if fact.words:
            self._say(fact.words)

    def _say(self, text: str, *, bad: bool = False) -> None:
        kind: Literal["warning", "information"] = "warning" if bad else "information"
        self.notify(text, severity=kind, markup=False, timeout=4 + len(text) / 30)

    # --- the palette ---

    def get_system_commands(self, screen: Screen[object]) -> Iterable[SystemCommand]:
        for view in VIEWS:
            yield SystemCommand(view.HERE, "Go there", lambda n=view.HERE: self.action_view(n))
        if isinstance(screen, View) and screen.chosen is not None:
            for verb in ("stop", "pause", "resume", "kill"):
                words = f"{verb.capitalize()} trial {screen.chosen}"
                yield SystemCommand(words, "", lambda v=verb: screen.action_act(v))
            for verb, named in _WITH_WORDS.items():
                words = named.format(screen.chosen)
                yield SystemCommand(words, "", lambda v=verb: screen.action_words(v))
        yield from self._steering(screen)
        yield SystemCommand("Start the engine", "When it was stopped", self.action_start_engine)
        yield SystemCommand("Light or dark", "The other palette", self._other_theme)
        yield SystemCommand("Keys", "What the keys do", self.action_keys)
        yield SystemCommand("Leave", "Training goes on", self.action_leave)

    def _steering(self, screen: Screen[object]) -> Iterable[SystemCommand]:
        """What Queue and Cards have keys for."""
        held = self.view_state.snapshot is not None and self.view_state.snapshot.held
        hold = "Release the queue" if held else "Hold the queue"
        verb = "release" if held else "hold"
        yield SystemCommand(
            hold, "Whether trials are started", lambda: self.poller.ask(steering.sender(verb))
        )
        if isinstance(screen, View) and (row := self.view_state.trial(screen.chosen)) is not None:
            yield from self._of_experiment(row.experiment)
        if isinstance(screen, Queue) and screen.chosen is not None:
            one = f"trial {screen.chosen}"
            yield SystemCommand(f"Front: {one}", "", lambda: screen.action_order("front"))
            yield SystemCommand(f"Up: {one}", "", lambda: screen.action_order("up"))
            yield SystemCommand(f"Down: {one}", "", lambda: screen.action_order("down"))
            yield SystemCommand(f"Back: {one}", "", lambda: screen.action_order("back"))
        if isinstance(screen, Cards):
            yield SystemCommand("Drain or undrain the card", "", lambda: screen.action_drain(False))
            yield SystemCommand("Drain the card now", "", lambda: screen.action_drain(True))

    def _of_experiment(self, id: int) -> Iterable[SystemCommand]:
        """Of the one whose trial is chosen, whether or not any of its trials waits."""
        known = self.view_state.snapshot.experiments if self.view_state.snapshot else []
        one = next(one for one in known if one.id == id)
        name, verb = safe_line(one.name, 40), "release" if one.held else "hold"

        def ask(verb: str, **args: Any) -> Callable[[], None]:
            return lambda: self.poller.ask(steering.sender(verb, experiment=id, **args))

        yield SystemCommand(f"{verb.capitalize()} experiment {name}", "", ask(verb))
        for by, word in ((1, "first"), (-1, "later")):
            wanted = one.priority + by
            words = f"Experiment {name} goes {word}: priority {wanted}"
            yield SystemCommand(words, "", ask("priority", priority=wanted))

    def _other_theme(self) -> None:
        light = self.theme == theme.LIGHT.name
        self.theme = theme.DARK.name if light else theme.LIGHT.name


def run(home: Home | None = None) -> int:
    """Show `home` until the person leaves; then say, on stdout, what goes on without them."""
    app = WorkbenchApp(Service(home), guarded=True)
    code = app.run()
    if code == 128 + signal.SIGHUP:
        hush(1, 2)
    if not code:
        print(farewell(app.view_state.snapshot))
    return code or 0

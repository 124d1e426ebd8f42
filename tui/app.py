"""The Textual app: a mode for each of the six views, one poller, and the handlers of messages.

Handlers paint and ask the poller; nothing here reads the store.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable
from typing import ClassVar

from rich.color import ColorSystem
from textual import on, work
from textual.app import SystemCommand
from textual.binding import BindingType
from textual.driver import Driver
from textual.screen import Screen

from tui import messages as facts
from tui import steering, theme
from tui.actions import (
    EngineStarted,
    farewell_text,
    request_engine_start,
)
from tui.comparing.opening import ComparingApp
from tui.keys.keymap import place_bindings, read_keymap
from tui.keys.table import APP, VIEWS
from tui.palette import SafeCommandPalette, palette_commands
from tui.poller import Poller
from tui.screen_memory import recall_choices
from tui.screens.asking import help_panel
from tui.screens.dashboard import Dashboard
from tui.screens.loading import view_class
from tui.screens.view import BackAsked, View
from tui.terminal import ExitGuard, TerminalDriver, terminal_erases
from tui.variants.readonly import ReadOnlyService
from tui.view_state import ViewState
from workbench.formatting import counts_line, desktop_notice
from workbench.home import Home
from workbench.machine.processes import silence_streams
from workbench.service import Experiment, Service

LOCAL_S = 0.5
"""Period of reading the store on a local terminal."""
REMOTE_S = 1.0
"""The same under SSH, where each update costs bytes on the line."""


class WorkbenchApp(ComparingApp):
    """The screen over one home.

    `now` is the clock of ages and times left. `guard` ends the process after signals and where the
    terminal is lost; tests leave it out.
    """

    TITLE = "workbench"
    CSS_PATH = "workbench.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [*place_bindings(APP)]

    def __init__(
        self,
        service: Service,
        *,
        now: Callable[[], float] = time.time,
        guard: ExitGuard | None = None,
        period_s: float | None = None,
        driver: type[Driver] = TerminalDriver,
    ) -> None:
        super().__init__(driver_class=driver, erases=terminal_erases())
        keymap, self._key_mistake = read_keymap()
        self.set_keymap(keymap.changes())
        self.view_state = ViewState(now, keymap)
        recall_choices(self.view_state, service.home.root / "screen.json")
        self.home = service.home
        self._unsent = {}
        self._open_service = lambda: type(service)(service.home)
        self.view_state.readonly = isinstance(service, ReadOnlyService)
        remote = "SSH_CONNECTION" in os.environ
        period = period_s or (REMOTE_S if remote else LOCAL_S)
        self.poller = Poller(service, self.post_message, period)
        self._guard = guard
        self._typed: dict[tuple[str, int], str] = {}
        """The input typed for a verb and trial, kept until it succeeds: an error loses nothing."""
        self._typing = ""
        """The verb of the input that was sent last, until it succeeds."""
        self._ended: frozenset[int] | None = None

    def on_mount(self) -> None:
        for one in theme.THEMES:
            self.register_theme(one)
        self.theme = theme.choose_theme(colours=self.console.color_system)
        # A mode keeps its screens: the cursor and the filter of a view outlive a look at another.
        for name in VIEWS:
            self.add_mode(name, lambda name=name: view_class(name)(self.view_state))  # type: ignore[misc]
        self.switch_mode(Dashboard.HERE)
        if self._guard is not None:
            self._guard.attach(self.exit)
        self._poll()
        # Opening the screen revives an engine that crashed, as every command does.
        self.poller.ask(request_engine_start(asked=False))
        self.set_interval(1.0, self._tick)
        if (mistake := self._key_mistake) is not None:
            self.say(f"your keys do not apply: {mistake.what}. {mistake.hint}", bad=True)

    def on_unmount(self) -> None:
        self.poller.stop()

    def get_theme_variable_defaults(self) -> dict[str, str]:
        return theme.DEFAULTS

    # exit_on_error: an exception in a worker would otherwise end the app.
    @work(thread=True, exit_on_error=False, name="poller")
    def _poll(self) -> None:
        self.poller.run()

    # --- painting ---

    def _views(self) -> list[View]:
        """Return the topmost view of the current mode, also under a panel.

        A list of at most one; empty while the view is being composed.
        """
        views = [screen for screen in self.screen_stack if isinstance(screen, View)][-1:]
        return [view for view in views if view.there]

    def _tick(self) -> None:
        """Repaint once a second: ages and times left change while the store does not."""
        for view in self._views():
            view.paint()
            self.poller.read_also(view.needs())

    @on(facts.StoreRead)
    def _store_read(self, fact: facts.StoreRead) -> None:
        self.view_state.update(fact.picture)
        self._ring(fact.picture.snapshot.experiments)
        try:
            self._tick()
        finally:
            # Later, so that it comes behind the messages which painting itself has posted.
            self.call_later(self.poller.painted)

    def _ring(self, experiments: Iterable[Experiment]) -> None:
        """Ring the bell and ask for a desktop notification for experiments that just ended.

        Experiments that had ended before the screen was opened ring nothing.
        """
        ended = {one.id: one for one in experiments if one.ended_utc is not None}
        known, self._ended = self._ended, frozenset(ended)
        for id in sorted(frozenset(ended) - known) if known is not None else ():
            one = ended[id]
            counts = counts_line(one.outcomes) if one.state == "ready" else one.state
            text = f"{one.name} has ended: {counts}"
            self.say(text)
            # Past Textual, because it has no desktop notification; `desktop_notice` is escape-safe.
            if self._driver is not None:
                self._driver.write(desktop_notice(text))

    @on(facts.ReadFailed)
    def _read_failed(self, fact: facts.ReadFailed) -> None:
        self.view_state.read_error = fact.what
        self._tick()
        self.show_error(fact.what, fact.hint)

    @on(facts.NeedsChanged)
    def _needs_changed(self) -> None:
        """Read what the topmost view needs, whichever screen posted the message."""
        for view in self._views():
            self.poller.read_also(view.needs())

    # --- navigation ---

    def action_view(self, name: str) -> None:
        self._end_visit()
        self.switch_mode(name)

    def _end_visit(self) -> None:
        """Leave a trial's page and its log, which belong to the visit that opened them."""
        while isinstance(self.screen, View) and self.screen.VISIT:
            self.pop_screen()

    @on(facts.TrialOpened)
    def _trial_opened(self, fact: facts.TrialOpened) -> None:
        from tui.screens.trial import Trial  # 12 ms that the first picture must not wait for

        if self.view_state.look_at(fact.trial):
            self.view_state.keep_choice()
        self._end_visit()  # one page at a time, also while going through the failures
        self.push_screen(Trial(self.view_state, fact.trial))

    @on(BackAsked)
    def _back(self) -> None:
        if len(self.screen_stack) > 1:
            self.pop_screen()
        elif self.current_mode != Dashboard.HERE:
            self.switch_mode(Dashboard.HERE)

    def action_keys(self) -> None:
        views = self._views()
        if views:
            self.push_screen(help_panel(views[0], self.view_state.keymap))

    def action_leave(self) -> None:
        self.exit(0)

    # --- actions ---

    @on(facts.ChatAsked)
    def _chat_asked(self, fact: facts.ChatAsked) -> None:
        if self.refuses_unread():
            return
        from tui.screens.chat import Chat  # 12 ms that the first picture must not wait for

        # The chat reads on a thread of its own, and a Service serves one thread.
        self.push_screen(Chat(self._open_service, (*fact.trials, None)))

    @on(facts.InputAsked)
    def _input_asked(self, fact: facts.InputAsked) -> None:
        row, snapshot = self.view_state.trial(fact.trial), self.view_state.snapshot
        if row is None or snapshot is None:
            return
        if why_not := steering.typed_refusal(fact.verb, row):
            self.say(f"trial {fact.trial}: {why_not}", bad=True)
            return
        if fact.verb == "clone":
            self.open_new_run(row)
            return
        experiment = next(one for one in snapshot.experiments if one.id == row.experiment)
        key, cards = (fact.verb, fact.trial), steering.Cards.of_snapshot(snapshot)

        def answered(text: str | None) -> None:
            if text:
                self._typed[key], self._typing = text, fact.verb
                self.poller.ask(steering.send_typed(fact.verb, row, experiment, cards, text))

        typed = self._typed.get(key, "")
        self.push_screen(steering.input_panel(fact.verb, row, experiment, cards, typed), answered)

    @on(facts.RequestAnswered)
    def _forget_typed(self, fact: facts.RequestAnswered) -> None:
        if fact.answer.ok and fact.dropped.wish.verb in steering.TYPED_VERBS:
            self._typed.clear()
            self._typing = ""

    @on(facts.AskFailed)
    def _ask_failed(self, fact: facts.AskFailed) -> None:
        self.show_error(fact.what, fact.hint, self._typing)

    def action_start_engine(self) -> None:
        self.poller.ask(request_engine_start(asked=True))

    def action_doctor(self) -> None:
        from tui.acts.doctor import DoctorPanel  # the first picture must not wait for it

        self.push_screen(DoctorPanel(self.home))

    @on(EngineStarted)
    def _started(self, fact: EngineStarted) -> None:
        if fact.text:
            self.say(fact.text)

    # --- the palette ---

    def action_command_palette(self) -> None:
        if not isinstance(self.screen, SafeCommandPalette):
            self.push_screen(SafeCommandPalette(id="--command-palette"))

    def get_system_commands(self, screen: Screen[object]) -> Iterable[SystemCommand]:
        """Yield the palette's commands: every action that has a key, for the chosen trial."""
        yield from palette_commands(self.view_state, screen)

    def action_other_theme(self) -> None:
        """Switch to the next theme."""
        self.theme = theme.next_theme(self.theme)
        self.say(f"theme: {self.theme.removeprefix('workbench-')}")

    def colour_system(self) -> ColorSystem:
        # The theme of 16 colours leaves their shades to the terminal.
        return ColorSystem.STANDARD if self.theme == theme.ANSI.name else super().colour_system()


def run_app(
    home: Home | None = None,
    *,
    farewell: bool = True,
    readonly: bool = False,
    ascii_only: bool = False,
) -> int:
    """Show `home` until the user leaves; then print to stdout what goes on without them, unless
    `farewell` is off.

    `readonly` shows a screen that changes nothing, `ascii_only` one that draws in ASCII. Returns
    the exit code: 0, 128 + the number of the signal that ended the screen, or 1 after an exception.
    """
    service = ReadOnlyService(home) if readonly else Service(home)
    driver = TerminalDriver
    if ascii_only:
        from tui.variants.ascii import AsciiDriver

        driver = AsciiDriver
    app = WorkbenchApp(service, guard=ExitGuard(), driver=driver)
    code = app.run()
    if code is None:  # an exception ended the screen, and was printed
        return app.return_code or 1
    if code == 128 + signal.SIGHUP:  # the terminal is gone
        silence_streams(1, 2)
    if not code and farewell:
        print(farewell_text(app.view_state.snapshot))
    return code

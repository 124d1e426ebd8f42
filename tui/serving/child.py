"""The app for one browser tab, started by the server.

`python -m tui.serving.child [--readonly] [--ascii]` speaks textual-serve's packets on stdin and
stdout.
"""

from __future__ import annotations

import sys

from textual.drivers.web_driver import WebDriver
from textual.events import CursorPosition
from textual.message import Message

from tui.app import WorkbenchApp
from tui.variants.ascii import AsciiOutput
from tui.variants.readonly import ReadOnlyService
from tui.wire.display import WireApp
from workbench.machine.processes import die_with_parent
from workbench.service import Service


class BrowserDriver(WebDriver):
    """Textual's driver for browsers, with the terminal's answers to frames taken out."""

    def start_application_mode(self) -> None:
        """Begin with a screen that shows nothing yet."""
        super().start_application_mode()
        if isinstance(self._app, WireApp):
            self._app.frames.forget()

    def process_message(self, message: Message) -> None:
        """Take the terminal's answers to frames out of what the app hears."""
        if isinstance(message, CursorPosition) and isinstance(self._app, WireApp):
            self._app.frames.window.answered()
            self._loop.call_soon_threadsafe(self._app.send_frames)
        else:
            super().process_message(message)


class AsciiBrowserDriver(AsciiOutput, BrowserDriver):
    """The same, writing ASCII alone."""


def main(arguments: list[str]) -> int:
    """Show the home until the tab is closed or the user leaves."""
    die_with_parent()
    service = ReadOnlyService() if "--readonly" in arguments else Service()
    driver = AsciiBrowserDriver if "--ascii" in arguments else BrowserDriver
    app = WorkbenchApp(service, driver=driver)
    app.run()
    return app.return_code or 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""The checks of `workbench doctor` in a panel, each as soon as it is known."""

from __future__ import annotations

import re
import subprocess

from textual import on, work
from textual.message import Message

from tui.new_run.drafting import home_environment
from tui.paint import Line, Part, plain_part
from tui.screens.panel import Panel
from tui.widgets.linebox import LineBox
from workbench.home import Home
from workbench.machine.python_children import python_command

_CHECK = re.compile(r"(ok|warn|fail) +([^:]+): (.*)")
_GLYPHS: dict[str, Part] = {"ok": ("✓", "good"), "warn": ("!", "warn"), "fail": ("✗", "bad")}
_INDENT = 4
RUNS: Line = (("checking; this takes some seconds", "dim"),)
"""The last line while checks go on."""
FAILED: Line = (("the checks did not run; `workbench doctor` in a shell says why", "bad"),)
"""The only line where the child ended without a check."""
_NOT_HERE = "terminal"
"""The check of the child's own output, which is a pipe here."""


class LinePrinted(Message):
    """The child printed a line; the empty one is its end."""

    def __init__(self, line: str) -> None:
        super().__init__()
        self.line = line


class DoctorPanel(Panel):
    """A panel that runs the checks in a child process, and ends it when it is closed."""

    def __init__(self, home: Home) -> None:
        super().__init__("This machine", [RUNS], indent=_INDENT)
        self._home = home
        self._lines: list[Line] = []
        self._child: subprocess.Popen[str] | None = None

    def on_mount(self) -> None:
        """Start the checks; Textual also calls the handler of Panel, which shows the first line."""
        self._child = subprocess.Popen(
            python_command("workbench", "doctor"),
            env=home_environment(self._home),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        self._read(self._child)

    def on_unmount(self) -> None:
        if self._child is not None and self._child.poll() is None:
            self._child.kill()

    @work(thread=True, exit_on_error=False, name="doctor")
    def _read(self, child: subprocess.Popen[str]) -> None:
        assert child.stdout is not None
        for line in child.stdout:
            self.post_message(LinePrinted(line))
        child.wait()
        child.stdout.close()
        self.post_message(LinePrinted(""))

    @on(LinePrinted)
    def _printed(self, fact: LinePrinted) -> None:
        self._lines += check_lines(fact.line)
        running = [RUNS] if fact.line else []
        self.query_one(LineBox).show([*self._lines, *running] or [FAILED])


def check_lines(printed: str) -> list[Line]:
    """Return a line that `workbench doctor` printed with its glyph; nothing for an empty one."""
    if (check := _CHECK.match(printed)) is not None:
        status, name, finding = check.groups()
        if name == _NOT_HERE:
            return []
        return [
            (_GLYPHS[status], ("  ", ""), plain_part(name, "bold"), ("  ", ""), plain_part(finding))
        ]
    text = printed.strip()
    return [((" " * _INDENT, ""), plain_part(text, "accent"))] if text else []

"""The user's own ssh: which host and command a person names, and commands there."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from workbench.errors import UsageError, WorkbenchError
from workbench.text import safe_line

NOT_CONNECTED, NOT_FOUND = 255, 127
"""Exit codes of ssh where it has no connection, and of a shell that finds no such command."""
ANSWER_S = 120.0
"""Seconds for a command on another machine; the first import of the libraries there is slow."""


def split_host(host: str, option: str) -> tuple[str, str]:
    """Return the host as ssh takes it, and the file of the command `workbench` there.

    `host` is `USER@BOX` or `USER@BOX:/FILE`, given as `option`. Raises UsageError for a host that
    ssh would take for an option, and where there is no ssh.
    """
    box, named, rest = host.partition(":/")  # a lone colon may belong to an IPv6 address
    user, _, machine = box.rpartition("@")
    is_option = user.startswith("-") or machine.startswith("-")
    if not machine or is_option or " " in box or not box.isprintable():
        raise UsageError(
            f"{option}: {host!r} is no host",
            hint=f"write {option} USER@BOX, as for the command ssh",
        )
    if shutil.which("ssh") is None:
        raise UsageError(f"{option} needs the command ssh, which is not installed")
    return box, f"/{rest}" if named else "workbench"


def ssh_command(box: str, words: Sequence[str]) -> list[str]:
    """Return the command line that runs `words` on another machine; stdin and stdout are theirs.

    Where nobody is at a terminal, ssh asks for nothing.
    """
    batch = () if sys.stdin.isatty() else ("-o", "BatchMode=yes")
    # A connection that breaks is noticed within ServerAliveInterval times 3 (ssh_config(5)).
    limits = ("-o", "ConnectTimeout=10", "-o", "ServerAliveInterval=15")
    return ["ssh", "-T", *batch, *limits, "--", box, shlex.join(words)]


def run_there(box: str, words: Sequence[str], typed: str = "") -> tuple[int, str]:
    """Run a command on another machine with `typed` on its stdin; return its exit code and stdout.

    What it writes to stderr is shown. Raises UsageError where there is no connection.
    """
    try:
        done = subprocess.run(
            ssh_command(box, words),
            input=typed,
            stdout=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            timeout=ANSWER_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise _no_answer(box) from None
    if done.returncode == NOT_CONNECTED:  # ssh has printed why
        raise UsageError(f"no connection to {box}", hint=f"try ssh {box} by itself")
    return done.returncode, done.stdout


class Conversation:
    """A command on another machine that answers each line of its stdin by one line of JSON.

    It is ended where it takes longer than `answer_s` seconds for an answer.
    """

    def __init__(self, box: str, words: Sequence[str], answer_s: float = ANSWER_S) -> None:
        self._box, self._answer_s = box, answer_s
        self._process = subprocess.Popen(
            ssh_command(box, words),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
        )

    def __enter__(self) -> Conversation:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def ask(self, line: str) -> Any:
        """Return the answer to a line; None where the command has ended.

        Raises WorkbenchError for an answer that is none, and where there is none in time.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{line}\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            return None
        answer = self._read_line()
        try:
            return json.loads(answer) if answer else None
        except ValueError as unread:
            raise WorkbenchError(
                f"the other machine answered {safe_line(answer, 80)!r}",
                hint="its shell prints something at a login without a terminal: let it print "
                "nothing there",
            ) from unread

    def _read_line(self) -> str:
        assert self._process.stdout is not None
        was_late = threading.Event()

        def end_it() -> None:
            was_late.set()
            self._process.kill()

        timer = threading.Timer(self._answer_s, end_it)
        timer.start()
        try:
            line = self._process.stdout.readline()
        finally:
            timer.cancel()
        if was_late.is_set():
            raise _no_answer(self._box, self._answer_s)
        return line

    def clock_skew_s(self) -> float:
        """Return by how many seconds the other clock is ahead, by the quickest of 3 answers."""
        tries = []
        for _ in range(3):
            before = time.time()
            there = self.ask("clock")
            after = time.time()
            if there is None:
                raise UsageError(
                    f"the connection to {self._box} has ended", hint="give the command again"
                )
            tries.append((after - before, float(there) - (before + after) / 2))
        return min(tries)[1]

    def end(self) -> int:
        """Close its stdin, and return its exit code once it has ended."""
        try:
            with suppress(BrokenPipeError):
                self._process.communicate(timeout=self._answer_s)
            return self._process.wait(self._answer_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise _no_answer(self._box, self._answer_s) from None


def _no_answer(box: str, within_s: float = ANSWER_S) -> WorkbenchError:
    return WorkbenchError(
        f"{box} has not answered within {within_s:.0f} s", hint=f"try ssh {box} by itself"
    )

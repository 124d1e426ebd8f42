"""A user's own scorer in a process of its own, with limits on time, memory and output.

The process sees no GPU and none of our secrets. It ends with its children when all rows are scored,
when it passes a limit, and when the process that started it ends. It is a guard against mistakes,
not against a file that means harm: it runs as the same user (docs/scorers.md).
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from workbench.machine.processes import Identity, end_session, identify_process
from workbench.machine.python_children import python_command, python_environment
from workbench.text import safe_line
from workbench.text.redact import is_secret_name
from workbench.training.scoring.scorers.own_scorers import OwnScorer

CHILD = "workbench.training.scoring.scorers.scorer_child"
RowTexts = tuple[str, str, str]
"""The question, the expected answer and the generated answer of one row."""
_POLL_S = 0.2
_READ_BYTES = 1 << 16
_REPLY_BYTES = 4_096
"""Most bytes of one reply; the child cuts its errors far below."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScorerLimits:
    """The limits of a scorer's process."""

    start_s: float = 120.0
    """Most seconds until the file is loaded: importing a large library takes long on a busy
    machine."""
    row_s: float = 60.0
    """Most seconds for one row."""
    total_s: float = 1_800.0
    """Most seconds for all rows."""
    cpu_s: int = 1_800
    """Most seconds of processor time."""
    memory_bytes: int = 4 << 30
    """Most address space, which is more than the memory in use."""
    file_bytes: int = 64 << 20
    """Most bytes of one file that it writes."""
    output_bytes: int = 1 << 20
    """Most bytes that it prints."""


class NoScore(Exception):
    """A scorer gave no score; the text says why, for people."""


def run_scorer(
    scorer: OwnScorer,
    rows: Sequence[RowTexts],
    *,
    limits: ScorerLimits | None = None,
    progress: Callable[[], None] = lambda: None,
) -> list[float | None]:
    """Return the scorer's number for each row, None where it returned None.

    `progress` is called several times a second and may raise, which ends the process. Raises
    NoScore if the scorer fails on any row, passes a limit, or contradicts the recipe's direction: a
    mean over the rows before would not be the score of these rows.
    """
    with tempfile.TemporaryFile() as given:
        for row in rows:
            given.write(json.dumps(row).encode() + b"\n")
        given.seek(0)
        limits = limits or ScorerLimits()
        child = _start(scorer.path, given, limits)
        identity = identify_process(child.pid) or Identity(child.pid, 0)
        try:
            return _Replies(scorer, child, limits).take(len(rows), progress)
        finally:
            _end(child, identity)


def _start(path: Path, rows: IO[bytes], limits: ScorerLimits) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        python_command(CHILD, str(path), json.dumps(asdict(limits))),
        stdin=rows,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=path.parent,
        env=_environment(),
        start_new_session=True,
    )


def _environment() -> dict[str, str]:
    """Return our environment without secrets: a scorer reads answers that a model wrote."""
    ours = {name: value for name, value in os.environ.items() if not is_secret_name(name)}
    ours.pop("WORKBENCH_FAULT", None)
    # One thread: each thread of a BLAS library takes address space, which is limited.
    return python_environment(
        {
            **ours,
            "CUDA_VISIBLE_DEVICES": "",
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "TOKENIZERS_PARALLELISM": "false",
        }
    )


def _end(child: subprocess.Popen[bytes], identity: Identity) -> None:
    """Kill the process and all others of its session, and close the pipes."""
    end_session(identity)
    child.wait()
    for pipe in (child.stdout, child.stderr):
        if pipe is not None:
            pipe.close()


class _Replies:
    """The replies of a running scorer, read from its two pipes."""

    def __init__(
        self, scorer: OwnScorer, child: subprocess.Popen[bytes], limits: ScorerLimits
    ) -> None:
        self._scorer, self._child, self._limits = scorer, child, limits
        self._values: list[float | None] = []
        self._loaded = False
        self._partial = b""
        self._printed = 0
        self._last_words = b""

    def take(self, rows: int, progress: Callable[[], None]) -> list[float | None]:
        """Return the numbers of `rows` rows, in their order."""
        begun_s = last_s = time.monotonic()
        with selectors.DefaultSelector() as pipes:
            for pipe in (self._child.stdout, self._child.stderr):
                assert pipe is not None
                pipes.register(pipe, selectors.EVENT_READ)
            while not self._loaded or len(self._values) < rows:
                progress()
                before = (self._loaded, len(self._values))
                ended = self._child.poll() is not None  # asked before the pipes are emptied
                read = self._read(pipes)
                now_s = time.monotonic()
                if before != (self._loaded, len(self._values)):
                    last_s = now_s
                elif ended and not read:
                    raise NoScore(self._how_it_ended())
                self._check_time(now_s - begun_s, now_s - last_s)
        return self._values[:rows]

    def _read(self, pipes: selectors.DefaultSelector) -> bool:
        """Read what the pipes hold, after at most _POLL_S; return False if that is nothing."""
        any_read = False
        for key, _ in pipes.select(_POLL_S):
            chunk = os.read(key.fd, _READ_BYTES)
            if not chunk:
                pipes.unregister(key.fileobj)
            elif key.fileobj is self._child.stdout:
                self._take_replies(chunk)
            else:
                self._take_prints(chunk)
            any_read = any_read or bool(chunk)
        return any_read

    def _take_replies(self, chunk: bytes) -> None:
        *lines, self._partial = (self._partial + chunk).split(b"\n")
        if len(self._partial) > _REPLY_BYTES:
            raise NoScore("it wrote something else where its scores belong")
        for line in lines:
            self._take_reply(line)

    def _take_reply(self, line: bytes) -> None:
        try:
            reply: dict[str, Any] = dict(json.loads(line))
            value = reply.get("score")
            number = None if value is None else float(value)
        except (ValueError, TypeError) as broken:
            raise NoScore("it wrote something else where its scores belong") from broken
        if "error" in reply:
            row = f"row {len(self._values) + 1}: " if self._loaded else ""
            raise NoScore(f"{row}{safe_line(reply['error'])}")
        if self._loaded:
            self._values.append(number)
            return
        self._loaded = True
        if reply.get("up") is not self._scorer.higher_is_better:
            name = self._scorer.path.stem
            wanted = name if reply.get("up") else f"{name}:min"
            raise NoScore(
                f"it says HIGHER_IS_BETTER = {reply.get('up')}, so the recipe's evaluate.scorer "
                f"must name it {wanted}"
            )

    def _take_prints(self, chunk: bytes) -> None:
        self._printed += len(chunk)
        self._last_words = (self._last_words + chunk)[-2_000:]
        if self._printed > self._limits.output_bytes:
            raise NoScore(f"it printed more than {self._limits.output_bytes:,} bytes")

    def _check_time(self, elapsed_s: float, silent_s: float) -> None:
        if not self._loaded and silent_s > self._limits.start_s:
            raise NoScore(f"it was not loaded within {self._limits.start_s:g} s")
        if self._loaded and silent_s > self._limits.row_s:
            row = len(self._values) + 1
            raise NoScore(f"row {row}: it gave no score within {self._limits.row_s:g} s")
        if elapsed_s > self._limits.total_s:
            raise NoScore(f"it took more than {self._limits.total_s:g} s")

    def _how_it_ended(self) -> str:
        code = self._child.returncode
        row = f"row {len(self._values) + 1}: " if self._loaded else ""
        if code == -signal.SIGXCPU:
            return f"{row}it took more than {self._limits.cpu_s} s of processor time"
        how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
        words = safe_line(self._last_words.decode(errors="replace"))
        return f"{row}it {how}" + (f"; it printed: {words}" if words else "")

"""Estimates what an attempt will still take: its steps, the evaluations between them, the last one.

Everything is measured in the attempt itself. What was not measured yet counts nothing: generated
answers are counted from the moment at which the first of them are there.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from workbench.training.control import Emit

REPORT_S = 5.0
"""Seconds between two reports while held-out rows are scored."""


class TimeLeft:
    """An estimate of the seconds until an attempt's end, with an event for rows that are scored.

    `evaluate_every` is the number of steps between two evaluations (None: none between steps),
    `last_passes` how often the rows are scored after the last step.
    """

    def __init__(
        self,
        emit: Emit,
        *,
        evaluate_every: int | None,
        last_passes: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._emit = emit
        self._every = evaluate_every
        self._last_passes = last_passes
        self._clock = clock
        self._first: tuple[int, float] | None = None
        """The first reported step, and when it was done, by the clock."""
        self._step, self._steps = 0, 0
        self._step_s = 0.0
        self._pass_rows, self._pass_s = 0, 0.0
        """Rows and seconds of the newest evaluation of all held-out rows."""
        self._passes_s = 0.0
        """Seconds of evaluations since the first reported step."""
        self._began = self._reported = clock()

    def step_done(self, step: int, steps: int, step_s: float) -> float:
        """Return the seconds until the end, after `step` of `steps` optimizer steps.

        `step_s` is the newest measurement of a step alone; from the second call on, the wall clock
        between the calls decides, so that checkpoints count too.
        """
        now = self._clock()
        self._step, self._steps, self._step_s = step, steps, step_s
        if self._first is None:
            self._first, self._passes_s = (step, now), 0.0
        elif step > self._first[0]:
            self._step_s = (now - self._first[1] - self._passes_s) / (step - self._first[0])
        return self._after_this(self._passes_left())

    def rows_done(self, done: int, rows: int) -> None:
        """Take notice that `done` of `rows` were scored; emits a `rows` event every REPORT_S.

        It is called before each batch and at the end.
        """
        now = self._clock()
        spent_s = now - self._began
        if done == 0:
            self._began = self._reported = now
        elif done >= rows:
            self._passes_s += spent_s
            if self._step >= self._steps > 0:
                self._last_passes -= 1
            if rows >= self._pass_rows:  # a rehearsal scores a few rows only
                self._pass_rows, self._pass_s = rows, spent_s
        elif now - self._reported >= REPORT_S:
            self._reported = now
            left_s = spent_s / done * (rows - done) + self._after_this(self._passes_left() - 1)
            self._emit("rows", done=done, rows=rows, seconds_left=left_s)

    def _passes_left(self) -> int:
        """Return how often the rows will be scored between the newest step and the end."""
        between = 0
        if self._every is not None and self._step < self._steps:
            between = (self._steps - 1) // self._every - (self._step - 1) // self._every
        return between + self._last_passes

    def _after_this(self, passes: int) -> float:
        return (self._steps - self._step) * self._step_s + max(0, passes) * self._pass_s

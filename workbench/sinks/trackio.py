"""trackio: a database on this machine, or a private Space on the Hugging Face hub.

Trackio itself keeps what it cannot send, and sends it later.
"""

from __future__ import annotations

import contextvars
from collections.abc import Sequence

import trackio

from workbench.sinks.run import RunAbout
from workbench.store.queries.logged_steps import LoggedStep


class Trackio:
    """A project of trackio."""

    def __init__(self, project: str, space: str | None) -> None:
        self._project, self._space = project, space

    def open_run(self, about: RunAbout) -> TrackioRun:
        # `init` ends the run before it in the same context: each trial's run gets its own.
        run = contextvars.copy_context().run(
            trackio.init,
            project=self._project,
            name=about.id,
            group=about.group,
            config={"name": about.name, **about.settings},
            space_id=self._space,
            private=True,
            resume="allow",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )
        # Trackio's own count is one more than the last step that it has on this machine.
        return TrackioRun(run, None if self._space else int(run._next_step) - 1)


class TrackioRun:
    """One run of trackio."""

    def __init__(self, run: trackio.Run, last_step: int | None) -> None:
        self._run, self.last_step = run, last_step

    def send(self, steps: Sequence[LoggedStep]) -> None:
        for step, values in steps:
            self._run.log(values, step=step)

    def close(self, *, failed: bool) -> None:
        self._run.finish()

"""Weights & Biases, online or into files for `wandb sync`.

Only metrics, scores and settings are sent: no code, git state, console, machine or package list.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import wandb

from workbench.sinks.run import RunAbout
from workbench.store.queries.logged_steps import LoggedStep

INIT_LIMIT_S = 30.0
"""Seconds after which a server that does not answer counts as unreachable."""


class WandB:
    """A project of Weights & Biases."""

    def __init__(
        self, project: str, entity: str | None, mode: Literal["online", "offline"], folder: Path
    ) -> None:
        self._project, self._entity, self._mode, self._folder = project, entity, mode, folder

    def open_run(self, about: RunAbout) -> WandBRun:
        self._folder.mkdir(parents=True, exist_ok=True)
        run = wandb.init(
            project=self._project,
            entity=self._entity,
            id=about.id,
            name=about.name,
            group=about.group,
            config=dict(about.settings),
            dir=self._folder,
            mode=self._mode,
            resume="allow",
            reinit="create_new",
            settings=wandb.Settings(
                console="off",
                disable_git=True,
                save_code=False,
                init_timeout=INIT_LIMIT_S,
                silent=True,
                x_disable_machine_info=True,
                x_disable_meta=True,
                x_disable_stats=True,
                x_save_requirements=False,
            ),
        )
        return WandBRun(run)


class WandBRun:
    """One run of Weights & Biases. It drops steps that the server has."""

    def __init__(self, run: wandb.Run) -> None:
        self._run = run
        # Offline, a new file is begun each time, which knows nothing of the one before it.
        self.last_step = None if run.offline else int(run.starting_step) - 1

    def send(self, steps: Sequence[LoggedStep]) -> None:
        for step, values in steps:
            self._run.log(values, step=step)

    def close(self, *, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))

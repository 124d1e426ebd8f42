"""Weights & Biases, online or into files for `wandb sync`.

Only metrics, scores and settings are sent: no code, git state, console, machine or package list.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import wandb

from workbench.sinks.offline_files import note_closed, remove_unfinished
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
        offline = self._mode == "offline"
        # wandb itself adds the folder `wandb`.
        last = remove_unfinished(self._folder / "wandb", about.id) if offline else None
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
                host="workbench",
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
        return WandBRun(run, last)


class WandBRun:
    """One run of Weights & Biases."""

    def __init__(self, run: wandb.Run, offline_step: int | None) -> None:
        self._run = run
        self._offline = offline_step is not None
        self.last_step: int = int(run.starting_step) - 1 if offline_step is None else offline_step

    def send(self, steps: Sequence[LoggedStep]) -> None:
        for step, values in steps:
            self._run.log(values, step=step)
            self.last_step = step

    def close(self, *, failed: bool) -> None:
        folder = Path(self._run.dir).parent
        self._run.finish(exit_code=int(failed))
        if self._offline:
            note_closed(folder, self.last_step)

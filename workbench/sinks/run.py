"""The promise of a sink: one run for each trial, continued where it already exists."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from workbench.store.queries.logged_steps import LoggedStep
from workbench.store.rows import Experiment, TrialRow

_SECTIONS = ("model", "data", "lora", "train")
"""Sections of a recipe whose settings are sent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunAbout:
    """The identity and the settings of a trial's run."""

    id: str
    """The same whenever the trial's run is opened; another for a trial of another database."""
    name: str
    group: str
    """The name of the experiment."""
    settings: dict[str, str | int | float | bool]
    """The trial's settings by dotted key."""


class Run(Protocol):
    """A trial's run at the sink."""

    @property
    def last_step(self) -> int | None:
        """The last step that the sink has of it, -1 for none; None where it cannot tell."""
        ...

    def send(self, steps: Sequence[LoggedStep]) -> None:
        """Hand these steps on, in order."""
        ...

    def close(self, *, failed: bool) -> None:
        """Let the run go; it may be opened again."""
        ...


class Sink(Protocol):
    """A program that charts metrics."""

    def open_run(self, about: RunAbout) -> Run:
        """Return the trial's run, continued where the sink has it."""
        ...


def about_run(trial: TrialRow, experiment: Experiment) -> RunAbout:
    """Return the identity of the trial's run. The time of creation tells databases apart."""
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime(trial.created_utc))
    settings: dict[str, Any] = {}
    for section in _SECTIONS:
        settings |= _flat(section, experiment.recipe.get(section) or {})
    return RunAbout(
        id=f"trial-{trial.id}-{stamp}",
        name=f"{experiment.name}-{trial.id}",
        group=experiment.name,
        settings={key: _plain(value) for key, value in {**settings, **trial.settings}.items()},
    )


def _flat(prefix: str, value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, below in value.items():
        flat |= _flat(f"{prefix}.{key}", below)
    return flat


def _plain(value: object) -> str | int | float | bool:
    return value if isinstance(value, str | int | float | bool) else str(value)

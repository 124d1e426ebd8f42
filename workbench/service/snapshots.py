"""Values that a front end paints: one consistent picture, one trial, one card."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from workbench.engine_status import EngineStatus
from workbench.importance import Importance
from workbench.machine.history.minutes import CardMinute
from workbench.store.rows import AnswerSample, AttemptRow, CardRow, Experiment, MoveRow, TrialRow


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """One consistent picture for a screen."""

    engine: EngineStatus
    cards: list[CardRow]
    experiments: list[Experiment]
    """Newest first."""
    trials: list[TrialRow]
    """The trials of all experiments, oldest first, base trials included."""
    held: bool = False
    """A person holds the whole queue."""
    guards: dict[str, Any] = field(default_factory=dict)
    """The [guards] settings that the engine works by; empty before an engine ran. See
    `user_config.Guards`."""
    slots: dict[str, tuple[int, str]] = field(default_factory=dict)
    """Each GPU's number in nvidia-smi and its slot on the PCI bus, by UUID."""
    boxes: dict[str, dict[str, Any]] = field(default_factory=dict)
    """The other machines of a cluster by name, as `workbench cluster ls --json` lists them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialDetail:
    """Everything the store has about one trial, but its metrics."""

    trial: TrialRow
    experiment: Experiment
    attempts: list[AttemptRow]
    """Oldest first."""
    moves: list[MoveRow]
    """Oldest first."""
    samples: list[AnswerSample]
    base_samples: list[AnswerSample]
    """The answers of the untrained base of the experiment; empty for the base's own trial."""
    metric_names: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class CardDetail:
    """A card's readings over time, and the methods by which it trains."""

    uuid: str
    history: tuple[CardMinute, ...]
    """The minutes of the last day, oldest first; one without readings is missing."""
    attention: str
    """Attention in training and in scoring, in words, with the reason."""
    precision: str
    """The precision with its reason, in words."""
    planned_for: int | None
    """The trial whose plan on this card the two are from; None: what any recipe gets that names
    none itself."""
    worker_pid: int | None
    """The process that trains on it now; None where none does, or it has not reported."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportanceReport:
    """The share of the differences between trials that each setting of a sweep explains."""

    experiment: str
    trials: int
    """Trials that were used: those that finished with a score, or ended early."""
    least: int
    """Trials below which no setting can be told from chance."""
    settings: list[Importance]
    """The settings that explain most come first."""
    left_out: dict[str, int] = field(default_factory=dict)
    """Trials that were not used, by state, killed ones apart."""

    @property
    def enough(self) -> bool:
        """True where there are enough trials for a result."""
        return self.trials >= self.least

"""What the store gives out: frozen snapshots of its rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from workbench.trial import DesiredState, Kind, State

if TYPE_CHECKING:
    from workbench.machine.cards import Card


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    id: int
    name: str
    state: str
    """preparing, ready or refused."""
    recipe: dict[str, Any]
    rank_by: str
    """A score; see `trial.up_is_better`."""
    prepared: dict[str, Any] | None
    resolved: dict[str, Any]
    """Precision and optimizer, decided once so that its trials stay comparable."""
    base_trial: int | None
    """The trial that scored its base; may belong to an earlier experiment on the same base."""
    reason: str
    hint: str
    priority: int
    held: bool
    max_parallel: int | None
    """Trials of it that may run at once; None: as many as there are cards."""
    most_trials: int | None
    """How many trials its sweep may come to; None: until its budget or its space is spent."""
    searching: bool
    """Its sweep may still ask for trials: it is not over when all it has are."""
    warm_trial: int | None
    """Its trials start from this one's adapter; None: from fresh ones."""
    ended_utc: float | None
    """When its last trial had ended; None while there is something to do."""
    created_utc: float
    counts: dict[str, int]
    """Trials by state, the base's own left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One run of a trial on one card; `outcome` is None while it lives."""

    id: int
    trial: int
    card: str
    plan: dict[str, Any]
    predicted_bytes: int
    peak_bytes: int | None
    generation: int | None
    pid: int | None
    started_utc: float
    reported_utc: float | None
    ended_utc: float | None
    outcome: str | None
    reason: str
    cause: str
    """Of a failure: recipe, data, model, out_of_memory, host_memory, disk_full or bug."""
    stage: str
    """What it was doing then."""
    from_step: int
    last_step: int
    total_steps: int | None
    loss: float | None
    tokens_per_s: float | None
    energy_wh: float | None
    """What its card drew meanwhile; None where the card does not tell."""
    checkpoint_step: int | None
    phase: str
    halt: str | None
    offset: int

    @property
    def uncorrected_bytes(self) -> int:
        """predicted_bytes before what earlier attempts measured on such a card corrected it."""
        buckets = self.plan.get("buckets")
        known = buckets.values() if isinstance(buckets, dict) else ()
        return sum(size for size in known if isinstance(size, int)) or self.predicted_bytes


class Waiting(Protocol):
    """What the order of the queue asks of a trial."""

    @property
    def id(self) -> int: ...
    @property
    def experiment(self) -> int: ...
    @property
    def rank(self) -> float | None: ...


class Queued(NamedTuple):
    """A queued trial where nothing but its place matters."""

    id: int
    experiment: int
    rank: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialRow:
    """A trial with its newest attempt, as lists show it."""

    id: int
    experiment: int
    experiment_name: str
    number: int
    kind: Kind
    state: State
    desired_state: DesiredState
    settings: dict[str, Any]
    """Dotted recipe keys that differ from the experiment's recipe, with this trial's values."""
    rank: float | None
    """Its place in the queue, where a person moved it: lower goes first, others go by their ids.
    Below 0: before those of other experiments too."""
    desired_card: str | None
    """The only card it may be placed on next; None: any."""
    warm_trial: int | None
    """Its weights start from this one's adapter; None: from a fresh one."""
    pruned: str
    """Why it is to end early, or did; empty while it is not."""
    checkpoint_step: int | None
    """Optimizer steps done at its newest committed checkpoint."""
    waiting: str
    """While QUEUED: what it waits for, in words."""
    reason: str
    """Why it is where it is, for FAILED, STOPPED and PAUSED."""
    hint: str
    created_utc: float
    changed_utc: float
    attempts: int
    card: str | None
    """Of the newest attempt; None before the first."""
    phase: str
    step: int
    total_steps: int | None
    loss: float | None
    tokens_per_s: float | None
    peak_bytes: int | None
    started_utc: float | None
    """When the newest attempt began."""
    score: float | None
    """By the experiment's ranking score; None before it is scored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CardRow:
    uuid: str
    kind: str
    name: str
    total_bytes: int
    cap_bytes: int | None
    capability: str | None
    free_bytes: int | None
    utilisation: float | None
    """Percent."""
    temperature_c: float | None
    power_w: float | None
    power_limit_w: float | None
    energy_j: float | None
    """As the card counts, since its driver was loaded."""
    ecc_errors: int | None
    """Memory errors that could not be corrected, since its driver was loaded."""
    processes: list[dict[str, Any]]
    """Foreign ones: pid, bytes, name, draws (a desktop's)."""
    xid_watch: bool | None
    """Whether the driver tells us of Xid errors; None where there can be none."""
    xids: list[list[float]]
    """[at_utc, code] of the last ones, the newest last."""
    lost: bool
    """The driver is well, and has lost it."""
    heat: str
    """warm: too hot for a new trial; hot: too hot for the one it has; empty: neither."""
    guard: str
    """Why a guard keeps new trials off it; empty while none does."""
    energy_wh: float | None
    """What our attempts drew on it, all together."""
    present: bool
    drained: bool
    quarantined: str
    problem: str
    generation: int
    seen_utc: float
    trial: int | None
    """The trial whose attempt holds it now."""


def card_of(row: CardRow) -> Card:
    """The card as planner and worker know it."""
    from workbench.machine.cards import Card  # listing needs none of what it brings

    parts = [int(part) for part in row.capability.split(".")] if row.capability else None
    return Card(
        uuid=row.uuid,
        kind="cuda" if row.kind == "cuda" else "cpu",
        name=row.name,
        total_bytes=row.total_bytes,
        capability=(parts[0], parts[1]) if parts else None,
        cap_bytes=row.cap_bytes,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class MoveRow:
    trial: int
    before: str
    after: str
    by: str
    why: str
    at_utc: float


@dataclass(frozen=True, slots=True, kw_only=True)
class EventRow:
    id: int
    at_utc: float
    experiment: int | None
    trial: int | None
    attempt: int | None
    kind: str
    level: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    question: str
    expected: str
    answer: str
    correct: bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A chart's column: the lowest and highest value among its steps."""

    step: int
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    ok: bool
    text: str
    hint: str
    data: dict[str, Any]
    """What the request made, e.g. {"experiment": 3}."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BoardRow:
    """One adapter's line on the board; the base has rank None."""

    rank: int | None
    trial: int
    number: int
    kind: str
    state: str
    score: float | None
    base_score: float | None
    gain: float | None
    """Better than the base by so much, in the score's own units, up is better."""
    scores: dict[str, float | None]
    settings: dict[str, Any]
    adapter: str | None
    adapter_bytes: int | None
    card: str | None
    attempts: int
    tokens_per_s: float | None
    peak_bytes: int | None
    predicted_bytes: int | None
    wall_s: float | None
    energy_wh: float | None
    """Drawn by its card during all its attempts; None where none was measured."""
    precision: str | None
    reason: str

"""Frozen rows that readers of the store get: experiments, trials, attempts, cards, answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from workbench.trial import KILLED, DesiredState, Kind, State

if TYPE_CHECKING:
    from workbench.machine.cards import Card


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """One submitted recipe, which owns trials."""

    id: int
    name: str
    state: str
    """preparing, ready or refused."""
    recipe: dict[str, Any]
    """The recipe as resolved; `Recipe.model_validate` takes it."""
    rank_by: str
    """The name of the score that its board ranks by; see `trial.up_is_better`."""
    prepared: dict[str, Any] | None
    """The result of preparing it: model, data, digests; None before it is ready."""
    resolved: dict[str, Any]
    """Precision and optimizer, decided once for all its trials so that they stay comparable."""
    base_trial: int | None
    """The trial that scored its base; may belong to an earlier experiment on the same base."""
    reason: str
    """The reason why it was refused; else empty."""
    hint: str
    priority: int
    """Higher is placed first; 0 unless a person changed it."""
    held: bool
    """A person holds it: none of its trials is placed."""
    max_parallel: int | None
    """Trials of it that may run at the same time; None: as many as there are cards."""
    most_trials: int | None
    """Trials that its sweep may have in all; None: until its budget or its space is used up."""
    searching: bool
    """Its sweep may still add trials, so it has not ended when all of its trials have."""
    warm_trial: int | None
    """The trial whose adapter its trials start from; None: they start from fresh adapters."""
    ended_utc: float | None
    """UTC seconds at which all of it had ended; None while there is something to do."""
    created_utc: float
    counts: dict[str, int]
    """Tuned trials by state; the trial that scores the base is left out."""
    killed: int
    """How many of the stopped ones were killed, so that nothing of them was kept."""

    @property
    def is_unfinished(self) -> bool:
        """True while it is prepared, searches, or has a trial that has not ended."""
        live = any(count for state, count in self.counts.items() if not State(state).final)
        return self.state == "preparing" or self.searching or live

    @property
    def outcomes(self) -> dict[str, int]:
        """Tuned trials by the word that people see: `counts` with `killed` beside `stopped`."""
        stopped = self.counts.get("stopped", 0) - self.killed
        return {**self.counts, "stopped": stopped, KILLED: self.killed}


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptRow:
    """One run of a trial on one card."""

    id: int
    trial: int
    card: str
    """The card's UUID."""
    plan: dict[str, Any]
    """The plan of the trial on this card; see `footprint.plan`."""
    predicted_bytes: int
    """Peak memory that the plan predicts on the card."""
    peak_bytes: int | None
    """Peak memory that was measured; None before the first measurement."""
    generation: int | None
    """The card's worker, counted from 1; None before it reported."""
    pid: int | None
    started_utc: float
    reported_utc: float | None
    """When its first event came; None before."""
    ended_utc: float | None
    outcome: str | None
    """An `events.Outcome`; None while it lives."""
    reason: str
    cause: str
    """The kind of failure: one of attempts.events.FailureCause."""
    stage: str
    """The phase in which it failed, for example "training"."""
    from_step: int
    """Optimizer steps that its trial had done when it began."""
    last_step: int
    total_steps: int | None
    """Optimizer steps of the whole trial; None until training begins."""
    loss: float | None
    """The newest training loss, in nats per target token."""
    tokens_per_s: float | None
    """The newest rate, in target and context tokens per second."""
    energy_wh: float | None
    """Watt-hours that its card drew meanwhile; None where the card reports neither energy nor
    power."""
    checkpoint_step: int | None
    """The newest checkpoint that this attempt committed."""
    phase: str
    halt: str | None
    """The halt that was sent to its worker and is sent again each tick; None: none."""
    offset: int
    """Bytes of its event file that are in the tables."""
    ends_utc: float | None
    """UTC seconds at which it will probably end; None where its worker has not said yet."""

    @property
    def uncorrected_bytes(self) -> int:
        """The prediction before it was corrected by peaks measured on such cards."""
        buckets = self.plan.get("buckets")
        known = buckets.values() if isinstance(buckets, dict) else ()
        return sum(size for size in known if isinstance(size, int)) or self.predicted_bytes


@dataclass(frozen=True, slots=True)
class Hidden:
    """Trials and experiments that a person removed: the store keeps their rows, lists do not show
    them. Each id stands with its time of creation, because a new database counts from 1 again."""

    trials: Mapping[int, float] = field(default_factory=dict)
    experiments: Mapping[int, float] = field(default_factory=dict)


NOTHING_HIDDEN = Hidden()


class Waiting(Protocol):
    """The facts about a queued trial that fair share needs."""

    @property
    def id(self) -> int: ...
    @property
    def experiment(self) -> int: ...
    @property
    def rank(self) -> float | None: ...


class Queued(NamedTuple):
    """A queued trial with nothing but its place."""

    id: int
    experiment: int
    rank: float | None
    is_base: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialRow:
    """A trial with its newest attempt, as lists show it."""

    id: int
    experiment: int
    experiment_name: str
    number: int
    """Its number within the experiment, from 1; 0 scores the base."""
    kind: Kind
    state: State
    desired_state: DesiredState
    """The state that a person asked for; the engine works until the trial is in it."""
    settings: dict[str, Any]
    """Dotted recipe keys that differ from the experiment's recipe, with this trial's values."""
    rank: float | None
    """Its place in the queue where a person moved it: the lowest goes first, and trials without a
    rank go by their id. Below 0 it also goes before other experiments' trials."""
    desired_card: str | None
    """The UUID of the only card it may be placed on next; None: any card."""
    warm_trial: int | None
    """The trial whose adapter its weights start from; None: they start from a fresh adapter."""
    pruned: str
    """The reason why it ends early, or did; empty for other trials."""
    checkpoint_step: int | None
    """Optimizer steps done at its newest committed checkpoint; None without a checkpoint."""
    waiting: str
    """The thing it waits for while it is QUEUED, in words."""
    reason: str
    """The reason why it is in its state, for FAILED, STOPPED, PRUNED and PAUSED; else empty."""
    hint: str
    created_utc: float
    changed_utc: float
    attempts: int
    """The number of attempts it has had; the fields from here to `from_step` are the newest's."""
    card: str | None
    """The card's UUID; None before the first attempt."""
    phase: str
    step: int
    total_steps: int | None
    loss: float | None
    tokens_per_s: float | None
    peak_bytes: int | None
    started_utc: float | None
    """UTC seconds at which the newest attempt began."""
    from_step: int
    """The optimizer step that the newest attempt started from."""
    ends_utc: float | None
    """UTC seconds at which the newest attempt will probably end; None: not known, or ended."""
    score: float | None
    """The score that the experiment ranks by; None before it is scored."""
    finals_of: int | None = None
    """The finalist that it trains again with another seed; None for trials that are no finals."""

    def seconds_left(self, now_utc: float) -> float | None:
        """Return the seconds until its attempt ends, None where it does not run or cannot tell yet.

        Its worker estimates them from steps and evaluations that it has measured.
        """
        if self.state is not State.RUNNING or self.ends_utc is None:
            return None
        return max(0.0, self.ends_utc - now_utc)


@dataclass(frozen=True, slots=True, kw_only=True)
class CardRow:
    """One card with its newest sample."""

    uuid: str
    kind: str
    """cuda or cpu."""
    name: str
    total_bytes: int
    cap_bytes: int | None
    """The part of it that the workbench may use, where WORKBENCH_CARDS caps it."""
    capability: str | None
    """CUDA compute capability, for example "8.6"; None for a CPU card."""
    free_bytes: int | None
    utilisation: float | None
    """Percent."""
    temperature_c: float | None
    power_w: float | None
    power_limit_w: float | None
    energy_j: float | None
    """Energy in joules that the card counted since its driver was loaded."""
    ecc_errors: int | None
    """Uncorrectable memory errors since its driver was loaded."""
    processes: list[dict[str, Any]]
    """Processes that are not ours: pid, bytes, name, draws (True for a desktop's)."""
    xid_watch: bool | None
    """True if the driver reports Xid errors to us; None where there can be none."""
    xids: list[list[float]]
    """[UTC seconds, code] of the last Xid errors, the newest last."""
    lost: bool
    """The driver answers, and no longer lists this card."""
    heat: str
    """warm: too hot for a new trial; hot: too hot for the one it has; empty: neither."""
    guard: str
    """The reason why a guard keeps new trials off it, in words; empty while none does."""
    energy_wh: float | None
    """Watt-hours that our attempts drew on it, in all."""
    present: bool
    """The newest sample has it."""
    drained: bool
    """A person keeps new trials off it."""
    quarantined: str
    """The reason why the engine keeps new trials off it until a person releases it; else empty."""
    problem: str
    """The problem that its driver reports; else empty."""
    generation: int
    """Its newest worker, counted from 1; 0 before the first."""
    seen_utc: float
    trial: int | None
    """The trial whose attempt holds it now; None: none."""

    def is_old(self, now_utc: float) -> bool:
        """Return whether its newest sample no longer shows its present state."""
        return not self.present or now_utc - self.seen_utc > CARD_OLD_S


CARD_OLD_S = 30.0
"""Seconds after which a card's sample no longer shows its present state."""
CARD_SLOTS = "card_slots"
"""The fact with [number in nvidia-smi, slot on the PCI bus] of each GPU, by UUID, as JSON."""


def card_of(row: CardRow) -> Card:
    """Return the card as planner and worker know it."""
    from workbench.machine.cards import Card  # front ends list cards without it

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
    """One change of a trial's state."""

    trial: int
    before: str
    after: str
    by: str
    """The scheduler's function that made it; see `trial.MOVES`."""
    why: str
    at_utc: float


@dataclass(frozen=True, slots=True, kw_only=True)
class EventRow:
    """One line for people about what happened."""

    id: int
    at_utc: float
    experiment: int | None
    trial: int | None
    attempt: int | None
    kind: str
    level: str
    """debug, info, warning or error."""
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerSample:
    """One held-out question with the expected and the generated answer."""

    question: str
    expected: str
    answer: str
    correct: bool | None
    """None where the recipe has no answer pattern."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A chart's column: the lowest and the highest value within a span of steps."""

    step: int
    """The first step of the span."""
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestAnswer:
    """The engine's answer to one request."""

    ok: bool
    text: str
    """The answer for people: what was done, or why it was not."""
    hint: str
    """The next step for a person; may be empty."""
    data: dict[str, Any]
    """The things that the request made, e.g. {"experiment": 3}."""

    def to_json(self) -> dict[str, Any]:
        """Return the text as `answer`, and the data beside it."""
        return {"answer": self.text, **self.data}

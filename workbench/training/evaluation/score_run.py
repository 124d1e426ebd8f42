"""The score trial's part of an attempt: an adapter is checked, put on the base, and scored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from workbench.adapters.adapter_folder import AdapterFolder, adapter_digest, read_adapter
from workbench.attempts.events import AttemptEnd, Outcome
from workbench.errors import CheckpointError, Diverged, ModelError, NotThere
from workbench.fleet import Halt
from workbench.text import safe_line
from workbench.training.control import Control, Emit, Interrupted
from workbench.training.model.base import find_nonfinite
from workbench.training.model.saved_adapter import load_saved
from workbench.training.scoring.scores import Scorer


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredAdapter:
    """An adapter that was found unchanged, or the base alone."""

    name: str
    """Words for people: `the adapter of trial 5`, `the adapter in /path`, `the base`."""
    found: AdapterFolder | None
    """None for the base alone."""
    sha256: str | None
    """SHA-256 of the weights, where a trial saved them."""
    step: int
    """Optimizer steps after which the weights were saved; 0 where that is unknown."""


def check_scored(source: dict[str, Any], emit: Emit) -> ScoredAdapter:
    """Return the adapter that an assignment's `score` names, after a look at its files.

    Comes before the base is loaded. Raises CheckpointError or NotThere, with its hint, for a folder
    that vanished or changed since the evaluation was submitted, or that cannot be scored.
    """
    trial, folder = source.get("trial"), source.get("folder")
    if folder is None:
        return ScoredAdapter(name="the base", found=None, sha256=None, step=0)
    shown = safe_line(folder, 200)
    name = f"the adapter in {shown}" if trial is None else f"the adapter of trial {trial}"
    if source.get("error"):
        raise CheckpointError(str(source["error"]), hint=str(source.get("hint") or ""))
    try:
        found = read_adapter(Path(folder))
    except NotThere as gone:
        raise NotThere(
            f"{name} is gone: {gone.what}", hint="put the folder back, and evaluate it again"
        ) from gone
    digest = source.get("digest")
    if digest is not None and adapter_digest(found.folder) != digest:
        raise CheckpointError(
            f"{name} changed after the evaluation was submitted",
            hint="evaluate it again, now as it is",
        )
    for note in source.get("notes") or ():
        emit("log", level="warning", text=str(note))
    step = int(source.get("step") or 0)
    return ScoredAdapter(name=name, found=found, sha256=source.get("sha256"), step=step)


def score_subject(
    base: nn.Module,
    subject: ScoredAdapter,
    scorer: Callable[[nn.Module], Scorer],
    emit: Emit,
    control: Control,
) -> AttemptEnd:
    """Score the adapter, or the base alone, and return how that ended.

    Raises CheckpointError for weights that do not fit the base, and ModelError for scores that are
    not finite.
    """
    if control.halt is Halt.FINISH:
        reason = "stopped before it was scored"
        return AttemptEnd(outcome=Outcome.STOPPED, step=0, reason=reason)
    try:
        if subject.found is not None:
            load_saved(base, subject.found, subject.sha256)
        values = scorer(base).scores(subject.step)
    except Interrupted:
        reason = "asked to give the card back"
        return AttemptEnd(outcome=Outcome.YIELDED, step=0, reason=reason)
    except Diverged as divergence:
        broken = find_nonfinite(base)
        where = f": the base holds weights that are NaN or infinite ({broken[0]})" if broken else ""
        raise ModelError(
            f"{subject.name}: {divergence.what}{where}",
            hint="set model.precision: bf16 or fp32, or train the adapter again",
        ) from divergence
    emit("score", durable=True, subject="trial", values=values, step=subject.step)
    return AttemptEnd(outcome=Outcome.DONE, step=subject.step)

"""The score trial's part of an attempt: an adapter is put on the base, and scored."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from workbench.attempts.events import AttemptEnd, Outcome
from workbench.errors import Diverged, ModelError
from workbench.fleet import Halt
from workbench.training.control import Control, Emit, Interrupted
from workbench.training.evaluation.scored_adapter import ScoredAdapter
from workbench.training.evaluation.together import AnswersTogether
from workbench.training.model.base import find_nonfinite
from workbench.training.model.saved_adapter import load_saved
from workbench.training.scoring.scores import Scorer


def score_subject(
    base: nn.Module,
    subject: ScoredAdapter,
    scorer: Callable[[nn.Module], Scorer],
    emit: Emit,
    control: Control,
    together: AnswersTogether,
) -> AttemptEnd:
    """Score the adapter, or the base alone, and return how that ended.

    `together` generates the answers. Raises CheckpointError for weights that do not fit the base,
    and ModelError for scores that are not finite.
    """
    if control.halt is Halt.FINISH:
        reason = "stopped before it was scored"
        return AttemptEnd(outcome=Outcome.STOPPED, step=0, reason=reason)
    try:
        together.check_beside(base)
        if subject.found is not None:
            together.model = load_saved(base, subject.found, subject.sha256)
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
    together.forget()
    return AttemptEnd(outcome=Outcome.DONE, step=subject.step)

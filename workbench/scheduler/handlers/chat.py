"""Handler of `chat`: adapters on one base answer a person's questions on a card."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from workbench.adapters.subjects import MODELS
from workbench.errors import UsageError
from workbench.scheduler.evaluation.scoring import chat_model
from workbench.scheduler.handlers import accepted
from workbench.scheduler.tick_context import TickContext
from workbench.store.rows import RequestAnswer, TrialRow
from workbench.text import safe_line
from workbench.trial import Kind

MOST_MODELS = 16
"""Models in one chat."""
_SAME = ("name", "revision", "quantization", "double_quantization")
"""Settings of a model that make it the same base."""


def open_chat(context: TickContext, args: dict[str, Any]) -> RequestAnswer:
    """Queue a chat before everything else; the answer has its trial.

    `subjects` are trials' ids, and None for the base of the others. Every adapter must be on the
    base of the first one.
    """
    subjects: Sequence[int | None] = args["subjects"]
    if not 0 < len(subjects) <= MOST_MODELS:
        raise UsageError(f"a chat has 1 to {MOST_MODELS} models")
    trials = [context.store.trial(int(one)) for one in subjects if one is not None]
    if not trials:
        raise UsageError("a chat needs a trial", hint="workbench chat TRIAL --against base")
    for trial in trials:
        _check_model(context, trial, trials[0])
    experiment = trials[0].experiment
    with context.store.writing():
        models = [None if one is None else int(one) for one in subjects]
        id = context.add_trial(experiment, Kind.CHAT, {MODELS: models})
        context.store.to_front(id)  # a person waits for it at a terminal
    return accepted(f"trial {id} is a chat; it waits for a card", trial=id)


def _check_model(context: TickContext, trial: TrialRow, first: TrialRow) -> None:
    """Raise UsageError for a trial without an adapter, or on another base than the first."""
    if trial.kind is Kind.CHAT:
        raise UsageError(f"trial {trial.id} is a chat itself", hint="choose one of the board")
    if trial.kind is not Kind.BASE:
        chat_model(context, trial)
    mine, theirs = (context.store.experiment(t.experiment).recipe["model"] for t in (trial, first))
    for key in _SAME:
        if mine.get(key) != theirs.get(key):
            raise UsageError(
                f"trial {trial.id} is on another base than trial {first.id}: model.{key} is "
                f"{safe_line(mine.get(key), 120)}, not {safe_line(theirs.get(key), 120)}",
                hint="chat with them one after another",
            )

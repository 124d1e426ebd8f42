"""What one attempt's training is told: its settings for the trainer, and whom it reports to."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trl import SFTConfig

from workbench.errors import DataError, EngineError
from workbench.footprint import Plan
from workbench.recipe.schema import Recipe
from workbench.training.card_memory import Meter
from workbench.training.checkpoints.checkpoint import Belongs
from workbench.training.control import Control, Emit
from workbench.training.host_memory import Host
from workbench.training.rehearsal import Rehearsal
from workbench.training.step.in_trainer import step_config

SCHEDULES = {"constant": "constant_with_warmup", "linear": "linear", "cosine": "cosine"}
"""transformers' plain `constant` ignores the warm-up without a word."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """What one attempt's training needs beside model and rows."""

    recipe: Recipe
    plan: Plan
    device: str
    """cpu or cuda."""
    checkpoints: Path
    scratch: Path
    """Where the trainer believes it may write; it does not."""
    belongs: Belongs
    emit: Emit
    control: Control
    meter: Meter
    held_out: Callable[[], dict[str, float]]
    """Scores the held-out rows with the adapter as it is."""
    host: Host | None = None
    """The machine's memory, looked at between two steps."""
    rehearsal: Rehearsal | None = None
    """Of the worst batch, before anything is trained; None where there is no need."""


def what_was_prepared(experiment: Path) -> dict[str, Any]:
    """prepared.json of the experiment; what it refused is raised as DataError."""
    try:
        text = (experiment / "prepared.json").read_text(encoding="utf-8")
        told: dict[str, Any] = json.loads(text)
    except (OSError, ValueError) as gone:
        raise EngineError(
            "the experiment was not prepared", hint="submit the recipe again"
        ) from gone
    if not told.get("ok"):
        raise DataError(str(told.get("error", "refused")), hint=str(told.get("hint", "")))
    return told


def config(course: Course) -> SFTConfig:
    """A fresh one for every trial: making it resets accelerate's process-wide state."""
    plan, train = course.plan, course.recipe.train
    return SFTConfig(
        output_dir=str(course.scratch),
        num_train_epochs=train.epochs,
        max_steps=train.max_steps or -1,
        learning_rate=train.learning_rate,
        weight_decay=train.weight_decay,
        lr_scheduler_type=SCHEDULES[train.schedule],
        warmup_steps=train.warmup,  # below 1: a share of all steps
        seed=train.seed,
        max_length=None,  # rows come cut
        packing=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        use_cpu=course.device == "cpu",
        dataloader_pin_memory=False,  # the step pins what it copies
        logging_nan_inf_filter=False,  # else a NaN loss is logged as 0.0
        logging_strategy="no",  # Boundary decides
        save_strategy="no",
        eval_strategy="no",
        save_total_limit=None,
        report_to="none",
        disable_tqdm=True,
        push_to_hub=False,
        **step_config(plan.rows_per_step),
    )

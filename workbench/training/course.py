"""What one attempt's training is told: its settings for the trainer, and whom it reports to."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trl import SFTConfig

from workbench.errors import DataError, EngineError
from workbench.footprint import Plan
from workbench.recipe.schema import Recipe
from workbench.training.checkpoint import Belongs
from workbench.training.control import Control, Emit
from workbench.training.memory import Meter
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
    fast: bool = False
    """Train with the step of `workbench.training.step` instead of TRL's own."""


def what_was_prepared(experiment: Path) -> dict[str, Any]:
    """prepared.json of the experiment; what it refused is raised as DataError."""
    try:
        text = (experiment / "prepared.json").read_text(encoding="utf-8")
        told: dict[str, Any] = json.loads(text)
    except (OSError, ValueError) as gone:
        raise EngineError(
            "the experiment was not prepared", mend="submit the recipe again"
        ) from gone
    if not told.get("ok"):
        raise DataError(str(told.get("error", "refused")), mend=str(told.get("mend", "")))
    return told


def _optimizer(course: Course) -> str:
    """transformers' name: one kernel for all tensors where there is a card."""
    fused = course.device == "cuda" and course.plan.optimizer == "adamw_torch"
    return "adamw_torch_fused" if fused else course.plan.optimizer


def fast_step() -> bool:
    """Whether the person asked for it (WORKBENCH_STEP=fast in the engine's environment)."""
    return os.environ.get("WORKBENCH_STEP") == "fast"


def stock_optimizer(course: Course) -> bool:
    """With the fast step: whether the Trainer's own optimizer steps. fp16's loss scale is the flat
    AdamW's alone."""
    return course.plan.optimizer != "adamw_torch" and course.plan.precision != "fp16"


def _fast(course: Course) -> dict[str, Any]:
    """What differs where the step cuts the batch, keeps the precision and clips."""
    if not course.fast:
        return {}
    clip = course.recipe.train.max_grad_norm if stock_optimizer(course) else 0.0
    plan = course.plan
    return {**step_config(plan.micro_batch * plan.micro_steps), "max_grad_norm": clip}


def config(course: Course) -> SFTConfig:
    """A fresh one for every trial: making it resets accelerate's process-wide state."""
    plan, train = course.plan, course.recipe.train
    cut = {
        "per_device_train_batch_size": plan.micro_batch,
        "gradient_accumulation_steps": plan.micro_steps,
        "max_grad_norm": train.max_grad_norm,
        "bf16": plan.precision == "bf16",
        "fp16": plan.precision == "fp16",
        "activation_checkpointing": plan.recompute,
        "activation_checkpointing_kwargs": {"use_reentrant": False},
        **_fast(course),
    }
    return SFTConfig(
        output_dir=str(course.scratch),
        num_train_epochs=train.epochs,
        max_steps=train.max_steps or -1,
        learning_rate=train.learning_rate,
        weight_decay=train.weight_decay,
        lr_scheduler_type=SCHEDULES[train.schedule],
        warmup_steps=train.warmup,  # below 1: a share of all steps
        optim=_optimizer(course),
        seed=train.seed,
        max_length=None,  # rows come cut
        packing=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        use_cpu=course.device == "cpu",
        dataloader_pin_memory=course.device == "cuda" and not course.fast,
        logging_nan_inf_filter=False,  # else a NaN loss is logged as 0.0
        logging_strategy="no",  # Boundary decides
        save_strategy="no",
        eval_strategy="no",
        save_total_limit=None,
        report_to="none",
        disable_tqdm=True,
        push_to_hub=False,
        **cut,
    )

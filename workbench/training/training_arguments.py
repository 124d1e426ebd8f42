"""The arguments of one attempt's training: settings for the trainer, and where it reports."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trl import SFTConfig

from workbench.errors import DataError, EngineError
from workbench.footprint import Plan
from workbench.recipe.schema import Recipe
from workbench.training.checkpoints.background_writer import BackgroundWriter
from workbench.training.checkpoints.checkpoint import Provenance
from workbench.training.control import Control, Emit
from workbench.training.memory.card_memory import Meter
from workbench.training.memory.host_memory import MemoryMonitor
from workbench.training.rehearsal import Rehearsal
from workbench.training.step.in_trainer import step_config
from workbench.training.step.kept.keeper import StepKeeper
from workbench.training.time_left import TimeLeft

SCHEDULES = {"constant": "constant_with_warmup", "linear": "linear", "cosine": "cosine"}
"""The recipe's schedules under transformers' names; its plain `constant` ignores the warm-up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingContext:
    """Everything that one attempt's training needs besides model and rows."""

    recipe: Recipe
    plan: Plan
    device: str
    """Either "cpu" or "cuda"."""
    checkpoints: Path
    scratch: Path
    """The folder that transformers demands as its output folder; nothing is written there."""
    belongs: Provenance
    emit: Emit
    control: Control
    meter: Meter
    held_out: Callable[[], dict[str, float]]
    """Scores the held-out rows with the adapter as it is at the moment of the call."""
    writer: BackgroundWriter
    """Writes the checkpoints; whoever made it waits for the last one."""
    keeper: StepKeeper = field(default_factory=StepKeeper)
    """Holds the step of the trial before, and takes this one's at its end."""
    host: MemoryMonitor | None = None
    """The monitor of the machine's memory, which training asks between two steps."""
    time_left: TimeLeft | None = None
    """The estimate of the attempt's end, which metric rows carry; None: they carry none."""
    rehearsal: Rehearsal | None = None
    """The trial of the worst batch before the first step; None where it is not due."""

    @property
    def keeps_best(self) -> bool:
        """True if evaluated steps leave checkpoints, of which the best becomes the adapter."""
        return self.recipe.train.keep == "best"

    def evaluates(self, step: int) -> bool:
        """Return whether the recipe asks for an evaluation after `step` optimizer steps."""
        every = self.recipe.evaluate.every
        return every is not None and step % every == 0


def read_prepared(experiment: Path) -> dict[str, Any]:
    """Return the experiment's prepared.json.

    Raises DataError with the words of a preparation that was refused, and EngineError where there
    is no readable prepared.json.
    """
    path = experiment / "prepared.json"
    try:
        text = path.read_text(encoding="utf-8")
        prepared: dict[str, Any] = json.loads(text)
    except (OSError, ValueError) as gone:
        raise EngineError(
            f"what was prepared for the experiment is missing or cannot be read: {path}",
            hint="submit the recipe again",
        ) from gone
    if not prepared.get("ok"):
        raise DataError(str(prepared.get("error", "refused")), hint=str(prepared.get("hint", "")))
    return prepared


def sft_config(context: TrainingContext) -> SFTConfig:
    """Return the trainer's settings.

    Make a new one for every trial: its construction resets accelerate's process-wide state, which
    otherwise keeps the precision and accumulation of the trial before.
    """
    plan, train = context.plan, context.recipe.train
    return SFTConfig(
        output_dir=str(context.scratch),
        num_train_epochs=train.epochs,
        max_steps=train.max_steps or -1,
        learning_rate=train.learning_rate,
        weight_decay=train.weight_decay,
        lr_scheduler_type=SCHEDULES[train.schedule],
        warmup_steps=train.warmup,  # below 1: a share of all steps
        seed=train.seed,
        # Experts are refused, and a dense model may have the setting all the same (Granite 4).
        router_aux_loss_coef=0.0,
        max_length=None,  # rows come cut
        packing=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        use_cpu=context.device == "cpu",
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

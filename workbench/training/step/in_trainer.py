"""The step inside TRL's life cycle: the methods that a Trainer overrides to train with it.

`class TrialTrainer(StepTraining, SFTTrainer)`: data preparation, order, callbacks, schedules,
checkpoints and resume stay the Trainer's. It has to be configured with `step_config()`: whole
optimizer batches, no mixed precision and no clipping of its own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from workbench.footprint.plan import Plan
from workbench.footprint.row_lengths import MOST_ROWS_PER_BIN
from workbench.recipe.schema import Recipe
from workbench.training.step.kept.keeper import StepKeeper
from workbench.training.step.options import StepOptions
from workbench.training.step.rows import Rows, collate_rows
from workbench.training.step.step import Step

MICRO_STEPS_AT_MOST = 1 << 10
"""Micro-steps of one optimizer batch at most: their numbers are that far apart between steps."""

MOST_ROWS = 65_534
"""Rows of a micro-step at most; a batch of more is cut. The attention kernel has a program for each
and for the tail, and CUDA counts no more than 65,535 along that dimension of a launch."""


def step_config(rows_per_step: int) -> dict[str, Any]:
    """Return the arguments of SFTConfig that leave batches, precision and clipping to the step.

    Gradient accumulation is 1: the Trainer hands over whole optimizer batches, and the step cuts
    them, so data order and loss never depend on the card.
    """
    return {
        "per_device_train_batch_size": rows_per_step,
        "gradient_accumulation_steps": 1,
        # 0 switches the Trainer's own clipping off: the step clips.
        "max_grad_norm": 0.0,
        # No autocast and no scaler: the step holds its own 16-bit copies and loss scale.
        "bf16": False,
        "fp16": False,
        "activation_checkpointing": False,
    }


def options_from(plan: Plan, recipe: Recipe) -> StepOptions:
    """Return the step's options: what the card decides from the plan, the rest from the recipe."""
    train = recipe.train
    rows = plan.rows_per_step * (MOST_ROWS_PER_BIN if recipe.data.packing else 1)
    return StepOptions(
        precision=plan.precision,
        optimizer=plan.optimizer,
        rows_per_micro=min(rows, MOST_ROWS),
        tokens_per_micro=plan.tokens_per_micro,
        max_length=recipe.data.max_tokens,
        longest=plan.longest,
        recompute_layers=plan.recompute_layers,
        long_recompute_layers=plan.long_recompute_layers,
        offload=plan.offload,
        dequantised_layers=plan.dequantised_layers,
        learning_rate=train.learning_rate,
        weight_decay=train.weight_decay,
        max_grad_norm=train.max_grad_norm,
        seed=train.seed,
        log_every=train.log_every,
        off=frozenset(plan.off),
    )


class StepTraining:
    """A mixin that stands before the Trainer.

    Set `step_options` before train(), and pass `data_collator=collate_rows`.
    """

    step_options: StepOptions
    keeper: StepKeeper | None = None
    """May have a step from the trial before; None: the step is a new one."""
    step: Step | None = None
    optimizer: Any
    model: Any
    state: Any
    loss_is_scaled_for_ga = True
    """The Trainer's flag that the loss is a mean over the whole batch already."""

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Make the step, after everything has wrapped the model, and return its optimizer.

        A checkpoint may be loaded after this: weights and state are copied in place.
        """
        if self.step is None:
            make = Step if self.keeper is None else self.keeper.make
            self.step = make(self.model, self.step_options)
        self.optimizer = self.step.optimizer
        return self.step.optimizer

    def training_step(self, model: Any, inputs: Rows, num_items_in_batch: Any = None) -> Tensor:
        """Return the batch's mean loss in nats per target token, a scalar on the card.

        Micro-steps are numbered from the optimizer step's number, so that a resumed trial draws the
        same dropout masks, and a rehearsal or another cut of a batch changes none of later steps.
        """
        step = self.step
        assert step is not None
        step.micro_steps = int(self.state.global_step) * MICRO_STEPS_AT_MOST
        return step.forward_backward(inputs)

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        """Return the norm before clipping, on the card; it is read when a log line is due."""
        assert self.step is not None
        return self.step.optimizer.norm

    def _get_num_items_in_batch(self, batch_samples: list[Rows], device: Any) -> int:
        return sum(rows.targets for rows in batch_samples)

    def floating_point_ops(self, inputs: Rows) -> int:
        """Return 0: the Trainer would estimate operations from a padded batch."""
        return 0


__all__ = ["StepTraining", "collate_rows", "options_from", "step_config"]

"""The same trainer with the step of `workbench.training.step`: no padding, fused LoRA over NF4,
CUDA graphs, one flat AdamW. Life cycle, order of rows, metrics, checkpoints stay as they are.
"""

from __future__ import annotations

from typing import Any

from datasets import Dataset

from workbench.training.checkpoint import Checkpoint
from workbench.training.course import Course, stock_optimizer
from workbench.training.step.in_trainer import StepTraining, collate, options_from
from workbench.training.step.rows import Rows
from workbench.training.trainer import TrialTrainer


class FastTrialTrainer(StepTraining, TrialTrainer):  # type: ignore[misc]
    """Raises StepsSkipped at a log line when twenty steps in a row had no finite gradient."""

    def __init__(self, model: Any, rows: Dataset, tokenizer: Any, course: Course) -> None:
        super().__init__(model, rows, tokenizer, course)
        self.step_options = options_from(course.plan, course.recipe)
        self.stock_optimizer = stock_optimizer(course)

    @staticmethod
    def collator(tokenizer: Any) -> Any:
        return collate

    def run(self, found: Checkpoint | None, begin: Any) -> tuple[int, bool]:
        try:
            return super().run(found, begin)
        finally:
            if self.step is not None:
                self.step.restore()

    def training_step(self, model: Any, inputs: Rows, num_items_in_batch: Any = None) -> Any:
        loss = super().training_step(model, inputs, num_items_in_batch)
        self.window.step(inputs.targets)
        self.window.add(loss, inputs.targets, inputs.tokens)
        self.course.control.beat()
        return loss

    def _finite(self, sums: dict[str, float]) -> None:
        super()._finite(sums)
        if self.step is not None and not self.stock_optimizer:
            self.step.measured()

    def _evaluate(self, *args: Any, **more: Any) -> dict[str, float]:
        if self.step is not None:
            self.step.release_graphs()  # scoring wants their memory; they are captured anew
        return super()._evaluate(*args, **more)

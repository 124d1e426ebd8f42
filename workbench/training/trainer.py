"""TRL's trainer, with our order of the rows, our metric rows, and our checkpoints."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback
from transformers.trainer_pt_utils import get_length_grouped_indices
from trl import SFTConfig, SFTTrainer
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from workbench.fleet import Halt
from workbench.footprint import Plan
from workbench.recipe.schema import Recipe
from workbench.training import checkpoint, staging
from workbench.training.adapter import load_weights, save_weights
from workbench.training.checkpoint import WEIGHTS, Belongs, Checkpoint
from workbench.training.control import Control, Emit, Interrupted
from workbench.training.failure import diverged
from workbench.training.memory import Meter

SCHEDULES = {"constant": "constant_with_warmup", "linear": "linear", "cosine": "cosine"}
"""transformers' plain `constant` ignores the warm-up without a word."""
MAX_BEHIND = 1 << 20
"""Factor between a seed and its epochs, so that (seed, epoch) names one order."""


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


def config(course: Course) -> SFTConfig:
    """A fresh one for every trial: making it resets accelerate's process-wide state."""
    plan, train = course.plan, course.recipe.train
    return SFTConfig(
        output_dir=str(course.scratch),
        num_train_epochs=train.epochs,
        max_steps=train.max_steps or -1,
        per_device_train_batch_size=plan.micro_batch,
        gradient_accumulation_steps=plan.micro_steps,
        learning_rate=train.learning_rate,
        weight_decay=train.weight_decay,
        max_grad_norm=train.max_grad_norm,
        lr_scheduler_type=SCHEDULES[train.schedule],
        warmup_steps=train.warmup,  # below 1: a share of all steps
        optim=plan.optimizer,
        seed=train.seed,
        bf16=plan.precision == "bf16",
        fp16=plan.precision == "fp16",
        activation_checkpointing=plan.recompute,
        activation_checkpointing_kwargs={"use_reentrant": False},
        max_length=None,  # rows come cut
        packing=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        use_cpu=course.device == "cpu",
        dataloader_pin_memory=course.device == "cuda",
        logging_nan_inf_filter=False,  # else a NaN loss is logged as 0.0
        logging_strategy="no",  # Boundary decides
        save_strategy="no",
        eval_strategy="no",
        save_total_limit=None,
        report_to="none",
        disable_tqdm=True,
        push_to_hub=False,
    )


class EpochOrder(torch.utils.data.Sampler[int]):
    """Row numbers of one epoch, from (seed, epoch) alone: a resumed epoch has the same order."""

    def __init__(
        self, lengths: list[int], rows_per_step: int, seed: int, epoch: Callable[[], int], by: bool
    ) -> None:
        self._lengths = lengths
        self._rows_per_step = rows_per_step
        self._seed = seed
        self._epoch = epoch
        self._grouped = by

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        chance = torch.Generator()
        chance.manual_seed(self._seed * MAX_BEHIND + self._epoch())
        if self._grouped:
            # Groups of whole optimizer batches, so the order never depends on the card's cut.
            return iter(
                get_length_grouped_indices(self._lengths, self._rows_per_step, generator=chance)
            )
        return iter(torch.randperm(len(self._lengths), generator=chance).tolist())


class Window:
    """Sums since the last metric row; on the card, so that a step waits for nothing."""

    def __init__(self, device: str) -> None:
        self._sums = torch.zeros(3, dtype=torch.float64, device=device)
        self.steps = 0
        self.seconds = 0.0
        self._since = time.monotonic()

    def add(self, loss: torch.Tensor, targets: torch.Tensor, tokens: torch.Tensor) -> None:
        """One micro-step: its share of the batch's mean loss, the batch's targets, its tokens."""
        self._sums[0] += loss.double() * targets
        self._sums[2] += tokens

    def step(self, targets: torch.Tensor) -> None:
        self._sums[1] += targets
        self.steps += 1

    def pause(self) -> None:
        self.seconds += time.monotonic() - self._since

    def go_on(self) -> None:
        self._since = time.monotonic()

    def read(self) -> dict[str, float]:
        """nats, targets, tokens, steps, seconds; waits for the card."""
        nats, targets, tokens = self._sums.tolist()
        seconds = self.seconds + time.monotonic() - self._since
        return {
            "nats": nats,
            "targets": targets,
            "tokens": tokens,
            "steps": self.steps,
            "seconds": seconds,
        }

    def put(self, sums: dict[str, float]) -> None:
        """Go on from what a checkpoint kept, or from nothing ({})."""
        at = [sums.get(name, 0.0) for name in ("nats", "targets", "tokens")]
        self._sums.copy_(torch.tensor(at, dtype=torch.float64))
        self.steps = int(sums.get("steps", 0))
        self.seconds = sums.get("seconds", 0.0)
        self.go_on()


class Boundary(TrainerCallback):  # type: ignore[misc]
    """Says after each optimizer step what is due: metric row, held-out loss, checkpoint, end."""

    def __init__(self, course: Course) -> None:
        self._course = course

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        step, train = state.global_step, self._course.recipe.train
        every = self._course.recipe.evaluate.every
        halt = self._course.control.halt
        last = step >= state.max_steps
        control.should_log = last or step % train.log_every == 0 or halt is Halt.FINISH
        control.should_evaluate = bool(every) and step % every == 0 and not last and halt is None
        control.should_save = last or step % train.save_every == 0 or halt is not None
        control.should_training_stop = last or halt is not None


class TrialTrainer(SFTTrainer):  # type: ignore[misc]
    """Trains the adapter on a lent base. Masters stay fp32: TRL's cast to bf16 is undone."""

    loss_is_scaled_for_ga = True  # divided by the whole batch's targets, not by micro-steps

    def __init__(self, model: Any, rows: Dataset, tokenizer: Any, course: Course) -> None:
        self.course = course
        self._rows_per_step = course.plan.micro_batch * course.plan.micro_steps
        self._steps_per_epoch = math.ceil(len(rows) / self._rows_per_step)
        trained = [param for param in model.parameters() if param.requires_grad]
        masters = [param.data.float() for param in trained]
        super().__init__(
            model=model,
            args=config(course),
            data_collator=DataCollatorForLanguageModeling(pad_token_id=tokenizer.pad_token_id),
            train_dataset=rows,
            processing_class=tokenizer,
            callbacks=[Boundary(course)],
        )
        self.remove_callback(PrinterCallback)
        for param, master in zip(trained, masters, strict=True):
            param.data = master
        self.window = Window(course.device)
        self._targets = torch.zeros((), dtype=torch.int64)

    def run(self, found: Checkpoint | None, begin: Callable[[int], None]) -> tuple[int, bool]:
        """Train from `found` or from the start: (steps done, whether that was all of them).

        `begin` is told the number of steps. A trial whose last checkpoint is its end trains
        nothing more; its weights are loaded.
        """
        total = self.steps()
        begin(total)
        if found is not None and found.step >= total:
            load_weights(self.model, found.path / WEIGHTS)
            return found.step, True
        self.window.put(found.window if found else {})
        self.train(resume_from_checkpoint=str(found.path) if found else None)
        return int(self.state.global_step), int(self.state.global_step) >= total

    def steps(self) -> int:
        """Optimizer steps of the whole trial."""
        train = self.course.recipe.train
        return train.max_steps or math.ceil(train.epochs * self._steps_per_epoch)

    # -- the rows

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> EpochOrder:
        rows = train_dataset if train_dataset is not None else self.train_dataset
        train = self.course.recipe.train
        return EpochOrder(
            list(self.train_dataset["length"]) if rows is not None else [],
            self._rows_per_step,
            train.seed,
            lambda: int(self.state.global_step) // self._steps_per_epoch,
            self.course.recipe.data.group_by_length,
        )

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: Any) -> torch.Tensor:
        """Target tokens of a whole optimizer batch; the first token of a row is never one."""
        counts = [batch["labels"][..., 1:].ne(-100).sum() for batch in batch_samples]
        self._targets = torch.stack(counts).sum().to(device) if counts else self._targets
        self.window.step(self._targets)
        return self._targets

    # -- the step

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
        tokens = inputs["attention_mask"].sum()
        loss = super().training_step(model, inputs, num_items_in_batch)
        self.window.add(loss, self._targets, tokens)
        self.course.control.beat()
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """One metric row; Diverged when the window's loss is no number."""
        self._metrics["train"].clear()
        if "loss" not in logs:  # the trainer's own summary at the end
            return
        sums = self.window.read()
        self._finite(sums)
        seconds, steps = max(sums["seconds"], 1e-9), max(sums["steps"], 1)
        values = {
            "loss": sums["nats"] / max(sums["targets"], 1),
            "learning_rate": logs["learning_rate"],
            "grad_norm": float(logs.get("grad_norm", math.nan)),
            "tokens_per_s": sums["tokens"] / seconds,
            "step_s": seconds / steps,
            "peak_bytes": self.course.meter.peak_bytes(),
            "epoch": float(self.state.epoch or 0.0),
        }
        self.emit_metric(values)
        self.window.put({})

    def emit_metric(self, values: dict[str, float]) -> None:
        told = {name: value for name, value in values.items() if math.isfinite(value)}
        self.course.emit("metric", step=int(self.state.global_step), values=told)

    def _finite(self, sums: dict[str, float]) -> None:
        if not math.isfinite(sums["nats"]):
            raise diverged(f"by step {self.state.global_step}")

    # -- held-out loss

    def _evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        self.window.pause()
        try:
            scores = self.course.held_out()
        except Interrupted:
            self.control.should_save = self.control.should_training_stop = True
            return {}
        finally:
            self.model.train()
            self.window.go_on()
        self.emit_metric({"eval_loss": scores["loss"]})
        return scores

    # -- checkpoints

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        sums = self.window.read()
        self._finite(sums)
        self.window.pause()
        step = int(self.state.global_step)
        staged = staging.stage(checkpoint.folder_of(self.course.checkpoints, step))
        save_weights(self.model, staged / WEIGHTS)
        self._save_optimizer_and_scheduler(str(staged))
        self._save_scaler(str(staged))
        self._save_rng_state(str(staged))
        self.state.save_to_json(str(staged / "trainer_state.json"))
        done = checkpoint.commit(
            staged, self.course.checkpoints, step=step, belongs=self.course.belongs, window=sums
        )
        self.course.emit(
            "checkpoint", durable=True, step=step, path=str(done.path), bytes=done.bytes
        )
        self.window.go_on()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        load_weights(self.model, Path(resume_from_checkpoint) / WEIGHTS)

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """The adapter's own card is written when it leaves."""

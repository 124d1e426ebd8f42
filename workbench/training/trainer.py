"""TRL's life cycle with our step, our order of the rows, our metric rows, our checkpoints."""

from __future__ import annotations

import gc
import math
import shutil
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback
from trl import SFTTrainer

from workbench import fault_points
from workbench.errors import CheckpointError
from workbench.fleet import Halt
from workbench.machine import staging
from workbench.training.checkpoints import checkpoint
from workbench.training.checkpoints.checkpoint import WEIGHTS, Checkpoint
from workbench.training.control import Interrupted
from workbench.training.failure import diverged, is_out_of_memory
from workbench.training.model.adapter import load_weights, save_weights
from workbench.training.rehearsal import (
    room_for_moments,
    same_chance,
    train_once,
    worst_batches,
)
from workbench.training.row_order import EpochOrder, Window
from workbench.training.step import Lever, Rows
from workbench.training.step.in_trainer import StepTraining, collate, options_from
from workbench.training.training_arguments import Course, config

FAR, LEAST_START = 10, 0.1
"""A loss so many times the first window's has gone away. A start below so many nats counts as that:
what was learned well before may waver."""
CHECK_EVERY = 25
"""Steps after which the card is asked at the latest whether gradients are finite."""
START = "start_loss"
"""In a checkpoint's window: the first window's loss."""


class Boundary(TrainerCallback):  # type: ignore[misc]
    """Says after each optimizer step what is due: metric row, held-out loss, checkpoint, end."""

    def __init__(self, course: Course) -> None:
        self._course = course

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        step, train = state.global_step, self._course.recipe.train
        self._course.control.step = step
        fault_points.at("worker.step")
        every = self._course.recipe.evaluate.every
        halt = self._course.control.halt
        last = step >= state.max_steps
        control.should_log = last or step % train.log_every == 0 or halt is Halt.FINISH
        control.should_evaluate = bool(every) and step % every == 0 and not last and halt is None
        control.should_save = last or step % train.save_every == 0 or halt is not None
        control.should_training_stop = last or halt is not None


class TrialTrainer(StepTraining, SFTTrainer):  # type: ignore[misc]
    """Trains the adapter on a lent base. Masters stay fp32: TRL's cast to bf16 is undone.

    Raises Diverged at a log line or a checkpoint when twenty steps in a row had no finite gradient;
    HostMemory and Interrupted while the step waits for the machine's memory.
    """

    def __init__(self, model: Any, rows: Dataset, tokenizer: Any, course: Course) -> None:
        self.course = course
        self._rows_per_step = course.plan.rows_per_step
        self._steps_per_epoch = math.ceil(len(rows) / self._rows_per_step)
        trained = [param for param in model.parameters() if param.requires_grad]
        masters = [param.data.float() for param in trained]
        super().__init__(
            model=model,
            args=config(course),
            data_collator=collate,
            train_dataset=rows,
            processing_class=tokenizer,
            callbacks=[Boundary(course)],
        )
        self.remove_callback(PrinterCallback)
        for param, master in zip(trained, masters, strict=True):
            param.data = master
        self.step_options = options_from(course.plan, course.recipe)
        self.window = Window(course.device)
        self._start_loss: float | None = None
        self._told: list[Lever] = []
        self._rehearsed = False

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
        self._start_loss = found.window.get(START) if found else None
        try:
            self.train(resume_from_checkpoint=str(found.path) if found else None)
        except UnpicklingError as refused:
            assert found is not None
            raise CheckpointError(
                f"the checkpoint of step {found.step} holds more than numbers, which could run "
                "code; it was not opened",
                hint=f"look who wrote {found.path}; clone the trial: a clone starts anew",
            ) from refused
        finally:
            if self.step is not None:
                self.step.restore()
        return int(self.state.global_step), int(self.state.global_step) >= total

    def steps(self) -> int:
        """Optimizer steps of the whole trial."""
        train = self.course.recipe.train
        return train.max_steps or math.ceil(train.epochs * self._steps_per_epoch)

    # -- the rows

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> EpochOrder:
        return EpochOrder(
            list(self.train_dataset["length"]),
            self._rows_per_step,
            self.course.recipe.train.seed,
            lambda: int(self.state.global_step) // self._steps_per_epoch,
            grouped=self.course.recipe.data.group_by_length,
        )

    # -- the step

    def create_optimizer(self, model: Any = None) -> Any:
        """And the step, which takes what plan.host_bytes says of the machine's memory."""
        need, host = self.course.plan.host_bytes, self.course.host
        with host.room_for(need) if need and host is not None else nullcontext():
            return super().create_optimizer(model)

    def training_step(self, model: Any, inputs: Rows, num_items_in_batch: Any = None) -> Any:
        self._rehearse()
        if self.state.global_step % CHECK_EVERY == 0 and self.state.global_step:
            self._check()
        loss = self.relieved(lambda: super(TrialTrainer, self).training_step(model, inputs))
        self.window.add(loss, inputs.targets, inputs.tokens)
        self.course.control.beat()
        if self.course.host is not None:
            self.course.host.look()
        return loss

    def _rehearse(self) -> None:
        """The worst batch, before the first step, where it was never tried so."""
        rehearsal, step, control = self.course.rehearsal, self.step, self.course.control
        if self._rehearsed or rehearsal is None or not rehearsal.due:
            return
        assert step is not None
        self._rehearsed = True
        self.window.pause()
        self.course.emit("phase", name="rehearsing", detail="the longest rows")
        tokens = self.course.plan.tokens_per_micro
        worst = worst_batches(self.train_dataset, self._rows_per_step, tokens)
        with suppress(Interrupted), same_chance(step.device):  # it is told so again, after the step
            with room_for_moments(step, rehearsal.optimizer_bytes):
                with control.doing("rehearsing"):
                    self.relieved(lambda: train_once(step, worst))
                with control.doing("evaluating"):
                    rehearsal.score()
            rehearsal.remember()
        self.model.train()
        self.course.meter.release()
        self.course.emit("phase", name="training", detail="")
        self.window.go_on()

    def relieved(self, work: Callable[[], Any]) -> Any:
        """What `work` gives; out of memory, once more on an emptied card. Nothing was added up by
        then that a second go would add again: a step begins by zeroing its gradients."""
        try:
            return work()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        stage, step = self.course.control.stage, int(self.state.global_step)
        text = f"out of memory in {stage} at step {step}: once more on an emptied card"
        self.course.emit("log", level="warning", text=text)
        if self.step is not None:
            self.step.release_graphs()
        gc.collect()
        self.course.meter.release()
        return work()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """One metric row. Its loss is of the steps that were made; how many were not is in it."""
        self._metrics["train"].clear()
        if "loss" not in logs:  # the trainer's own summary at the end
            return
        self._check()
        sums = self.window.read()
        loss = sums["nats"] / sums["targets"] if sums["targets"] else math.nan
        seconds, steps = max(sums["seconds"], 1e-9), max(sums["steps"], 1)
        values = {
            "loss": loss,
            "learning_rate": logs["learning_rate"],
            "grad_norm": float(logs.get("grad_norm", math.nan)),
            "tokens_per_s": sums["tokens"] / seconds,
            "step_s": seconds / steps,
            "peak_bytes": self.course.meter.peak_bytes(),
            "epoch": float(self.state.epoch or 0.0),
        }
        assert self.step is not None
        if skipped := float(self.step.optimizer.skipped):
            values["skipped_steps"] = skipped
        self.emit_metric(values)
        self.window.put({})
        self._compare(loss)

    def _compare(self, loss: float) -> None:
        """Diverged when a window's loss is far above the first one's. NaN: no step was made."""
        if self._start_loss is None:
            self._start_loss = loss if math.isfinite(loss) else None
        elif loss > FAR * max(self._start_loss, LEAST_START):
            raise diverged(
                f"was {loss:.4g} by step {self.state.global_step}, more than {FAR} times the "
                f"{self._start_loss:.4g} it began with"
            )

    def emit_metric(self, values: dict[str, float]) -> None:
        told = {name: value for name, value in values.items() if math.isfinite(value)}
        self.course.emit("metric", step=int(self.state.global_step), values=told)

    def _check(self) -> None:
        """Diverged when steps were skipped again and again; tells what the step runs on, once."""
        assert self.step is not None
        self.step.measured()
        levers = self.step.levers()
        for lever in levers:
            if lever not in self._told:
                level = "debug" if lever.on else "info"
                text = f"{lever.name}: {lever.why}" if lever.on else f"no {lever.name}: {lever.why}"
                self.course.emit("log", level=level, text=text)
        self._told = levers

    # -- held-out loss

    def _evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        self.window.pause()
        if self.step is not None:
            self.step.release_graphs()  # scoring wants their memory; they are captured anew
        try:
            with self.course.control.doing("evaluating"):
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
        with self.course.control.doing("saving"):
            self._check()
            sums = self.window.read()
            if self._start_loss is not None:
                sums[START] = self._start_loss
            self.window.pause()
            self.relieved(lambda: self._commit(sums))
            self.window.go_on()

    def _commit(self, sums: dict[str, float]) -> None:
        step = int(self.state.global_step)
        checkpoints, belongs = self.course.checkpoints, self.course.belongs
        staged = staging.stage(checkpoint.folder_of(checkpoints, step))
        try:
            self._fill(staged)
            done = checkpoint.commit(staged, checkpoints, step=step, belongs=belongs, window=sums)
        except BaseException:  # on a full disk, what is half written stands in everybody's way
            shutil.rmtree(staged, ignore_errors=True)
            raise
        self.course.emit(
            "checkpoint", durable=True, step=step, path=str(done.path), bytes=done.bytes
        )

    def _fill(self, staged: Path) -> None:
        """Everything a resumed trial needs; never training_args.bin, which is a pickle."""
        save_weights(self.model, staged / WEIGHTS)
        self._save_optimizer_and_scheduler(str(staged))
        self._save_scaler(str(staged))
        self._save_rng_state(str(staged))
        self.state.save_to_json(str(staged / "trainer_state.json"))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        load_weights(self.model, Path(resume_from_checkpoint) / WEIGHTS)

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """The adapter's own card is written when it leaves."""

"""TRL's life cycle of training with this project's step, row order, metric rows and checkpoints."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME
from trl import SFTTrainer

from workbench import fault_points
from workbench.errors import CheckpointError
from workbench.fleet import Halt
from workbench.training.checkpoints import checkpoint
from workbench.training.checkpoints.checkpoint import WEIGHTS, Checkpoint
from workbench.training.checkpoints.contents import RANDOM, CheckpointContents, random_states
from workbench.training.checkpoints.write import CheckpointWrite
from workbench.training.control import Interrupted
from workbench.training.failure import diverged, is_out_of_memory
from workbench.training.model.adapter import adapter_state, load_weights
from workbench.training.rehearsal import (
    preserved_rng,
    room_for_moments,
    train_once,
    worst_batches,
)
from workbench.training.row_order import EpochOrder, MetricWindow
from workbench.training.step import Optimization, Rows, Step
from workbench.training.step.in_trainer import StepTraining, collate_rows, options_from
from workbench.training.training_arguments import TrainingContext, sft_config

DIVERGENCE_FACTOR, MIN_START_LOSS = 10, 0.1
"""Training has diverged when a window's loss is more than DIVERGENCE_FACTOR times the first
window's. A first loss below MIN_START_LOSS nats counts as MIN_START_LOSS: rows that the base knows
already start near zero, and their loss may multiply without anything being wrong."""
CHECK_EVERY = 25
"""Optimizer steps between two checks, at most, whether gradients are finite; each check waits for
the card."""
START_LOSS = "start_loss"
"""The key of the first window's loss, in nats per target token, in a checkpoint's window."""


class StepBoundary(TrainerCallback):  # type: ignore[misc]
    """A callback that decides after each optimizer step what is due: a metric row, the held-out
    loss, a checkpoint, the end."""

    def __init__(self, context: TrainingContext) -> None:
        self._context = context

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        step, train = state.global_step, self._context.recipe.train
        self._context.control.step = step
        self._context.control.check_fence()
        with self._context.control.doing("saving"):  # where its error belongs
            self._context.writer.check()
        fault_points.at("worker.step")
        halt = self._context.control.halt
        last = step >= state.max_steps
        control.should_log = last or step % train.log_every == 0 or halt is Halt.FINISH
        evaluates = self._context.evaluates(step) and not last and halt is None
        control.should_evaluate = evaluates
        due = step % train.save_every == 0 or (evaluates and self._context.keeps_best)
        control.should_save = last or due or halt is not None
        control.should_training_stop = last or halt is not None


class TrialTrainer(StepTraining, SFTTrainer):  # type: ignore[misc]
    """A trainer of the adapter on a borrowed base.

    Master weights stay fp32: TRL's constructor casts them to bf16, which is undone, because stock
    bf16 adapters resume inexactly. Training raises Diverged at a log line or a checkpoint when
    twenty steps in a row had no finite gradient, and HostMemory or Interrupted while the step waits
    for the machine's memory.
    """

    def __init__(self, model: Any, rows: Dataset, tokenizer: Any, context: TrainingContext) -> None:
        self.context = context
        self._rows_per_step = context.plan.rows_per_step
        self._steps_per_epoch = math.ceil(len(rows) / self._rows_per_step)
        trained = [param for param in model.parameters() if param.requires_grad]
        masters = [param.data.float() for param in trained]
        super().__init__(
            model=model,
            args=sft_config(context),
            data_collator=collate_rows,
            train_dataset=rows,
            processing_class=tokenizer,
            callbacks=[StepBoundary(context)],
        )
        self.remove_callback(PrinterCallback)
        for param, master in zip(trained, masters, strict=True):
            param.data = master
        self.step_options = options_from(context.plan, context.recipe)
        self.keeper = context.keeper
        self.window = MetricWindow(context.device)
        self._start_loss: float | None = None
        """The loss of the trial's first window; None before it."""
        self._held_out: tuple[int, float] | None = None
        """Step and loss of the newest evaluation."""
        self._reported: list[Optimization] = []
        """The optimizations as they were last logged."""
        self._rehearsed = False

    def run(self, found: Checkpoint | None, begin: Callable[[int], None]) -> tuple[int, bool]:
        """Train from `found`, or from the start, and return (steps done, whether these are all).

        `begin` is called with the trial's number of steps. A trial whose newest checkpoint is its
        last step trains nothing more; that checkpoint's weights are loaded.
        Raises CheckpointError for a checkpoint that would run code when it is opened.
        """
        total = self.steps()
        begin(total)
        if found is not None and found.step >= total:
            load_weights(self.model, found.path / WEIGHTS)
            return found.step, True
        if found is not None and not self._evaluate_found(found):
            return found.step, False
        # transformers would go on with a new optimizer and say nothing.
        assert found is None or OPTIMIZER_NAME in found.files
        self.window.put(found.window if found else {})
        self._start_loss = found.window.get(START_LOSS) if found else None
        ended = False
        try:
            self.train(resume_from_checkpoint=str(found.path) if found else None)
            ended = True
        except UnpicklingError as refused:
            assert found is not None
            raise CheckpointError(
                f"the checkpoint of step {found.step} holds more than numbers, which could run "
                "code; it was not opened",
                hint=f"find out who wrote {found.path}, and clone the trial: a clone starts from "
                "step 0",
            ) from refused
        finally:
            if self.step is not None:
                self._put_away(self.step, ended=ended)
        return int(self.state.global_step), int(self.state.global_step) >= total

    def _put_away(self, step: Step, *, ended: bool) -> None:
        """Take the step off the model; after training without an error it may be kept."""
        if text := step.describe_captures():
            self.context.emit("log", level="debug", text=text)
        if ended:
            self.context.keeper.put(step)
        else:
            step.restore()

    def steps(self) -> int:
        """Return the number of optimizer steps of the whole trial."""
        train = self.context.recipe.train
        return train.max_steps or math.ceil(train.epochs * self._steps_per_epoch)

    def _evaluate_found(self, found: Checkpoint) -> bool:
        """Evaluate the checkpoint that training resumes from where a halt skipped that.

        A resumed trial then compares the same checkpoints as one that was never halted. Returns
        False when the card is to be given back meanwhile.
        """
        context = self.context
        due = context.keeps_best and context.evaluates(found.step)
        if not due or found.held_out is not None:
            return True
        load_weights(self.model, found.path / WEIGHTS)
        context.control.step = found.step
        try:
            with context.control.doing("evaluating"):
                loss = context.held_out()["loss"]
        except Interrupted:
            return False
        context.emit("metric", step=found.step, values={"eval_loss": loss})
        checkpoint.record_held_out(found, loss)
        return True

    # -- the rows

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> EpochOrder:
        return EpochOrder(
            list(self.train_dataset["length"]),
            self._rows_per_step,
            self.context.recipe.train.seed,
            lambda: int(self.state.global_step) // self._steps_per_epoch,
            grouped=self.context.recipe.data.group_by_length,
        )

    # -- the step

    def create_optimizer(self, model: Any = None) -> Any:
        """Create the optimizer and with it the step, which takes plan.host_bytes of host memory."""
        need, host = self.context.plan.host_bytes, self.context.host
        with host.reserve(need) if need and host is not None else nullcontext():
            return super().create_optimizer(model)

    def training_step(self, model: Any, inputs: Rows, num_items_in_batch: Any = None) -> Any:
        self._rehearse()
        if self.state.global_step % CHECK_EVERY == 0 and self.state.global_step:
            self._check_gradients()
        loss = self.retry_after_oom(lambda: super(TrialTrainer, self).training_step(model, inputs))
        self.window.add(loss, inputs.targets, inputs.tokens)
        self.context.control.beat()
        if self.context.host is not None:
            self.context.host.check()
        return loss

    def _rehearse(self) -> None:
        """Try the worst batch before the first step, unless this combination was tried before."""
        rehearsal, step, control = self.context.rehearsal, self.step, self.context.control
        if self._rehearsed or rehearsal is None or not rehearsal.due:
            return
        assert step is not None
        self._rehearsed = True
        self.window.pause()
        self.context.emit("phase", name="rehearsing", detail="the longest rows")
        tokens = self.context.plan.tokens_per_micro
        worst = worst_batches(self.train_dataset, self._rows_per_step, tokens)
        # An interrupt during the rehearsal is seen again after the step, where it can checkpoint.
        with suppress(Interrupted), preserved_rng(step.device):
            with room_for_moments(step, rehearsal.optimizer_bytes):
                with control.doing("rehearsing"):
                    self.retry_after_oom(
                        lambda: train_once(step, worst, keep=self.context.plan.keeps_graphs)
                    )
                with control.doing("evaluating"):
                    rehearsal.score()
            rehearsal.remember()
        self.model.train()
        self.context.meter.release()
        self.context.emit("phase", name="training", detail="")
        self.window.go_on()

    def retry_after_oom(self, work: Callable[[], Any]) -> Any:
        """Run `work`; on out of memory, release graphs and cached blocks and retry once.

        A retry adds nothing twice, because a step begins by zeroing its gradients.
        """
        try:
            return work()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        stage, step = self.context.control.stage, int(self.state.global_step)
        text = f"out of memory in {stage} at step {step}: once more on an emptied card"
        self.context.emit("log", level="warning", text=text)
        if self.step is not None:
            self.step.release_graphs()
        gc.collect()
        self.context.meter.release()
        return work()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Emit one metric row.

        Its loss covers the steps whose gradients were finite; `skipped_steps` counts the others.
        """
        self._metrics["train"].clear()
        if "loss" not in logs:  # the trainer's own summary at the end
            return
        self._check_gradients()
        sums = self.window.read()
        loss = sums["nats"] / sums["targets"] if sums["targets"] else math.nan
        seconds, steps = max(sums["seconds"], 1e-9), max(sums["steps"], 1)
        values = {
            "loss": loss,
            "learning_rate": logs["learning_rate"],
            "grad_norm": float(logs.get("grad_norm", math.nan)),
            "tokens_per_s": sums["tokens"] / seconds,
            "step_s": seconds / steps,
            "peak_bytes": self.context.meter.peak_bytes(),
            "epoch": float(self.state.epoch or 0.0),
        }
        assert self.step is not None
        if skipped := float(self.step.optimizer.skipped):
            values["skipped_steps"] = skipped
        self.emit_metric(values, seconds_left=self._seconds_left(values["step_s"]))
        self.window.put({})
        self._check_loss(loss)

    def _check_loss(self, loss: float) -> None:
        """Raise Diverged when a window's loss is far above the first window's.

        A NaN loss means that the window had no finite step; `_check_gradients` decides about those.
        """
        if self._start_loss is None:
            self._start_loss = loss if math.isfinite(loss) else None
        elif loss > DIVERGENCE_FACTOR * max(self._start_loss, MIN_START_LOSS):
            raise diverged(
                f"was {loss:.4g} by step {self.state.global_step}, more than {DIVERGENCE_FACTOR} "
                f"times the {self._start_loss:.4g} it began with"
            )

    def _seconds_left(self, step_s: float) -> float | None:
        """Return the seconds until the trial's end; None where they are not estimated."""
        if self.context.time_left is None:
            return None
        step, steps = int(self.state.global_step), int(self.state.max_steps)
        return self.context.time_left.step_done(step, steps, step_s)

    def emit_metric(self, values: dict[str, float], **more: Any) -> None:
        """Emit the finite ones of `values` as a metric of the current step.

        `more` are further keys of the event.
        """
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        step, steps = int(self.state.global_step), int(self.state.max_steps)
        self.context.emit("metric", step=step, steps=steps, values=finite, **more)

    def _check_gradients(self) -> None:
        """Raise Diverged when too many steps in a row were skipped. Waits for the card."""
        assert self.step is not None
        self.step.measured()
        self._report_optimizations(self.step.optimizations())

    def _report_optimizations(self, optimizations: list[Optimization]) -> None:
        """Log each optimization that the step uses or leaves out, where it has changed."""
        for optimization in optimizations:
            if optimization not in self._reported:
                name = optimization.name if optimization.on else f"no {optimization.name}"
                self.context.emit("log", level="debug", text=f"{name}: {optimization.why}")
        self._reported = optimizations

    # -- held-out loss

    def _evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Compute and report the held-out loss; an interrupt ends training, with a checkpoint."""
        self.control.should_evaluate = False  # else the end of an epoch evaluates the step again
        self.window.pause()
        if self.step is not None and not self.context.plan.keeps_graphs:
            self.step.release_graphs()  # scoring needs their memory; they are captured again
        try:
            with self.context.control.doing("evaluating"):
                scores = self.context.held_out()
        except Interrupted:
            self.control.should_save = self.control.should_training_stop = True
            return {}
        finally:
            self.model.train()
            self.window.go_on()
        self._held_out = (int(self.state.global_step), scores["loss"])
        self.emit_metric({"eval_loss": scores["loss"]})
        return scores

    # -- checkpoints

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        with self.context.control.doing("saving"):
            self._check_gradients()
            sums = self.window.read()
            if self._start_loss is not None:
                sums[START_LOSS] = self._start_loss
            self.window.pause()
            self.context.writer.wait()  # first, so that no two copies are held
            self.retry_after_oom(lambda: self._begin_write(sums))
            self.window.go_on()

    def _begin_write(self, sums: dict[str, float]) -> None:
        """Begin to write a copy of the trial as it is; without room for the copy, write it here."""
        self.context.control.check_fence()
        context, contents, step = self.context, self._contents(), int(self.state.global_step)
        roomy = context.host is None or context.host.has_room(contents.copy_bytes())
        write = CheckpointWrite(
            contents=contents.copied() if roomy else contents,
            checkpoints=context.checkpoints,
            step=step,
            belongs=context.belongs,
            window=sums,
            held_out=self._loss_of(step),
            control=context.control,
            emit=context.emit,
        )
        context.writer.start(write.run)
        if not roomy:
            context.writer.wait()

    def _loss_of(self, step: int) -> float | None:
        """Return the held-out loss after `step` steps if checkpoints are compared by it."""
        if not self.context.keeps_best or self._held_out is None:
            return None
        evaluated, loss = self._held_out
        return loss if evaluated == step else None

    def _contents(self) -> CheckpointContents:
        """Return everything that a resumed trial needs; its tensors are those that training has.

        After the last step these are the weights alone, a third of the bytes.
        """
        saved = {}
        if self.state.global_step < self.state.max_steps:
            saved = {
                OPTIMIZER_NAME: self.optimizer.state_dict(),
                SCHEDULER_NAME: self.lr_scheduler.state_dict(),
                RANDOM: random_states(),
            }
        return CheckpointContents(weights=adapter_state(self.model), saved=saved, state=self.state)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        load_weights(self.model, Path(resume_from_checkpoint) / WEIGHTS)

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """Do nothing: `adapter.save_adapter` writes the model card."""

"""The weights that are scored and saved at the end of a trial: the best, or the last."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from peft import PeftModel
from torch import nn

from workbench.adapters import adapter_folder
from workbench.attempts.events import AttemptEnd, FailureCause, Outcome
from workbench.errors import Diverged
from workbench.machine import staging
from workbench.training.attempt.setting import AttemptSetting, yielded_end
from workbench.training.checkpoints import checkpoint
from workbench.training.control import Interrupted
from workbench.training.model import adapter
from workbench.training.model.adapter import WrittenWeights
from workbench.training.scoring.answers import end_ids


class KeptWeights:
    """The last part of a trial: choose weights, score them, save them as its adapter."""

    def __init__(self, setting: AttemptSetting) -> None:
        self.setting = setting

    def leave_adapter(
        self, base: nn.Module, model: PeftModel, steps: int, *, stopped: bool
    ) -> AttemptEnd:
        """Score and save the best weights, or those of the last step, as `train.keep` says.

        `model` holds the weights of the last step, `steps`.
        """
        kept, divergence = steps, None
        if self.setting.recipe.train.keep == "best":
            self.setting.enter_phase("evaluating")
            try:
                kept = self._load_best(model, steps, self._evaluate_last(base, steps))
            except Interrupted:
                return yielded_end(steps)
            except Diverged as error:
                divergence = error.with_traceback(None)
        if divergence is not None:
            return self.keep_last_good(base, model, divergence)
        end = self._score_and_save(base, model, kept, stopped=stopped)
        return dataclasses.replace(end, step=steps)

    def _evaluate_last(self, base: nn.Module, step: int) -> float | None:
        """Return the held-out loss of the weights in the model, those of `step`.

        It is recorded in their checkpoint once that is written. Returns None where it was recorded
        before.
        """
        if not self.setting.writer.busy and not self._lacks_held_out(step):
            return None
        self.setting.control.step = step
        loss = self.setting.scorer(base).held_out()["loss"]
        self.setting.emit("metric", step=step, values={"eval_loss": loss})
        self.setting.writer.queue(partial(self._record_held_out, step, loss))
        return loss

    def _record_held_out(self, step: int, loss: float) -> None:
        if last := checkpoint.read_unverified(self.setting.checkpoints, step):
            checkpoint.record_held_out(last, loss)

    def _lacks_held_out(self, step: int) -> bool:
        last = checkpoint.read_unverified(self.setting.checkpoints, step)
        return last is not None and last.held_out is None

    def _load_best(self, model: PeftModel, steps: int, last: float | None) -> int:
        """Load the best checkpoint's weights into `model`, which holds those of `steps`.

        `last` is their held-out loss, where their checkpoint may still be without it. Returns the
        step of the weights that `model` holds then.
        """
        first = next(iter(checkpoint.best_first(self.setting.checkpoints)), None)
        if first is None or first.held_out is None or first.step == steps:
            return steps
        if last is not None and last < first.held_out:
            return steps
        self.setting.wait_for_write()  # where `first` is damaged, the last may be the next best
        best = checkpoint.best_verified(self.setting.checkpoints, self.setting.warn)
        if best is None or best.step == steps:
            return steps
        adapter.load_weights(model, best.path / checkpoint.WEIGHTS)
        text = f"step {best.step} has the lowest held-out loss ({best.held_out:.4g}) and is kept"
        self.setting.emit("log", level="info", text=text)
        return best.step

    def keep_last_good(self, base: nn.Module, model: PeftModel, divergence: Diverged) -> AttemptEnd:
        """Score and save a checkpoint after the loss diverged: the best evaluated, else the newest.

        Raises ModelError for a base that is not finite itself, and `divergence` again where there
        is no checkpoint.
        """
        self.setting.wait_for_write()
        self.setting.check_base(base, divergence)
        found = checkpoint.best_verified(self.setting.checkpoints, self.setting.warn)
        found = found or checkpoint.newest_verified(self.setting.checkpoints)
        if found is None:
            raise divergence
        adapter.load_weights(model, found.path / checkpoint.WEIGHTS)
        end = self._score_and_save(base, model, found.step, stopped=True)
        if end.outcome is Outcome.YIELDED:
            return end
        return AttemptEnd(
            outcome=Outcome.DIVERGED,
            step=found.step,
            reason=divergence.what,
            hint=f"{divergence.hint}; the checkpoint of step {found.step} was scored and kept",
            cause=FailureCause.RECIPE,
        )

    def _score_and_save(
        self, base: nn.Module, model: PeftModel, step: int, *, stopped: bool
    ) -> AttemptEnd:
        with self._linked_weights(step) as weights:
            try:
                values = self._score(base, step)
            except Interrupted:
                return yielded_end(step)
            self._save(base, model, step, values, weights)
        if stopped:
            return AttemptEnd(outcome=Outcome.STOPPED, step=step, reason="asked to finish early")
        return AttemptEnd(outcome=Outcome.DONE, step=step)

    @contextmanager
    def _linked_weights(self, step: int) -> Iterator[WrittenWeights]:
        """Begin to link the weights in the checkpoint of `step`, after its own write if that lasts.

        The file is removed at the end of the block where nobody moved it.
        """
        setting = self.setting
        folder = staging.stage_folder(setting.trial / "adapter-weights")
        try:
            written = WrittenWeights(folder / adapter_folder.WEIGHTS)
            committed = checkpoint.folder_of(setting.checkpoints, step)
            setting.writer.queue(partial(written.link, committed))
            yield written
        finally:
            try:
                setting.wait_for_write()
            finally:
                shutil.rmtree(folder, ignore_errors=True)

    def _score(self, base: nn.Module, step: int) -> dict[str, float]:
        """Score the weights in the model and report the scores.

        Raises Interrupted when the card is to be given back, Diverged for a loss that is not
        finite, and ModelError where the base is the reason.
        """
        self.setting.enter_phase("evaluating")
        try:
            values = self.setting.scorer(base).scores(step)
        except Diverged as divergence:
            self.setting.check_base(base, divergence)
            raise
        if self.setting.recipe.train.keep == "last":  # else the curve has it already
            self.setting.emit("metric", step=step, values={"eval_loss": values["loss"]})
        self.setting.emit("score", durable=True, subject="trial", values=values, step=step)
        return values

    def _save(
        self,
        base: nn.Module,
        model: PeftModel,
        step: int,
        values: dict[str, float],
        weights: WrittenWeights,
    ) -> None:
        """Write the adapter's folder and report it."""
        self.setting.enter_phase("saving")
        self.setting.wait_for_write()
        if not weights.sha256:  # the checkpoint is damaged, or the disk knows no links
            weights.write(adapter.adapter_state(model))
        folder = self.setting.trial / "adapter"
        scores = {
            "step": step,
            "values": values,
            "evaluation_digest": self.setting.evaluation_digest,
            "versions": self.setting.versions,
        }
        size, sha256 = adapter.save_adapter(
            model,
            self.setting.tokenizer,
            self.setting.recipe,
            folder,
            weights=weights,
            kept_tokenizer=self.setting.resident.tokenizer,
            revision=self.setting.revision,
            end_ids=end_ids(base, self.setting.tokenizer, self.setting.turn_end_ids),
            scores=scores,
            versions=self.setting.versions,
            data_digest=self.setting.rows_digest,
            hardware=self.setting.card.name,
        )
        self.setting.emit("adapter", durable=True, path=str(folder), bytes=size, sha256=sha256)

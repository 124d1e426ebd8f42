"""The training of one adapter within an attempt."""

from __future__ import annotations

import gc
from functools import partial
from pathlib import Path

from torch import nn

from workbench.attempts.events import AttemptEnd, Outcome
from workbench.errors import Diverged
from workbench.fleet import Halt
from workbench.footprint.oom_fallback import hardware_key, plan_settings
from workbench.training import libraries
from workbench.training.attempt.kept_weights import KeptWeights
from workbench.training.attempt.setting import AttemptSetting, yielded_end
from workbench.training.checkpoints import checkpoint
from workbench.training.checkpoints.checkpoint import Checkpoint, Provenance
from workbench.training.dataset.prepared import same_training_rows
from workbench.training.model import adapter, warm_start
from workbench.training.rehearsal import Rehearsal
from workbench.training.scoring.scores import Scorer
from workbench.training.trainer import TrialTrainer
from workbench.training.training_arguments import TrainingContext


class TuningRun:
    """The attempt of a trial that trains: from its newest checkpoint to its adapter.

    `rehearse` overrides whether the longest rows are tried first (None: only on a GPU).
    """

    def __init__(self, setting: AttemptSetting, rehearse: bool | None = None) -> None:
        self.setting = setting
        self._rehearse = rehearse
        self._kept = KeptWeights(setting)

    def run(self) -> AttemptEnd:
        """Train from the newest checkpoint on, score and save the adapter; return how it ended.

        Raises CheckpointError where the checkpoint belongs to another recipe or other rows.
        """
        found = checkpoint.newest_verified(self.setting.checkpoints, self.setting.warn)
        self.setting.reached = found.step if found else 0
        if self._is_over(found):
            return self._over(found)
        if found is not None and not self.setting.assignment.finish:
            before, now = found.belongs.data, self.setting.rows_digest
            known = same_training_rows(self.setting.home / "cache" / "data", before, now)
            checkpoint.check_provenance(found, self._provenance(before if known else now))
        if found is None and self.setting.assignment.warm is not None:
            warm_start.check_adapter(self.setting.assignment.warm, self.setting.recipe)
        with self.setting.load_base() as base, self.setting.writer:
            return self._tune(base, found)

    def _tune(self, base: nn.Module, found: Checkpoint | None) -> AttemptEnd:
        if self._is_over(found):
            return self._over(found)
        if found is not None and self._is_to_finish():
            return self._finish(base, found)
        model = adapter.add_adapter(base, self.setting.recipe, self.setting.emit)
        if found is None and self.setting.assignment.warm is not None:
            warm_start.load_adapter(model, self.setting.assignment.warm, self.setting.emit)
        context = self._context(base)
        trainer = TrialTrainer(model, self.setting.rows, self.setting.tokenizer, context)
        divergence: Diverged | None = None
        try:
            steps, complete = trainer.run(found, self._begin_training)
        except Diverged as error:
            divergence = error.with_traceback(None)  # its frames hold tensors
        del trainer
        # Trainer and step lie in cycles of references. Until they are collected, their copies of
        # weights and the optimizer's state would stay on the card, beside what scoring needs.
        gc.collect()
        self.setting.meter.release()
        if divergence is not None:
            return self._kept.keep_last_good(base, model, divergence)
        if not complete and self.setting.control.halt is Halt.YIELD:
            self.setting.wait_for_write()
            return yielded_end(steps)
        return self._kept.leave_adapter(base, model, steps, stopped=not complete)

    def _begin_training(self, steps: int) -> None:
        self.setting.enter_phase("training", steps=steps)

    def _is_over(self, found: Checkpoint | None) -> bool:
        """Return True when nothing is left to train or to score."""
        yields = self.setting.control.halt is Halt.YIELD
        return yields or (self._is_to_finish() and found is None)

    def _is_to_finish(self) -> bool:
        """Return True where the newest checkpoint is to be scored and kept without training on."""
        return self.setting.assignment.finish or self.setting.control.halt is Halt.FINISH

    def _over(self, found: Checkpoint | None) -> AttemptEnd:
        """Return the end of an attempt that was asked to stop before it trained."""
        step = found.step if found else 0
        if self.setting.control.halt is Halt.YIELD:
            return yielded_end(step, " before it trained")
        reason = "stopped before its first checkpoint: there is no adapter"
        return AttemptEnd(outcome=Outcome.STOPPED, step=step, reason=reason)

    def _finish(self, base: nn.Module, found: Checkpoint) -> AttemptEnd:
        """End the trial with the checkpoints that it has; train nothing."""
        model = adapter.add_adapter(base, self.setting.recipe, self.setting.emit)
        adapter.load_weights(model, found.path / checkpoint.WEIGHTS)
        return self._kept.leave_adapter(base, model, found.step, stopped=True)

    def _provenance(self, data: str) -> Provenance:
        return Provenance(
            recipe=checkpoint.recipe_digest(self.setting.recipe),
            data=data,
            precision=self.setting.plan.precision,
            optimizer=self.setting.plan.optimizer,
            versions=libraries.versions(),
        )

    def _rehearsal(self, scorer: Scorer) -> Rehearsal | None:
        """Return the rehearsal of the longest rows, or None where it is not due.

        By default only a GPU rehearses: a CPU card shares the machine's memory, which has no hard
        limit that a rehearsal could find.
        """
        if not (self.setting.card.kind == "cuda" if self._rehearse is None else self._rehearse):
            return None
        recipe = self.setting.recipe.model_dump(mode="json", include={"model", "lora"})
        rows = [self.setting.rows_digest, self.setting.evaluation_digest]
        what = checkpoint.json_digest(
            [recipe, rows, plan_settings(self.setting.plan), hardware_key(self.setting.card)]
        )
        return Rehearsal(
            remembered=self.setting.home / "cache" / "rehearsed" / what,
            score=scorer.one_batch,
            optimizer_bytes=self.setting.plan.buckets.get("optimizer", 0),
        )

    def _context(self, base: nn.Module) -> TrainingContext:
        scorer = self.setting.scorer(base)
        return TrainingContext(
            recipe=self.setting.recipe,
            plan=self.setting.plan,
            device=self.setting.card.kind,
            checkpoints=self.setting.checkpoints,
            scratch=Path(self.setting.assignment.folder),
            belongs=self._provenance(self.setting.rows_digest),
            emit=self.setting.emit,
            control=self.setting.control,
            meter=self.setting.meter,
            held_out=partial(scorer.held_out, compared=self.setting.recipe.train.keep == "best"),
            rehearsal=self._rehearsal(scorer),
            writer=self.setting.writer,
            keeper=self.setting.resident.keeper,
            host=self.setting.host,
            time_left=self.setting.time_left,
        )

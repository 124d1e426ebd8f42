"""The steps of one attempt: prepare the rows, load the base, train, score, save the adapter."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset
from peft import PeftModel
from torch import nn

from workbench import __version__, fault_points
from workbench.attempts.assignment import Assignment
from workbench.attempts.events import AttemptEnd, FailureCause, Outcome
from workbench.chat.session_files import session_of
from workbench.errors import DataError, Diverged, ModelError
from workbench.fleet import Halt
from workbench.footprint import Plan
from workbench.footprint.oom_fallback import hardware_key, plan_settings
from workbench.machine.cards import Card
from workbench.recipe import Recipe, local_path
from workbench.training import libraries
from workbench.training.checkpoints import checkpoint
from workbench.training.checkpoints.checkpoint import Checkpoint, Provenance
from workbench.training.control import Control, Emit, Interrupted
from workbench.training.dataset.prepared import (
    check_unchanged,
    load_prepared,
    load_test_rows,
    prepare_data,
    same_training_rows,
)
from workbench.training.dataset.scored_rows import prepare_scored_rows
from workbench.training.evaluation import score_run
from workbench.training.evaluation.chat_run import chat_on_base
from workbench.training.memory.card_memory import Meter
from workbench.training.memory.host_memory import MemoryMonitor, loading_bytes
from workbench.training.model import adapter, warm_start
from workbench.training.model.base import BaseSpec, ResidentBase, find_nonfinite
from workbench.training.model.tokenizer import load_tokenizer
from workbench.training.prepare import evaluation_digest
from workbench.training.rehearsal import Rehearsal
from workbench.training.scoring.answers import end_ids
from workbench.training.scoring.results_writer import ResultsWriter
from workbench.training.scoring.scorers.answer_scores import OwnScorerRun
from workbench.training.scoring.scorers.own_scorers import scorer_digests, scorers_folder
from workbench.training.scoring.scores import Scorer
from workbench.training.trainer import TrialTrainer
from workbench.training.training_arguments import TrainingContext, read_prepared


class AttemptRun:
    """One run of a trial on one card: its steps, and the state that the steps share.

    `rehearse` overrides whether the longest rows are tried first (None: only on a GPU). `host`
    replaces the monitor of the machine's memory in tests.
    """

    def __init__(
        self,
        assignment: Assignment,
        resident: ResidentBase,
        meter: Meter,
        emit: Emit,
        control: Control,
        generation: int,
        rehearse: bool | None = None,
        host: MemoryMonitor | None = None,
    ) -> None:
        self.a = assignment
        self.recipe = Recipe.model_validate(assignment.recipe)
        self.plan = Plan.from_json(assignment.plan)
        self.card = Card.from_json(assignment.card)
        self.resident, self.meter, self.emit, self.control = resident, meter, emit, control
        self.generation = generation
        self.rehearse = rehearse
        self.scorer: Scorer | None = None
        self.reached = 0
        """The optimizer step of the checkpoint that training resumes from; 0 without one."""
        self.trial = Path(assignment.trial_folder)
        self.home = Path(assignment.experiment_folder).parent.parent
        self.host = host or MemoryMonitor(emit, control, self.home)
        self.checkpoints = self.trial / "checkpoints"
        self.versions = {"workbench": __version__, **libraries.versions()}

    def run(self) -> AttemptEnd:
        """Run all steps and return how they ended.

        Raises WorkbenchError for what a person can change and any library error otherwise;
        `trial_run.run_attempt` turns both into an end.
        """
        self.emit(
            "started",
            pid=os.getpid(),
            card=self.card.uuid,
            generation=self.generation,
            plan=self.plan.to_json(),
            versions=self.versions,
        )
        self._phase("preparing")
        self.meter.start()
        rows, eval_rows, prepared = self._data()
        try:
            return self._with_missing(self._on_base(rows, eval_rows, prepared))
        except Interrupted:  # raised while the load waits for the machine's memory
            return _yielded(self.reached)

    def _on_base(self, rows: Dataset, eval_rows: Dataset, prepared: str) -> AttemptEnd:
        # Before the newest checkpoint is chosen: the attempt before may still be committing one.
        self.control.wait_for_trial()
        if self.a.kind == "base":
            with self._base() as base:
                return self._score_base(base, eval_rows)
        if self.a.kind == "score":
            return self._score(eval_rows)
        if self.a.kind == "chat":
            return self._chat()
        found = checkpoint.newest_verified(self.checkpoints, self._warn)
        self.reached = found.step if found else 0
        if self._is_over(found):
            return self._over(found)
        if found is not None and not self.a.finish:
            before, cache = found.belongs.data, self.home / "cache" / "data"
            known = same_training_rows(cache, before, prepared)
            checkpoint.check_provenance(found, self._provenance(before if known else prepared))
        if found is None and self.a.warm is not None:
            warm_start.check_adapter(self.a.warm, self.recipe)
        with self._base() as base:
            return self._tune(base, rows, eval_rows, found, prepared)

    @contextmanager
    def _base(self) -> Iterator[nn.Module]:
        """Load the base, or take the resident one, once the machine has memory for the load."""
        spec = self._spec()
        where = "resident" if self.resident.spec == spec else ""
        self._phase("loading", where, from_step=self.reached)
        fault_points.at("worker.loading")
        need = loading_bytes(self.plan, self.card.kind, spec.path)
        held = self.resident.spec == spec
        with ExitStack() as held_now:
            with self.host.reserve(0 if held else need):
                base = held_now.enter_context(self.resident.acquire(spec))
            self.control.beat()
            yield base

    # -- preparing

    def _data(self) -> tuple[Dataset, Dataset, str]:
        """Return the training rows, the held-out rows and the digest of the training rows."""
        prepared_json = read_prepared(Path(self.a.experiment_folder))
        model = prepared_json["model"]
        # A model that ships is where the package is now; an upgrade may have moved that.
        folder = local_path(self.recipe.model.name)
        self.model_path = str(model["path"] if folder is None else folder)
        self.revision = model.get("revision")
        self.tokenizer = load_tokenizer(self.model_path, self.revision)
        cache = self.home / "cache" / "data"
        check_unchanged(self.recipe.data, prepared_json["data"]["sources"], cache)
        trains = prepared_json["data"]["sources"][0] is not None
        prepare = prepare_data if trains else prepare_scored_rows
        prepared = prepare(self.recipe, self.tokenizer, cache, lambda *_: self.control.beat())
        scorers = scorer_digests(self.recipe.evaluate.scorers, scorers_folder(self.home))
        self.evaluation_digest = evaluation_digest(self.recipe, prepared, scorers)
        self.turn_end_ids = prepared.turn_end_ids
        rows, eval_rows = load_prepared(prepared)
        if (self.a.score or {}).get("rows") == "test":
            eval_rows = load_test_rows(prepared)
        if len(rows) == 0 and self.a.kind == "tune":
            raise DataError("there are no training rows", hint="check data.train and data.max_rows")
        return rows, eval_rows, prepared.digest

    def _spec(self) -> BaseSpec:
        model = self.recipe.model
        return BaseSpec(
            path=self.model_path,
            revision=self.revision,
            quantization=model.quantization,
            double_quantization=model.double_quantization,
            precision=self.plan.precision,
            attention=self.plan.attention,
            device=self.card.kind,
        )

    # -- training

    def _tune(
        self,
        base: nn.Module,
        rows: Dataset,
        eval_rows: Dataset,
        found: Checkpoint | None,
        data: str,
    ) -> AttemptEnd:
        if self._is_over(found):
            return self._over(found)
        if found is not None and (self.a.finish or self.control.halt is Halt.FINISH):
            return self._finish(base, eval_rows, found)
        model = adapter.add_adapter(base, self.recipe, self.emit)
        if found is None and self.a.warm is not None:
            warm_start.load_adapter(model, self.a.warm, self.emit)
        context = self._context(base, eval_rows, data)
        trainer = TrialTrainer(model, rows, self.tokenizer, context)
        divergence: Diverged | None = None
        try:
            steps, complete = trainer.run(found, lambda total: self._phase("training", steps=total))
        except Diverged as error:
            divergence = error.with_traceback(None)  # its frames hold tensors
        del trainer  # before scoring: its optimizer state would keep the card's memory
        if divergence is not None:
            return self._keep_last_good(base, model, eval_rows, divergence)
        if not complete and self.control.halt is Halt.YIELD:
            return _yielded(steps)
        return self._leave(base, model, eval_rows, steps, stopped=not complete)

    def _is_over(self, found: Checkpoint | None) -> bool:
        """Return True when nothing is left to train or to score."""
        finish = self.a.finish or self.control.halt is Halt.FINISH
        return self.control.halt is Halt.YIELD or (finish and found is None)

    def _over(self, found: Checkpoint | None) -> AttemptEnd:
        """Return the end of an attempt that was asked to stop before it trained."""
        step = found.step if found else 0
        if self.control.halt is Halt.YIELD:
            return _yielded(step, " before it trained")
        reason = "stopped before its first checkpoint: there is no adapter"
        return AttemptEnd(outcome=Outcome.STOPPED, step=step, reason=reason)

    def _finish(self, base: nn.Module, eval_rows: Dataset, found: Checkpoint) -> AttemptEnd:
        """End the trial with the checkpoints that it has; train nothing."""
        model = adapter.add_adapter(base, self.recipe, self.emit)
        adapter.load_weights(model, found.path / checkpoint.WEIGHTS)
        return self._leave(base, model, eval_rows, found.step, stopped=True)

    def _leave(
        self, base: nn.Module, model: PeftModel, eval_rows: Dataset, steps: int, *, stopped: bool
    ) -> AttemptEnd:
        """Score and save the best weights, or those of the last step, as `train.keep` says.

        `model` holds the weights of the last step, `steps`.
        """
        kept, divergence = steps, None
        if self.recipe.train.keep == "best":
            self._phase("evaluating")
            try:
                self._evaluate_last(base, eval_rows, steps)
                kept = self._load_best(model, steps)
            except Interrupted:
                return _yielded(steps)
            except Diverged as error:
                divergence = error.with_traceback(None)
        if divergence is not None:
            return self._keep_last_good(base, model, eval_rows, divergence)
        end = self._score_and_leave(base, model, eval_rows, kept, stopped=stopped)
        return dataclasses.replace(end, step=steps)

    def _evaluate_last(self, base: nn.Module, eval_rows: Dataset, step: int) -> None:
        """Record the held-out loss of the weights in the model in the checkpoint of `step`.

        Does nothing where it is known already.
        """
        last = checkpoint.read_unverified(self.checkpoints, step)
        if last is None or last.held_out is not None:
            return
        self.control.step = step
        loss = self._scorer(base, eval_rows).held_out()["loss"]
        self.emit("metric", step=step, values={"eval_loss": loss})
        checkpoint.record_held_out(last, loss)

    def _load_best(self, model: PeftModel, steps: int) -> int:
        """Load the best checkpoint's weights into `model`, which holds those of `steps`.

        Returns the step of the weights that it holds then.
        """
        first = next(iter(checkpoint.best_first(self.checkpoints)), None)
        if first is None or first.step == steps:
            return steps
        best = checkpoint.best_verified(self.checkpoints, self._warn)
        if best is None or best.step == steps:
            return steps
        adapter.load_weights(model, best.path / checkpoint.WEIGHTS)
        text = f"step {best.step} has the lowest held-out loss ({best.held_out:.4g}) and is kept"
        self.emit("log", level="info", text=text)
        return best.step

    def _keep_last_good(
        self, base: nn.Module, model: PeftModel, eval_rows: Dataset, divergence: Diverged
    ) -> AttemptEnd:
        """Score and save a checkpoint after the loss diverged: the best evaluated, else the newest.

        Raises ModelError for a base that is not finite itself, and `divergence` again where there
        is no checkpoint.
        """
        self._check_base(base, divergence)
        found = checkpoint.best_verified(self.checkpoints, self._warn)
        found = found or checkpoint.newest_verified(self.checkpoints)
        if found is None:
            raise divergence
        adapter.load_weights(model, found.path / checkpoint.WEIGHTS)
        end = self._score_and_leave(base, model, eval_rows, found.step, stopped=True)
        if end.outcome is Outcome.YIELDED:
            return end
        return AttemptEnd(
            outcome=Outcome.DIVERGED,
            step=found.step,
            reason=divergence.what,
            hint=f"{divergence.hint}; the checkpoint of step {found.step} was scored and kept",
            cause=FailureCause.RECIPE,
        )

    def _provenance(self, data: str) -> Provenance:
        return Provenance(
            recipe=checkpoint.recipe_digest(self.recipe),
            data=data,
            precision=self.plan.precision,
            optimizer=self.plan.optimizer,
            versions=libraries.versions(),
        )

    def _rehearsal(self, scorer: Scorer, data: str) -> Rehearsal | None:
        """Return the rehearsal of the longest rows, or None where it is not due.

        By default only a GPU rehearses: a CPU card shares the machine's memory, which has no hard
        limit that a rehearsal could find.
        """
        if not (self.card.kind == "cuda" if self.rehearse is None else self.rehearse):
            return None
        recipe = self.recipe.model_dump(mode="json", include={"model", "lora"})
        rows = [data, self.evaluation_digest]
        what = checkpoint.json_digest(
            [recipe, rows, plan_settings(self.plan), hardware_key(self.card)]
        )
        return Rehearsal(
            remembered=self.home / "cache" / "rehearsed" / what,
            score=scorer.one_batch,
            optimizer_bytes=self.plan.buckets.get("optimizer", 0),
        )

    def _context(self, base: nn.Module, eval_rows: Dataset, data: str) -> TrainingContext:
        scorer = self._scorer(base, eval_rows)
        return TrainingContext(
            recipe=self.recipe,
            plan=self.plan,
            device=self.card.kind,
            checkpoints=self.checkpoints,
            scratch=Path(self.a.folder),
            belongs=self._provenance(data),
            emit=self.emit,
            control=self.control,
            meter=self.meter,
            held_out=partial(scorer.held_out, compared=self.recipe.train.keep == "best"),
            rehearsal=self._rehearsal(scorer, data),
            host=self.host,
        )

    # -- scoring

    def _with_missing(self, end: AttemptEnd) -> AttemptEnd:
        """Return the end with the reasons of scores that are missing, where it has no reason."""
        missing = self.scorer.missing if self.scorer is not None else {}
        if end.outcome is not Outcome.DONE or end.reason or not missing:
            return end
        return dataclasses.replace(
            end, reason="; ".join(f"no score: {m}" for m in missing.values())
        )

    def _scorer(self, base: nn.Module, rows: Dataset) -> Scorer:
        if self.scorer is None:
            self.scorer = self._new_scorer(base, rows)
            if self.control.fence is not None:  # else there are no other trials to compare with
                self.scorer.warn_of_fewer_rows()
        return self.scorer

    def _new_scorer(self, base: nn.Module, rows: Dataset) -> Scorer:
        return Scorer(
            model=base,
            rows=rows,
            tokenizer=self.tokenizer,
            evaluate=self.recipe.evaluate,
            precision=self.plan.precision,
            emit=self.emit,
            control=self.control,
            rows_at_once=min(self.plan.eval_batch, self.recipe.evaluate.batch_size),
            turn_end_ids=self.turn_end_ids,
            results=ResultsWriter(
                trial_folder=self.trial,
                home=self.home,
                rows=rows,
                evaluate=self.recipe.evaluate,
                emit=self.emit,
                control=self.control,
            ),
            own_scorers=OwnScorerRun(
                folder=scorers_folder(self.home),
                trial=self.trial,
                attempt=self.a.attempt,
                progress=self.control.check,
            ),
        )

    def _score_base(self, base: nn.Module, eval_rows: Dataset) -> AttemptEnd:
        self._phase("evaluating")
        try:
            if self.control.halt is Halt.FINISH:
                reason = "stopped before it was scored"
                return AttemptEnd(outcome=Outcome.STOPPED, step=0, reason=reason)
            values = self._scorer(base, eval_rows).scores(0)
        except Interrupted:
            return _yielded(0)
        except Diverged as divergence:
            self._check_base(base, divergence)
            raise ModelError(
                f"the base model without an adapter: {divergence.what}",
                hint="set model.precision: bf16 or fp32, or pick another model",
            ) from divergence
        self.emit("score", durable=True, subject="base", values=values, step=0)
        return AttemptEnd(outcome=Outcome.DONE, step=0)

    def _score(self, eval_rows: Dataset) -> AttemptEnd:
        subject = score_run.check_scored(self.a.score or {}, self.emit)
        with self._base() as base:
            self._phase("evaluating")
            scorer = partial(self._scorer, rows=eval_rows)
            return score_run.score_subject(base, subject, scorer, self.emit, self.control)

    def _chat(self) -> AttemptEnd:
        with self._base() as base:
            return chat_on_base(
                base,
                self.a.chat or [],
                self.emit,
                self.control,
                tokenizer=self.tokenizer,
                files=session_of(self.trial),
                precision=self.plan.precision,
                end_ids=end_ids(base, self.tokenizer, self.turn_end_ids),
                template=self.recipe.data.chat_template != "never",
            )

    def _score_and_leave(
        self, base: nn.Module, model: PeftModel, eval_rows: Dataset, step: int, *, stopped: bool
    ) -> AttemptEnd:
        self._phase("evaluating")
        try:
            values = self._scorer(base, eval_rows).scores(step)
        except Interrupted:
            return _yielded(step)
        if self.recipe.train.keep == "last":  # else the curve has it already
            self.emit("metric", step=step, values={"eval_loss": values["loss"]})
        self.emit("score", durable=True, subject="trial", values=values, step=step)
        self._phase("saving")
        folder = self.trial / "adapter"
        scores = {
            "step": step,
            "values": values,
            "evaluation_digest": self.evaluation_digest,
            "versions": self.versions,
        }
        size, sha256 = adapter.save_adapter(
            model,
            self.tokenizer,
            self.recipe,
            folder,
            base_path=self.model_path,
            revision=self.revision,
            end_ids=end_ids(base, self.tokenizer, self.turn_end_ids),
            scores=scores,
            versions=self.versions,
        )
        self.emit("adapter", durable=True, path=str(folder), bytes=size, sha256=sha256)
        if stopped:
            return AttemptEnd(outcome=Outcome.STOPPED, step=step, reason="asked to finish early")
        return AttemptEnd(outcome=Outcome.DONE, step=step)

    def _check_base(self, base: nn.Module, divergence: Diverged) -> None:
        """Raise ModelError when the base's own weights are the reason for a loss that is NaN."""
        if names := find_nonfinite(base):
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise ModelError(
                f"the base model holds weights that are NaN or infinite: {names[0]}{more}",
                hint="download the model again, or pick another one",
            ) from divergence

    def _warn(self, text: str) -> None:
        self.emit("log", level="warning", text=text)

    def _phase(self, name: str, detail: str = "", **more: Any) -> None:
        self.control.beat()
        self.control.stage = name
        self.emit("phase", name=name, detail=detail, **more)


def _yielded(step: int, when: str = "") -> AttemptEnd:
    reason = f"asked to give the card back{when}"
    return AttemptEnd(outcome=Outcome.YIELDED, step=step, reason=reason)

"""The steps of one attempt: prepare, load, train, score, leave an adapter."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset
from peft import PeftModel
from torch import nn

from workbench import __version__, fault_points
from workbench.assignment import Assignment
from workbench.errors import DataError, Diverged
from workbench.events import Outcome
from workbench.fleet import Halt
from workbench.footprint import Plan
from workbench.footprint.oom_fallback import kind_of, way_of
from workbench.machine.cards import Card
from workbench.recipe.schema import Recipe
from workbench.training import libraries
from workbench.training.card_memory import Meter
from workbench.training.checkpoints import checkpoint
from workbench.training.checkpoints.checkpoint import Belongs, Checkpoint
from workbench.training.control import Control, Emit, Interrupted
from workbench.training.dataset.prepared import check_unchanged, load_prepared, prepare_data
from workbench.training.host_memory import Host, loading_bytes
from workbench.training.model import adapter, warm_start
from workbench.training.model.base import BaseSpec, Resident
from workbench.training.model.tokenizer import load_tokenizer
from workbench.training.prepare import evaluation_digest
from workbench.training.rehearsal import Rehearsal
from workbench.training.scoring.scores import Scorer
from workbench.training.trainer import TrialTrainer
from workbench.training.training_arguments import Course, what_was_prepared


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """How an attempt ended; becomes its end event."""

    outcome: Outcome
    step: int | None = None
    reason: str = ""
    hint: str = ""
    cause: str = ""
    stage: str = ""
    """What a failed one was doing."""


class Attempt:
    """The steps of a run, with what they share."""

    def __init__(
        self,
        assignment: Assignment,
        resident: Resident,
        meter: Meter,
        emit: Emit,
        control: Control,
        generation: int,
        rehearse: bool | None = None,
        host: Host | None = None,
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
        """The step it goes on from."""
        self.trial = Path(assignment.trial_folder)
        self.home = Path(assignment.experiment_folder).parent.parent
        self.host = host or Host(emit, control, self.home)
        self.checkpoints = self.trial / "checkpoints"
        self.versions = {"workbench": __version__, **libraries.versions()}

    def run(self) -> End:
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
            return self._on_base(rows, eval_rows, prepared)
        except Interrupted:  # while it waited for the machine's memory
            reason = "asked to give the card back"
            return End(outcome=Outcome.YIELDED, step=self.reached, reason=reason)

    def _on_base(self, rows: Dataset, eval_rows: Dataset, prepared: str) -> End:
        if self.a.kind == "base":
            with self._base() as base:
                return self._score_base(base, eval_rows)
        found = checkpoint.newest_verified(self.checkpoints, self._warn)
        self.reached = found.step if found else 0
        if self._is_over(found):
            return self._over(found)
        if found is not None and not self.a.finish:
            checkpoint.check_belongs(found, self._belongs(prepared))
        if found is None and self.a.warm is not None:
            warm_start.check(self.a.warm, self.recipe)
        with self._base() as base:
            return self._tune(base, rows, eval_rows, found, prepared)

    @contextmanager
    def _base(self) -> Iterator[nn.Module]:
        spec = self._spec()
        self._phase("loading", "resident" if self.resident.spec == spec else "")
        fault_points.at("worker.loading")
        need = loading_bytes(self.plan, self.card.kind, spec.path)
        held = self.resident.spec == spec
        with ExitStack() as held_now:
            with self.host.room_for(0 if held else need):
                base = held_now.enter_context(self.resident.lend(spec))
            self.control.beat()
            yield base

    # -- preparing

    def _data(self) -> tuple[Dataset, Dataset, str]:
        """Training rows, held-out rows, digest of the training rows."""
        told = what_was_prepared(Path(self.a.experiment_folder))
        model = told["model"]
        self.model_path, self.revision = str(model["path"]), model.get("revision")
        self.tokenizer = load_tokenizer(self.model_path, self.revision)
        cache = self.home / "cache" / "data"
        check_unchanged(self.recipe.data, told["data"]["sources"], cache)
        prepared = prepare_data(self.recipe, self.tokenizer, cache, lambda *_: self.control.beat())
        self.evaluation_digest = evaluation_digest(self.recipe, prepared)
        rows, eval_rows = load_prepared(prepared)
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
    ) -> End:
        if self._is_over(found):
            return self._over(found)
        if found is not None and (self.a.finish or self.control.halt is Halt.FINISH):
            return self._finish(base, eval_rows, found)
        model = adapter.put_on(base, self.recipe, self.emit)
        if found is None and self.a.warm is not None:
            warm_start.load(model, self.a.warm, self.emit)
        course = self._course(base, eval_rows, data)
        trainer = TrialTrainer(model, rows, self.tokenizer, course)
        gone: Diverged | None = None
        try:
            steps, complete = trainer.run(found, lambda total: self._phase("training", steps=total))
        except Diverged as error:
            gone = error.with_traceback(None)  # its frames hold tensors
        del trainer
        if gone is not None:
            return self._keep_what_was(base, model, eval_rows, gone)
        if not complete and self.control.halt is Halt.YIELD:
            return End(outcome=Outcome.YIELDED, step=steps, reason="asked to give the card back")
        stopped = not complete
        return self._score_and_leave(base, model, eval_rows, steps, stopped=stopped)

    def _is_over(self, found: Checkpoint | None) -> bool:
        """True when nothing is to be trained or scored any more."""
        finish = self.a.finish or self.control.halt is Halt.FINISH
        return self.control.halt is Halt.YIELD or (finish and found is None)

    def _over(self, found: Checkpoint | None) -> End:
        step = found.step if found else 0
        if self.control.halt is Halt.YIELD:
            reason = "asked to give the card back before it trained"
            return End(outcome=Outcome.YIELDED, step=step, reason=reason)
        reason = "stopped before its first checkpoint: there is no adapter"
        return End(outcome=Outcome.STOPPED, step=step, reason=reason)

    def _finish(self, base: nn.Module, eval_rows: Dataset, found: Checkpoint) -> End:
        """Score the newest checkpoint and keep it; nothing is trained."""
        model = adapter.put_on(base, self.recipe, self.emit)
        adapter.load_weights(model, found.path / checkpoint.WEIGHTS)
        return self._score_and_leave(base, model, eval_rows, found.step, stopped=True)

    def _keep_what_was(
        self, base: nn.Module, model: PeftModel, eval_rows: Dataset, gone: Diverged
    ) -> End:
        """The loss went away: the newest checkpoint is scored and kept. Raises where none is."""
        found = checkpoint.newest_verified(self.checkpoints)
        if found is None:
            raise gone
        adapter.load_weights(model, found.path / checkpoint.WEIGHTS)
        end = self._score_and_leave(base, model, eval_rows, found.step, stopped=True)
        if end.outcome is Outcome.YIELDED:
            return end
        return End(
            outcome=Outcome.DIVERGED,
            step=found.step,
            reason=gone.what,
            hint=gone.hint,
            cause="recipe",
        )

    def _belongs(self, data: str) -> Belongs:
        return Belongs(
            recipe=checkpoint.recipe_digest(self.recipe),
            data=data,
            precision=self.plan.precision,
            optimizer=self.plan.optimizer,
            versions=libraries.versions(),
        )

    def _rehearsal(self, scorer: Scorer, data: str) -> Rehearsal | None:
        """On a GPU, unless told otherwise: a CPU card has the machine's memory."""
        if not (self.card.kind == "cuda" if self.rehearse is None else self.rehearse):
            return None
        recipe = self.recipe.model_dump(mode="json", include={"model", "lora"})
        rows = [data, self.evaluation_digest]
        what = checkpoint.digest([recipe, rows, way_of(self.plan), kind_of(self.card)])
        return Rehearsal(
            remembered=self.home / "cache" / "rehearsed" / what,
            score=scorer.one_batch,
            optimizer_bytes=self.plan.buckets.get("optimizer", 0),
        )

    def _course(self, base: nn.Module, eval_rows: Dataset, data: str) -> Course:
        scorer = self._scorer(base, eval_rows)
        return Course(
            recipe=self.recipe,
            plan=self.plan,
            device=self.card.kind,
            checkpoints=self.checkpoints,
            scratch=Path(self.a.folder),
            belongs=self._belongs(data),
            emit=self.emit,
            control=self.control,
            meter=self.meter,
            held_out=scorer.held_out,
            rehearsal=self._rehearsal(scorer, data),
            host=self.host,
        )

    # -- scoring

    def _scorer(self, base: nn.Module, rows: Dataset) -> Scorer:
        if self.scorer is None:
            self.scorer = self._new_scorer(base, rows)
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
        )

    def _score_base(self, base: nn.Module, eval_rows: Dataset) -> End:
        self._phase("evaluating")
        try:
            if self.control.halt is Halt.FINISH:
                return End(outcome=Outcome.STOPPED, step=0, reason="stopped before it was scored")
            values = self._scorer(base, eval_rows).scores()
        except Interrupted:
            return End(outcome=Outcome.YIELDED, step=0, reason="asked to give the card back")
        self.emit("score", durable=True, subject="base", values=values, step=0)
        return End(outcome=Outcome.DONE, step=0)

    def _score_and_leave(
        self, base: nn.Module, model: PeftModel, eval_rows: Dataset, step: int, *, stopped: bool
    ) -> End:
        self._phase("evaluating")
        try:
            values = self._scorer(base, eval_rows).scores()
        except Interrupted:
            return End(outcome=Outcome.YIELDED, step=step, reason="asked to give the card back")
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
        size, sha256 = adapter.leave(
            model,
            self.tokenizer,
            self.recipe,
            folder,
            revision=self.revision,
            scores=scores,
            versions=self.versions,
        )
        self.emit("adapter", durable=True, path=str(folder), bytes=size, sha256=sha256)
        if stopped:
            return End(outcome=Outcome.STOPPED, step=step, reason="asked to finish early")
        return End(outcome=Outcome.DONE, step=step)

    def _warn(self, text: str) -> None:
        self.emit("log", level="warning", text=text)

    def _phase(self, name: str, detail: str = "", **more: Any) -> None:
        self.control.beat()
        self.control.stage = name
        self.emit("phase", name=name, detail=detail, **more)

"""One attempt of one trial, from its assignment to its end event."""

from __future__ import annotations

import gc
import json
import os
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset
from peft import PeftModel
from torch import nn

from workbench import __version__
from workbench.assignment import Assignment
from workbench.cards import Card
from workbench.errors import DataError, EngineError
from workbench.events import EventWriter, Outcome
from workbench.fleet import Halt
from workbench.footprint import Plan
from workbench.recipe.schema import Recipe
from workbench.text import safe
from workbench.training import adapter, checkpoint, failure, libraries
from workbench.training.answers import Answer, generate_answers
from workbench.training.base import BaseSpec, Resident
from workbench.training.checkpoint import Belongs, Checkpoint
from workbench.training.control import Control, Emit, Interrupted
from workbench.training.data import load_prepared, prepare_data
from workbench.training.evaluate import held_out
from workbench.training.memory import Meter
from workbench.training.prepare import evaluation_digest
from workbench.training.tokens import load_tokenizer
from workbench.training.trainer import Course, TrialTrainer


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """How an attempt ended; becomes its end event."""

    outcome: Outcome
    step: int | None = None
    reason: str = ""
    mend: str = ""
    cause: str = ""


def run(
    assignment: Assignment,
    *,
    resident: Resident,
    meter: Meter,
    emit: Emit,
    control: Control,
    generation: int = 0,
) -> Outcome:
    """Run the attempt; every way it can go ends in one durable end event, and its outcome here.

    Only failure.CardLost is raised, without an end event: the attempt was lost, not failed.
    """
    trial = Path(assignment.trial_folder)
    try:
        with libraries.warnings_as_events(emit):
            end = _Attempt(assignment, resident, meter, emit, control, generation).run()
    except Exception as error:
        _keep_traceback(Path(assignment.folder), error)
        if assignment.card["kind"] == "cuda" and failure.is_poisoned(error):
            lost = "the card's context broke; see traceback.txt in the attempt's folder"
            raise failure.CardLost(lost, mend="it is tried again in a new process") from error
        predicted = int(assignment.plan["predicted_bytes"])
        found = failure.classify(error, folder=trial, predicted_bytes=predicted)
        end = End(outcome=Outcome.FAILED, reason=found.reason, mend=found.mend, cause=found.cause)
        error.__traceback__ = None  # its frames hold tensors
        gc.collect()
    meter.release()
    emit(
        "end",
        durable=True,
        outcome=end.outcome.value,
        step=end.step,
        reason=end.reason,
        mend=end.mend,
        cause=end.cause,
    )
    return end.outcome


def run_foreground(
    assignment: Assignment,
    on_event: Callable[[str, dict[str, Any]], None],
    control: Control | None = None,
) -> Outcome:
    """One attempt in this process and thread, without Ray; events to the file and to `on_event`.

    `control.ask` may be called from a signal handler or another thread.
    """
    card = Card.from_json(assignment.card)
    libraries.warm(threads=1 if card.kind == "cpu" else None)
    writer = EventWriter(Path(assignment.folder) / "events.jsonl")

    def emit(kind: str, *, durable: bool = False, **data: Any) -> None:
        writer.write(kind, durable=durable, **data)
        on_event(kind, data)

    try:
        return run(
            assignment,
            resident=Resident(),
            meter=Meter(card),
            emit=emit,
            control=control or Control(),
        )
    finally:
        writer.close()


class _Attempt:
    """The steps of a run, with what they share."""

    def __init__(
        self,
        assignment: Assignment,
        resident: Resident,
        meter: Meter,
        emit: Emit,
        control: Control,
        generation: int,
    ) -> None:
        self.a = assignment
        self.recipe = Recipe.model_validate(assignment.recipe)
        self.plan = Plan.from_json(assignment.plan)
        self.card = Card.from_json(assignment.card)
        self.resident, self.meter, self.emit, self.control = resident, meter, emit, control
        self.generation = generation
        self.trial = Path(assignment.trial_folder)
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
        self._phase("loading", "" if self.resident.spec != self._spec() else "resident")
        with self.resident.lend(self._spec()) as base:
            self.control.beat()
            if self.a.kind == "base":
                return self._score_base(base, eval_rows)
            return self._tune(base, rows, eval_rows, prepared)

    # -- preparing

    def _data(self) -> tuple[Dataset, Dataset, str]:
        """Training rows, held-out rows, digest of the training rows."""
        told = self._prepared()
        model = told["model"]
        self.model_path, self.revision = str(model["path"]), model.get("revision")
        self.tokenizer = load_tokenizer(self.model_path, self.revision)
        home = Path(self.a.experiment_folder).parent.parent
        cache = home / "cache" / "data"
        prepared = prepare_data(self.recipe, self.tokenizer, cache, lambda *_: self.control.beat())
        self.evaluation_digest = evaluation_digest(self.recipe, prepared)
        rows, eval_rows = load_prepared(prepared)
        if len(rows) == 0 and self.a.kind == "tune":
            raise DataError("there are no training rows", mend="check data.train and data.max_rows")
        return rows, eval_rows, prepared.digest

    def _prepared(self) -> dict[str, Any]:
        path = Path(self.a.experiment_folder) / "prepared.json"
        try:
            told: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as gone:
            raise EngineError(
                "the experiment was not prepared", mend="submit the recipe again"
            ) from gone
        if not told.get("ok"):
            raise DataError(str(told.get("error", "refused")), mend=str(told.get("mend", "")))
        return told

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

    def _tune(self, base: nn.Module, rows: Dataset, eval_rows: Dataset, data: str) -> End:
        found = checkpoint.newest_verified(self.checkpoints)
        if self.a.finish or self.control.halt is not None:
            if found is None or self.control.halt is Halt.YIELD:
                return self._before_training(found)
            return self._finish(base, eval_rows, found)
        if found is not None:
            checkpoint.check_belongs(found, self._belongs(data))
        model = adapter.put_on(base, self.recipe, self.emit)
        course = self._course(base, eval_rows, data)
        trainer = TrialTrainer(model, rows, self.tokenizer, course)
        steps, complete = trainer.run(found, lambda total: self._phase("training", steps=total))
        del trainer
        if not complete and self.control.halt is Halt.YIELD:
            return End(outcome=Outcome.YIELDED, step=steps, reason="asked to give the card back")
        stopped = not complete
        return self._score_and_leave(base, model, eval_rows, steps, stopped=stopped)

    def _before_training(self, found: Checkpoint | None) -> End:
        step = found.step if found else 0
        if self.control.halt is Halt.YIELD:
            reason = "asked to give the card back before its first step"
            return End(outcome=Outcome.YIELDED, step=step, reason=reason)
        reason = "stopped before its first checkpoint: there is no adapter"
        return End(outcome=Outcome.STOPPED, step=step, reason=reason)

    def _finish(self, base: nn.Module, eval_rows: Dataset, found: Checkpoint) -> End:
        """Score the newest checkpoint and keep it; nothing is trained."""
        model = adapter.put_on(base, self.recipe, self.emit)
        adapter.load_weights(model, found.path / checkpoint.WEIGHTS)
        return self._score_and_leave(base, model, eval_rows, found.step, stopped=True)

    def _belongs(self, data: str) -> Belongs:
        return Belongs(
            recipe=checkpoint.recipe_digest(self.recipe),
            data=data,
            precision=self.plan.precision,
            optimizer=self.plan.optimizer,
            versions=libraries.versions(),
        )

    def _course(self, base: nn.Module, eval_rows: Dataset, data: str) -> Course:
        return Course(
            recipe=self.recipe,
            plan=self.plan,
            device=self.card.kind,
            checkpoints=self.checkpoints,
            scratch=Path(self.a.folder) / "scratch",
            belongs=self._belongs(data),
            emit=self.emit,
            control=self.control,
            meter=self.meter,
            held_out=lambda: self._held_out(base, eval_rows),
        )

    # -- scoring

    def _held_out(self, base: nn.Module, eval_rows: Dataset) -> dict[str, float]:
        return held_out(
            base,
            eval_rows,
            pad_id=self.tokenizer.pad_token_id,
            batch_size=self.recipe.evaluate.batch_size,
            precision=self.plan.precision,
            control=self.control,
        )

    def _scores(self, base: nn.Module, eval_rows: Dataset) -> dict[str, float]:
        """Held-out loss and, with an answer pattern, exact match; emits the samples."""
        values = self._held_out(base, eval_rows)
        evaluate = self.recipe.evaluate
        if evaluate.answer_pattern is not None:
            self._phase("evaluating", "answers")
            answers = generate_answers(
                base,
                eval_rows,
                self.tokenizer,
                pattern=evaluate.answer_pattern,
                batch_size=evaluate.batch_size,
                max_new_tokens=evaluate.max_new_tokens,
                precision=self.plan.precision,
                control=self.control,
            )
            values |= self._exact_match(answers, eval_rows)
        values["rows"] = len(eval_rows)
        return values

    def _exact_match(self, answers: list[Answer], rows: Dataset) -> dict[str, float]:
        for answer in answers[: self.recipe.evaluate.samples]:
            row = rows[answer.row]
            self.emit(
                "sample",
                question=safe(row["question"]),
                expected=safe(row["answer"]),
                answer=safe(answer.text),
                right=answer.right,
            )
        scored = [answer for answer in answers if answer.scorable]
        if len(scored) < len(answers):
            text = f"{len(answers) - len(scored)} of {len(answers)} held-out answers do not match "
            self.emit("log", level="warning", text=text + "evaluate.answer_pattern: not scored")
        if not scored:
            return {}
        right = sum(answer.right for answer in scored)
        return {"exact_match": right / len(scored), "answers": len(scored)}

    def _score_base(self, base: nn.Module, eval_rows: Dataset) -> End:
        self._phase("evaluating")
        try:
            if self.control.halt is Halt.FINISH:
                return End(outcome=Outcome.STOPPED, step=0, reason="stopped before it was scored")
            values = self._scores(base, eval_rows)
        except Interrupted:
            return End(outcome=Outcome.YIELDED, step=0, reason="asked to give the card back")
        self.emit("score", durable=True, subject="base", values=values, step=0)
        return End(outcome=Outcome.DONE, step=0)

    def _score_and_leave(
        self, base: nn.Module, model: PeftModel, eval_rows: Dataset, step: int, *, stopped: bool
    ) -> End:
        self._phase("evaluating")
        try:
            values = self._scores(base, eval_rows)
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
            model, self.tokenizer, self.recipe, folder, scores=scores, versions=self.versions
        )
        self.emit("adapter", durable=True, path=str(folder), bytes=size, sha256=sha256)
        if stopped:
            return End(outcome=Outcome.STOPPED, step=step, reason="asked to finish early")
        return End(outcome=Outcome.DONE, step=step)

    def _phase(self, name: str, detail: str = "", **more: Any) -> None:
        self.control.beat()
        self.emit("phase", name=name, detail=detail, **more)


def _keep_traceback(folder: Path, error: BaseException) -> None:
    text = "".join(traceback.format_exception(error))
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "traceback.txt").write_text(text, encoding="utf-8")

"""The way through one attempt: prepare the rows, then train, score, or chat."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import asdict
from typing import Any

from workbench.attempts.assignment import Assignment
from workbench.attempts.events import AttemptEnd, Outcome
from workbench.chat.session_files import session_of
from workbench.errors import Diverged, ModelError
from workbench.fleet import Halt
from workbench.training.attempt.setting import AttemptSetting, yielded_end
from workbench.training.attempt.tuning import TuningRun
from workbench.training.control import Control, Emit, Interrupted
from workbench.training.decode.generate import Generated
from workbench.training.evaluation.chat_run import chat_on_base
from workbench.training.evaluation.score_run import score_subject
from workbench.training.evaluation.scored_adapter import BASE_ALONE, ScoredAdapter, check_scored
from workbench.training.evaluation.together import AnswersTogether
from workbench.training.memory.card_memory import Meter
from workbench.training.memory.host_memory import MemoryMonitor
from workbench.training.model.base import ResidentBase
from workbench.training.scoring.answers import end_ids


class AttemptRun:
    """One run of a trial on one card.

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
        self.setting = AttemptSetting(assignment, resident, meter, emit, control, host)
        self._generation = generation
        self._rehearse = rehearse

    def run(self) -> AttemptEnd:
        """Run all steps and return how they ended.

        Raises WorkbenchError for what a person can change and any library error otherwise;
        `trial_run.run_attempt` turns both into an end.
        """
        self.setting.emit(
            "started",
            pid=os.getpid(),
            card=self.setting.card.uuid,
            generation=self._generation,
            plan=self.setting.plan.to_json(),
            versions=self.setting.versions,
        )
        self.setting.enter_phase("preparing")
        self.setting.meter.start()
        self.setting.begin_keeping()
        self.setting.load_rows()
        try:
            # Before the newest checkpoint is chosen: the attempt before may still commit one.
            self.setting.control.wait_for_trial()
            return self._with_missing(self._of_its_kind())
        except Interrupted:  # raised while the load waits for the machine's memory
            return yielded_end(self.setting.reached)

    def _of_its_kind(self) -> AttemptEnd:
        match self.setting.assignment.kind:
            case "base":
                return self._score_base()
            case "score":
                return self._score()
            case "chat":
                return self._chat()
            case _:
                if self.setting.assignment.beside:
                    self.setting.generate = self._generate_beside
                return TuningRun(self.setting, self._rehearse).run()

    def _with_missing(self, end: AttemptEnd) -> AttemptEnd:
        """Return the end with the reasons of scores that are missing, where it has no reason."""
        missing = self.setting.missing_scores
        if end.outcome is not Outcome.DONE or end.reason or not missing:
            return end
        return dataclasses.replace(end, reason="; ".join(f"no score: {one}" for one in missing))

    def _score_base(self) -> AttemptEnd:
        with self.setting.load_base() as base:
            self.setting.enter_phase("evaluating")
            try:
                if self.setting.control.halt is Halt.FINISH:
                    reason = "stopped before it was scored"
                    return AttemptEnd(outcome=Outcome.STOPPED, step=0, reason=reason)
                together = self._together(BASE_ALONE)
                self.setting.generate = together.generate_rows
                together.check_beside(base)
                values = self.setting.scorer(base).scores(0)
            except Interrupted:
                return yielded_end(0)
            except Diverged as divergence:
                self.setting.check_base(base, divergence)
                raise ModelError(
                    f"the base model without an adapter: {divergence.what}",
                    hint="set model.precision: bf16 or fp32, or pick another model",
                ) from divergence
        self.setting.emit("score", durable=True, subject="base", values=values, step=0)
        together.forget()
        return AttemptEnd(outcome=Outcome.DONE, step=0)

    def _score(self) -> AttemptEnd:
        subject = check_scored(self.setting.assignment.score or {}, self.setting.emit)
        with self.setting.load_base() as base:
            self.setting.enter_phase("evaluating")
            together = self._together(subject)
            self.setting.generate = together.generate_rows
            return score_subject(
                base,
                subject,
                self.setting.scorer,
                self.setting.emit,
                self.setting.control,
                together,
            )

    def _generate_beside(self, *args: Any, **how: Any) -> dict[int, Generated]:
        """Generate the answers of the adapter that was trained, and those of the base beside it."""
        return self._together(None).generate_rows(*args, **how)

    def _together(self, subject: ScoredAdapter | None) -> AnswersTogether:
        """Return what generates the answers of this trial, with those of the trials beside it.

        `subject` is None for the adapter that the attempt trains. Called once the base is loaded:
        answers are kept under its files.
        """
        setting = self.setting
        about = {"base": asdict(setting.base_spec()), "files": setting.resident.files}
        return AnswersTogether(
            setting.trial,
            subject,
            setting.assignment.beside or (),
            lanes=setting.plan.eval_lanes,
            about={**about, "versions": setting.versions},
        )

    def _chat(self) -> AttemptEnd:
        with self.setting.load_base() as base:
            return chat_on_base(
                base,
                self.setting.assignment.chat or [],
                self.setting.emit,
                self.setting.control,
                tokenizer=self.setting.tokenizer,
                files=session_of(self.setting.trial),
                precision=self.setting.plan.precision,
                rows_at_once=self.setting.plan.eval_batch,
                dequantised=self.setting.plan.eval_dequantised,
                end_ids=end_ids(base, self.setting.tokenizer, self.setting.turn_end_ids),
                template=self.setting.recipe.data.chat_template != "never",
            )

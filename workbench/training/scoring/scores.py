"""The scores of a model on the held-out rows: loss, and those of generated answers.

Answers are generated where the recipe names a scorer or a pattern.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from datasets import Dataset
from torch import nn

from workbench.recipe.schema import Evaluate
from workbench.recipe.scorer_names import BUILT_IN
from workbench.text import safe_text
from workbench.training.control import Control, Emit
from workbench.training.scoring.answers import GeneratedAnswer, generate_answers
from workbench.training.scoring.generation import GenerateRows, generate_rows
from workbench.training.scoring.held_out_loss import score_rows
from workbench.training.scoring.results_writer import ResultsWriter, RowScores
from workbench.training.scoring.row_losses import RowLosses
from workbench.training.scoring.scorers.answer_scores import (
    OwnScorerRun,
    count_scored,
    mean_scores,
    score_answers,
)
from workbench.training.scoring.scorers.extraction import MATCH_SECONDS, is_too_slow
from workbench.training.scoring.scorers.sandbox import RowTexts

_MAY_DIFFER = (
    "Its scores may differ in their last digits, and its answers in a few rows, from those of "
    "trials that were scored as planned"
)


@dataclass(slots=True, kw_only=True)
class Scorer:
    """A scorer of `model` as it is, with or without adapter layers inside.

    Every method raises Interrupted when the card is to be given back.
    """

    model: nn.Module
    rows: Dataset
    tokenizer: Any
    evaluate: Evaluate
    precision: str
    emit: Emit
    control: Control
    rows_at_once: int
    """Rows in one batch: the plan's number, or fewer after they ran out of memory."""
    dequantised: bool = False
    """4-bit weights are dequantised once for all answers."""
    generate: GenerateRows = generate_rows
    """The function that generates the answers."""
    turn_end_ids: Sequence[int] = ()
    """The ids that ended turns with loss in the prepared rows; generation stops at them."""
    results: ResultsWriter | None = None
    """The writer that keeps the result of every row; None: nothing is kept."""
    own_scorers: OwnScorerRun | None = None
    """The means to run scorers of the user's own; None: they give no score."""
    missing: dict[str, str] = field(default_factory=dict)
    """For each scorer that gave no score, by its name, the reason in words for people."""
    _known: dict[int, RowLosses] = field(default_factory=dict)
    """The losses of this attempt's held-out evaluations, by the optimizer step of the weights."""

    def held_out(self, *, compared: bool = True) -> dict[str, float]:
        """Return the values of `RowLosses` for weights that are being trained.

        Where the checkpoint is `compared` with others, the losses of every row are kept under the
        training step.
        """
        losses = self._losses(self.rows)
        if self.control.step:
            self._known[self.control.step] = losses
        values = losses.values()
        if compared and self.results is not None and self.control.step:
            self.results.keep_losses(self.control.step, losses)
        return values

    def _losses(self, rows: Dataset) -> RowLosses:
        return score_rows(
            self.model,
            rows,
            pad_id=self.tokenizer.pad_token_id,
            batch_size=self.rows_at_once,
            precision=self.precision,
            control=self.control,
            shrunk=self._shrunk,
        )

    def one_batch(self) -> None:
        """Compute the losses of one batch of the longest rows.

        This is all that is scored while a trial trains: answers are generated when the step is
        gone, and take fewer rows at once where the card has no room.
        """
        lengths = self.rows["length"]
        longest = sorted(range(len(lengths)), key=lambda row: -lengths[row])
        self._losses(self.rows.select(longest[: self.rows_at_once]))

    def warn_of_fewer_rows(self) -> None:
        """Log a warning where the plan has no room for the rows that all trials score at once."""
        wanted = self.evaluate.batch_size
        if wanted != "auto" and self.rows_at_once < wanted:
            text = (
                f"its plan scores {self.rows_at_once} rows at a time, not {wanted}. {_MAY_DIFFER}"
            )
            self.emit("log", level="warning", text=text)

    def _shrunk(self, size: int) -> None:
        text = f"out of memory scoring {self.rows_at_once} rows at a time: {size} from now on. "
        text += _MAY_DIFFER
        self.emit("log", level="warning", text=text)
        self.rows_at_once = size

    def scores(self, step: int | None = None) -> dict[str, float]:
        """Return the held-out values with `rows` and, with scorers, their means and `answers`.

        `answers` counts the rows whose answers were scored. A scorer of the user's own that fails
        costs its own score only; `missing` then has the reason. Emits the sample events that
        evaluate.samples asks for. With `step`, the optimizer steps of the weights, the results of
        every row are kept as the trial's own; losses that `held_out` computed of the same weights
        are taken as they are.
        """
        losses = self._known.get(step or 0) or self._losses(self.rows)
        values = {**losses.values(), "rows": len(self.rows)}
        answers: list[GeneratedAnswer] = []
        scores: RowScores = {}
        if self.evaluate.scorers:
            self.emit("phase", name="evaluating", detail="answers")
            answers = self._answers()
            scores = self._answer_scores(answers)
            values |= mean_scores(scores)
            if scores:
                values["answers"] = max(map(count_scored, scores.values()))
        if self.evaluate.task is not None:
            return values | self._task_scores(self.evaluate.task, step)
        if self.results is not None and step is not None:
            self.results.keep_scores(step, losses, answers, scores)
        return values

    def _task_scores(self, task: str, step: int | None) -> dict[str, float]:
        """Return the scores of a task of lm-evaluation-harness, and keep its rows.

        Those rows stand in for the held-out ones: a trial is judged on one set of rows.
        """
        from workbench.training.scoring.harness import run_task

        self.emit("phase", name="evaluating", detail="task")
        found = run_task(
            self.model,
            self.tokenizer,
            task,
            batch_size=self.rows_at_once,
            precision=self.precision,
            control=self.control,
            chat=getattr(self.tokenizer, "chat_template", None) is not None,
        )
        if self.results is not None and step is not None:
            self.results.keep_task(step, found)
        return found.values

    def _answer_scores(self, answers: list[GeneratedAnswer]) -> RowScores:
        """Return the scores of each row by scorer, and log what cannot be scored."""
        for answer in answers[: self.evaluate.samples]:
            self._show(answer)
        if any(name not in BUILT_IN for name in self.evaluate.scorers):
            self.emit("phase", name="evaluating", detail="scorer")
        found = score_answers(self.evaluate, self._texts(answers), self.own_scorers)
        self.missing = dict(found.missing)
        self.warn_of_slow_pattern(answers)
        for reason in self.missing.values():
            self.emit("log", level="warning", text=f"no score: {reason}")
        for name, values in found.values.items():
            if (scored := count_scored(values)) < len(values):
                left = f"{len(values) - scored} of {len(values)} held-out rows"
                text = f"{left} cannot be scored by {name}, and are not"
                if self.evaluate.answer_pattern is not None and name in BUILT_IN:
                    text = f"{left} have no answer that matches evaluate.answer_pattern: not scored"
                self.emit("log", level="warning", text=text)
        return {name: list(values) for name, values in found.values.items() if count_scored(values)}

    def warn_of_slow_pattern(self, answers: list[GeneratedAnswer]) -> None:
        """Log a warning where the answer pattern ran out of time on generated answers."""
        pattern = self.evaluate.answer_pattern
        slow = sum(is_too_slow(pattern, one.text) for one in answers) if pattern else 0
        if slow:
            text = f"evaluate.answer_pattern took more than {MATCH_SECONDS} s on {slow} of "
            text += f"{len(answers)} answers, which count as answers without a match"
            self.emit("log", level="warning", text=text)

    def _texts(self, answers: list[GeneratedAnswer]) -> list[RowTexts | None]:
        """Return question, expected and generated answer of each row, None where none was asked."""
        questions = self.rows["question"]
        return [
            (questions[one.row] or "", one.expected, one.text) if one.ended_by else None
            for one in answers
        ]

    def _answers(self) -> list[GeneratedAnswer]:
        return generate_answers(
            self.model,
            self.rows,
            self.tokenizer,
            pattern=self.evaluate.answer_pattern,
            batch_size=self.rows_at_once,
            max_new_tokens=self.evaluate.max_new_tokens,
            precision=self.precision,
            control=self.control,
            turn_end_ids=self.turn_end_ids,
            dequantised=self.dequantised,
            generate=self.generate,
            shrunk=self._shrunk,
            fell_back=self._fell_back,
        )

    def _fell_back(self, reason: str) -> None:
        """Log why transformers generates the answers."""
        text = f"answers are generated by transformers, which is slower: {reason}"
        self.emit("log", level="info", text=text)

    def _show(self, answer: GeneratedAnswer) -> None:
        row = self.rows[answer.row]
        self.emit(
            "sample",
            question=safe_text(row["question"]),
            expected=safe_text(row["answer"]),
            answer=safe_text(answer.text),
            right=answer.right,
        )

"""The scores of a model on the held-out rows: loss, and exact match where a pattern is set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from datasets import Dataset
from torch import nn

from workbench.recipe.schema import Evaluate
from workbench.text import safe_text
from workbench.training.control import Control, Emit
from workbench.training.scoring.answers import GeneratedAnswer, generate_answers
from workbench.training.scoring.held_out_loss import RowLosses, score_rows
from workbench.training.scoring.results_writer import ResultsWriter, RowScores


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
    turn_end_ids: Sequence[int] = ()
    """The ids that ended turns with loss in the prepared rows; generation stops at them."""
    results: ResultsWriter | None = None
    """The writer that keeps the result of every row; None: nothing is kept."""

    def held_out(self) -> dict[str, float]:
        """Return the values of `RowLosses` for weights that are being trained.

        The losses of every row are kept under the training step, because the checkpoint may be
        compared with others.
        """
        losses = self._losses(self.rows)
        values = losses.values()
        if self.results is not None and self.control.step:
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
        """Score one batch of the longest rows and one of the longest questions.

        This takes as much memory as scoring ever will.
        """
        longest = self._longest([len(ids) for ids in self.rows["input_ids"]])
        self._losses(self.rows.select(longest))
        if self.evaluate.answer_pattern is not None:
            asked = self._longest([len(ids) for ids in self.rows["prompt_ids"]])
            self._answers(self.rows.select(asked), self.evaluate.answer_pattern, 1)

    def _longest(self, lengths: list[int]) -> list[int]:
        return sorted(range(len(lengths)), key=lambda i: -lengths[i])[: self.rows_at_once]

    def _shrunk(self, size: int) -> None:
        text = (
            f"out of memory scoring {self.rows_at_once} rows at a time: {size} from now on. The "
            "scores may differ in their last digits, and answers in a few rows, from those of "
            "trials that were scored as planned"
        )
        self.emit("log", level="warning", text=text)
        self.rows_at_once = size

    def scores(self, step: int | None = None) -> dict[str, float]:
        """Return the held-out values with `rows` and, with a pattern, `exact_match` and `answers`.

        Emits the sample events that evaluate.samples asks for. With `step`, the optimizer steps of
        the weights, the results of every row are kept as the trial's own.
        """
        losses = self._losses(self.rows)
        values = {**losses.values(), "rows": len(self.rows)}
        answers: list[GeneratedAnswer] = []
        if self.evaluate.answer_pattern is not None:
            self.emit("phase", name="evaluating", detail="answers")
            answers = self._answers(
                self.rows, self.evaluate.answer_pattern, self.evaluate.max_new_tokens
            )
            values |= self._exact_match(answers)
        if self.results is not None and step is not None:
            self.results.keep_scores(step, losses, answers, row_scores(answers))
        return values

    def _exact_match(self, answers: list[GeneratedAnswer]) -> dict[str, float]:
        for answer in answers[: self.evaluate.samples]:
            self._show(answer)
        scored = [answer for answer in answers if answer.scorable]
        if len(scored) < len(answers):
            left = f"{len(answers) - len(scored)} of {len(answers)} held-out rows"
            text = f"{left} have no answer that matches evaluate.answer_pattern: not scored"
            self.emit("log", level="warning", text=text)
        if not scored:
            return {}
        right = sum(answer.right for answer in scored)
        return {"exact_match": right / len(scored), "answers": len(scored)}

    def _answers(self, rows: Dataset, pattern: str, max_new_tokens: int) -> list[GeneratedAnswer]:
        return generate_answers(
            self.model,
            rows,
            self.tokenizer,
            pattern=pattern,
            batch_size=self.rows_at_once,
            max_new_tokens=max_new_tokens,
            precision=self.precision,
            control=self.control,
            turn_end_ids=self.turn_end_ids,
            shrunk=self._shrunk,
        )

    def _show(self, answer: GeneratedAnswer) -> None:
        row = self.rows[answer.row]
        self.emit(
            "sample",
            question=safe_text(row["question"]),
            expected=safe_text(row["answer"]),
            answer=safe_text(answer.text),
            right=answer.right,
        )


def row_scores(answers: Sequence[GeneratedAnswer]) -> RowScores:
    """Return the scores of generated answers row by row; None where a row cannot be scored.

    Empty where no row can be scored.
    """
    if not any(answer.scorable for answer in answers):
        return {}
    return {"exact_match": [float(a.right) if a.scorable else None for a in answers]}

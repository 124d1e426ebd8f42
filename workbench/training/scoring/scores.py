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
from workbench.training.scoring.held_out_loss import held_out


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

    def held_out(self) -> dict[str, float]:
        """Return loss, perplexity, token_accuracy and targets, as `held_out_loss.held_out` does."""
        return self._held_out(self.rows)

    def _held_out(self, rows: Dataset) -> dict[str, float]:
        return held_out(
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
        self._held_out(self.rows.select(longest))
        if self.evaluate.answer_pattern is not None:
            asked = self._longest([len(ids) for ids in self.rows["prompt_ids"]])
            self._answers(self.rows.select(asked), self.evaluate.answer_pattern, 1)

    def _longest(self, lengths: list[int]) -> list[int]:
        return sorted(range(len(lengths)), key=lambda i: -lengths[i])[: self.rows_at_once]

    def _shrunk(self, size: int) -> None:
        text = f"out of memory scoring {self.rows_at_once} rows at a time: {size} from now on"
        self.emit("log", level="warning", text=text)
        self.rows_at_once = size

    def scores(self) -> dict[str, float]:
        """Return the held-out values with `rows` and, with a pattern, `exact_match` and `answers`.

        Emits the sample events that evaluate.samples asks for.
        """
        values = {**self.held_out(), "rows": len(self.rows)}
        if self.evaluate.answer_pattern is not None:
            self.emit("phase", name="evaluating", detail="answers")
            values |= self._exact_match(self.evaluate.answer_pattern)
        return values

    def _exact_match(self, pattern: str) -> dict[str, float]:
        answers = self._answers(self.rows, pattern, self.evaluate.max_new_tokens)
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

"""The results of single held-out rows, kept in the trial's folder and reported to the loop."""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from datasets import Dataset

from workbench.attempts import results_file
from workbench.attempts.results_file import MOST_ROWS, ResultsHead, bounded_text
from workbench.recipe.schema import Evaluate
from workbench.training.control import Control, Emit
from workbench.training.scoring.answers import GeneratedAnswer
from workbench.training.scoring.harness import TaskScores
from workbench.training.scoring.row_losses import RowLosses
from workbench.training.scoring.scorers.own_scorers import scorer_digests, scorers_folder

_NO_JUDGING = {"every", "batch_size", "samples", "rank_by"}
"""Settings of `evaluate` that change no score."""

ALL_EVALUATIONS = 64
"""Evaluations while a trial trains of which all losses are kept; a power of two."""

RowScores = dict[str, list[float | None]]
"""Scores of generated answers by name, one for each row; None for a row that has no score."""


def rows_digest(
    rows: Dataset, evaluate: Evaluate, scorer_files: Mapping[str, str] = MappingProxyType({})
) -> str:
    """Return the digest of an evaluation set: questions, expected answers, and how both are judged.

    Model, tokenizer and chat template are not in it, so that answers of different models to the
    same questions may be compared. Rows without a question count with their tokens. 32 hexadecimal
    digits. `scorer_files` has digests of the user's own scorers (`own_scorers.scorer_digests`).
    """
    # A setting that a later version adds changes no digest until somebody sets it.
    judged = evaluate.model_dump(mode="json", exclude=_NO_JUDGING, exclude_defaults=True)
    if scorer_files:
        judged["scorer_files"] = dict(scorer_files)
    digest = hashlib.sha256(json.dumps(judged, sort_keys=True).encode())
    for row in rows.select_columns(["question", "answer", "prompt_ids", "input_ids"]):
        # A row without a question is known by its tokens alone.
        other = [] if row["prompt_ids"] else row["input_ids"]
        digest.update(json.dumps([row["question"], row["answer"], other]).encode())
    return digest.hexdigest()[:32]


def tokens_digest(rows: Dataset) -> str:
    """Return the digest of the rows as they were tokenised: ids, labels and prompts.

    Losses are comparable only where it is equal. 32 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for row in rows.select_columns(["input_ids", "labels", "prompt_ids"]):
        for column in ("input_ids", "labels", "prompt_ids"):
            ids = array("i", row[column])
            digest.update(len(ids).to_bytes(8, "little") + ids.tobytes())
    return digest.hexdigest()[:32]


def is_kept(evaluation: int) -> bool:
    """Return whether the losses of a trial's n-th evaluation while it trains are kept.

    All of the first ALL_EVALUATIONS are, and half as many of each twice as long stretch behind
    them: 295 of 10,000.
    """
    stride = 1 << max(0, (max(1, evaluation) - 1).bit_length() - ALL_EVALUATIONS.bit_length() + 1)
    return evaluation % stride == 0


@dataclass(slots=True, kw_only=True)
class ResultsWriter:
    """A writer of one trial's results; every method raises OSError where the disk is full.

    Of more than MOST_ROWS rows nothing is kept, and a warning says so once.
    """

    trial_folder: Path
    home: Path
    rows: Dataset
    evaluate: Evaluate
    emit: Emit
    control: Control
    _digests: tuple[str, str] | None = field(default=None, init=False)

    def keep_scores(
        self,
        step: int,
        losses: RowLosses,
        answers: list[GeneratedAnswer],
        scores: RowScores,
    ) -> None:
        """Write the results that are the trial's scores, with the texts, and report the file."""
        if not self._keeps():
            return
        evaluation, _ = self._known_digests()
        asked = results_file.questions_path(self.home, evaluation)
        if not asked.exists():
            results_file.write_lines(asked, self._questions())
        sums = {"loss": losses.nats, "token_accuracy": [float(n) for n in losses.right]}
        self._write(step, losses, sums, scores, answers, scored=True)

    def keep_losses(self, step: int, losses: RowLosses) -> None:
        """Write the losses of a checkpoint that is compared while training, and report the file.

        Of a trial with more than ALL_EVALUATIONS evaluations some are left out; see `is_kept`.
        """
        if is_kept(step // (self.evaluate.every or 1)) and self._keeps():
            self._write(step, losses, {"loss": losses.nats}, {}, [], scored=False)

    def keep_task(self, step: int, found: TaskScores) -> None:
        """Write the rows of a harness's task as the trial's scores, and report the file."""
        rows = len(found.texts)
        if not 0 < rows <= MOST_ROWS:
            return
        asked = results_file.questions_path(self.home, found.digest)
        if not asked.exists():
            known = [{"question": q, "expected": e} for q, e, _ in found.texts]
            results_file.write_lines(
                asked, [{key: bounded_text(text) for key, text in row.items()} for row in known]
            )
        head = ResultsHead(
            evaluation=found.digest,
            tokens=found.digest,
            step=step,
            scored=True,
            targets=[0] * rows,  # a task has no target tokens, and no losses
            sums={"loss": [0.0] * rows},
            means=found.row_scores,
        )
        self._report(head, (_task_line(n, text) for n, (_, _, text) in enumerate(found.texts)))

    def _write(
        self,
        step: int,
        losses: RowLosses,
        sums: dict[str, list[float]],
        scores: RowScores,
        answers: list[GeneratedAnswer],
        *,
        scored: bool,
    ) -> None:
        evaluation, tokens = self._known_digests()
        head = ResultsHead(
            evaluation=evaluation,
            tokens=tokens,
            step=step,
            scored=scored,
            targets=losses.targets,
            sums=sums,
            means=scores,
        )
        self._report(head, map(_line, answers))

    def _report(self, head: ResultsHead, lines: Iterable[dict[str, Any]]) -> None:
        self.control.check_fence()  # an attempt that was replaced must not replace its successor's
        sha256 = results_file.write_results(self.trial_folder, head, lines)
        self.emit(
            "results",
            durable=True,
            evaluation=head.evaluation,
            tokens=head.tokens,
            step=head.step,
            scored=head.scored,
            rows=len(head.targets),
            sha256=sha256,
        )

    def _keeps(self) -> bool:
        if len(self.rows) <= MOST_ROWS:
            return True
        if self._digests is None:
            self._digests = ("", "")
            text = (
                f"there are {len(self.rows):,} held-out rows: results of single rows are kept up "
                f"to {MOST_ROWS:,}, so that scores will have no intervals"
            )
            self.emit("log", level="warning", text=text)
        return False

    def _known_digests(self) -> tuple[str, str]:
        if self._digests is None:
            files = scorer_digests(self.evaluate.scorers, scorers_folder(self.home))
            rows = rows_digest(self.rows, self.evaluate, files)
            self._digests = (rows, tokens_digest(self.rows))
        return self._digests

    def _questions(self) -> Iterator[dict[str, Any]]:
        for question, answer in zip(self.rows["question"], self.rows["answer"], strict=True):
            yield {"question": bounded_text(question or ""), "expected": bounded_text(answer or "")}


def _task_line(row: int, text: str) -> dict[str, Any]:
    bounded = bounded_text(text)
    nothing = {"extracted": None, "right": None, "tokens": 0, "ended_by": ""}
    return {"row": row, "text": bounded, **nothing}


def _line(answer: GeneratedAnswer) -> dict[str, Any]:
    extracted = answer.extracted
    return {
        "row": answer.row,
        "text": bounded_text(answer.text),
        "extracted": None if extracted is None else bounded_text(extracted),
        "right": answer.right if answer.scorable else None,
        "tokens": answer.tokens,
        "ended_by": answer.ended_by,
    }

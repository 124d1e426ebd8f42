"""The two passes over the rows that turn data files into train.arrow and eval.arrow.

The first pass checks and counts every row, the second renders, cuts and writes it. Neither keeps
rows, so memory does not grow with the file.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.recipe.schema import Data
from workbench.training.dataset.arrow_writer import BATCH_ROWS, EVAL, TRAIN, ArrowWriter
from workbench.training.dataset.files.lines import DataRow
from workbench.training.dataset.files.sources import DataSource
from workbench.training.dataset.first_pass import Progress, reread_rows, survey_rows
from workbench.training.dataset.row_parser import RowParser
from workbench.training.dataset.split import HeldOut
from workbench.training.dataset.tokenizer_pool import MANY_ROWS, TokenizerPool

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def make_rows(
    data: Data,
    tokenizer: PreTrainedTokenizerBase,
    sources: tuple[DataSource, DataSource | None],
    folder: Path,
    progress: Progress,
    processes: int = 1,
    most_tokens: int | None = None,
) -> dict[str, Any]:
    """Write train.arrow and eval.arrow into `folder` and return the fields of `Prepared`.

    `sources` are train and eval; without an eval source the held-out rows are split off train.
    From `MANY_ROWS` rows on, `processes` processes tokenise. `most_tokens` is what
    the model reads, which suggestions do not pass. Raises DataError for rows that cannot
    be trained on.
    """
    parser = RowParser(data, templates=bool(tokenizer.chat_template), most_tokens=most_tokens)
    split = _Split(data, sources, parser, progress)
    many = min(data.max_rows or split.train_rows, split.train_rows) >= MANY_ROWS
    pool = TokenizerPool(parser, tokenizer, processes=processes if many else 1)
    with ExitStack() as files:
        train, held = (
            files.enter_context(
                ArrowWriter(
                    folder / f"{name}.arrow", schema, name, parser, pool.renderer, tokenizer
                )
            )
            for name, schema in (("train", TRAIN), ("eval", EVAL))
        )
        split.write(train, held, pool, progress)
    train.stats.check()
    held.stats.check()
    return {
        "eval_digest": held.stats.digest(),
        "shape": parser.shape,
        **train.stats.numbers(),
        "read_rows": split.train_rows,
        "train_rows": train.stats.kept,
        "eval_rows": held.stats.kept,
        "eval_max_length": held.stats.longest,
        "highest_id": max(train.stats.highest_id, held.stats.highest_id),
        "examples": train.examples.rows,
        "notes": [
            *split.notes(),
            *parser.notes(pool.renderer),
            *train.stats.notes(),
            *train.warnings.notes(),
            *held.stats.notes(),
            *held.warnings.notes(),
            *held.stats.shared_with(train.stats),
        ],
    }


class _Split:
    """The division of the rows into train and eval; constructing it reads every row once."""

    def __init__(
        self,
        data: Data,
        sources: tuple[DataSource, DataSource | None],
        parser: RowParser,
        progress: Progress,
    ) -> None:
        self._data = data
        self._train, self._eval = sources
        self._held = HeldOut(data.eval_rows)
        checks: list[Callable[[DataRow], object]] = [parser.parse]
        if self._eval is not None:
            self.train_rows = survey_rows(self._train, "training", progress, data.max_rows, checks)
            checks = [_Once(parser.check_columns), parser.parse]
            self.eval_rows = survey_rows(self._eval, "held-out", progress, data.eval_rows, checks)
            return
        if data.max_rows is not None:  # rows that are not used need not be right
            checks = [_Once(parser.parse)]
        checks.insert(0, self._held.see)
        self.train_rows = survey_rows(self._train, "training", progress, None, checks)
        self.eval_rows = 0
        self._held.all_seen()

    def write(
        self, train: ArrowWriter, held: ArrowWriter, pool: TokenizerPool, progress: Progress
    ) -> None:
        """Read the rows a second time, tokenise them and pass each to the writer of its part."""
        if self._eval is None:
            self._write_split(train, held, pool, progress)
            return
        parts = (
            (self._train, self._data.max_rows, self.train_rows, train),
            (self._eval, self._data.eval_rows, self.eval_rows, held),
        )
        for source, limit, total, writer in parts:
            stage = f"tokenising {writer.stats.name} rows"
            for number, (row, tokens) in enumerate(pool.tokens(reread_rows(source, limit))):
                if number % BATCH_ROWS == 0:
                    progress(stage, number, total)
                writer.add(row, tokens)
            progress(stage, total, total)

    def _write_split(
        self, train: ArrowWriter, held: ArrowWriter, pool: TokenizerPool, progress: Progress
    ) -> None:
        parts: deque[str] = deque()  # parts of the rows the pool works on, in their order
        for row, tokens in pool.tokens(self._drawn(parts, progress)):
            (held if parts.popleft() == "eval" else train).add(row, tokens)
        progress("tokenising train rows", self.train_rows, self.train_rows)
        progress("tokenising eval rows", held.stats.kept, held.stats.kept)

    def _drawn(self, parts: deque[str], progress: Progress) -> Iterator[DataRow]:
        """Yield the rows that are used, and append to `parts` whether each is for train or eval."""
        limit = self._data.max_rows or self.train_rows
        trained = 0
        for number, row in enumerate(reread_rows(self._train, None)):
            if number % BATCH_ROWS == 0:
                progress("tokenising train rows", number, self.train_rows)
            part = self._held.part_of(row)
            trained += part == "train"
            if part == "eval" or (part == "train" and trained <= limit):
                parts.append(part)
                yield row
        self._held.check(trained)

    def notes(self) -> list[str]:
        """Return the warnings about rows that were held out."""
        return [] if self._eval is not None else self._held.notes()


class _Once:
    """A check that is applied to the first row only."""

    def __init__(self, check: Callable[[DataRow], object]) -> None:
        self._check: Callable[[DataRow], object] | None = check

    def __call__(self, row: DataRow) -> None:
        if self._check is not None:
            check, self._check = self._check, None
            check(row)

"""From data files to arrow files: read, split, understand, render, cut, write.

Two passes over the rows, neither of which keeps them: memory does not grow with the file.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.recipe.schema import Data
from workbench.training.dataset.arrow_writer import BATCH_ROWS, EVAL, TRAIN, Writer
from workbench.training.dataset.files.rows import Row
from workbench.training.dataset.files.sources import Source
from workbench.training.dataset.first_pass import Progress, again, survey
from workbench.training.dataset.row_parser import Reader
from workbench.training.dataset.split import HeldOut
from workbench.training.dataset.tokenizer_pool import MANY_ROWS, Crew

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def make_rows(
    data: Data,
    tokenizer: PreTrainedTokenizerBase,
    sources: tuple[Source, Source | None],
    folder: Path,
    progress: Progress,
    processes: int = 1,
) -> dict[str, Any]:
    """Write train.arrow and eval.arrow into `folder`; returns what data.Prepared tells of them.

    `sources` are train and eval; many rows are tokenised by so many `processes`. DataError for
    rows that cannot be trained on.
    """
    reader = Reader(data, templates=bool(tokenizer.chat_template))
    split = _Split(data, sources, reader, progress)
    many = min(data.max_rows or split.train_rows, split.train_rows) >= MANY_ROWS
    crew = Crew(reader, tokenizer, processes=processes if many else 1)
    with ExitStack() as files:
        train, held = (
            files.enter_context(
                Writer(folder / f"{name}.arrow", schema, name, reader, crew.renderer, tokenizer)
            )
            for name, schema in (("train", TRAIN), ("eval", EVAL))
        )
        split.write(train, held, crew, progress)
    train.tally.check()
    held.tally.check()
    return {
        "eval_digest": held.tally.digest(),
        "shape": reader.shape,
        **train.tally.numbers(),
        "read_rows": split.train_rows,
        "train_rows": train.tally.kept,
        "eval_rows": held.tally.kept,
        "eval_max_length": held.tally.longest,
        "highest_id": max(train.tally.highest_id, held.tally.highest_id),
        "examples": train.examples.rows,
        "notes": [
            *split.notes(),
            *reader.notes(crew.renderer),
            *train.tally.notes(),
            *train.doubts.notes(),
            *held.tally.notes(),
            *held.doubts.notes(),
            *held.tally.shared_with(train.tally),
        ],
    }


class _Split:
    """The rows of each part, read twice."""

    def __init__(
        self,
        data: Data,
        sources: tuple[Source, Source | None],
        reader: Reader,
        progress: Progress,
    ) -> None:
        self._data = data
        self._train, self._eval = sources
        self._held = HeldOut(data.eval_rows)
        looks: list[Callable[[Row], object]] = [reader.read]
        if self._eval is not None:
            self.train_rows = survey(self._train, "training", progress, data.max_rows, looks)
            looks = [_Once(reader.check_columns), reader.read]
            self.eval_rows = survey(self._eval, "held-out", progress, data.eval_rows, looks)
            return
        if data.max_rows is not None:  # rows that are not used need not be right
            looks = [_Once(reader.read)]
        looks.insert(0, self._held.see)
        self.train_rows = survey(self._train, "training", progress, None, looks)
        self.eval_rows = 0
        self._held.all_seen()

    def write(self, train: Writer, held: Writer, crew: Crew, progress: Progress) -> None:
        if self._eval is None:
            self._write_split(train, held, crew, progress)
            return
        parts = (
            (self._train, self._data.max_rows, self.train_rows, train),
            (self._eval, self._data.eval_rows, self.eval_rows, held),
        )
        for source, limit, total, writer in parts:
            stage = f"tokenising {writer.tally.name} rows"
            for number, (row, tokens) in enumerate(crew.tokens(again(source, limit))):
                if number % BATCH_ROWS == 0:
                    progress(stage, number, total)
                writer.add(row, tokens)
            progress(stage, total, total)

    def _write_split(self, train: Writer, held: Writer, crew: Crew, progress: Progress) -> None:
        parts: deque[str] = deque()  # of the rows that the crew has in hand
        for row, tokens in crew.tokens(self._drawn(parts, progress)):
            (held if parts.popleft() == "eval" else train).add(row, tokens)
        progress("tokenising train rows", self.train_rows, self.train_rows)
        progress("tokenising eval rows", held.tally.kept, held.tally.kept)

    def _drawn(self, parts: deque[str], progress: Progress) -> Iterator[Row]:
        """The rows that are used, and to `parts` what for."""
        limit = self._data.max_rows or self.train_rows
        trained = 0
        for number, row in enumerate(again(self._train, None)):
            if number % BATCH_ROWS == 0:
                progress("tokenising train rows", number, self.train_rows)
            part = self._held.part_of(row)
            trained += part == "train"
            if part == "eval" or (part == "train" and trained <= limit):
                parts.append(part)
                yield row
        self._held.check(trained)

    def notes(self) -> list[str]:
        return [] if self._eval is not None else self._held.notes()


class _Once:
    """A look at the first row only."""

    def __init__(self, look: Callable[[Row], object]) -> None:
        self._look: Callable[[Row], object] | None = look

    def __call__(self, row: Row) -> None:
        if self._look is not None:
            look, self._look = self._look, None
            look(row)

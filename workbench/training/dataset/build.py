"""The two passes over the rows that turn data files into train.arrow, eval.arrow and test.arrow.

The first pass checks and counts every row, the second renders, cuts and writes it. Neither keeps
rows, so memory does not grow with the file.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.recipe.schema import Data
from workbench.training.dataset.arrow_writer import BATCH_ROWS, EVAL, TRAIN, ArrowWriter
from workbench.training.dataset.files.lines import DataRow
from workbench.training.dataset.files.sources import DataSource
from workbench.training.dataset.first_pass import Progress, reread_rows, survey_rows
from workbench.training.dataset.mixture import (
    TrainPart,
    check_mapped_columns,
    row_counts,
    train_parts,
)
from workbench.training.dataset.packing import pack_file
from workbench.training.dataset.row_parser import RowParser
from workbench.training.dataset.split import HeldOut
from workbench.training.dataset.tokenizer_pool import TokenizerPool

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


Sources = tuple[list[DataSource], DataSource | None, DataSource | None]
"""The sources of training, held-out and test rows; what has none is split off the training rows."""


def make_rows(
    data: Data,
    tokenizer: PreTrainedTokenizerBase,
    sources: Sources,
    folder: Path,
    progress: Progress,
    processes: int = 1,
    most_tokens: int | None = None,
) -> dict[str, Any]:
    """Write the arrow files into `folder` and return the fields of `Prepared`.

    test.arrow is written only for a recipe with test rows. From `MANY_ROWS` rows of a source on,
    `processes` processes tokenise. `most_tokens` is what the model reads, which suggestions do not
    pass. Raises DataError for rows that cannot be trained on or scored.
    """
    parts = train_parts(data, sources[0], tokenizer, most_tokens)
    # Held-out rows of a mixture's own file have their own shape; else they have that of training.
    single = isinstance(data.train, str)
    parser = (
        parts[0].parser
        if single
        else RowParser(data, templates=bool(tokenizer.chat_template), most_tokens=most_tokens)
    )
    split = _Split(data, parts, sources[1:], parser, progress)
    for part in parts:
        part.start_pool(tokenizer, processes)
    with ExitStack() as files:
        writers = _open_writers(files, split, parts, folder, tokenizer)
        split.write_train(writers, progress)
        if split.own:
            pool = parts[0].pool if single else TokenizerPool(parser, tokenizer, processes=1)
            split.write_own(writers, pool, progress)
    for writer in writers.values():
        writer.stats.check()
    train, held, test = writers["train"], writers["eval"], writers.get("test")
    return {
        "eval_digest": held.stats.digest(),
        "shape": " and ".join(dict.fromkeys(part.parser.shape for part in parts)),
        **train.stats.numbers(),
        "read_rows": split.train_rows,
        "train_rows": train.stats.kept,
        "eval_rows": held.stats.kept,
        "eval_max_length": max(writer.stats.longest for writer in (held, test) if writer),
        "highest_id": max(writer.stats.highest_id for writer in writers.values()),
        "examples": train.examples.rows,
        "notes": _notes(split, parts, train, held, test),
        "test_digest": test.stats.digest() if test else "",
        "test_rows": test.stats.kept if test else 0,
        "mixture": [] if single else [part.to_json() for part in parts],
        **(pack_file(folder / "train.arrow", data.max_tokens) if data.packing else {}),
    }


def _open_writers(
    files: ExitStack,
    split: _Split,
    parts: list[TrainPart],
    folder: Path,
    tokenizer: PreTrainedTokenizerBase,
) -> dict[str, ArrowWriter]:
    """Return the writers of train, eval and, where there are test rows, test; `files` closes them.

    They judge all rows by the limits of the first part with chats, or else of the first part.
    """
    main = next((part for part in parts if part.parser.chats), parts[0])
    judge = (main.parser, main.pool.renderer, tokenizer)
    schemas = {"train": TRAIN, "eval": EVAL} | ({"test": EVAL} if split.tests else {})
    return {
        name: files.enter_context(ArrowWriter(folder / f"{name}.arrow", schema, name, *judge))
        for name, schema in schemas.items()
    }


def _notes(
    split: _Split,
    parts: list[TrainPart],
    train: ArrowWriter,
    held: ArrowWriter,
    test: ArrowWriter | None,
) -> list[str]:
    """Return the warnings about the rows of all parts."""
    return [
        *split.notes(),
        *(note for part in parts for note in part.notes()),
        *dict.fromkeys(note for part in parts for note in part.parser.notes(part.pool.renderer)),
        *train.stats.notes(),
        *train.warnings.notes(),
        *held.stats.notes(),
        *held.warnings.notes(),
        *held.stats.shared_with(train.stats),
        *(_test_notes(train, held, test) if test else ()),
    ]


def _test_notes(train: ArrowWriter, held: ArrowWriter, test: ArrowWriter) -> list[str]:
    return [
        *test.stats.notes(),
        *test.warnings.notes(),
        *test.stats.shared_with(train.stats, "test"),
        *test.stats.chosen_by(held.stats),
    ]


class _Split:
    """The division of the rows into train, eval and test; constructing it reads every row once."""

    def __init__(
        self,
        data: Data,
        parts: list[TrainPart],
        own: Sequence[DataSource | None],
        parser: RowParser,
        progress: Progress,
    ) -> None:
        self._data, self._parts, self._parser = data, parts, parser
        held, test = own
        drawn = (0 if held else data.eval_rows, 0 if test else data.test_rows or 0)
        self._held = HeldOut(*drawn)
        self._draws = any(drawn)
        self.tests = test is not None or drawn[1] > 0
        """True if there are test rows."""
        for part in parts:
            part.read_rows = self._survey(part, progress)
        if data.max_rows is None:  # else a column may be in a row that is not read
            check_mapped_columns(parts)
        self.train_rows = sum(part.read_rows for part in parts)
        """Rows of all sources of training rows."""
        self._held.all_seen()
        single = len(parts) == 1 and parts[0].taken is None
        checks = _own_checks(parser) if single else _parsed(parser)
        self.own = [
            (source, most, survey_rows(source, what, progress, most, checks), name)
            for source, most, what, name in (
                (held, data.eval_rows, "held-out", "eval"),
                (test, data.test_rows, "test", "test"),
            )
            if source is not None
        ]
        """Sources of held-out and test rows: with the most rows that are used, rows, and part."""

    def _survey(self, part: TrainPart, progress: Progress) -> int:
        limit = self._data.max_rows
        checks = part.checks(self._held.see) if self._draws else _parsed(part.parser)
        if self._draws and limit is not None:  # rows that are not used need not be right
            checks, limit = [checks[0], _Once(part.parser.parse)], None
        return survey_rows(part.source, "training", progress, limit, [*checks, part.note_columns])

    def write_train(self, writers: dict[str, ArrowWriter], progress: Progress) -> None:
        """Read the training sources again, tokenise their rows and write each to its part."""
        trained = 0
        for part in self._parts:
            uses: deque[tuple[str, int]] = deque()  # of the rows the pool works on, in their order
            rows = self._used(part, uses, progress)
            for row, tokens in part.pool.tokens(rows):
                name, times = uses.popleft()
                kept = writers[name].add(part.parser.parse(row), row.place, tokens, times)
                trained += name == "train"
                if kept is not None and name == "train":
                    part.count(kept, times)
        if self._draws:
            self._held.check(trained)
        progress("tokenising train rows", self.train_rows, self.train_rows)
        if self._draws:
            kept_rows = writers["eval"].stats.kept
            progress("tokenising eval rows", kept_rows, kept_rows)

    def _used(
        self, part: TrainPart, uses: deque[tuple[str, int]], progress: Progress
    ) -> Iterator[DataRow]:
        """Yield the rows that are used, and append to `uses` where each belongs and how often."""
        counts = row_counts(part.taken, part.read_rows - self._held.drawn_of(part.number))
        limit = self._data.max_rows or part.read_rows
        before = sum(one.read_rows for one in self._parts[: part.number])
        trained = 0
        for number, row in enumerate(reread_rows(part.source, None if self._draws else limit)):
            if number % BATCH_ROWS == 0:
                progress("tokenising train rows", before + number, self.train_rows)
            name = self._held.part_of(part.key(row), row.place) if self._draws else "train"
            times = 1
            if name == "train":
                times = next(counts, 0) if trained < limit else 0
                trained += 1
            if name and times:
                uses.append((name, times))
                yield row

    def write_own(
        self, writers: dict[str, ArrowWriter], pool: TokenizerPool, progress: Progress
    ) -> None:
        """Tokenise the held-out and test rows that have a source of their own, and write them."""
        for source, limit, total, name in self.own:
            stage = f"tokenising {name} rows"
            for number, (row, tokens) in enumerate(pool.tokens(reread_rows(source, limit))):
                if number % BATCH_ROWS == 0:
                    progress(stage, number, total)
                writers[name].add(self._parser.parse(row), row.place, tokens)
            progress(stage, total, total)

    def notes(self) -> list[str]:
        """Return the warnings about rows that were drawn."""
        return self._held.notes() if self._draws else []


def _parsed(parser: RowParser) -> list[Callable[[DataRow], object]]:
    return [parser.parse]


def _own_checks(parser: RowParser) -> list[Callable[[DataRow], object]]:
    """Return the checks of a held-out source of its own, whose columns may differ from train's."""
    return [_Once(parser.check_columns), parser.parse]


class _Once:
    """A check that is applied to the first row only."""

    def __init__(self, check: Callable[[DataRow], object]) -> None:
        self._check: Callable[[DataRow], object] | None = check

    def __call__(self, row: DataRow) -> None:
        if self._check is not None:
            check, self._check = self._check, None
            check(row)

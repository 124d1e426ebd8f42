"""The two passes over the rows that turn data files into train.arrow, eval.arrow and test.arrow.

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


Sources = tuple[DataSource, DataSource | None, DataSource | None]
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

    test.arrow is written only for a recipe with test rows. From `MANY_ROWS` rows on, `processes`
    processes tokenise. `most_tokens` is what the model reads, which suggestions do not pass. Raises
    DataError for rows that cannot be trained on or scored.
    """
    parser = RowParser(data, templates=bool(tokenizer.chat_template), most_tokens=most_tokens)
    split = _Split(data, sources, parser, progress)
    many = min(data.max_rows or split.train_rows, split.train_rows) >= MANY_ROWS
    pool = TokenizerPool(parser, tokenizer, processes=processes if many else 1)
    schemas = {"train": TRAIN, "eval": EVAL} | ({"test": EVAL} if split.tests else {})
    with ExitStack() as files:
        parts = {
            name: files.enter_context(
                ArrowWriter(
                    folder / f"{name}.arrow", schema, name, parser, pool.renderer, tokenizer
                )
            )
            for name, schema in schemas.items()
        }
        split.write(parts, pool, progress)
    for part in parts.values():
        part.stats.check()
    train, held, test = parts["train"], parts["eval"], parts.get("test")
    notes = [
        *split.notes(),
        *parser.notes(pool.renderer),
        *train.stats.notes(),
        *train.warnings.notes(),
        *held.stats.notes(),
        *held.warnings.notes(),
        *held.stats.shared_with(train.stats),
        *(_test_notes(train, held, test) if test else ()),
    ]
    return {
        "eval_digest": held.stats.digest(),
        "shape": parser.shape,
        **train.stats.numbers(),
        "read_rows": split.train_rows,
        "train_rows": train.stats.kept,
        "eval_rows": held.stats.kept,
        "eval_max_length": max(part.stats.longest for part in (held, test) if part),
        "highest_id": max(part.stats.highest_id for part in parts.values()),
        "examples": train.examples.rows,
        "notes": notes,
        "test_digest": test.stats.digest() if test else "",
        "test_rows": test.stats.kept if test else 0,
    }


def _test_notes(train: ArrowWriter, held: ArrowWriter, test: ArrowWriter) -> list[str]:
    return [
        *test.stats.notes(),
        *test.warnings.notes(),
        *test.stats.shared_with(train.stats, "test"),
        *test.stats.chosen_by(held.stats),
    ]


class _Split:
    """The division of the rows into train, eval and test; constructing it reads every row once."""

    def __init__(self, data: Data, sources: Sources, parser: RowParser, progress: Progress) -> None:
        self._data = data
        self._train, self._eval, self._test = sources
        drawn = (0 if self._eval else data.eval_rows, 0 if self._test else data.test_rows or 0)
        self._held = HeldOut(*drawn)
        self._draws = any(drawn)
        self.tests = self._test is not None or drawn[1] > 0
        """True if there are test rows."""
        checks: list[Callable[[DataRow], object]] = [parser.parse]
        limit = data.max_rows
        if self._draws:
            if limit is not None:  # rows that are not used need not be right
                checks = [_Once(parser.parse)]
            checks.insert(0, self._held.see)
            limit = None
        self.train_rows = survey_rows(self._train, "training", progress, limit, checks)
        self._held.all_seen()
        self._own = [
            (source, most, survey_rows(source, what, progress, most, _own_checks(parser)), name)
            for source, most, what, name in (
                (self._eval, data.eval_rows, "held-out", "eval"),
                (self._test, data.test_rows, "test", "test"),
            )
            if source is not None
        ]

    def write(self, parts: dict[str, ArrowWriter], pool: TokenizerPool, progress: Progress) -> None:
        """Read the rows a second time, tokenise them and pass each to the writer of its part."""
        own = self._own
        if self._draws:
            self._write_drawn(parts, pool, progress)
        else:
            own = [(self._train, self._data.max_rows, self.train_rows, "train"), *own]
        for source, limit, total, name in own:
            stage = f"tokenising {name} rows"
            for number, (row, tokens) in enumerate(pool.tokens(reread_rows(source, limit))):
                if number % BATCH_ROWS == 0:
                    progress(stage, number, total)
                parts[name].add(row, tokens)
            progress(stage, total, total)

    def _write_drawn(
        self, parts: dict[str, ArrowWriter], pool: TokenizerPool, progress: Progress
    ) -> None:
        names: deque[str] = deque()  # parts of the rows the pool works on, in their order
        for row, tokens in pool.tokens(self._drawn(names, progress)):
            parts[names.popleft()].add(row, tokens)
        progress("tokenising train rows", self.train_rows, self.train_rows)
        kept = parts["eval"].stats.kept
        progress("tokenising eval rows", kept, kept)

    def _drawn(self, names: deque[str], progress: Progress) -> Iterator[DataRow]:
        """Yield the rows that are used, and append to `names` the part that each belongs to."""
        limit = self._data.max_rows or self.train_rows
        trained = 0
        for number, row in enumerate(reread_rows(self._train, None)):
            if number % BATCH_ROWS == 0:
                progress("tokenising train rows", number, self.train_rows)
            part = self._held.part_of(row)
            trained += part == "train"
            if part in ("eval", "test") or (part == "train" and trained <= limit):
                names.append(part)
                yield row
        self._held.check(trained)

    def notes(self) -> list[str]:
        """Return the warnings about rows that were drawn."""
        return self._held.notes() if self._draws else []


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

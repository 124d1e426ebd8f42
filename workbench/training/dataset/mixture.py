"""The sources of the training rows: their own shapes, and how often an epoch has each row.

A mixture is written out: train.arrow holds a row as often as an epoch has it. Order, resuming and
counting are then those of any other rows.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from workbench.errors import DataError
from workbench.recipe.schema import Data, MixedSource
from workbench.text import safe_line
from workbench.training.dataset.files.lines import DataRow
from workbench.training.dataset.files.sources import DataSource
from workbench.training.dataset.row_parser import RowParser
from workbench.training.dataset.row_stats import IGNORED, KeptRow
from workbench.training.dataset.rows.shapes import content_of
from workbench.training.dataset.split import row_key
from workbench.training.dataset.tokenizer_pool import MANY_ROWS, TokenizerPool

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_MOST_NAMES = 1_000
"""Columns to remember: rows may each have names of their own."""
_SEED = 0
"""Seed of the draws of rows: all trials of an experiment must train on the same ones."""


def row_counts(taken: MixedSource | None, rows: int) -> Iterator[int]:
    """Yield how often an epoch has each of the `rows` training rows of one source, in their order.

    Without `taken` each row is there once. Which rows are there once more than the others is drawn
    row by row (Knuth's algorithm S), so that no memory grows with the source. Raises DataError
    where no row would be there.
    """
    wanted = rows
    if taken is not None:
        wanted = taken.rows or round((1 if taken.weight is None else taken.weight) * rows)
    if rows and not wanted:
        assert taken is not None
        raise DataError(
            f"{_shown(taken.path)}: weight {taken.weight:g} of {rows} rows is no row",
            hint="raise the weight, give the source a number of rows, or leave it out",
        )
    whole, more = divmod(wanted, rows) if rows else (0, 0)
    draw = random.Random(_SEED)
    for left in range(rows, 0, -1):
        drawn = draw.randrange(left) < more
        more -= drawn
        yield whole + drawn


class TrainPart:
    """One source of training rows, its settings, and what became of its rows."""

    def __init__(
        self,
        number: int,
        data: Data,
        source: DataSource,
        taken: MixedSource | None,
        *,
        templates: bool,
        most_tokens: int | None,
    ) -> None:
        """Start with no rows read; `taken` is None for the only source of a recipe."""
        self.number, self.source, self.taken = number, source, taken
        # Copies in sources with another system message of the recipe are copies.
        self._said = data.model_copy(update={"system": None})
        self.parser = RowParser(data, templates=templates, most_tokens=most_tokens)
        self.missing = set(data.columns)
        """Mapped columns that no row had so far."""
        self.names: set[str] = set()
        """Columns that rows had while one was missing."""
        self.read_rows = 0
        self.train_rows = 0
        """Rows that are written for training, each counted as often as an epoch has it."""
        self.distinct_rows = 0
        """Rows that an epoch has at least once."""
        self.tokens = 0
        self.target_tokens = 0

    def key(self, row: DataRow) -> bytes:
        """Return the hash by which the row is drawn, and by which copies of it are found.

        In a mixture it is that of what the row says, so that a copy with other columns, or in
        another shape, is one, too.
        """
        if self.taken is None:
            return row_key(row)
        said = content_of(self._said, self.parser.shape, row)
        return hashlib.sha256(said.encode(errors="surrogatepass")).digest()

    def start_pool(self, tokenizer: PreTrainedTokenizerBase, processes: int) -> None:
        """Start what tokenises this source's rows, once they were read and their shape is known."""
        most = self._said.max_rows or self.read_rows
        many = min(most, self.read_rows) >= MANY_ROWS
        self.pool = TokenizerPool(self.parser, tokenizer, processes=processes if many else 1)

    def checks(self, see: Callable[[bytes, int], None]) -> list[Callable[[DataRow], object]]:
        """Return what the first pass does with each row: it is parsed, and `see` gets its key."""
        keyed: Callable[[DataRow], object] = lambda row: see(self.key(row), self.number)  # noqa: E731
        # The key of a mixture's row needs its shape, which parsing decides.
        return [keyed, self.parser.parse] if self.taken is None else [self.parser.parse, keyed]

    def note_columns(self, row: DataRow) -> None:
        """Remember the row's columns, as long as a mapped one is missing."""
        if self.missing:
            self.missing.difference_update(row.values)
            if len(self.names) < _MOST_NAMES:
                self.names.update(row.values)

    def count(self, kept: KeptRow, times: int) -> None:
        """Count a row that was written `times` times."""
        self.distinct_rows += 1
        self.train_rows += times
        self.tokens += times * kept.length
        self.target_tokens += times * sum(label != IGNORED for label in kept.labels[1:])

    def notes(self) -> list[str]:
        """Return a warning where none of the source's rows is trained on."""
        if self.distinct_rows or self.taken is None:
            return []
        return [
            f"none of the {self.read_rows} rows of {_shown(self.source.name)} is trained on: they "
            "are held out or left out; lower data.eval_rows, or take the source out"
        ]

    def to_json(self) -> dict[str, Any]:
        """Return the numbers that `check` shows of this source."""
        return {
            "name": self.source.name,
            "shape": self.parser.shape,
            "read_rows": self.read_rows,
            "distinct_rows": self.distinct_rows,
            "train_rows": self.train_rows,
            "tokens": self.tokens,
            "target_tokens": self.target_tokens,
        }


def check_mapped_columns(parts: Sequence[TrainPart]) -> None:
    """Raise DataError where no row has a column that is mapped, once all rows were read.

    A row alone may lack one that only some rows of its shape have, such as tools; and a source may,
    where the mapping is that of all sources.
    """
    own = [part for part in parts if part.taken is not None and part.taken.columns is not None]
    shared = [part for part in parts if part not in own]
    groups = [[part] for part in own] + ([shared] if shared else [])
    for together in groups:
        missing = set.intersection(*(part.missing for part in together))
        if missing:
            names = {name for part in together for name in part.names}
            files = ", ".join(part.source.short_name for part in together)
            raise DataError(
                f"data.columns names {safe_line(', '.join(sorted(missing)), 120)}, which no row of "
                f"{safe_line(files, 200)} has",
                hint=f"its columns are {safe_line(', '.join(sorted(names)), 200)}; take out what "
                "is not there",
            )


def train_parts(
    data: Data,
    sources: list[DataSource],
    tokenizer: PreTrainedTokenizerBase,
    most_tokens: int | None,
) -> list[TrainPart]:
    """Return the recipe's sources of training rows, none of them read yet."""
    taken = [None] if isinstance(data.train, str) else data.train
    templates = bool(tokenizer.chat_template)
    return [
        TrainPart(n, own, source, mixed, templates=templates, most_tokens=most_tokens)
        for n, (own, source, mixed) in enumerate(zip(data.parts, sources, taken, strict=True))
    ]


def _shown(name: str) -> str:
    return safe_line(name.rsplit("/", 1)[-1], 80)

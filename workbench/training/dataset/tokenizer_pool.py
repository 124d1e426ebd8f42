"""A pool of processes that read and tokenise rows; rendering takes about a millisecond a row."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import closing
from itertools import islice
from multiprocessing import get_context
from typing import TYPE_CHECKING

from workbench.errors import DataError
from workbench.machine.processes import die_with_parent
from workbench.machine.resources import usable_cores
from workbench.training.dataset.chat.rendering import Renderer, Tokens
from workbench.training.dataset.files.lines import DataRow
from workbench.training.dataset.first_pass import RefusedRows
from workbench.training.dataset.row_parser import RowParser

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MANY_ROWS = 20_000
"""Rows from which other processes are worth their start: their imports take seconds."""
MOST_PROCESSES = 8
"""Processes at most; each takes about 0.4 GiB."""
_BATCH = 128
_LOOK_ON = 1_000
"""Rows that are looked at behind a refused one, for others to name: about a second's work."""

_Result = Tokens | tuple[str, str]
"""The tokens of a row, or the (error, hint) with which it is refused."""


def spare_processes() -> int:
    """Return the number of processes to tokenise with: half of the usable cores, 1 to 8.

    Training and the engine use the other half.
    """
    return max(1, min(MOST_PROCESSES, usable_cores() // 2))


class TokenizerPool:
    """Processes that parse and render rows in order, a few batches ahead of the consumer.

    With `processes` of 1 the rows are rendered in this process.
    """

    def __init__(
        self, parser: RowParser, tokenizer: PreTrainedTokenizerBase, *, processes: int
    ) -> None:
        self.renderer = _renderer(tokenizer, parser)
        self._parser, self._tokenizer, self._processes = parser, tokenizer, processes

    def tokens(self, rows: Iterable[DataRow]) -> Iterator[tuple[DataRow, Tokens]]:
        """Yield each row with its tokens, in order, up to the first refused one.

        Raises DataError for that row; it also names those among the next rows that are refused,
        unless it is the very first, which usually stands for all.
        """
        with closing(self._results(rows)) as results:
            for number, (row, made) in enumerate(results):
                if not isinstance(made, Tokens):
                    raise _refusal(row, made, results if number else ())
                yield row, made

    def _results(self, rows: Iterable[DataRow]) -> Generator[tuple[DataRow, _Result]]:
        if self._processes <= 1:
            for row in rows:
                yield row, _result(self._parser, self.renderer, row)
            return
        pool = ProcessPoolExecutor(
            self._processes,
            mp_context=get_context("spawn"),  # a fork would share locks of our threads
            initializer=_join,
            initargs=(self._tokenizer, self._parser),
        )
        try:
            yield from self._ahead(pool, iter(rows))
        finally:
            pool.shutdown(cancel_futures=True)

    def _ahead(
        self, pool: ProcessPoolExecutor, rows: Iterator[DataRow]
    ) -> Iterator[tuple[DataRow, _Result]]:
        under_way: deque[tuple[list[DataRow], Future[list[_Result]]]] = deque()
        while True:
            batch = list(islice(rows, _BATCH))
            if batch:
                under_way.append((batch, pool.submit(_render, batch)))
            if not under_way:
                return
            if not batch or len(under_way) > 2 * self._processes:
                done, future = under_way.popleft()
                yield from zip(done, future.result(), strict=True)


def _result(parser: RowParser, renderer: Renderer, row: DataRow) -> _Result:
    try:
        return renderer.tokens_of(parser.parse(row), row.place)
    except DataError as refused:
        return refused.what, refused.hint


def _refusal(
    row: DataRow, why: tuple[str, str], behind: Iterable[tuple[DataRow, _Result]]
) -> DataError:
    """Return the error of the row, with the number of others among the rows behind it."""
    refused = RefusedRows()
    refused.add(row, DataError(why[0], hint=why[1]))
    looked = 0
    for later, made in islice(behind, _LOOK_ON):
        looked += 1
        if not isinstance(made, Tokens):
            refused.add(later, DataError(made[0], hint=made[1]))
    return refused.error(f"the next {looked} rows")


def _renderer(tokenizer: PreTrainedTokenizerBase, parser: RowParser) -> Renderer:
    return Renderer(tokenizer, parser.loss_on, chats=parser.chats, reasoning=parser.reasoning)


# ── in the other process ─────────────────────────────────────────────────────────────────────

_joined: list[tuple[RowParser, Renderer]] = []


def _join(tokenizer: PreTrainedTokenizerBase, parser: RowParser) -> None:
    die_with_parent()
    _joined.append((parser, _renderer(tokenizer, parser)))


def _render(rows: list[DataRow]) -> list[_Result]:
    parser, renderer = _joined[0]
    return [_result(parser, renderer, row) for row in rows]

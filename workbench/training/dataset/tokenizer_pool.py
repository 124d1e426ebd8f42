"""A pool of processes that read and tokenise rows; rendering takes about a millisecond a row."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from itertools import islice
from multiprocessing import get_context
from typing import TYPE_CHECKING

from workbench.errors import DataError
from workbench.machine.processes import die_with_parent
from workbench.machine.resources import usable_cores
from workbench.training.dataset.chat.rendering import Renderer, Tokens
from workbench.training.dataset.files.lines import DataRow
from workbench.training.dataset.row_parser import RowParser

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MANY_ROWS = 20_000
"""Rows from which other processes are worth their start: their imports take seconds."""
MOST_PROCESSES = 8
"""Processes at most; each takes about 0.4 GiB."""
_BATCH = 128


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
        """Yield each row with its tokens, in order; DataError at the first refused row."""
        if self._processes <= 1:
            for row in rows:
                yield row, self.renderer.tokens_of(self._parser.parse(row), row.place)
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
    ) -> Iterator[tuple[DataRow, Tokens]]:
        under_way: deque[tuple[list[DataRow], Future[_Made]]] = deque()
        while True:
            batch = list(islice(rows, _BATCH))
            if batch:
                under_way.append((batch, pool.submit(_render, batch)))
            if not under_way:
                return
            if not batch or len(under_way) > 2 * self._processes:
                done, future = under_way.popleft()
                made, refused = future.result()
                yield from zip(done, made, strict=False)
                if refused is not None:
                    raise DataError(refused[0], hint=refused[1])


def _renderer(tokenizer: PreTrainedTokenizerBase, parser: RowParser) -> Renderer:
    return Renderer(tokenizer, parser.loss_on, chats=parser.chats, reasoning=parser.reasoning)


# ── in the other process ─────────────────────────────────────────────────────────────────────

_Made = tuple[list[Tokens], tuple[str, str] | None]
_joined: list[tuple[RowParser, Renderer]] = []


def _join(tokenizer: PreTrainedTokenizerBase, parser: RowParser) -> None:
    die_with_parent()
    _joined.append((parser, _renderer(tokenizer, parser)))


def _render(rows: list[DataRow]) -> _Made:
    """Return the tokens of the rows before the first refused one, and its (error, hint) or None."""
    parser, renderer = _joined[0]
    made: list[Tokens] = []
    for row in rows:
        try:
            made.append(renderer.tokens_of(parser.parse(row), row.place))
        except DataError as refused:
            return made, (refused.what, refused.hint)
    return made, None

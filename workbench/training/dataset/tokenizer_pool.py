"""Rows as tokens, by several processes where there are many: a millisecond a row adds up."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from itertools import islice
from multiprocessing import get_context
from typing import TYPE_CHECKING

from workbench.errors import DataError
from workbench.machine.processes import die_with_parent
from workbench.training.dataset.files.rows import Row
from workbench.training.dataset.rendering import Renderer, Tokens
from workbench.training.dataset.row_parser import Reader

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MANY_ROWS = 20_000
"""Below, another process would not have imported its libraries before all is done."""
MOST_PROCESSES = 8
"""Each takes some 0.4 GiB."""
_BATCH = 128


def spare_processes() -> int:
    """Half of the cores: training and the engine have the others."""
    return max(1, min(MOST_PROCESSES, len(os.sched_getaffinity(0)) // 2))


class Crew:
    """Reads and renders rows, in their order, a few batches ahead of who asks."""

    def __init__(
        self, reader: Reader, tokenizer: PreTrainedTokenizerBase, *, processes: int
    ) -> None:
        self.renderer = Renderer(tokenizer, reader.loss_on)
        self._reader, self._tokenizer, self._processes = reader, tokenizer, processes

    def tokens(self, rows: Iterable[Row]) -> Iterator[tuple[Row, Tokens]]:
        """Each with its tokens; DataError for the first that has none."""
        if self._processes <= 1:
            for row in rows:
                yield row, self.renderer.tokens_of(self._reader.read(row), row.place)
            return
        pool = ProcessPoolExecutor(
            self._processes,
            mp_context=get_context("spawn"),  # a fork would share locks of our threads
            initializer=_join,
            initargs=(self._tokenizer, self._reader),
        )
        try:
            yield from self._ahead(pool, iter(rows))
        finally:
            pool.shutdown(cancel_futures=True)

    def _ahead(
        self, pool: ProcessPoolExecutor, rows: Iterator[Row]
    ) -> Iterator[tuple[Row, Tokens]]:
        under_way: deque[tuple[list[Row], Future[_Made]]] = deque()
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


# ── in the other process ─────────────────────────────────────────────────────────────────────

_Made = tuple[list[Tokens], tuple[str, str] | None]
_joined: list[tuple[Reader, Renderer]] = []


def _join(tokenizer: PreTrainedTokenizerBase, reader: Reader) -> None:
    die_with_parent()
    _joined.append((reader, Renderer(tokenizer, reader.loss_on)))


def _render(rows: list[Row]) -> _Made:
    """The tokens of all rows up to one that is refused, and why that is."""
    reader, renderer = _joined[0]
    made: list[Tokens] = []
    for row in rows:
        try:
            made.append(renderer.tokens_of(reader.read(row), row.place))
        except DataError as refused:
            return made, (refused.what, refused.hint)
    return made, None

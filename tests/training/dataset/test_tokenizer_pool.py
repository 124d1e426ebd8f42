"""Rows tokenised by several processes are those of one, in the same order."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from transformers import PreTrainedTokenizerBase

from workbench.errors import DataError
from workbench.recipe.schema import Data
from workbench.training.dataset.files.rows import Row
from workbench.training.dataset.rendering import Tokens
from workbench.training.dataset.row_parser import Reader
from workbench.training.dataset.tokenizer_pool import Crew

ROWS = [Row(f"t.jsonl:{n}", {"prompt": f"{n}?", "completion": f"{n}!"}) for n in range(1, 1_001)]


@pytest.fixture
def crews(tokenizer: PreTrainedTokenizerBase) -> list[Crew]:
    """Of one process, and of two."""
    reader = Reader(Data(train="t.jsonl"), templates=True)
    reader.read(ROWS[0])
    return [Crew(reader, tokenizer, processes=count) for count in (1, 2)]


def test_several_processes_make_the_same_tokens_in_the_same_order_up_to_the_same_refusal(
    crews: list[Crew],
) -> None:
    wrong = Row("t.jsonl:501", {"prompt": 5, "completion": "a"})
    made: list[list[tuple[Row, Tokens]]] = []
    for crew in crews:
        made.append([])
        with pytest.raises(DataError, match=r"^t\.jsonl:501: prompt holds a number") as refused:
            made[-1].extend(crew.tokens([*ROWS[:500], wrong, *ROWS[501:]]))
        assert refused.value.hint
    assert len(made[0]) == 500
    assert made[0] == made[1]


def test_it_reads_little_further_than_what_was_asked_for(crews: list[Crew]) -> None:
    """However long the file is, few of its rows are in memory."""
    read = 0

    def endless() -> Iterator[Row]:
        nonlocal read
        while True:
            read += 1
            yield ROWS[read % len(ROWS)]

    tokens = crews[1].tokens(endless())
    for _ in range(200):
        next(tokens)
    tokens.close()  # type: ignore[attr-defined]
    assert read <= 1_200

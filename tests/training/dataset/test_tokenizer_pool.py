"""Rows tokenised by several processes are those of one, in the same order."""

from __future__ import annotations

from itertools import chain, count, cycle

import pytest
from transformers import PreTrainedTokenizerBase

from workbench.errors import DataError
from workbench.recipe.schema import Data
from workbench.training.dataset.chat.rendering import Tokens
from workbench.training.dataset.files.lines import DataRow
from workbench.training.dataset.row_parser import RowParser
from workbench.training.dataset.tokenizer_pool import TokenizerPool

ROWS = [
    DataRow(f"t.jsonl:{n}", {"prompt": f"{n}?", "completion": f"{n}!"}) for n in range(1, 1_001)
]


@pytest.fixture
def pools(tokenizer: PreTrainedTokenizerBase) -> list[TokenizerPool]:
    """Return a pool of one process and a pool of two."""
    parser = RowParser(Data(train="t.jsonl"), templates=True)
    parser.parse(ROWS[0])
    return [TokenizerPool(parser, tokenizer, processes=count) for count in (1, 2)]


def test_several_processes_make_the_same_tokens_in_order_up_to_the_same_refusal_and_read_little_on(
    pools: list[TokenizerPool],
) -> None:
    """However long the file is, few of its rows are in memory."""
    wrong = DataRow("t.jsonl:501", {"prompt": 5, "completion": "a"})
    made: list[list[tuple[DataRow, Tokens]]] = []
    for pool in pools:
        read = count(1)
        endless = (
            row for row, _ in zip(chain(ROWS[:500], [wrong], cycle(ROWS)), read, strict=False)
        )
        made.append([])
        with pytest.raises(DataError, match=r"^t\.jsonl:501: prompt holds a number") as refused:
            made[-1].extend(pool.tokens(endless))
        assert refused.value.hint
        assert next(read) <= 1_300
    assert len(made[0]) == 500
    assert made[0] == made[1]

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
    """Return a pool of one process and a pool of two; their template refuses some questions."""
    refusing = "{% if messages[0].content in ['no 3', 'no 4'] %}{{ 'a' + 1 }}{% endif %}"
    tokenizer.chat_template = refusing + str(tokenizer.chat_template)
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
        assert next(read) <= 2_300
    assert len(made[0]) == 500
    assert made[0] == made[1]


def test_the_rows_behind_one_that_the_template_refuses_are_looked_at_for_others(
    pools: list[TokenizerPool],
) -> None:
    asked = ["no 3", "yes", "no 4", 5, "yes"]
    rows = [
        DataRow(f"t.jsonl:{n}", {"prompt": prompt, "completion": "a"})
        for n, prompt in enumerate(asked, 301)
    ]
    for pool in pools:
        with pytest.raises(DataError) as refused:
            list(pool.tokens([*ROWS[:300], *rows]))
        said = "t.jsonl:301: the model's chat template refuses this chat: TypeError"
        assert refused.value.what.startswith(said)
        others = "2 more of the next 4 rows cannot be used either (t.jsonl:303, t.jsonl:304)"
        assert refused.value.what.endswith(others)
        with pytest.raises(
            DataError, match=r"^t\.jsonl:301: .* to str$"
        ):  # the first stands for all
            list(pool.tokens(rows))

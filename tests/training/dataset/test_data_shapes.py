"""The shape of a row, and the example it holds."""

from __future__ import annotations

import json
from typing import Any

import pytest

from workbench.errors import DataError
from workbench.recipe.schema import Data
from workbench.training.dataset.files.lines import DataRow
from workbench.training.dataset.rows.shapes import Chat, Example, Pair, Text, example_of, find_shape

ASKED = {"role": "user", "content": "q"}
ANSWERED = {"role": "assistant", "content": "a"}


def read(values: dict[str, Any], *, templated: bool = True, **data: Any) -> Example:
    settings, row = Data(train="t.jsonl", **data), DataRow("t.jsonl:3", values)
    return example_of(settings, find_shape(settings, row), row, templated=templated)


@pytest.mark.parametrize(
    "values",
    [
        {"messages": [ASKED, ANSWERED]},
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
        {"conversations": [ASKED, ANSWERED]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "q"}]}, ANSWERED]},
        {"messages": json.dumps([ASKED, ANSWERED], indent=1)},
        # Rows of both kinds in one parquet file.
        {"messages": [{**ASKED, "from": None, "value": None}, ANSWERED]},
        {"conversations": [{"from": "human", "value": "q", "role": None}, ANSWERED]},
        {"prompt": "q", "completion": "a"},
        {"instruction": "q", "output": "a"},
        {"instruction": "q", "input": "", "output": "a"},
        {"prompt": "q", "completion": "a", "text": "something else"},
        {"messages": None, "prompt": "q", "completion": "a", "text": None},
    ],
)
def test_every_shape_of_a_dialogue_becomes_the_same_chat(values: dict[str, Any]) -> None:
    assert read(values) == Chat((ASKED, ANSWERED))


def test_plain_text_stays_plain_text() -> None:
    assert read({"text": "t", "id": 4}) == Text("t")


def test_columns_map_to_the_shapes_names() -> None:
    columns = {"question": "prompt", "answer": "completion"}
    assert read({"question": "q", "answer": "a"}, columns=columns) == Chat((ASKED, ANSWERED))


def test_without_a_template_prompt_and_completion_stand_as_they_are() -> None:
    assert read({"prompt": "q", "completion": "a"}, templated=False) == Pair("q", "a")
    assert read({"instruction": "i", "input": "x", "output": "o"}, templated=False) == Pair(
        "### Instruction:\ni\n\n### Input:\nx\n\n### Response:\n", "o"
    )


def test_the_recipes_system_message_goes_before_rows_that_have_none() -> None:
    system, other = ({"role": "system", "content": text} for text in ("s", "t"))
    assert read({"messages": [ASKED, ANSWERED]}, system="s") == Chat((system, ASKED, ANSWERED))
    own = {"messages": [other, ASKED, ANSWERED]}
    assert read(own, system="s") == Chat((other, ASKED, ANSWERED))


@pytest.mark.parametrize(
    ("values", "complaint", "hint"),
    [
        (
            {"question": "q", "answer": "a"},
            "are no shape",
            "{question: prompt, answer: completion}",
        ),
        ({"messages": [{"role": "asistant", "content": "a"}]}, "turn 1.*asistant", "assistant"),
        ({"messages": [ASKED, {"role": "gpt", "content": "a"}]}, "turn 2 .* role gpt", "assistant"),
        ({"conversations": [{"from": "x", "value": "a"}]}, "unknown role x", "roles are"),
        ({"messages": []}, "holds no turns", "list of turns"),
        ({"messages": None, "id": 1}, "holds no turns", "list of turns"),
        ({"messages": "hello"}, "holds text", "list of turns"),
        ({"messages": "[{'role': 'user'}]"}, "messages holds text that is not JSON", '"role"'),
        (
            {"messages": [{**ANSWERED, "tool_calls": [1]}]},
            "call 1 names no function",
            "write it as",
        ),
        ({"messages": [{"role": "user", "content": None}]}, r"nothing \(null\), not text", "write"),
        ({"prompt": "q", "completion": 42}, "completion holds a number", '"42"'),
        ({"text": "\ud83d"}, "half a character", "again"),
    ],
)
def test_a_row_that_is_no_example_is_reported_with_place_and_hint(
    values: dict[str, Any], complaint: str, hint: str
) -> None:
    with pytest.raises(DataError, match=complaint) as refused:
        read(values)
    assert "t.jsonl:3" in refused.value.what
    assert hint in refused.value.hint


def test_an_object_around_the_rows_is_told_from_a_row() -> None:
    with pytest.raises(DataError, match="are no shape") as refused:
        read({"version": 1, "data": [{"prompt": "q", "completion": "a"}]})
    assert "take the list of 1 objects under data out" in refused.value.hint


def test_a_missing_column_names_the_nearest() -> None:
    with pytest.raises(DataError, match=r"t\.jsonl:3: has no column completion") as refused:
        read({"prompt": "q", "completions": "a"}, shape="prompt-completion")
    assert "{completions: completion}" in refused.value.hint


def test_a_mapped_column_that_is_not_there_names_the_nearest() -> None:
    with pytest.raises(DataError, match="names qestion") as refused:
        read({"question": "q"}, columns={"qestion": "prompt"})
    assert refused.value.hint == "did you mean question?"


def test_a_mapped_column_that_not_every_row_needs_may_be_missing() -> None:
    columns = {"question": "prompt", "answer": "completion", "persona": "system"}
    row = {"question": "q", "answer": "a"}
    assert read(row, columns=columns) == Chat((ASKED, ANSWERED))
    with pytest.raises(DataError, match="names persona") as refused:
        read({**row, "personas": "Be brief."}, columns=columns)
    assert refused.value.hint == "did you mean personas?"


def test_escapes_in_names_and_roles_do_not_reach_the_terminal() -> None:
    with pytest.raises(DataError) as refused:
        read({"messages": [{"role": "\x1b]0;x\x07bad", "content": ""}]})
    assert "\x1b" not in refused.value.what + refused.value.hint

"""Tools, the calls of them, and what calls gave: read, shown by the template, and learned."""

from __future__ import annotations

import json
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest
from transformers import PreTrainedTokenizerBase

from tests.training.dataset.conftest import Check, refusal
from tests.training.dataset.templates import (
    answer,
    asked,
    family_tokenizer,
    learned,
    rendered,
)
from workbench.errors import DataError
from workbench.training.dataset.files.rows import read_file
from workbench.training.dataset.rows.row_turns import read_turns
from workbench.training.dataset.rows.tools import read_calls, read_tools

TOWN = {"type": "string", "description": "A town."}
RAIN = {
    "name": "rain",
    "description": "Tells whether it rains.",
    "parameters": {"type": "object", "properties": {"town": TOWN}, "required": ["town"]},
}
TOOLS = [{"type": "function", "function": RAIN}]
RESULT = {"role": "tool", "content": "dry"}
HALF = "\ud83d"


def call(**arguments: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "rain", "arguments": arguments}}


def row(*turns: dict[str, Any], tools: Any = TOOLS) -> dict[str, Any]:
    return {"messages": list(turns), "tools": tools}


CALLED = answer(None, tool_calls=[call(town="Ulm", days=2)])
DIALOG = row(asked("rain?"), CALLED, RESULT, answer("It is dry."))


# ── what carries loss ────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("family", "calls"),
    [
        (
            "qwen2_5",
            '<tool_call>\n{"name": "rain", "arguments": {"town": "Ulm", "days": 2}}\n</tool_call>'
            "<|im_end|>",
        ),
        (
            "qwen3",
            '<tool_call>\n{"name": "rain", "arguments": {"town": "Ulm", "days": 2}}\n</tool_call>'
            "<|im_end|>",
        ),
        ("llama3_1", '{"name": "rain", "parameters": {"town": "Ulm", "days": 2}}<|eot_id|>'),
        ("lfm2_v2", "<|tool_call_start|>[rain(town='Ulm', days=2)]<|tool_call_end|><|im_end|>"),
        (
            "qwen3_8",
            "</think>\n\n<tool_call>\n<function=rain>\n<parameter=town>\nUlm\n</parameter>\n"
            "<parameter=days>\n2\n</parameter>\n</function>\n</tool_call><|im_end|>",
        ),
    ],
)
def test_the_assistants_calls_are_learned_and_neither_tools_nor_results(
    tokenizer: PreTrainedTokenizerBase, family: str, calls: str
) -> None:
    own = family_tokenizer(tokenizer, family)
    tokens = rendered(own, DIALOG)
    [first, last] = learned(own, tokens)
    # What stands before it is an empty think block, in part supplied by the generation prompt.
    assert first.endswith(calls)
    assert first.removesuffix(calls).strip() == ""
    assert last.removesuffix(own.eos_token).endswith("It is dry.")
    assert "Tells whether it rains." in own.decode(tokens.ids)


def test_the_answer_to_a_question_that_wants_a_call_is_the_text_of_the_call(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    own = family_tokenizer(tokenizer, "qwen2_5")
    tokens = rendered(
        own, row(asked("rain?"), answer("Let me see.", tool_calls=[call(town="Ulm")]))
    )
    said = 'Let me see.\n<tool_call>\n{"name": "rain", "arguments": {"town": "Ulm"}}\n</tool_call>'
    assert tokens.answer == said
    assert tokens.question == "rain?"
    assert tokens.agrees
    assert own.decode(tokens.prompt_ids).endswith("<|im_start|>assistant\n")


def test_arguments_are_shown_as_given_also_from_json_text(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    own = family_tokenizer(tokenizer, "qwen2_5")
    given = {"b": None, "a": [1, {"c": 'é\n"x"'}], "z": 1.5}
    texts = {
        own.decode(rendered(own, row(asked("?"), answer("", tool_calls=[one]))).ids)
        for one in (
            call(**given),
            {"function": {"name": "rain", "arguments": json.dumps(given)}},
            {"name": "rain", "arguments": given},
        )
    }
    [text] = texts
    assert f'"arguments": {json.dumps(given, ensure_ascii=False)}}}' in text


def test_a_template_that_joins_texts_gets_the_arguments_as_text(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    own = family_tokenizer(tokenizer, "deepseekv3")
    [first, _] = learned(own, rendered(own, {"messages": DIALOG["messages"]}))
    assert 'rain\n```json\n{"town": "Ulm", "days": 2}\n```' in first


def test_a_control_token_in_a_call_is_plain_text(tokenizer: PreTrainedTokenizerBase) -> None:
    own = family_tokenizer(tokenizer, "qwen2_5")
    tokens = rendered(own, row(asked("?"), answer("", tool_calls=[call(town="<|im_end|>")])))
    end = own.convert_tokens_to_ids("<|im_end|>")
    assert tokens.ids.count(end) == 3  # of system, user and assistant
    assert ("control", "<|im_end|>") in tokens.findings


# ── what is refused ──────────────────────────────────────────────────────────────────────────


def test_a_template_that_shows_no_tools_is_refused_with_what_to_do(check: Check) -> None:
    said = refusal(check, [DIALOG] * 5)
    assert said.startswith("train.jsonl:1: the model's chat template shows no")
    assert "use a model whose chat template shows tools and calls" in said
    assert "shows no tools" in refusal(check, [row(asked("rain?"), answer("dry"))] * 5)


@pytest.mark.parametrize(
    ("value", "kind"),
    [(date(2024, 5, 6), "a date or time"), (Decimal("1.5"), "Decimal"), (b"x", "bytes")],
)
def test_a_value_that_json_does_not_have_is_refused_in_calls_and_tools(
    tmp_path: Path, value: Any, kind: str
) -> None:
    """A chat template would be shown `<date>`, `<Decimal>` or `<bytes>`, and that be learned."""
    asks = answer(None, tool_calls=[call(days=[{"first": value}])])
    tools = [{**RAIN, "parameters": {"default": value}}]
    file = tmp_path / "train.parquet"
    pq.write_table(pa.Table.from_pylist([row(asked("?"), asks, tools=tools)]), file)
    [read] = read_file(file)
    with pytest.raises(DataError, match=f"arguments: days: first holds {kind}"):
        read_turns(read.values["messages"], "messages", read.place)
    with pytest.raises(DataError, match=f"tool 1: parameters: default holds {kind}"):
        read_tools(read.values["tools"], "tools")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"days": [float("nan")]}, "arguments: days holds nan, which JSON does not have"),
        ('{"days": -Infinity}', "arguments: days holds -inf, which JSON does not have"),
        ('{"days": 1, "days": 2}', "the key days stands twice in one object"),
        ('{"days": ' * 900 + "1" + "}" * 900, "days: days.*… is nested more than 64 deep"),
    ],
)
def test_arguments_that_no_reader_of_json_would_take_alike_are_refused(
    arguments: Any, complaint: str
) -> None:
    with pytest.raises(DataError, match=complaint):
        read_calls({"name": "rain", "arguments": arguments}, "p")


@pytest.mark.parametrize(
    ("turns", "tools", "complaint"),
    [
        ([answer(None, tool_calls=[call(town=HALF)])], TOOLS, "call 1: arguments: town holds"),
        ([answer(None, tool_calls=[call(**{HALF: 1})])], TOOLS, "call 1: arguments: a name holds"),
        ([answer(None, tool_calls=[{"name": HALF}])], TOOLS, "call 1: name holds"),
        ([CALLED, {**RESULT, "name": HALF}], TOOLS, "turn 3 of messages: name holds"),
        ([], [{**RAIN, "description": HALF}], "tools: tool 1: description holds"),
    ],
)
def test_half_a_character_in_tools_and_calls_is_refused_with_all_its_rows(
    check: Check, tmp_path: Path, turns: list[Any], tools: list[Any], complaint: str
) -> None:
    """JSON can hold one, and no tokenizer takes it."""
    good = row(asked("rain?"), CALLED, RESULT, answer("dry"), tools=TOOLS)
    wrong = row(asked("rain?"), *turns, answer("dry"), tools=tools)
    file = tmp_path / "train.jsonl"
    file.write_text("\n".join(map(json.dumps, [good, wrong, good, wrong])), encoding="utf-8")
    said = refusal(check, file)
    assert said.startswith("train.jsonl:2: ")
    assert f"{complaint} half a character (a lone surrogate) at 1; 1 more of 4 rows" in said
    assert "write the text again from its source" in said


def test_a_tag_that_results_bring_and_the_template_puts_there_is_reported_until_it_is_gone(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    """Rows of Hermes' function calling write it; Qwen's template does so, too."""
    own = family_tokenizer(tokenizer, "qwen2_5")
    found = []
    for result in ("<tool_response>\ndry\n</tool_response>", "dry", "<div><div>dry</div></div>"):
        turns = asked("rain?"), CALLED, {**RESULT, "content": result}, answer("Dry.")
        found.append([one for one in rendered(own, row(*turns)).findings if one[0] == "wrapped"])
    assert found == [[("wrapped", "<tool_response>")], [], []]


def test_a_call_that_the_template_leaves_out_is_refused(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    two = row(asked("?"), answer(None, tool_calls=[call(town="Ulm"), call(town="Bonn")]), RESULT)
    with pytest.raises(DataError, match="does not show the call of rain"):
        rendered(family_tokenizer(tokenizer, "gptoss"), two)
    with pytest.raises(DataError, match="refuses this chat") as refused:
        rendered(family_tokenizer(tokenizer, "llama3_1"), two)
    assert "the template takes one call in a turn" in refused.value.hint


@pytest.mark.parametrize(
    ("question", "first", "second"),
    [("Ulm or Bonn?", {"town": "Ulm"}, {"town": "Bonn"}), ("?", {"days": 1}, {"days": 2})],
    ids=["the question says it, too", "numbers alone"],
)
def test_a_call_that_is_left_out_is_found_where_other_text_says_the_same(
    tokenizer: PreTrainedTokenizerBase, question: str, first: Any, second: Any
) -> None:
    two = row(asked(question), answer(None, tool_calls=[call(**first), call(**second)]), RESULT)
    with pytest.raises(DataError, match="does not show the call of rain"):
        rendered(family_tokenizer(tokenizer, "gptoss"), two)
    assert rendered(family_tokenizer(tokenizer, "qwen3"), two).ids


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("[{", "p holds text that is not JSON"),
        ([], "holds a list, no call"),
        ([{"function": {}}], "p: call 1 names no function"),
        ([{"name": "f", "arguments": "x"}], "p: call 1: arguments holds text that is not JSON"),
        ([{"name": "f", "arguments": [1]}], "p: call 1: arguments hold a list, not an object"),
    ],
)
def test_what_is_no_call_is_refused_with_its_place(value: Any, says: str) -> None:
    with pytest.raises(DataError, match=says) as refused:
        read_calls(value, "p")
    assert refused.value.hint


def test_tools_may_be_flat_or_json_text() -> None:
    assert read_tools(json.dumps([RAIN]), "p") == read_tools(TOOLS, "p") == tuple(TOOLS)
    for wrong in ({"a": 1}, [{"type": "function"}], [1]):
        with pytest.raises(DataError, match=r"^p"):
            read_tools(wrong, "p")


@pytest.mark.parametrize(("family", "called"), [("phi3", ()), ("qwen2_5", (CALLED,))])
def test_a_result_that_the_template_leaves_out_is_refused(
    tokenizer: PreTrainedTokenizerBase, family: str, called: tuple[dict[str, Any], ...]
) -> None:
    """Phi 3's template passes over turns of a role that it does not know."""
    own = family_tokenizer(tokenizer, family)
    own.chat_template = str(own.chat_template).replace('message.role == "tool"', "false")
    with pytest.raises(DataError, match=r"t.jsonl:1: .* does not show the result of a call"):
        rendered(own, row(asked("rain?"), *called, RESULT, answer("It is dry."), tools=[]))


@pytest.mark.parametrize("family", ["gemma4", "gemma4_v4", "gemma4_v5"])
def test_results_without_an_id_answer_the_calls_in_their_order(
    tokenizer: PreTrainedTokenizerBase, family: str
) -> None:
    """Gemma 4 writes which function gave a result, and looks it up by the call's id."""
    own = family_tokenizer(tokenizer, family)
    snow = {"id": "b", "type": "function", "function": {"name": "snow", "arguments": {}}}
    calls = [{"id": "a", **call(town="Ulm")}, snow]
    results = [RESULT, {"role": "tool", "content": "deep"}]
    given = row(asked("rain?"), answer(None, tool_calls=calls), *results, answer("Dry."))
    tokens = rendered(own, given)
    text = own.decode(tokens.ids)
    assert text.index("response:rain{") < text.index("dry") < text.index("response:snow{")
    [called, last] = learned(own, tokens)
    assert called.endswith("call:snow{}<tool_call|><|tool_response>")
    assert last == "Dry.<turn|>"
    # A call has an end of its own, which is no answer's without one.
    assert "open end" not in {kind for kind, _ in tokens.findings}


def test_a_template_that_looks_results_up_is_refused_with_a_hint_that_works(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    own = family_tokenizer(tokenizer, "gemma4_v4")
    lost = {**RESULT, "tool_call_id": "a"}  # the call has none
    turns = asked("rain?"), CALLED, lost, answer("It is dry.")
    with pytest.raises(DataError) as refused:
        rendered(own, row(*turns))
    assert "tool_call_id of their call, or the function's name in a field name" in (
        refused.value.hint
    )
    for mended in ({**lost, "name": "rain"}, RESULT):
        assert rendered(own, row(turns[0], CALLED, mended, turns[3])).ended


# ── other formats ────────────────────────────────────────────────────────────────────────────


def test_turns_that_are_calls_become_calls_of_the_assistant() -> None:
    """Calls are written so in the ShareGPT format of LLaMA-Factory, and in ms-swift's."""
    turns, unused = read_turns(
        [
            {"from": "human", "value": "rain?"},
            {"from": "function_call", "value": '{"name": "rain", "arguments": {"town": "Ulm"}}'},
            {"from": "function_call", "value": '{"name": "rain", "arguments": {"town": "Bonn"}}'},
            {"from": "observation", "value": "dry"},
            {"from": "gpt", "value": "Dry."},
        ],
        "conversations",
        "p",
    )
    assert unused == []
    assert turns == [
        asked("rain?"),
        answer("", tool_calls=[call(town="Ulm"), call(town="Bonn")]),
        RESULT,
        answer("Dry."),
    ]


def test_parquet_adds_no_arguments_to_a_call(tmp_path: Path) -> None:
    """A struct has one schema for all rows: each call has the arguments of all others, as null."""
    rows = [
        row(asked("a"), answer("", tool_calls=[call(town="Ulm")])),
        row(asked("b"), answer("", tool_calls=[call(days=2)])),
    ]
    path = tmp_path / "t.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    stored = pq.read_table(path).to_pylist()[0]["messages"][1]["tool_calls"][0]
    assert stored["function"]["arguments"] == {"town": "Ulm", "days": None}
    read = [one.values["messages"][1]["tool_calls"] for one in read_file(path)]
    assert read == [[call(town="Ulm")], [call(days=2)]]


def test_nulls_in_the_calls_of_json_lines_are_reported(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    """`datasets.to_json` writes them, because it has one schema for all rows."""
    own = family_tokenizer(tokenizer, "qwen2_5")
    found = [
        ("nulls", "") in rendered(own, row(asked("?"), answer("", tool_calls=[one]))).findings
        for one in (call(town="Ulm", days=None), call(town="Ulm"), call(days=0))
    ]
    assert found == [True, False, False]


def test_rows_with_tools_are_prepared_and_held_out(check: Check) -> None:
    template = (
        "{% for t in tools or [] %}{{ t | tojson }}{% endfor %}{% for m in messages %}"
        "{{ m.role + ': ' + m.content }}{% for c in m.tool_calls or [] %}{{ c.function.name }}"
        "({{ c.function.arguments | tojson }}){% endfor %}<|eot_id|>{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    )
    rows = [row(asked(f"rain on day {n}?"), answer("", tool_calls=[call(n=n)])) for n in range(9)]
    prepared = check(rows, template)
    assert (prepared.train_rows, prepared.eval_rows) == (7, 2)
    [learned_part] = [part for part in prepared.examples[0]["parts"] if part["loss"]]
    assert learned_part["text"].startswith('rain({"n": ')
    assert not [note for note in prepared.notes if "blanks" in note or "not used" in note]

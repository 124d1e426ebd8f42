"""Columns and fields that are not used: refused, reported, or known to be harmless."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from tests.training.dataset.conftest import Check, refusal
from workbench.training.dataset.prepared import Prepared, load_prepared

PAIRS: list[dict[str, Any]] = [{"prompt": f"q {n}", "completion": f"a {n}"} for n in range(10)]
CHATS: list[dict[str, Any]] = [
    {"messages": [{"role": "user", "content": f"q {n}"}, {"role": "assistant", "content": "a"}]}
    for n in range(10)
]
SHAREGPT: list[dict[str, Any]] = [
    {"conversations": [{"from": "human", "value": f"q {n}"}, {"from": "gpt", "value": "a"}]}
    for n in range(10)
]
ANSWER = {"role": "assistant", "content": "a"}
CALLING = (
    "{% for m in messages %}{{ m.role + ': ' + m.content }}{% for c in m.tool_calls or [] %}"
    "{{ c.function.name }}({{ c.function.arguments | tojson }}){% endfor %}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)
FIELD = "which is not used"


@pytest.mark.parametrize(
    ("name", "value", "hint"),
    [
        ("Functions", "[{}]", "tools stand in a column tools, and calls in a turn's tool_calls"),
        ("images", ["p.png"], "leave out rows with images or sounds, or that field"),
        ("audio", {"path": "a.wav"}, "leave out rows with images or sounds, or that field"),
    ],
)
def test_a_column_without_which_a_row_means_something_else_is_refused_with_a_hint_that_works(
    check: Check, name: str, value: Any, hint: str
) -> None:
    said = refusal(check, [CHATS[0], *[{**row, name: value} for row in CHATS[1:]]])
    assert said.startswith(f"train.jsonl:2: has {name}, which would be left out of what is")
    assert "8 more of 10 rows" in said
    assert hint in said
    assert check(CHATS).train_rows == 8
    empty: list[Any] = [None, [], "", {}, "[]", "null"]
    assert check([{**row, name: empty[n % 6]} for n, row in enumerate(CHATS)]).train_rows == 8


@pytest.mark.parametrize(
    ("row", "columns"),
    [
        ({"prompt": "q #", "chosen": "a #", "rejected": "b"}, {"chosen": "completion"}),
        ({"chosen": CHATS[0]["messages"], "rejected": []}, {"chosen": "messages"}),
        (
            {"prompt": "q #", "chosen": json.dumps(CHATS[0]["messages"]), "rejected": "[]"},
            {"chosen": "messages"},
        ),
    ],
)
def test_rows_for_preference_training_are_refused_with_a_hint_that_works(
    check: Check, row: dict[str, Any], columns: dict[str, str]
) -> None:
    rows = [json.loads(json.dumps(row).replace("q ", f"q {n}")) for n in range(10)]
    said = refusal(check, rows)
    [(old, new)] = columns.items()
    assert said.endswith(f"the chosen answers can be learned: write data.columns: {{{old}: {new}}}")
    assert check(rows, columns=columns).train_rows == 8


def test_a_text_is_not_offered_as_a_list_of_turns(check: Check) -> None:
    said = refusal(check, [{"chosen": "Human: q Assistant: a", "rejected": "b"}] * 5)
    assert "messages" not in said


def test_a_completion_that_is_not_wanted_is_refused_with_a_hint_that_works(check: Check) -> None:
    rows = [{**row, "label": n != 3} for n, row in enumerate(PAIRS)]
    said = refusal(check, rows)
    assert said.startswith("train.jsonl:4: has label: false, and its completion would be learned")
    assert check([row for row in rows if row["label"]]).train_rows == 7


def test_earlier_turns_in_a_column_are_refused_with_a_hint_that_works(check: Check) -> None:
    rows = [{"instruction": f"q {n}", "output": "a", "history": []} for n in range(10)]
    assert check(rows).train_rows == 8
    said = refusal(check, [*rows, {**rows[0], "history": [["Hi", "Hello"]]}])
    assert said.startswith("train.jsonl:11: has history, earlier turns that would be left out")
    assert "give the row as messages" in said


def test_a_call_in_the_old_field_is_refused_with_a_hint_that_works(check: Check) -> None:
    call = {"name": "rain", "arguments": "{}"}
    old, new = {"function_call": call}, {"tool_calls": [call]}
    rows, mended = (
        [{"messages": [CHATS[n]["messages"][0], {**ANSWER, **field}]} for n in range(10)]
        for field in (old, new)
    )
    said = refusal(check, rows)
    assert said.startswith("train.jsonl:1: turn 2 of messages has function_call")
    assert "calls in a turn's tool_calls" in said
    assert check(mended, CALLING).train_rows == 8


@pytest.mark.parametrize("rows", [PAIRS, CHATS, SHAREGPT], ids=["pairs", "chats", "sharegpt"])
def test_a_column_that_is_neither_used_nor_harmless_is_reported_with_its_number_of_rows(
    check: Check, rows: list[dict[str, Any]]
) -> None:
    more = [{**row, "persona": "a clerk"} if n < 5 else row for n, row in enumerate(rows)]
    told = [note for note in check(more).notes if FIELD in note]
    counts = [int(note.split()[0]) for note in told]
    assert sum(counts) == 5
    assert all("with the field persona, which is not used (first: train" in note for note in told)
    harmless = {"id": 7, "source": "web", "Language": "en", "score": 0.5, "metadata": {"a": 1}}
    assert not [
        note for note in check([{**row, **harmless} for row in rows]).notes if FIELD in note
    ]


def test_a_field_of_a_turn_that_holds_no_text_is_reported(check: Check) -> None:
    rows = [{"messages": [{**turn, "weight": 0} for turn in row["messages"]]} for row in CHATS]
    notes = check(
        [{"messages": [{**t, "weight": 1} for t in row["messages"]]} for row in rows]
    ).notes
    assert any("8 train rows with the field weight, which is not used" in note for note in notes)


@pytest.mark.parametrize("rows", [PAIRS, CHATS, SHAREGPT], ids=["pairs", "chats", "sharegpt"])
def test_a_system_column_becomes_the_rows_system_turn(
    check: Check, tokenizer: Any, rows: list[dict[str, Any]]
) -> None:
    own = [{**row, "system": f"You are clerk {n}."} for n, row in enumerate(rows)]
    prepared = check(own, system="Be kind.")
    texts = [tokenizer.decode(row["input_ids"]) for row in load_prepared(prepared)[0]]
    assert all("system<|end_header_id|>\n\nYou are clerk " in text for text in texts)
    assert not any("Be kind." in text for text in texts)
    assert not [note for note in prepared.notes if FIELD in note]


def test_a_system_column_beside_a_system_turn_is_reported(check: Check) -> None:
    turn = {"role": "system", "content": "Be kind."}
    rows = [{"messages": [turn, *row["messages"]], "system": "Be rude."} for row in CHATS]
    assert any("8 train rows with the field system, which" in note for note in check(rows).notes)
    same = [{**row, "system": "Be kind."} for row in rows]
    assert not [note for note in check(same).notes if FIELD in note]


# ── prompt and completion as turns ───────────────────────────────────────────────────────────

TURNS = [
    {
        "prompt": [{"role": "user", "content": f"q {n}"}],
        "completion": [{"role": "assistant", "content": f"a {n}"}],
    }
    for n in range(10)
]


def all_rows(prepared: Prepared) -> list[tuple[list[int], list[int]]]:
    """Return ids and labels of the rows of both parts: what is held out depends on the columns."""
    return sorted(
        (row["input_ids"], row["labels"]) for part in load_prepared(prepared) for row in part
    )


def test_prompt_and_completion_as_turns_are_the_same_rows_as_text(check: Check) -> None:
    assert all_rows(check(TURNS)) == all_rows(check(PAIRS))


def test_prompt_and_completion_as_json_text_of_turns_are_read_as_turns(
    check: Check, tmp_path: Path
) -> None:
    file = tmp_path / "rows.csv"
    with file.open("w", newline="", encoding="utf-8") as out:
        written = csv.DictWriter(out, ["prompt", "completion"])
        written.writeheader()
        written.writerows({name: json.dumps(row[name]) for name in row} for row in TURNS)
    assert all_rows(check(file)) == all_rows(check(TURNS))
    half = [{**row, "prompt": json.dumps(row["prompt"])} for row in TURNS]
    assert all_rows(check(half)) == all_rows(check(TURNS))
    said = refusal(check, half, chat_template="never")
    assert "prompt holds turns, and no chat template is used" in said


@pytest.mark.parametrize(("name", "other"), [("prompt", "completion"), ("completion", "prompt")])
@pytest.mark.parametrize("template", ["auto", "never"])
def test_json_text_of_turns_beside_plain_text_is_refused_with_hints_that_work(
    check: Check, name: str, other: str, template: str
) -> None:
    turns = [{key: json.dumps(row[key]) for key in row} for row in TURNS]
    mixed = [{name: turns[n][name], other: PAIRS[n][other]} for n in range(10)]
    said = refusal(check, [PAIRS[0], *mixed[1:]], chat_template=template)
    assert said.startswith(f"train.jsonl:2: {name} holds turns as JSON text, and {other} plain")
    assert "8 more of 10 rows" in said
    assert f"give {other} as turns, too" in said
    assert check(turns).train_rows == 8
    assert "put a word before it" in said
    texts = [{**row, name: f"JSON: {row[name]}"} for row in mixed]
    assert check(texts, chat_template=template).train_rows == 8


def test_turns_as_python_prints_them_are_refused_and_not_learned_as_text(check: Check) -> None:
    said = refusal(check, [{key: str(row[key]) for key in row} for row in TURNS])
    assert said.startswith("train.jsonl:1: prompt holds text that is not JSON")
    assert 'write it as JSON, e.g. [{"role": "user"' in said


@pytest.mark.parametrize(
    "text", ['["a", 1]', '[{"role": "owner", "content": "x"}]', '[{"value": 3}]', "[a] b", "[]"]
)
def test_a_completion_that_is_other_json_is_learned_as_text(check: Check, text: str) -> None:
    rows = [{**row, "completion": text} for row in PAIRS]
    assert set(load_prepared(check(rows))[1]["answer"]) == {text}


def test_all_answers_of_a_completion_carry_loss_and_none_of_the_prompt(
    check: Check, tokenizer: Any
) -> None:
    before = [{"role": "user", "content": "w"}, {"role": "assistant", "content": "x"}]
    after = [{"role": "user", "content": "y"}, {"role": "assistant", "content": "z"}]
    rows = [
        {"prompt": [*before, *row["prompt"]], "completion": [*row["completion"], *after]}
        for row in TURNS
    ]
    for row in load_prepared(check(rows))[0]:
        learned = tokenizer.decode([id for id in row["labels"] if id != -100])
        assert learned.startswith("a ")
        assert learned.endswith("<|eot_id|>z<|eot_id|>")
        assert "x" not in learned


def test_a_completion_as_text_answers_a_prompt_as_turns(check: Check) -> None:
    mixed = [{**row, "completion": f"a {n}"} for n, row in enumerate(TURNS)]
    assert all_rows(check(mixed)) == all_rows(check(PAIRS))


def test_turns_without_a_chat_template_are_refused_with_a_hint_that_works(check: Check) -> None:
    said = refusal(check, TURNS, chat_template="never")
    assert "prompt holds turns" in said
    assert "give prompt and completion as text" in said
    assert check(PAIRS, chat_template="never").train_rows == 8
    assert "set data.chat_template: auto" in said
    assert check(TURNS, chat_template="auto").train_rows == 8


def test_a_completion_without_an_answer_is_refused_with_a_hint_that_works(check: Check) -> None:
    rows = [{**row, "completion": [{"role": "user", "content": "a"}]} for row in TURNS]
    said = refusal(check, rows)
    assert "completion has no turn of the assistant | give the answer the role assistant" in said
    assert check(TURNS).train_rows == 8

"""Every hint of the data checks, applied: what was refused is prepared, what was noted is gone."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from tests.training.dataset.conftest import Check, refusal
from workbench.errors import DataError
from workbench.recipe import Recipe
from workbench.training.dataset.prepared import Prepared, prepare_data

PAIRS: list[dict[str, Any]] = [{"prompt": f"q {n}", "completion": f"a {n}"} for n in range(10)]
TEXTS: list[dict[str, Any]] = [{"text": f"t {n}"} for n in range(10)]
CHATS: list[dict[str, Any]] = [
    {
        "messages": [
            {"role": "user", "content": f"q {n}"},
            {"role": "assistant", "content": f"a {n}"},
        ]
    }
    for n in range(10)
]
QUESTIONS = [{"question": row["prompt"], "answer": row["completion"]} for row in PAIRS]
COLUMNS = {"question": "prompt", "answer": "completion"}
SAME = [PAIRS[0]] * 10
TURNS_WITHOUT_ROLE = [{"messages": [f"q {n}", f"a {n}"]} for n in range(10)]
GPT = [
    {"messages": [{"role": "user", "content": f"q {n}"}, {"role": "gpt", "content": f"a {n}"}]}
    for n in range(10)
]
PREFERENCES = [{"prompt": f"q {n}", "chosen": f"a {n}", "rejected": "b"} for n in range(10)]
CHOSEN_CHATS = [{"chosen": row["messages"], "rejected": CHATS[0]["messages"]} for row in CHATS]
Settings = dict[str, Any]


def turned(content: Any, **fields: Any) -> list[dict[str, Any]]:
    """Return a question and an answer with the given content and fields."""
    return [{"role": "user", "content": "q"}, {"role": "assistant", "content": content, **fields}]


def part_of(kind: str) -> list[dict[str, Any]]:
    """Return chats whose answers have one part of that type."""
    return [{"messages": turned([{"type": kind, "text": f"a {n}"}])} for n in range(10)]


@pytest.mark.parametrize(
    ("rows", "settings", "hint", "mended", "then"),
    [
        (PAIRS, {"eval_split": "test"}, "or leave data.eval_split out", PAIRS, {}),
        (PAIRS[:3], {"eval_rows": 9}, "lower data.eval_rows below 3", PAIRS[:3], {"eval_rows": 2}),
        (SAME, {}, "add rows that differ", [*SAME, *PAIRS], {}),
        (TEXTS, {"loss_on": "completion"}, "set data.loss_on: all", TEXTS, {"loss_on": "all"}),
        (TEXTS, {"loss_on": "assistant"}, "give the rows as prompt and completion", PAIRS, {}),
        (CHATS, {"chat_template": "never"}, "data.chat_template: auto", CHATS, {}),
        (
            CHATS,
            {"chat_template": "never"},
            "give the rows as prompt and completion",
            PAIRS,
            {"chat_template": "never"},
        ),
        (
            QUESTIONS,
            {},
            "write data.columns: {question: prompt, answer: completion}",
            QUESTIONS,
            {"columns": COLUMNS},
        ),
        ([{"chat": row["messages"]} for row in CHATS], {}, "{chat: messages}", CHATS, {}),
        (
            [{"prompt": row["prompt"], "completions": row["completion"]} for row in PAIRS],
            {"shape": "prompt-completion"},
            "Map it: data.columns: {completions: completion}",
            [{"prompt": row["prompt"], "completions": row["completion"]} for row in PAIRS],
            {"columns": {"completions": "completion"}},
        ),
        (
            [{"x": row["prompt"], "y": row["completion"]} for row in PAIRS],
            {},
            "name the shape's columns in data.columns",
            [{"x": row["prompt"], "y": row["completion"]} for row in PAIRS],
            {"columns": {"x": "prompt", "y": "completion"}},
        ),
        (
            QUESTIONS,
            {"columns": {**COLUMNS, "qestion": "prompt"}},
            "did you mean question?",
            QUESTIONS,
            {"columns": COLUMNS},
        ),
        (
            QUESTIONS,
            {"columns": {"question": "prompt", "answer": "prompt"}},
            "map each name from one column",
            QUESTIONS,
            {"columns": COLUMNS},
        ),
        (TURNS_WITHOUT_ROLE, {}, 'write {"role": …, "content": …}', CHATS, {}),
        (GPT, {}, "did you mean assistant?", CHATS, {}),
        ([{"messages": str(n)} for n in range(10)], {}, "is a list of turns", CHATS, {}),
        (
            [{" prompt": row["prompt"], "completion": "a"} for row in PAIRS],
            {},
            '{" prompt": prompt',
            [{" prompt": row["prompt"], "completion": "a"} for row in PAIRS],
            {"columns": {" prompt": "prompt"}},
        ),
        (
            PREFERENCES,
            {},
            "{chosen: completion}",
            PREFERENCES,
            {"columns": {"chosen": "completion"}},
        ),
        (CHOSEN_CHATS, {}, "{chosen: messages}", CHOSEN_CHATS, {"columns": {"chosen": "messages"}}),
        (part_of("thinking"), {}, "the turn's field reasoning_content", CHATS, {}),
        (part_of("tool_result"), {}, "calls in a turn's tool_calls", CHATS, {}),
        (part_of("image_url"), {}, "leave out rows with images", CHATS, {}),
        (part_of("input_text"), {}, 'write it as {"type": "text", "text": …}', part_of("text"), {}),
        ([{"messages": turned(["a"])} for _ in PAIRS], {}, "or the content as one text", CHATS, {}),
        ([{"messages": turned("a", weight=0)} for _ in PAIRS], {}, "take the field out", CHATS, {}),
        (
            [{"messages": turned("a", train=False)} for _ in PAIRS],
            {},
            "end the chat before",
            CHATS,
            {},
        ),
        ([{"prompt": ["q", "r"], "completion": ["a", "b"]}], {}, 'orient="records"', PAIRS, {}),
        ([{"prompt": {"0": "q"}, "completion": {"0": "a"}}], {}, 'orient="records"', PAIRS, {}),
        ([{**row, "completion": math.nan} for row in PAIRS], {}, 'write ""', PAIRS, {}),
        ([{"messages": "[{'role'}]"}] * 10, {}, "write it as JSON, e.g. [{", CHATS, {}),
        ([{**row, "prompt": 7} for row in PAIRS], {}, 'write it as text: "7" for 7', PAIRS, {}),
        ([{**row, "prompt": {"a": 1}} for row in PAIRS], {}, "e.g. as JSON in quotes", PAIRS, {}),
        ([{"text": row["messages"]} for row in CHATS], {}, "a column named messages", CHATS, {}),
        ([{**row, "completion": ""} for row in PAIRS], {}, "are the answers empty", PAIRS, {}),
        (
            [{"messages": row["messages"][:1]} for row in CHATS],
            {},
            "do chats lack an assistant's turn",
            CHATS,
            {},
        ),
    ],
)
def test_a_refusal_is_gone_when_its_hint_is_followed(
    check: Check,
    rows: list[dict[str, Any]],
    settings: Settings,
    hint: str,
    mended: list[dict[str, Any]],
    then: Settings,
) -> None:
    assert hint in refusal(check, rows, **settings).split(" | ")[1]
    assert check(mended, **then).train_rows >= 1


def test_a_model_without_a_chat_template_takes_the_rows_as_pairs(
    check: Check, tokenizer: PreTrainedTokenizerBase
) -> None:
    tokenizer.chat_template = None
    said = refusal(check, CHATS)
    assert "this model has none | pick an instruction-tuned model" in said
    assert "give the rows as prompt and completion" in said
    assert check(PAIRS).train_rows == 8


def test_several_chat_templates_are_refused_until_one_is_the_default(
    check: Check, tokenizer: PreTrainedTokenizerBase
) -> None:
    one = tokenizer.chat_template
    tokenizer.chat_template = {"rag": one, "tool_use": one}
    said = refusal(check, PAIRS)
    assert "the model has several chat templates" in said
    assert "data.chat_template: never" in said
    assert check(PAIRS, chat_template="never").train_rows == 8
    assert "name one of them default" in said
    tokenizer.chat_template = {"rag": one, "default": one}
    assert check(PAIRS).train_rows == 8


def test_a_template_that_closes_no_turn_is_refused_until_it_does(check: Check) -> None:
    endless = (
        "{%- for m in messages -%}{%- if m['role'] == 'assistant' -%}"
        "{% generation %}{{- m['content'] -}}{% endgeneration %}{%- else -%}{{- m['content'] -}}"
        "{%- endif -%}{{- ' (done) ' -}}{%- endfor -%}"
    )
    assert "use a chat template that closes each turn with its end" in refusal(
        check, CHATS, endless
    )
    closed = endless.replace("' (done) '", "'<|eot_id|>'")
    assert check(CHATS, closed).train_rows == 8


HEADED = (
    "{% for m in messages %}<|start_header_id|>{{ m.role }}\n{{ m.content }}<|eot_id|>\n"
    "{% endfor %}"
)
HEADER = "<|start_header_id|>assistant\n"
ASKED = HEADED + "{% if add_generation_prompt %}" + HEADER + "{% endif %}"


def test_a_template_that_always_asks_is_refused_until_it_does_so_when_asked(check: Check) -> None:
    said = refusal(check, CHATS, HEADED + HEADER)
    assert "writes the generation prompt behind every chat" in said
    assert "put {% if add_generation_prompt %} and {% endif %} around it at the end" in said
    assert check(CHATS, ASKED).train_rows == 8


def test_a_template_that_never_asks_is_noted_until_the_hint_is_followed(check: Check) -> None:
    [note] = told(check(CHATS, HEADED).notes, "has no generation prompt")
    assert "the header of an answer, <|start_header_id|>assistant, is learned with it" in note
    assert not told(check(CHATS, ASKED).notes, "generation prompt")


def test_a_template_without_headers_needs_no_generation_prompt(check: Check) -> None:
    spoken = (
        "{{ '[INST] ' + m.content + ' [/INST]' if m.role == 'user' else m.content + eos_token }}"
    )
    template = "{% for m in messages %}" + spoken + "{% endfor %}"
    assert not told(check(CHATS, template).notes, "generation prompt")
    bare = "{% for m in messages %}{{ m.content + eos_token }}{% endfor %}"
    assert not told(check(CHATS, bare).notes, "generation prompt")


def test_a_template_that_draws_lots_is_refused_until_it_does_not(check: Check) -> None:
    said = refusal(check, CHATS, "{{ ['a', 'b'] | random }}" + ASKED)
    assert "draws at random" in said
    assert check(CHATS, "{{ 'a' }}" + ASKED).train_rows == 8


@pytest.mark.parametrize(("role", "other"), [("tool", "user"), ("developer", "system")])
def test_a_role_that_the_template_refuses_is_named_with_one_that_it_takes(
    check: Check, role: str, other: str
) -> None:
    strict = (
        "{% for m in messages if m.role == '" + role + "' %}{{ raise_exception('no') }}{% endfor %}"
    )

    def rows(first: str) -> list[dict[str, Any]]:
        return [{"messages": [{"role": first, "content": "s"}, *row["messages"]]} for row in CHATS]

    said = refusal(check, rows(role), strict + ASKED)
    assert f"the template takes no role {role}: give those turns the role {other}" in said
    assert check(rows(other), strict + ASKED).train_rows == 8


SPACED = (
    "{%- for m in messages -%}{{- m['role'] + ':' + SPACE + m['content'] + '<|eot_id|>' -}}"
    "{%- endfor -%}{%- if add_generation_prompt -%}{{- 'assistant:' + SPACE -}}{%- endif -%}"
)
APART = "has other tokens than with its answer behind it"


def told(notes: list[str], words: str) -> list[str]:
    return [note for note in notes if words in note]


def test_a_prompt_that_joins_its_answer_in_one_token_is_noted_until_the_hint_is_followed(
    check: Check,
) -> None:
    rows = [{"prompt": f"q {n} it", "completion": "s a"} for n in range(10)]
    [note, *_] = told(check(rows, chat_template="never").notes, "whose prompt " + APART)
    assert "let the prompt end, or the answer begin, with a line break" in note
    for change in ({"prompt": "q it\n"}, {"completion": "\ns a"}):
        changed = [{**row, **change, "n": n} for n, row in enumerate(rows)]
        distinct = [{**row, "completion": f"{row['completion']} {row['n']}"} for row in changed]
        assert not told(check(distinct, chat_template="never").notes, APART)


def test_a_generation_prompt_that_joins_the_answer_is_noted_until_the_hint_is_followed(
    check: Check,
) -> None:
    words = [{"prompt": f"q {n}", "completion": f"the {n}"} for n in range(10)]
    joins = SPACED.replace("SPACE", "' '")
    [note, *_] = told(check(words, joins).notes, "whose prompt " + APART)
    assert "let the chat template's generation prompt end with one of its tokens" in note
    assert "where it opens a <think> block" in note
    for space in ("'<|end_header_id|>'", "'\\n'"):
        assert not told(check(words, SPACED.replace("SPACE", space)).notes, APART)
    broken = [{**row, "completion": "\n" + row["completion"]} for row in words]
    [note, *_] = told(check(broken, SPACED.replace("SPACE", "'\\n'")).notes, APART)
    assert "begin no answer with a blank or a line break" in note


LONG = [*PAIRS, {"prompt": "q", "completion": "a " * 400}]


def test_a_cut_row_is_noted_until_max_tokens_is_as_suggested(check: Check) -> None:
    notes = check(LONG, eval_rows=1).notes
    [note] = told(notes, "longer than 256 tokens and cut")
    enough = int(note.split("data.max_tokens: ")[1].split(" ")[0])
    assert not told(check(LONG, max_tokens=enough, eval_rows=1).notes, "(first:")


def test_no_suggestion_passes_what_the_model_reads(
    tokenizer: PreTrainedTokenizerBase,
    recipe_of: Callable[..., Recipe],
    write_rows: Callable[..., Path],
    tmp_path: Path,
) -> None:
    def prepare(rows: list[Any], **data: Any) -> Prepared:
        recipe = recipe_of(write_rows(rows), eval_rows=1, **data)
        return prepare_data(recipe, tokenizer, tmp_path, lambda *_: None, most_tokens=100)

    notes = prepare(LONG, max_tokens=64).notes
    assert told(notes, "the model reads 100 tokens at most: shorten or split them")
    assert told(notes, "raise data.max_tokens to 100, or shorten the rows")
    questions = [{"prompt": "why " * 200 + str(n), "completion": "So."} for n in range(9)]
    with pytest.raises(DataError, match="lose their whole answer") as refused:
        prepare(questions, max_tokens=100)
    assert refused.value.hint == "shorten the rows, or split each into several"
    assert prepare(PAIRS, max_tokens=100).train_rows == 9


def test_a_system_setting_beside_plain_text_is_noted_until_it_is_taken_out(check: Check) -> None:
    assert told(check(TEXTS, system="Be kind.").notes, "data.system is not used: plain text")
    assert not told(check(TEXTS).notes, "data.system")


@pytest.mark.parametrize(
    ("rows", "note", "mended"),
    [
        ([*PAIRS, PAIRS[3]], "take out those that are not meant", PAIRS),
        ([*PAIRS, {"prompt": "q", "completion": ""}], "give them an answer, or take", PAIRS),
        ([*PAIRS, {"prompt": " ", "completion": "a"}], "fill it, or take the rows out", PAIRS),
        ([*PAIRS, {"prompt": "q", "completion": " "}], "", PAIRS),
        ([*PAIRS, {"prompt": "</s>", "completion": "a"}], "take it out of the rows", PAIRS),
        (
            [*CHATS, {"messages": CHATS[0]["messages"][::-1]}],
            "user and assistant take turns, the user first",
            CHATS,
        ),
        ([{**row, "extra": "x"} for row in PAIRS], "else it may be taken out", PAIRS),
    ],
)
def test_a_note_is_gone_when_its_hint_is_followed(
    check: Check, tmp_path: Path, rows: list[dict[str, Any]], note: str, mended: list[Any]
) -> None:
    settings = {"max_tokens": 256, "eval_rows": 1}
    before, after = check(rows, **settings).notes, check(mended, **settings).notes
    assert any(note in one for one in before), before
    general = [one for one in after if "(first:" in one]
    assert not general


def test_a_mapped_column_that_no_row_has_is_refused(check: Check) -> None:
    rows = [{"prompt": f"{i}?", "completion": f"{i}"} for i in range(12)]
    mapping = {"persona": "system", "functions": "tools"}
    assert refusal(check, rows, columns=mapping) == (
        "data.columns names functions, persona, which no row of train.jsonl has | "
        "its columns are completion, prompt; take out what is not there"
    )
    rows[7]["persona"] = "Be brief."
    assert check(rows, columns={"persona": "system"}).train_rows
    # Behind max_rows nothing is read, and a column may be in a row there.
    assert check(rows, columns={"persona": "system"}, max_rows=4).train_rows


def test_a_mapped_column_has_to_be_in_a_training_row(
    check: Check, write_rows: Callable[..., Path]
) -> None:
    rows = [{"prompt": f"{i}?", "completion": f"{i}"} for i in range(12)]
    held = write_rows([{**rows[0], "persona": "Be brief."}], "held.jsonl")
    said = refusal(check, rows, columns={"persona": "system"}, eval=str(held))
    assert said.startswith("data.columns names persona, which no row of train.jsonl has")

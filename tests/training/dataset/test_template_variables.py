"""Variables that a row gives to the chat template in its column chat_template_kwargs."""

from __future__ import annotations

import json
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from tests.training.dataset.conftest import Check, refusal
from tests.training.dataset.templates import answer, asked, family_tokenizer, learned, rendered
from workbench.training.dataset.chat.template import ChatTemplate, unthinking_by_default
from workbench.training.dataset.prepared import load_prepared

TURNS = [asked("q"), answer("a"), asked("r"), answer("b")]
NO_BLOCK = "<think>\n\n</think>\n\n"
SAYS = (
    "{{ '<|bot|>' + (custom_instructions or 'none') }}{% if effort is defined %}{{ effort }}"
    "{% endif %}{% for m in messages %}{{ m.role + ': ' + m.content }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)


def row(variables: Any, turns: Any = TURNS) -> dict[str, Any]:
    return {"messages": turns, "chat_template_kwargs": variables}


@pytest.mark.parametrize(
    "family", ["qwen3", "qwen3_5_think", "qwen3_5_nothink", "qwen3_6", "glm4moe", "nemotron_3_nano"]
)
@pytest.mark.parametrize("thinking", [True, False])
def test_rows_and_their_prompts_are_those_of_the_template_with_the_same_variables(
    tokenizer: PreTrainedTokenizerBase, family: str, thinking: bool
) -> None:
    own = family_tokenizer(tokenizer, family)
    said = rendered(own, row({"enable_thinking": thinking, "other": None}))
    prompt = own.apply_chat_template(
        TURNS[:-1], tokenize=False, add_generation_prompt=True, enable_thinking=thinking
    )
    assert own.decode(said.prompt_ids) == str(prompt)
    whole = own.apply_chat_template(TURNS, tokenize=False, enable_thinking=thinking)
    end = "" if str(whole).rstrip().endswith("<|im_end|>") else own.eos_token
    assert own.decode(said.ids) == f"{whole}{end}"
    runs = learned(own, said)
    assert len(runs) == 2
    assert [name in text for name, text in zip("ab", runs, strict=True)] == [True, True]
    assert not [text for text in runs if "assistant" in text or "user" in text]


def test_the_block_that_a_prompt_supplies_for_one_row_is_learned_in_others_alone(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    own = family_tokenizer(tokenizer, "qwen3")
    for variables, block in (({"enable_thinking": False}, ""), ({}, NO_BLOCK), (None, NO_BLOCK)):
        said = rendered(own, row(variables))
        assert learned(own, said)[-1].startswith(block + "b")
        assert said.agrees


def test_texts_in_variables_reach_the_template_and_forge_no_turn(
    check: Check, tokenizer: PreTrainedTokenizerBase
) -> None:
    rows = [
        row({"custom_instructions": f"Be {n}.<|eot_id|>"}, [asked(f"q {n}"), answer("a")])
        for n in range(10)
    ]
    prepared = check(rows, SAYS)
    end = tokenizer.convert_tokens_to_ids("<|eot_id|>")
    for part in load_prepared(prepared):
        for one in part:
            assert "Be " in tokenizer.decode(one["input_ids"])
            assert one["input_ids"].count(end) == 2
    texts = [
        {**one, "chat_template_kwargs": json.dumps(one["chat_template_kwargs"])} for one in rows
    ]
    assert check(texts, SAYS).target_tokens == prepared.target_tokens


def test_a_variable_that_the_template_does_not_read_is_reported_until_it_is_gone(
    check: Check,
) -> None:
    names = {"effort": "high", "python_tools": ["f"], "messages": [], "bos_token": "x"}
    rows = [row(names, [asked(f"q {n}"), answer("a")]) for n in range(10)]
    notes = [note for note in check(rows, SAYS).notes if "chat_template_kwargs" in note]
    found = [name for name in names if any(f"with {name} in chat_template" in n for n in notes)]
    assert found == ["python_tools", "messages", "bos_token"]
    assert "take it out of the rows" in notes[0]
    bare = [{**one, "chat_template_kwargs": {"effort": "high"}} for one in rows]
    assert not [note for note in check(bare, SAYS).notes if "chat_template_kwargs" in note]


def test_a_variable_that_the_template_refuses_is_named_in_the_hint(check: Check) -> None:
    rows = [row({}, [asked(f"q {n}"), answer("a")]) for n in range(10)]
    rows[6] = {**rows[6], "chat_template_kwargs": {"custom_instructions": 5}}
    said = refusal(check, rows, SAYS)
    assert said.startswith("train.jsonl:7: the model's chat template refuses this chat: TypeError")
    assert said.endswith(
        "| the template takes the chat without custom_instructions in chat_template_kwargs"
    )
    del rows[6]["chat_template_kwargs"]
    assert check(rows, SAYS).train_rows == 8


def test_a_variable_by_which_turns_are_left_out_is_refused_with_its_row(check: Check) -> None:
    rows = [row({}, [asked(f"q {n}"), answer("a")]) for n in range(10)]
    rows[6] = {**rows[6], "chat_template_kwargs": {"mute": True}}
    template = SAYS.replace("m.content }}", "('' if mute else m.content) }}")
    said = refusal(check, rows, template)
    assert said.startswith("train.jsonl:7: the model's chat template leaves out what turns say")


def test_the_recipes_reasoning_goes_before_a_rows_variable(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    own = family_tokenizer(tokenizer, "qwen3")
    dropped = rendered(own, row({"enable_thinking": True}), reasoning="drop")
    assert dropped == rendered(own, {"messages": TURNS}, reasoning="drop")


@pytest.mark.parametrize("begin", ["\n", "  {% if true %}x{% endif %}", "{{ 'y' }}"])
def test_the_beginning_of_a_template_stays_as_it_is(
    tokenizer: PreTrainedTokenizerBase, begin: str
) -> None:
    given = begin + "{{ messages[0].content }}{% if enable_thinking is not false %}z{% endif %}"
    turns, said = [asked("q")], []
    for template in (given, unthinking_by_default(given)):
        tokenizer.chat_template = template
        said += [
            tokenizer.apply_chat_template(turns, tokenize=False, enable_thinking=one)
            for one in (True, False)
        ]
    assert said[:2] == said[2:]


def test_a_familys_template_is_known_again_when_it_does_not_think_by_default(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    own = family_tokenizer(tokenizer, "qwen3")
    assert ChatTemplate(own)._training is not None
    own.chat_template = unthinking_by_default(str(own.get_chat_template()))
    assert ChatTemplate(own)._training is not None


@pytest.mark.parametrize("family", ["qwen3", "qwen3_5_think", "qwen3_6", "glm4moe", "qwen2_5"])
def test_a_template_that_does_not_think_by_default_is_otherwise_the_same(
    tokenizer: PreTrainedTokenizerBase, family: str
) -> None:
    own = family_tokenizer(tokenizer, family)
    given = str(own.get_chat_template())
    more = {"tokenize": False, "add_generation_prompt": True}
    want = [
        own.apply_chat_template(TURNS[:1], enable_thinking=one, **more) for one in (False, True)
    ]
    own.chat_template = unthinking_by_default(given)
    assert (own.chat_template == given) == (family == "qwen2_5")
    assert own.apply_chat_template(TURNS[:1], **more) == want[0]
    assert own.apply_chat_template(TURNS[:1], enable_thinking=True, **more) == want[1]


@pytest.mark.parametrize(
    ("variables", "complaint"),
    [
        ("no", "holds text that is not JSON"),
        ([1], "holds a list"),
        ({"x": "\ud83d"}, "x holds half"),
    ],
)
def test_variables_that_are_no_object_are_refused_with_a_hint(
    check: Check, variables: Any, complaint: str
) -> None:
    rows = [row(variables if n == 4 else {}, [asked(f"q {n}"), answer("a")]) for n in range(10)]
    said = refusal(check, [json.loads(json.dumps(one)) for one in rows])
    assert said.startswith("train.jsonl:5: chat_template_kwargs")
    assert complaint in said

"""The one decision about which tokens end a turn, and its place in the prepared rows."""

from __future__ import annotations

import pytest
from transformers import PreTrainedTokenizerBase

from tests.training.dataset.conftest import Check
from workbench.training.dataset.chat.turn_ends import find_turn_format

CHATML = (
    "{{- bos_token -}}{%- for m in messages -%}"
    "{{- '<|start_header_id|>' + m['role'] + '\\n' + m['content'] + END + '\\n' -}}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|start_header_id|>assistant\\n' -}}{%- endif -%}"
)
ONE_END = CHATML.replace("END", "'<|end_header_id|>'")
LAST = "loop.last and m['role'] == 'assistant'"
TWO_ENDS = CHATML.replace("END", f"('<|end_of_text|>' if {LAST} else '<|end_header_id|>')")
TRAILING = ONE_END + "{%- if not add_generation_prompt -%}{{- '<|end_of_text|>' -}}{%- endif -%}"
HARMONY = (
    "{{- '<|start_header_id|>system<|end_header_id|>You are new.<|reserved_special_token_1|>' -}}"
    "{%- for m in messages -%}{{- '<|start_header_id|>' + m['role'] + '<|end_header_id|>' -}}"
    "{{- m['content'] -}}{%- if loop.last and m['role'] == 'assistant' -%}"
    "{{- '<|reserved_special_token_2|>' -}}{%- else -%}{{- '<|reserved_special_token_1|>' -}}"
    "{%- endif -%}{%- endfor -%}{%- if add_generation_prompt -%}"
    "{{- '<|start_header_id|>assistant' -}}{%- endif -%}"
)
"""gpt-oss's habits: a system turn of the template's own, and another end behind the last answer."""
ZEPHYR = (
    "{{- '<|reserved_special_token_1|>\\nBe kind.<|eot_id|>\\n' -}}{%- for m in messages -%}"
    "{{- '<|reserved_special_token_' + ('2' if m['role'] == 'user' else '3') + '|>' -}}"
    "{{- '\\n' + m['content'] + '<|eot_id|>\\n' -}}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|reserved_special_token_3|>\\n' -}}{%- endif -%}"
)
"""A token for each role, and a system turn of the template's own."""
WANTS_SYSTEM = (
    "{%- if messages[0]['role'] != 'system' -%}{{- raise_exception('x') -}}{%- endif -%}" + ONE_END
)


def names(tokenizer: PreTrainedTokenizerBase, ids: object) -> set[str]:
    return set(tokenizer.convert_ids_to_tokens(sorted(ids)))  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("template", "ends"),
    [
        (None, {"<|eot_id|>"}),
        (ONE_END, {"<|eot_id|>", "<|end_header_id|>"}),
        (TWO_ENDS, {"<|eot_id|>", "<|end_header_id|>", "<|end_of_text|>"}),
        (TRAILING, {"<|eot_id|>", "<|end_header_id|>", "<|end_of_text|>"}),
        (WANTS_SYSTEM, {"<|eot_id|>", "<|end_header_id|>"}),
        (
            HARMONY,
            {"<|eot_id|>", "<|reserved_special_token_1|>", "<|reserved_special_token_2|>"},
        ),
        (ZEPHYR, {"<|eot_id|>"}),
        ("{{ raise_exception('never') }}", {"<|eot_id|>"}),
    ],
    ids=[
        "shipped",
        "one",
        "inner and last",
        "behind all",
        "with a system turn",
        "harmony",
        "zephyr",
        "no probe",
    ],
)
def test_the_ends_of_inner_and_last_turns_are_found(
    tokenizer: PreTrainedTokenizerBase, template: str | None, ends: set[str]
) -> None:
    tokenizer.chat_template = template or tokenizer.chat_template
    assert names(tokenizer, find_turn_format(tokenizer).end_ids) == ends


def test_the_generation_prompt_and_its_header_are_told_apart(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    opening = ONE_END.replace("assistant\\n' -}}{%- endif", "assistant\\n<think>\\n' -}}{%- endif")
    for template in (opening, opening + TRAILING.removeprefix(ONE_END)):
        tokenizer.chat_template = template
        found = find_turn_format(tokenizer)
        assert found.generation_prompt == "<|start_header_id|>assistant\n<think>\n"
        assert found.header == "<|start_header_id|>assistant\n"


def test_without_a_template_the_end_of_sequence_ends_a_text(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    tokenizer.chat_template = None
    assert names(tokenizer, find_turn_format(tokenizer).end_ids) == {"<|eot_id|>"}


@pytest.mark.parametrize(
    ("template", "ends"),
    [(ONE_END, {"<|end_header_id|>"}), (TWO_ENDS, {"<|end_header_id|>", "<|end_of_text|>"})],
    ids=["one", "inner and last"],
)
def test_prepared_rows_name_the_tokens_that_ended_their_trained_turns(
    check: Check, tokenizer: PreTrainedTokenizerBase, template: str, ends: set[str]
) -> None:
    turns = [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]
    rows = [
        {"messages": [{"role": role, "content": f"{text} {n}"} for role, text in turns]}
        for n in range(9)
    ]
    assert names(tokenizer, check(rows, template).turn_end_ids) == ends


def test_an_end_inside_an_answer_is_no_end_of_a_turn(
    check: Check, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Such an end stands behind gpt-oss's thinking: a stop there would cut answers."""
    thinks = HARMONY.replace(
        "{{- m['content'] -}}",
        "{%- if m.thinking -%}{{- m.thinking + '<|reserved_special_token_1|>so ' -}}{%- endif -%}"
        "{{- m['content'] -}}",
    )
    answer = {"role": "assistant", "content": "a", "thinking": "hm"}
    rows = [{"prompt": f"q {n}", "completion": [answer]} for n in range(9)]
    ended = check(rows, thinks).turn_end_ids
    assert names(tokenizer, ended) == {"<|reserved_special_token_2|>"}


def test_prepared_text_names_the_end_of_sequence(
    check: Check, tokenizer: PreTrainedTokenizerBase
) -> None:
    prepared = check([{"text": f"t {n}"} for n in range(9)])
    assert prepared.turn_end_ids == [tokenizer.eos_token_id]

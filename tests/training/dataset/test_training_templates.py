"""TRL's training templates: their marks are used where they render a chat as the family's own."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from tests.training.dataset.conftest import Check
from tests.training.dataset.templates import (
    answer,
    asked,
    family_tokenizer,
    learned,
    rendered,
    template_text,
)
from workbench.training.dataset.chat.template import ChatTemplate
from workbench.training.dataset.chat.training_templates import training_template

TURNS: list[dict[str, Any]] = [asked("1+1"), answer("2"), asked("2+2"), answer("4")]
FAMILIES = ["llama3", "qwen2_5", "qwen3_instruct_2507", "gemma", "gemma3", "phi3", "cohere2"]
UNKNOWN = "{#- a comment, by which the template is none that TRL knows -#}"


@pytest.mark.parametrize("family", [*FAMILIES, "qwen3", "qwen3_5_think", "qwen3_8"])
@pytest.mark.parametrize("loss_on", ["assistant", "completion"])
def test_marks_and_comparison_of_prefixes_learn_the_same(
    tokenizer: PreTrainedTokenizerBase, family: str, loss_on: str
) -> None:
    own = family_tokenizer(tokenizer, family)
    by_marks = rendered(own, {"messages": TURNS}, loss_on)
    own.chat_template = UNKNOWN + own.chat_template
    by_prefix = rendered(own, {"messages": TURNS}, loss_on)
    assert by_marks.ids == by_prefix.ids
    assert by_marks.trained == by_prefix.trained
    assert [text.split("<")[0] for text in learned(own, by_marks)][-1].strip() in ("4", "")


CALL = {"name": "rain", "arguments": {"town": "Ulm"}}
WET = {"role": "tool", "content": "wet"}


@pytest.mark.parametrize(
    ("family", "turns"),
    [
        # A call ends by a token of its own, and the result behind it is written as JSON.
        ("gptoss", [asked("rain?"), answer("", tool_calls=[CALL]), {**WET, "content": '"a"\n'}]),
        ("gptoss", [asked("rain?"), answer("Hm", tool_calls=[CALL]), {**WET, "content": '"a"\n'}]),
        ("gptoss", [asked("1+1"), answer("2\n"), asked("2+2")]),
        ("gptoss", [asked("1+1"), answer("a"), asked("2+2")]),  # it stands in `channel`, too
        # The next question says what the answer says, which the template leaves out.
        (
            "nemotron_3_nano",
            [asked("1+1"), answer("x</think>", reasoning_content="so"), asked("x</think>")],
        ),
        # An end token in what a turn says ends nothing.
        (
            "nemotron_3_nano",
            [
                asked("rain?"),
                answer("Not <|im_end|> yet", reasoning_content="so", tool_calls=[CALL]),
                WET,
                answer("Wet.", reasoning_content="so"),
                asked("2+2"),
            ],
        ),
    ],
)
def test_earlier_answers_are_found_without_marks_where_the_template_changes_them(
    tokenizer: PreTrainedTokenizerBase, family: str, turns: list[dict[str, Any]]
) -> None:
    own = family_tokenizer(tokenizer, family)
    row = {"messages": [*turns, answer("4")]}
    by_marks = learned(own, rendered(own, row))
    own.chat_template = UNKNOWN + own.chat_template
    assert learned(own, rendered(own, row)) == by_marks
    assert len(by_marks) == sum(turn["role"] == "assistant" for turn in row["messages"])


@pytest.mark.parametrize("family", FAMILIES)
def test_the_marks_of_a_known_family_are_used(
    tokenizer: PreTrainedTokenizerBase, family: str
) -> None:
    template = ChatTemplate(family_tokenizer(tokenizer, family))
    text = template.render(TURNS, "t.jsonl:1")
    marks = template.training_marks(TURNS, text)
    assert marks is not None
    # Phi 3's has a third one, at the end of the text.
    assert [text[start:end].strip()[0] for start, end in marks[:2]] == ["2", "4"]
    assert template.known_family
    assert not template.marked


def test_a_template_that_shows_more_than_the_familys_own_is_not_used(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    """Qwen3's shows the reasoning of every answer, and an empty block where there is none."""
    own = family_tokenizer(tokenizer, "qwen3")
    template = ChatTemplate(own)
    assert template.training_marks(TURNS, template.render(TURNS, "t.jsonl:1")) is None
    single = TURNS[:2]
    assert template.training_marks(single, template.render(single, "t.jsonl:1")) is not None
    assert learned(own, rendered(own, {"messages": TURNS}))[0] == "2<|im_end|>"


def test_a_template_that_is_changed_or_has_marks_gets_none() -> None:
    assert training_template(template_text("llama3")) == template_text("llama3_training")
    assert training_template(template_text("llama3") + "{{ 'more' }}") is None
    assert training_template(template_text("llama3_training")) is None


def test_only_an_unknown_template_without_marks_is_warned_of(
    check: Check, tokenizer: PreTrainedTokenizerBase
) -> None:
    rows = [{"messages": [asked(f"{n}+1"), answer(str(n + 1))]} for n in range(9)]
    llama = template_text("llama3")
    assert not [note for note in check(rows, llama).notes if "generation marks" in note]
    assert [note for note in check(rows, UNKNOWN + llama).notes if "generation marks" in note]

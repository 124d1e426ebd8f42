"""The reasoning of answers: learned as the family's template shows it, dropped or masked."""

from __future__ import annotations

import re
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from tests.training.dataset.conftest import Check
from tests.training.dataset.templates import answer, asked, family_tokenizer, learned, rendered
from workbench.errors import DataError
from workbench.training.dataset.chat.reasoning import reasoning_of, without_reasoning
from workbench.training.dataset.data_warnings import FINDINGS

FIELD = {"messages": [
    asked("1+1"), answer("2", reasoning_content="one and one"),
    asked("2+2"), answer("4", reasoning_content="two and two"),
]}  # fmt: skip
TAGS = {"messages": [
    asked("1+1"), answer("<think>\none and one\n</think>\n\n2"),
    asked("2+2"), answer("<think>\ntwo and two\n</think>\n\n4"),
]}  # fmt: skip
PLAIN = {"messages": [asked("1+1"), answer("2"), asked("2+2"), answer("4")]}
THOUGHT = "<think>\ntwo and two\n</think>\n\n"
EMPTY = "<think>\n\n</think>\n\n"
END = "<|im_end|>"


@pytest.mark.parametrize(
    ("family", "row", "keep", "mask"),
    [
        # Qwen3 shows the last answer's; Qwen3.5's prompt opens it, so that `<think>` has no loss.
        ("qwen3", FIELD, ["2", THOUGHT + "4"], ["2", "4"]),
        ("qwen3", TAGS, ["2", THOUGHT + "4"], ["2", "4"]),
        ("qwen3_5_think", FIELD, ["2", "two and two\n</think>\n\n4"], ["2", "4"]),
        # Qwen3.8 shows that of all answers.
        (
            "qwen3_8",
            FIELD,
            ["one and one\n</think>\n\n2", "two and two\n</think>\n\n4"],
            ["2", "4"],
        ),
        (
            "qwen3_8",
            TAGS,
            ["one and one\n</think>\n\n2", "two and two\n</think>\n\n4"],
            ["2", "4"],
        ),
        # A template that knows nothing of it shows tags as any text, and fields not at all.
        (
            "qwen2_5",
            TAGS,
            ["<think>\none and one\n</think>\n\n2", THOUGHT + "4"],
            ["2", "4"],
        ),
        ("qwen2_5", FIELD, ["2", "4"], ["2", "4"]),
        # An empty block that the template puts before an answer is reasoning, too.
        ("qwen3", PLAIN, ["2", EMPTY + "4"], ["2", "4"]),
        # Nemotron's prompt opens the block of each answer; they are found by their headers.
        ("nemotron_3_nano", FIELD, ["</think>\n2", "two and two\n</think>\n4"], ["2", "4"]),
    ],
)
def test_reasoning_is_learned_where_the_familys_template_shows_it(
    tokenizer: PreTrainedTokenizerBase, family: str, row: Any, keep: list[str], mask: list[str]
) -> None:
    own = family_tokenizer(tokenizer, family)
    kept, masked = (rendered(own, row, reasoning=how) for how in ("keep", "mask"))
    assert learned(own, kept) == [text + END for text in keep]
    assert learned(own, masked) == [text + END for text in mask]
    assert masked.ids == kept.ids
    assert kept.agrees


@pytest.mark.parametrize("family", ["qwen3_5_think", "qwen3_6", "qwen3_8", "nemotron_3_nano"])
def test_an_empty_block_that_begins_in_the_generation_prompt_is_masked_whole(
    tokenizer: PreTrainedTokenizerBase, family: str
) -> None:
    """The prompt ends in a line break, which is one token with that of the empty block."""
    own = family_tokenizer(tokenizer, family)
    kept, masked = (rendered(own, PLAIN, reasoning=how) for how in ("keep", "mask"))
    assert "\n" not in "".join(learned(own, masked))
    assert learned(own, masked) == ["2" + END, "4" + END]
    found = [{kind for kind, _ in tokens.findings} for tokens in (kept, masked)]
    assert ["put before" in kinds for kinds in found] == [True, False]


@pytest.mark.parametrize(
    "family", ["qwen3", "qwen3_8", "qwen2_5", "gemma4_v5", "gptoss", "nemotron_3_nano", "llama3_1"]
)
@pytest.mark.parametrize(
    ("thought", "said"),
    [("4", "It is 4."), ("4", "4"), ("think", "think")],
)
def test_an_answer_with_the_words_of_its_reasoning_is_learned_whole(
    tokenizer: PreTrainedTokenizerBase, family: str, thought: str, said: str
) -> None:
    """Also where the template leaves the reasoning out, as most do in earlier answers."""
    own = family_tokenizer(tokenizer, family)
    turns = [asked("2+2"), answer(said, reasoning=thought), asked("?"), answer("A", reasoning="A")]
    row = {"messages": turns}
    masked = learned(own, rendered(own, row, reasoning="mask"))
    behind = [text.rpartition("<|message|>")[2].rpartition("<")[0] for text in masked]
    assert behind == [said, "A"]
    dropped = learned(own, rendered(own, row, reasoning="drop"))
    assert [text.endswith(end) for text, end in zip(dropped, masked, strict=True)] == [True, True]


def test_the_tag_behind_the_reasoning_of_a_call_carries_no_loss(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    own = family_tokenizer(tokenizer, "gemma4_v5")
    call = {"name": "rain", "arguments": {"town": "Ulm"}}
    turns = [
        asked("rain?"), answer("", reasoning_content="look", tool_calls=[call]),
        {"role": "tool", "content": "dry"}, answer("Dry."),
    ]  # fmt: skip
    [called, _] = learned(own, rendered(own, {"messages": turns}, reasoning="mask"))
    assert called.startswith("<|tool_call>call:rain{")


def test_an_answer_of_reasoning_alone_is_masked_where_no_end_closes_it(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    """GLM closes no answer, so that an end is appended, which has no characters."""
    own = family_tokenizer(tokenizer, "glm4moe")
    turns = [asked("1+1"), answer("<think>\nwhy\n</think>\n\n")]
    tokens = rendered(own, {"messages": turns}, reasoning="mask")
    assert learned(own, tokens) == [own.eos_token]


@pytest.mark.parametrize("loss_on", ["completion", "assistant"])
def test_the_last_answer_alone_is_learned_where_the_template_changes_earlier_ones(
    tokenizer: PreTrainedTokenizerBase, loss_on: str
) -> None:
    """gpt-oss shows the reasoning of calls until the answer follows; this template has marks."""
    own = family_tokenizer(tokenizer, "gptoss_training")
    call = {"name": "rain", "arguments": {"town": "Ulm"}}
    turns = [
        asked("rain?"), answer("", reasoning_content="look", tool_calls=[call]),
        {"role": "tool", "content": "dry"}, answer("Dry.", reasoning_content="so"),
    ]  # fmt: skip
    said = learned(own, rendered(own, {"messages": turns}, loss_on))
    assert ["Ulm" in text for text in said] == [True, False][loss_on == "completion" :]
    assert "Dry." in said[-1]


def test_a_call_without_text_is_masked_where_the_template_wants_null_for_it(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    own = family_tokenizer(tokenizer, "deepseek_r1_distill")
    call = {"name": "rain", "arguments": {"town": "Ulm"}}
    turns = [asked("rain?"), answer("", tool_calls=[call]), {"role": "tool", "content": "dry"}]
    tokens = rendered(own, {"messages": [*turns, answer("Dry.")]}, reasoning="mask")
    [called, _] = learned(own, tokens)
    assert "Ulm" in called


@pytest.mark.parametrize("row", [FIELD, TAGS], ids=["field", "tags"])
@pytest.mark.parametrize(
    ("family", "before"), [("qwen3", EMPTY), ("qwen3_5_think", EMPTY), ("qwen2_5", "")]
)
def test_dropped_reasoning_is_in_no_row_and_what_the_prompt_supplies_has_no_loss(
    tokenizer: PreTrainedTokenizerBase, family: str, before: str, row: Any
) -> None:
    own = family_tokenizer(tokenizer, family)
    tokens = rendered(own, row, reasoning="drop")
    assert "and" not in own.decode(tokens.ids).partition("user")[2]
    assert learned(own, tokens) == ["2" + END, "4" + END]
    assert tokens.agrees
    assert own.decode(tokens.prompt_ids).endswith(f"<|im_start|>assistant\n{before}")
    assert not [kind for kind, _ in tokens.findings if kind in ("put before", "field", "reasoning")]


def test_each_answer_of_a_chat_with_calls_and_reasoning_is_found(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    """The template shows reasoning since the last question, so that no prefix of it is stable."""
    call = {"name": "rain", "arguments": {"town": "Ulm"}}
    turns = [
        asked("rain?"), answer(None, reasoning="call it", tool_calls=[call]),
        {"role": "tool", "content": "dry"}, answer("Dry.", reasoning="got it"),
        asked("Sure?"), answer(None, reasoning="again", tool_calls=[call]),
        {"role": "tool", "content": "dry"}, answer("Yes.", reasoning="dry again"),
    ]  # fmt: skip
    own = family_tokenizer(tokenizer, "qwen3")
    called = '<tool_call>\n{"name": "rain", "arguments": {"town": "Ulm"}}\n</tool_call>'
    tokens = rendered(own, {"messages": turns})
    assert learned(own, tokens) == [
        f"{called}{END}",
        f"Dry.{END}",
        f"<think>\nagain\n</think>\n\n{called}{END}",
        f"<think>\ndry again\n</think>\n\nYes.{END}",
    ]
    masked = rendered(own, {"messages": turns}, reasoning="mask")
    assert learned(own, masked) == [f"{called}{END}", f"Dry.{END}", f"{called}{END}", f"Yes.{END}"]


@pytest.mark.parametrize(
    ("family", "how", "third"),
    [
        ("qwen3", "keep", "<think>\nagain\n</think>\n\nHm.\nCALL"),
        ("qwen3", "drop", "Hm.\nCALL"),
        # The generation prompt supplies the tag, and with `drop` the empty block.
        ("qwen3_5_think", "keep", "again\n</think>\n\nHm.\n\nCALL"),
        ("qwen3_5_think", "drop", "Hm.\n\nCALL"),
    ],
)
def test_what_the_prompt_supplies_is_not_learned_where_answers_are_found_by_headers(
    tokenizer: PreTrainedTokenizerBase, family: str, how: str, third: str
) -> None:
    call = {"name": "rain", "arguments": {"town": "Ulm"}}
    turns = [
        asked("rain?"), answer("Hm.", reasoning="call it", tool_calls=[call]),
        {"role": "tool", "content": "dry"}, answer("Dry.", reasoning="got it"),
        asked("Sure?"), answer("Hm.", reasoning="again", tool_calls=[call]),
        {"role": "tool", "content": "dry"}, answer("Yes.", reasoning="dry again"),
    ]  # fmt: skip
    own = family_tokenizer(tokenizer, family)
    said = learned(own, rendered(own, {"messages": turns}, reasoning=how))
    said = [re.sub(r"<tool_call>.*?</tool_call>", "CALL", text, flags=re.DOTALL) for text in said]
    gap = third[third.index("Hm.") :]
    assert said[:3] == [f"{gap}{END}", f"Dry.{END}", f"{third}{END}"]


@pytest.mark.parametrize("header", ["<|im_start|>assistant\n", "assistant: "])
def test_a_header_that_a_message_could_write_finds_no_answer(
    tokenizer: PreTrainedTokenizerBase, header: str
) -> None:
    """The number of turns in front lets no chat be the beginning of a longer one."""
    own = family_tokenizer(tokenizer, "qwen3")
    own.chat_template = (
        "{{ messages|length if messages[0].content == '1+1' else '' }}{% for m in messages %}"
        "{{ HEADER if m.role == 'assistant' else '<|im_start|>user\n' }}"
        "{{ m.content }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}{{ HEADER }}{% endif %}"
    ).replace("HEADER", repr(header))
    row = {"messages": [asked("1+1"), answer("2"), asked("2+2"), answer("4")]}
    if header.startswith("<|"):
        assert learned(own, rendered(own, row)) == [f"2{END}", f"4{END}"]
    else:
        with pytest.raises(DataError, match="the answer's tokens cannot be told"):
            rendered(own, row)


def test_a_forged_header_finds_no_answer(tokenizer: PreTrainedTokenizerBase) -> None:
    forged = asked("Say <|im_start|>assistant\nHi<|im_end|>")
    turns = [forged, *FIELD["messages"][1:]]
    own = family_tokenizer(tokenizer, "qwen3")
    assert learned(own, rendered(own, {"messages": turns})) == [f"2{END}", f"{THOUGHT}4{END}"]


@pytest.mark.parametrize("row", [FIELD, TAGS], ids=["field", "tags"])
def test_reasoning_of_earlier_answers_that_the_template_leaves_out_is_told(
    tokenizer: PreTrainedTokenizerBase, row: Any
) -> None:
    tokens = rendered(family_tokenizer(tokenizer, "qwen3"), row)
    assert [kind for kind, _ in tokens.findings if kind != "no begin"] == ["reasoning"]
    assert "data.loss_on: completion" in FINDINGS["reasoning"][1]
    last = rendered(family_tokenizer(tokenizer, "qwen3"), row, "completion", reasoning="drop")
    assert "reasoning" not in [kind for kind, _ in last.findings]


def test_reasoning_of_answers_that_carry_no_loss_is_not_missed(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    last = rendered(family_tokenizer(tokenizer, "qwen3"), TAGS, "completion")
    assert "reasoning" not in [kind for kind, _ in last.findings]


@pytest.mark.parametrize("reasoning", ["drop", "mask"])
def test_reasoning_that_never_ends_is_refused_where_it_is_not_learned(
    tokenizer: PreTrainedTokenizerBase, reasoning: str
) -> None:
    own = family_tokenizer(tokenizer, "qwen3")
    cut = {"messages": [asked("6+1"), answer("<think>\n6+1=7, let me check again")]}
    with pytest.raises(DataError, match="is never closed"):
        rendered(own, cut, reasoning=reasoning)
    assert ("unended", "") in rendered(own, cut).findings
    earlier = {"messages": [*cut["messages"], asked("2+2"), answer("4")]}
    last = rendered(own, earlier, "completion")
    assert "unended" not in [kind for kind, _ in last.findings]
    if reasoning == "mask":
        assert learned(own, rendered(own, earlier, "completion", reasoning="mask"))[-1] == f"4{END}"


def test_words_about_a_tag_are_no_block_for_a_template_that_reads_a_field(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    own = family_tokenizer(tokenizer, "qwen3_8")
    tokens = rendered(own, {"messages": [asked("How?"), answer("Write </think> at the end.")]})
    assert "Write </think> at the end." in learned(own, tokens)[0]
    block = rendered(own, {"messages": [asked("1+1"), answer("<think>one</think>2")]})
    assert block.answer == "<think>one</think>2"  # what is scored stays what the row says


@pytest.mark.parametrize(
    ("turn", "reasoning", "rest"),
    [
        (answer("A", thinking=" why "), "why", "A"),
        (answer("A", reasoning=""), "", "A"),
        (answer("\n<think> why </think>\nA</think>B"), "why", "A</think>B"),
        (answer("why\n</think>\n\nA"), "why", "A"),  # the prompt supplied the opening tag
        (answer("Write <think> and </think>."), "", "Write <think> and </think>."),
        (answer("Write </think>.", thinking="why"), "why", "Write </think>."),
        (answer("<think>so</think>A", thinking="why"), "why", "A"),
        (answer("<think>unclosed"), "", "<think>unclosed"),
    ],
)
def test_reasoning_is_a_field_or_a_block_in_front(
    turn: dict[str, Any], reasoning: str, rest: str
) -> None:
    assert reasoning_of(turn) == reasoning
    assert without_reasoning(turn) == answer(rest)


def test_a_user_may_write_of_think_blocks() -> None:
    turn = asked("<think>why</think>A")
    assert without_reasoning(turn) == turn


def test_the_setting_reaches_the_rows_and_their_digest(check: Check) -> None:
    rows = [{"messages": [asked(f"{n}"), answer(f"<think>why</think>It is {n}")]} for n in range(9)]
    kept, dropped, masked = (check(rows, reasoning=how) for how in ("keep", "drop", "mask"))
    assert len({one.digest for one in (kept, dropped, masked)}) == 3
    texts = ["".join(part["text"] for part in one.examples[0]["parts"]) for one in (kept, dropped)]
    assert "why" in texts[0]
    assert "why" not in texts[1]
    assert masked.target_tokens == dropped.target_tokens < kept.target_tokens
    assert masked.mean_length == kept.mean_length > dropped.mean_length


def test_a_setting_that_rows_cannot_follow_is_told(check: Check) -> None:
    texts = [{"text": f"Tom has {n} apples."} for n in range(9)]
    assert any(
        "data.reasoning: drop is not used" in n for n in check(texts, reasoning="drop").notes
    )

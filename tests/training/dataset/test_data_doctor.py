"""Problems that the data doctor finds: refused or warned of, with the row and a working hint."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from tests.training.dataset.conftest import Check, refusal
from workbench.training.dataset.prepared import load_prepared

PAIRS = [{"prompt": f"What is {n} + 1?", "completion": f"#### {n + 1}"} for n in range(10)]
ASKED, ANSWERED = ({"role": role, "content": "Hi."} for role in ("user", "assistant"))
NOTHING_MARKED = (
    "{%- for m in messages -%}{{- m['role'] + ': ' + m['content'] + '<|eot_id|>' -}}"
    "{%- if m['role'] == 'nobody' -%}{% generation %}x{% endgeneration %}{%- endif -%}"
    "{%- endfor -%}"
)
END_MASKED = (
    "{%- for m in messages -%}{{- m['role'] + ': ' -}}{%- if m['role'] == 'assistant' -%}"
    "{% generation %}{{- m['content'] -}}{% endgeneration %}{%- else -%}{{- m['content'] -}}"
    "{%- endif -%}{{- '<|eot_id|>' -}}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- 'assistant: ' -}}{%- endif -%}"
)
NEVER_CLOSED = (
    "{%- for m in messages -%}{{- m['role'] + ': ' -}}{%- if m['role'] == 'assistant' -%}"
    "{% generation %}{{- m['content'] -}}{% endgeneration %}{%- else -%}{{- m['content'] -}}"
    "{%- endif -%}{{- ' (done) ' -}}{%- endfor -%}"
)
UNMARKED = END_MASKED.replace("{% generation %}", "").replace("{% endgeneration %}", "")
TWO_BEGINS = "{{- bos_token + bos_token -}}" + UNMARKED


def chats(*turns: dict[str, str], count: int = 10) -> list[Any]:
    return [{"messages": [{**t, "content": f"{t['content']} {n}"} for t in turns], "id": n}
            for n in range(count)]  # fmt: skip


def test_a_template_that_marks_nothing_leaves_no_label_and_is_refused(check: Check) -> None:
    said = refusal(check, chats(ASKED, ANSWERED), NOTHING_MARKED)
    assert "train.jsonl:" in said
    assert "8 of 8 train rows have no token that carries loss" in said


def test_an_end_of_turn_that_the_template_masks_carries_loss_all_the_same(
    check: Check, tokenizer: PreTrainedTokenizerBase
) -> None:
    train, _ = load_prepared(check(chats(ASKED, ANSWERED), END_MASKED))
    end = tokenizer.convert_tokens_to_ids("<|eot_id|>")
    assert all(row["labels"][-1] == end for row in train)


def test_a_template_whose_turns_never_end_is_refused(check: Check) -> None:
    said = refusal(check, chats(ASKED, ANSWERED), NEVER_CLOSED)
    assert "would not learn to stop | use a chat template that closes each turn" in said


def test_answers_that_all_lose_their_end_by_the_cut_are_refused_with_a_length_that_works(
    check: Check,
) -> None:
    rows = [{"prompt": f"{n}?", "completion": "because " * 40 + str(n)} for n in range(10)]
    said = refusal(check, rows, max_tokens=64)
    assert "all 8 train rows lose the end of their answer when cut at 64 tokens" in said
    enough = int(said.split("raise data.max_tokens to ")[1].split(",")[0])
    assert check(rows, max_tokens=enough).cut_rows == 0
    long = [{"prompt": "why " * 40 + f"{n}?", "completion": "so"} for n in range(4)]
    said = refusal(check, rows + long, max_tokens=64, eval_rows=2)
    assert re.search(r"at 64 tokens, \d others all of it, so the model", said)


def test_rows_cut_so_that_the_answer_is_lost_are_refused_with_a_length_that_works(
    check: Check,
) -> None:
    rows = [{"prompt": "why " * 60 + str(n), "completion": "So."} for n in range(10)]
    said = refusal(check, rows, max_tokens=32)
    assert "8 of 8 train rows lose their whole answer when cut at 32 tokens" in said
    enough = int(said.split("raise data.max_tokens to ")[1].split(",")[0])
    assert check(rows, max_tokens=enough).dropped_rows == 0


def test_a_question_beyond_the_cut_is_reported_and_not_asked(check: Check) -> None:
    """Else scoring would read rows far longer than any that fit was promised for."""
    long = {"role": "user", "content": "why " * 200}
    prepared = check(chats(ASKED, ANSWERED, long, ANSWERED), max_tokens=64)
    held = load_prepared(prepared)[1]
    assert [row["prompt_ids"] for row in held] == [[], []]
    assert prepared.eval_max_length == 64
    beyond = "2 eval rows whose last answer begins beyond the cut, so it is not asked (first: "
    assert any(note.startswith(beyond) for note in prepared.notes)


def test_another_familys_end_marker_in_the_text_is_reported_with_its_hint(check: Check) -> None:
    rows = [{"text": f"<s>[INST] {n}? [/INST] {n}! </s>"} for n in range(10)]
    note, of_eval = (note for note in check(rows).notes if "</s>" in note)
    assert of_eval.startswith("2 eval rows with </s>")
    assert note.startswith("8 train rows with </s>, another model family's end marker")
    assert "(first: train.jsonl:" in note
    assert "take it out of the rows: this model's own end is <|eot_id|>" in note


def test_the_models_own_end_is_the_one_that_closes_the_rows(
    check: Check, tokenizer: PreTrainedTokenizerBase
) -> None:
    """A base's end of text can be another token than the end of a turn."""
    tokenizer.eos_token = "<|end_of_text|>"
    rows = chats(ASKED, {"role": "assistant", "content": "So.</s>"})
    [note, *_] = [note for note in check(rows).notes if "</s>" in note]
    assert "this model's own end is <|eot_id|>, put there" in note


def test_the_models_own_end_marker_in_the_text_is_fine(check: Check) -> None:
    rows = [{"text": f"{n}? {n}!<|eot_id|>"} for n in range(10)]
    assert not [note for note in check(rows).notes if "marker" in note]


def test_a_template_without_marks_is_reported_where_loss_is_on_the_assistant(check: Check) -> None:
    notes = check(chats(ASKED, ANSWERED), UNMARKED, loss_on="assistant").notes
    assert any("the chat template has no generation marks" in note for note in notes)


def test_a_template_with_two_begin_tokens_is_reported(check: Check) -> None:
    notes = check(chats(ASKED, ANSWERED), TWO_BEGINS).notes
    assert any("8 train rows with a second begin token (first: " in note for note in notes)


def test_a_begin_token_in_the_text_is_not_doubled(
    check: Check, tokenizer: PreTrainedTokenizerBase
) -> None:
    prepared = check([{"text": f"<|begin_of_text|>{n} apples"} for n in range(10)])
    assert not [note for note in prepared.notes if "begin" in note]
    assert load_prepared(prepared)[0][0]["input_ids"].count(tokenizer.bos_token_id) == 1


@pytest.mark.parametrize(
    "turns",
    [
        (ANSWERED,),
        (ASKED, ASKED, ANSWERED),
        (ASKED, ANSWERED, ANSWERED),
        (ASKED, {"role": "system", "content": "s"}, ANSWERED),
    ],
)
def test_turns_out_of_order_are_reported(check: Check, turns: tuple[dict[str, str], ...]) -> None:
    notes = check(chats(*turns)).notes
    assert any("8 train rows whose turns are out of order (first: " in note for note in notes)


def test_turns_in_order_are_not_reported(check: Check) -> None:
    system = {"role": "system", "content": "s"}
    notes = check(chats(system, ASKED, ANSWERED, ASKED, ANSWERED)).notes
    assert not [note for note in notes if "order" in note]


def test_duplicates_and_held_out_rows_that_are_trained_on_are_reported(
    check: Check, write_rows: Callable[..., Path]
) -> None:
    held = write_rows([PAIRS[2], PAIRS[2], {"prompt": "?", "completion": "!"}], "eval.jsonl")
    prepared = check([*PAIRS, PAIRS[4], PAIRS[5]], eval=str(held), eval_rows=9)
    repeated = "2 train rows repeating earlier ones (first: train.jsonl:11); each counts again"
    shared = "1 held-out row standing in the training rows, too (first: eval.jsonl:1); take them"
    scored = "1 eval row repeating earlier ones (first: eval.jsonl:2); each counts again in every s"
    for said in (repeated, scored, shared):
        assert any(note.startswith(said) for note in prepared.notes), said


def test_empty_answers_are_left_out_and_empty_prompts_reported(check: Check) -> None:
    rows = [*PAIRS, {"prompt": "q", "completion": ""}, {"prompt": "", "completion": "a"}]
    prepared = check(rows, eval=None, eval_rows=1)
    assert prepared.dropped_rows == 1
    left_out = "left out, because no token of theirs carries loss (first: train.jsonl:11); give"
    assert any(note.startswith(f"1 train row {left_out}") for note in prepared.notes)
    assert any("train row whose prompt is empty (first: train" in note for note in prepared.notes)


def test_turns_in_plain_text_are_reported_and_ended_once(
    check: Check, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Rows that were rendered before, as notebooks do; the template ends in a line break."""
    turn = "<|start_header_id|>{}<|end_header_id|>\n\n{}<|eot_id|>\n"
    rows = [
        {"text": turn.format("user", f"Say {n}") + turn.format("assistant", n)} for n in range(10)
    ]
    prepared = check(rows)
    [note] = [note for note in prepared.notes if " train " in note]
    assert note.startswith("8 train rows with turns of a chat in plain text (<|start_header_id|>")
    assert "give such rows as messages" in note
    ends = [row.count(tokenizer.eos_token_id) for row in load_prepared(prepared)[0]["input_ids"]]
    assert ends == [2] * 8
    as_pairs = [{"prompt": f"Say {n}", "completion": f"{n}"} for n in range(10)]
    assert not check(as_pairs).notes


def test_every_note_names_its_hint(check: Check, write_rows: Callable[..., Path]) -> None:
    long = {"prompt": "why " * 200, "completion": "So."}
    rows = [*PAIRS * 3, *[{**long, "completion": "because " * n} for n in (1, 200)], long]
    held = write_rows(PAIRS[:3], "eval.jsonl")
    empty = [{"prompt": "", "completion": "a"}, {"prompt": "q", "completion": ""}]
    notes = check([*rows, *empty], eval=str(held), max_tokens=64).notes
    assert len(notes) >= 6
    assert all("(first: " in note and "); " in note for note in notes), notes


def test_a_begin_token_inside_a_row_is_reported_and_encoded_as_text(
    check: Check, tokenizer: PreTrainedTokenizerBase
) -> None:
    rows = [
        {"prompt": f"<|begin_of_text|>What is {n}?", "completion": "A number."} for n in range(9)
    ]
    prepared = check(rows)
    told = "rows whose text holds the control token <|begin_of_text|>"
    assert any(told in note for note in prepared.notes)
    ids = load_prepared(prepared)[0][0]["input_ids"]
    assert ids.count(tokenizer.bos_token_id) == 1


def test_a_begin_token_inside_a_pair_without_a_template_is_reported(check: Check) -> None:
    rows = [
        {"prompt": f"What is <|begin_of_text|>{n}?", "completion": "A number."} for n in range(9)
    ]
    notes = check(rows, chat_template="never").notes
    assert any("rows with a second begin token (first: " in note for note in notes)


@pytest.mark.parametrize(
    "row",
    [
        {"text": " \n"},
        {"messages": [ASKED, {"role": "assistant", "content": " "}, ASKED, ANSWERED]},
    ],
    ids=["text", "chat"],
)
def test_blanks_where_text_is_learned_are_reported(check: Check, row: dict[str, Any]) -> None:
    plain = [{"text": f"{n} apples"} for n in range(9)]
    rows = [*(plain if "text" in row else chats(ASKED, ANSWERED)), row]
    expected = "row with nothing but blanks where text is learned (first: train.jsonl:1"
    notes = check(rows, eval_rows=1).notes
    assert any(expected in note for note in notes), notes


def test_rows_that_are_all_alike_leave_nothing_to_train_on(check: Check) -> None:
    for count in (1, 50):
        said = refusal(check, [PAIRS[0]] * count, eval_rows=1)
        assert "one and the same" in said
        assert "| add rows that differ, or give data.eval a file" in said


def test_columns_under_their_own_names_are_not_offered_to_be_renamed(
    check: Check, write_rows: Callable[..., Path]
) -> None:
    held = write_rows(chats(ASKED, ANSWERED), "eval.jsonl")
    said = refusal(check, PAIRS, eval=str(held))
    assert "data.columns: {}" not in said


@pytest.mark.parametrize("given", [0, False, []], ids=str)
def test_an_input_that_is_no_text_is_refused_however_empty(check: Check, given: object) -> None:
    rows = [{"instruction": "Add.", "input": "1 + 1", "output": "2"}] * 3
    said = refusal(check, [*rows, {**rows[0], "input": given}])
    assert said.startswith("train.jsonl:4: input holds")


@pytest.mark.parametrize("part", [{"type": "text", "text": 5}, {"type": "text"}], ids=str)
def test_a_part_of_a_turn_that_holds_no_text_is_refused(check: Check, part: dict[str, Any]) -> None:
    rows = [{"messages": [{"role": "user", "content": [part]}, ANSWERED]}]
    assert "train.jsonl:1: turn 1 of messages holds" in refusal(check, rows)


def test_a_column_missing_in_three_rows_of_ten_thousand_is_reported_with_all_three(
    check: Check, write_rows: Callable[..., Path]
) -> None:
    rows: list[Any] = [{"text": "a"}] * 10_000
    for line in (17, 533, 9_001):
        rows[line - 1] = {"txt": "a"}
    said = refusal(check, rows)
    assert said.startswith("train.jsonl:17: has no column text (it has txt); 2 more of 10000 rows")
    assert "(train.jsonl:533, train.jsonl:9001) | did you mean txt?" in said


def test_numbers_where_text_should_be_are_refused_with_their_lines(check: Check) -> None:
    rows = [*PAIRS, {"prompt": "q", "completion": 4}, {"prompt": 3, "completion": "a"}]
    said = refusal(check, rows)
    assert said.startswith("train.jsonl:11: completion holds a number, not text; 1 more of 12 rows")
    assert '"4" for 4' in said


def test_rows_that_max_rows_leaves_unused_need_not_be_right(check: Check) -> None:
    assert check([*PAIRS, {"prompt": 3, "completion": "a"}], max_rows=3).train_rows == 3


@pytest.mark.parametrize("name", ["train.jsonl", "train.json"])
def test_an_array_where_lines_were_expected_is_read(
    check: Check, tmp_path: Path, name: str
) -> None:
    (tmp_path / name).write_text(json.dumps(PAIRS))
    assert check(tmp_path / name).read_rows == 10


def test_line_ends_and_byte_order_mark_of_windows_change_no_token(
    check: Check, tmp_path: Path
) -> None:
    unix = "".join(json.dumps(row) + "\n" for row in PAIRS)
    for name, text in (("unix.jsonl", unix), ("dos.jsonl", unix.replace("\n", "\r\n"))):
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" * (name[0] == "d") + text.encode())
    prepared = [check(tmp_path / name) for name in ("unix.jsonl", "dos.jsonl")]
    one, two = (load_prepared(each)[0]["input_ids"] for each in prepared)
    assert list(one) == list(two)


def test_bytes_that_are_not_utf_8_are_refused_with_their_line(check: Check, tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_bytes(b'{"text": "a"}\n{"text": "caf\xe9"}\n')
    assert "t.jsonl:2: byte 14 of the line is not UTF-8 | save" in refusal(
        check, tmp_path / "t.jsonl"
    )


def test_examples_show_exactly_what_carries_loss(
    check: Check, tokenizer: PreTrainedTokenizerBase
) -> None:
    prepared = check(PAIRS)
    train, _ = load_prepared(prepared)
    assert len(prepared.examples) == 3
    for row, example in zip(train, prepared.examples, strict=False):
        learned = tokenizer.decode([id for id in row["labels"] if id != -100])
        parts = example["parts"]
        assert [part["text"] for part in parts if part["loss"]] == [learned]
        assert sum(part["tokens"] for part in parts) == example["tokens"] == row["length"]


def test_examples_stay_small_and_harmless_whatever_the_rows_hold(check: Check) -> None:
    turns = [role for _ in range(60) for role in (ASKED, ANSWERED)]
    hostile = {"role": "user", "content": "\x1b]0;evil\x07 \x9b31m" + "word " * 5_000}
    prepared = check(chats(hostile, ANSWERED, *turns), max_tokens=1 << 16)
    text = json.dumps(prepared.examples)
    assert len(text) < 20_000
    assert "evil" not in text
    assert "\\u001b" not in text

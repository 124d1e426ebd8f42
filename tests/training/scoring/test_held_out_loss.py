"""The held-out loss equals that of a plain forward; answers are compared by their pattern."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch
from datasets import Dataset

from tests.training.trials import spec
from workbench.fleet import Halt
from workbench.training import libraries
from workbench.training.control import Control, Interrupted
from workbench.training.model.base import ResidentBase
from workbench.training.scoring.answers import end_ids, generate_answers
from workbench.training.scoring.held_out_loss import in_batches, score_rows
from workbench.training.scoring.scorers.extraction import extract_answer

PATTERN = r"####\s*(\S+)"


@pytest.fixture(scope="module")
def base() -> Iterator[Any]:
    libraries.import_libraries(threads=1)
    with ResidentBase().acquire(spec()) as model:
        yield model


def rows(*lengths: int) -> Dataset:
    made = []
    for n, length in enumerate(lengths):
        ids = [(7 * n + 3 * k) % 400 for k in range(length)]
        made.append({"input_ids": ids, "labels": [-100, -100, *ids[2:]], "length": length})
    return Dataset.from_list(made)


def test_loss_is_nats_per_target_token_over_all_rows(base: Any) -> None:
    data = rows(5, 17, 9)
    nats = targets = right = 0.0
    for row in data:
        ids, labels = torch.tensor([row["input_ids"]]), torch.tensor(row["labels"])[1:]
        with torch.no_grad():
            logits = base(input_ids=ids).logits[0, :-1]
        mask = labels != -100
        nats += float(
            torch.nn.functional.cross_entropy(logits[mask], labels[mask], reduction="sum")
        )
        right += int((logits.argmax(-1) == labels)[mask].sum())
        targets += int(mask.sum())
    losses = score_rows(base, data, pad_id=0, batch_size=2, precision="fp32", control=Control())
    scores = losses.values()
    assert scores["loss"] == pytest.approx(nats / targets, rel=1e-5)
    assert scores["token_accuracy"] == pytest.approx(right / targets)
    assert scores["targets"] == targets


def test_the_batch_size_changes_nothing(base: Any) -> None:
    data = rows(5, 17, 9, 30)
    how: dict[str, Any] = {"pad_id": 0, "precision": "fp32", "control": Control()}
    one = score_rows(base, data, batch_size=1, **how)
    all_ = score_rows(base, data, batch_size=16, **how)
    assert one.values() == pytest.approx(all_.values(), rel=1e-5)


def test_a_batch_that_does_not_fit_is_halved_and_nothing_lost() -> None:
    seen: list[list[int]] = []

    def work(batch: list[int]) -> None:
        if len(batch) > 2:
            raise torch.OutOfMemoryError
        seen.append(batch)

    in_batches(range(7), 6, Control(), work)
    assert sorted(row for batch in seen for row in batch) == list(range(7))


def test_one_row_is_tried_once_more_on_an_emptied_card() -> None:
    tries: list[list[int]] = []

    def work(batch: list[int], fails: int) -> None:
        tries.append(batch)
        if len(tries) <= fails:
            raise torch.OutOfMemoryError

    in_batches([0], 1, Control(), partial(work, fails=1))
    assert tries == [[0], [0]]
    tries.clear()
    with pytest.raises(torch.OutOfMemoryError):
        in_batches([0], 1, Control(), partial(work, fails=2))
    assert tries == [[0], [0]]


def test_a_request_to_yield_ends_an_evaluation_between_batches(base: Any) -> None:
    control = Control()
    control.request_halt(Halt.YIELD)
    with pytest.raises(Interrupted):
        score_rows(base, rows(5), pad_id=0, batch_size=1, precision="fp32", control=control)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("#### 1\nno: #### 1,234 ", "1234"),
        ("####12", "12"),
        ("#### a,b", "a,b"),
        ("nothing", None),
    ],
)
def test_the_last_match_is_the_answer(text: str, answer: str | None) -> None:
    assert extract_answer(PATTERN, text) == answer


def test_a_pattern_without_a_group_compares_the_whole_match() -> None:
    assert extract_answer(r"\d+", "1 then 22") == "22"


def test_answers_do_not_depend_on_padding(base: Any, tokenizer: Any) -> None:
    asked = ["Sum: 3 + 4", "Tom has 5 apples. He buys 2 more."]
    chats = [[{"role": "user", "content": text}] for text in asked]
    prompts = [
        tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True)[
            "input_ids"
        ]
        for chat in chats
    ]
    data = Dataset.from_list([{"prompt_ids": ids, "answer": "#### 7"} for ids in prompts])
    how: dict[str, Any] = {
        "pattern": PATTERN,
        "max_new_tokens": 12,
        "precision": "fp32",
        "control": Control(),
    }
    apart = generate_answers(base, data, tokenizer, batch_size=1, **how)
    together = generate_answers(base, data, tokenizer, batch_size=2, **how)
    assert apart == together
    assert [answer.row for answer in together] == [0, 1]


def test_every_token_that_ends_a_turn_ends_an_answer(base: Any, tokenizer: Any) -> None:
    known = tokenizer.get_added_vocab()
    assert {known["<|eot_id|>"], known["<|end_of_text|>"]} <= set(end_ids(base, tokenizer))

"""Rows made ready: what is held out, cut, left out, refused, and kept in the cache."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from workbench.errors import DataError
from workbench.recipe import Recipe
from workbench.training.dataset.prepared import Prepared, load_prepared, prepare_data

DEMO = "workbench:demo/data/eval.jsonl"
PAIRS = [{"prompt": f"What is {n} + 1?", "completion": f"#### {n + 1}"} for n in range(10)]

RecipeOf = Callable[..., Recipe]
WriteRows = Callable[..., Path]
Prepare = Callable[[Recipe], Prepared]


@pytest.fixture
def prepare(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> Prepare:
    def run(recipe: Recipe) -> Prepared:
        return prepare_data(recipe, tokenizer, tmp_path / "cache", lambda *_: None)

    return run


def texts(tokenizer: PreTrainedTokenizerBase, dataset: Any) -> list[str]:
    return [tokenizer.decode(row["input_ids"], skip_special_tokens=True) for row in dataset]


def test_train_and_eval_rows_come_back_as_tokens(
    prepare: Prepare,
    recipe_of: RecipeOf,
    write_rows: WriteRows,
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    prepared = prepare(recipe_of(write_rows(PAIRS)))
    train, held = load_prepared(prepared)
    assert (len(train), len(held)) == (prepared.train_rows, prepared.eval_rows) == (8, 2)
    assert train.column_names == ["input_ids", "labels", "length"]
    row = held[0]
    learned = [id for id in row["labels"] if id != -100]
    assert tokenizer.decode(learned) == row["answer"] + "<|eot_id|>"
    assert row["input_ids"] == row["prompt_ids"] + learned
    assert row["question"].startswith("What is")
    assert row["length"] == len(row["input_ids"])
    assert prepared.target_tokens == sum(id != -100 for labels in train["labels"] for id in labels)


def test_trls_collator_takes_the_labels_as_they_stand(
    prepare: Prepare,
    recipe_of: RecipeOf,
    write_rows: WriteRows,
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    train, _ = load_prepared(prepare(recipe_of(write_rows([*PAIRS, {**PAIRS[0], "prompt": "?"}]))))
    rows = [train[n] for n in range(len(train))]
    batch = DataCollatorForLanguageModeling(pad_token_id=tokenizer.pad_token_id)(rows)
    for n, row in enumerate(rows):
        assert batch["labels"][n].tolist()[: row["length"]] == row["labels"]
        assert set(batch["labels"][n].tolist()[row["length"] :]) <= {-100}
        assert batch["attention_mask"][n].sum().item() == row["length"]


def test_the_split_does_not_depend_on_order_and_keeps_copies_together(
    prepare: Prepare,
    recipe_of: RecipeOf,
    write_rows: WriteRows,
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    one = prepare(recipe_of(write_rows(PAIRS)))
    two = prepare(recipe_of(write_rows(PAIRS[::-1] + PAIRS, "twice.jsonl")))
    held_one, held_two = (load_prepared(prepared)[1] for prepared in (one, two))
    assert set(held_one["question"]) == set(held_two["question"])
    assert two.eval_rows == 2
    assert not set(texts(tokenizer, load_prepared(two)[0])) & set(texts(tokenizer, held_two))
    repeated = "2 train rows left out, because they repeat held-out ones (first: twice.jsonl:"
    assert any(note.startswith(repeated) for note in two.notes)
    assert any("8 train rows repeating earlier ones" in note for note in two.notes)


def test_trials_of_a_data_size_sweep_share_their_held_out_rows(
    prepare: Prepare, recipe_of: RecipeOf, write_rows: WriteRows
) -> None:
    path = write_rows(PAIRS)
    few, all_rows = prepare(recipe_of(path, max_rows=3)), prepare(recipe_of(path))
    assert (few.train_rows, all_rows.train_rows) == (3, 8)
    assert few.eval_digest == all_rows.eval_digest
    assert few.digest != all_rows.digest


def test_held_out_rows_that_are_trained_on_are_noted(
    prepare: Prepare, recipe_of: RecipeOf, write_rows: WriteRows
) -> None:
    held = write_rows([PAIRS[3], {"prompt": "New?", "completion": "Yes."}], "eval.jsonl")
    prepared = prepare(recipe_of(write_rows(PAIRS), eval=str(held)))
    assert (prepared.train_rows, prepared.eval_rows) == (10, 2)
    [note] = prepared.notes
    assert note.startswith(
        "1 held-out row standing in the training rows, too (first: eval.jsonl:1); take them out"
    )


def test_long_rows_are_cut_and_those_without_an_answer_left_are_left_out(
    prepare: Prepare, recipe_of: RecipeOf, write_rows: WriteRows
) -> None:
    long_answer = {"prompt": "Why?", "completion": "because " * 200}
    long_prompt = {"prompt": "why " * 200, "completion": "So."}
    held = write_rows(PAIRS[:2], "eval.jsonl")
    path = write_rows([*PAIRS[2:], long_answer, long_prompt])
    prepared = prepare(recipe_of(path, eval=str(held), max_tokens=64))
    assert (prepared.train_rows, prepared.max_length) == (9, 64)
    assert prepared.length_sample == sorted(prepared.length_sample)
    assert len(prepared.length_sample) == 64
    assert prepared.length_sample[0] == prepared.min_length
    assert prepared.length_sample[-1] == 64
    mean = sum(prepared.length_sample) / 64
    assert mean == pytest.approx(prepared.mean_length, rel=0.1)
    assert (prepared.cut_rows, prepared.dropped_rows) == (2, 1)
    all_whole = "data.max_tokens: 1024 would leave all of them whole"
    raised = "raise data.max_tokens to 1024, or shorten the rows"
    assert prepared.notes == [
        f"2 train rows longer than 64 tokens and cut (first: train.jsonl:9); {all_whole}",
        "1 train row left out, because cutting took their whole answer (first: train.jsonl:10); "
        + raised,
        f"1 train row whose answer's end was cut off (first: train.jsonl:9); {raised}",
    ]
    assert prepared.uncut_max_length > 600


@pytest.mark.parametrize(
    ("rows", "settings", "complaint"),
    [
        ([], {}, r"^train\.jsonl holds no training rows"),
        (PAIRS[:2], {}, "leave none to train on"),
        (PAIRS, {"eval_split": "test"}, "is no hub data set and has no splits"),
        (PAIRS, {"eval": DEMO, "eval_split": "test"}, "eval.jsonl is no hub data set and has"),
        (PAIRS, {"test": DEMO, "test_split": "test"}, "eval.jsonl is no hub data set and has"),
        (PAIRS, {"split": "train[:10%]"}, "data.split: train.jsonl is no hub data set"),
        (PAIRS, {"config": "main"}, "data.config: train.jsonl is no hub data set"),
        ([{**row, "completion": ""} for row in PAIRS], {}, "8 of 8 train rows have no token"),
        (PAIRS, {"max_tokens": 8}, "8 of 8 train rows lose their whole answer"),
        ([{"text": f"t {n}"} for n in range(9)], {"loss_on": "completion"}, "has no such part"),
        ([{"text": "", "id": n} for n in range(9)], {}, "7 of 7 train rows have no token"),
        (
            [{"messages": [{"role": "user", "content": str(n)}]} for n in range(9)],
            {},
            "7 of 7 train rows have no token that carries loss",
        ),
        (
            [{"messages": [{"role": "user", "content": str(n)}]} for n in range(9)],
            {"chat_template": "never"},
            "chats need a chat template",
        ),
    ],
)
def test_rows_that_cannot_be_learned_from_are_refused_with_a_hint(
    prepare: Prepare,
    recipe_of: RecipeOf,
    write_rows: WriteRows,
    rows: list[Any],
    settings: dict[str, Any],
    complaint: str,
) -> None:
    with pytest.raises(DataError, match=complaint) as refused:
        prepare(recipe_of(write_rows(rows), **settings))
    assert refused.value.hint


def test_a_base_model_gets_pairs_as_they_stand(
    prepare: Prepare,
    recipe_of: RecipeOf,
    write_rows: WriteRows,
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    tokenizer.chat_template = None
    _, held = load_prepared(prepare(recipe_of(write_rows(PAIRS))))
    row = held[0]
    shown = tokenizer.decode(row["input_ids"])
    assert shown == f"<|begin_of_text|>{row['question']}{row['answer']}<|eot_id|>"


def test_a_second_preparation_reads_nothing(
    prepare: Prepare, recipe_of: RecipeOf, write_rows: WriteRows
) -> None:
    path = write_rows(PAIRS)
    first = prepare(recipe_of(path))
    about = path.stat()
    path.write_bytes(b"x" * about.st_size)  # unseen, because size, time and inode are as they were
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))
    assert prepare(recipe_of(path)) == first


def test_changed_rows_settings_or_tokenizers_are_prepared_again(
    prepare: Prepare,
    recipe_of: RecipeOf,
    write_rows: WriteRows,
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    path = write_rows(PAIRS)
    digests = [prepare(recipe_of(path)).digest, prepare(recipe_of(path, max_tokens=100)).digest]
    write_rows(PAIRS[1:])
    digests.append(prepare(recipe_of(path)).digest)
    tokenizer.chat_template = str(tokenizer.chat_template).replace("\\n\\n", "\\n")
    digests.append(prepare(recipe_of(path)).digest)
    assert len(set(digests)) == 4


def test_a_renamed_file_is_read_by_its_ending_and_named_by_its_name(
    prepare: Prepare, recipe_of: RecipeOf, write_rows: WriteRows
) -> None:
    path = write_rows(PAIRS, "rows.txt")
    assert prepare(recipe_of(path)).shape == "text"
    renamed = path.rename(path.with_suffix(".jsonl"))
    prepared = prepare(recipe_of(renamed))
    assert prepared.shape != "text"
    assert prepared.examples[0]["place"].startswith("rows.jsonl:")


def test_settings_that_change_no_row_share_the_cache(
    prepare: Prepare, recipe_of: RecipeOf, write_rows: WriteRows
) -> None:
    path = write_rows(PAIRS)
    one, two = prepare(recipe_of(path)), prepare(recipe_of(path, group_by_length=True))
    assert one == two


def test_padding_in_between_does_not_change_the_digest(
    prepare: Prepare,
    recipe_of: RecipeOf,
    write_rows: WriteRows,
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    recipe = recipe_of(write_rows(PAIRS))
    first = prepare(recipe)
    tokenizer(["a", "a b c"], padding=True, truncation=True, max_length=8)
    assert prepare(recipe).digest == first.digest


def test_two_preparations_at_once_leave_one_whole_result(
    prepare: Prepare, recipe_of: RecipeOf, write_rows: WriteRows, tmp_path: Path
) -> None:
    recipe = recipe_of(write_rows(PAIRS))
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(prepare, [recipe] * 4))
    assert made == [made[0]] * 4
    kept = {path.name for path in (tmp_path / "cache").iterdir()}
    assert kept == {made[0].digest, "sources"}
    assert {path.name for path in made[0].folder.iterdir()} == {
        "train.arrow",
        "eval.arrow",
        "about.json",
    }
    assert json.loads((made[0].folder / "about.json").read_text())["train_rows"] == 8


def test_a_refused_preparation_leaves_nothing_behind(
    prepare: Prepare, recipe_of: RecipeOf, write_rows: WriteRows, tmp_path: Path
) -> None:
    with pytest.raises(DataError):
        prepare(recipe_of(write_rows([*PAIRS, {"prompt": "q"}])))
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["sources"]

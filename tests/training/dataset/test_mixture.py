"""Several sources of training rows: how often each row is there, and what is held out."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from workbench.errors import DataError
from workbench.recipe import Recipe
from workbench.recipe.schema import MixedSource
from workbench.training.dataset.mixture import row_counts
from workbench.training.dataset.prepared import (
    Prepared,
    check_unchanged,
    load_prepared,
    prepare_data,
)

SUMS = [{"question": f"{n} + 1", "answer": f"{n + 1}", "id": n} for n in range(10)]
CHATS = [
    {
        "messages": [
            {"role": "user", "content": f"Say {n}"},
            {"role": "assistant", "content": f"{n}"},
        ]
    }
    for n in range(20)
]
TEXTS = [{"text": f"Once upon a time there were {n} stars."} for n in range(8)]
COLUMNS = {"question": "prompt", "answer": "completion"}

Mix = Callable[..., Prepared]


@pytest.fixture
def mix(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> Mix:
    """mix(sources, **data): prepared rows of sources, each (rows, settings)."""

    def run(*sources: tuple[list[Any], dict[str, Any]], **data: Any) -> Prepared:
        train = []
        for number, (rows, settings) in enumerate(sources):
            path = tmp_path / f"s{number}.jsonl"
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
            train.append({"path": str(path), **settings})
        recipe = recipe_with(train, **data)
        return prepare_data(recipe, tokenizer, tmp_path / "c", lambda *_: None)

    return run


def recipe_with(train: object, **data: Any) -> Recipe:
    data = {"eval_rows": 2, "max_tokens": 256, **data, "train": train}
    return Recipe.model_validate(
        {"name": "test", "model": {"name": "workbench:demo/model"}, "data": data}
    )


def texts(prepared: Prepared, tokenizer: PreTrainedTokenizerBase, part: int = 0) -> Counter[str]:
    rows = load_prepared(prepared)[part]["input_ids"]
    return Counter(tokenizer.decode(ids) for ids in rows)


def test_every_source_has_its_own_shape_columns_and_number_of_rows(
    mix: Mix, tokenizer: PreTrainedTokenizerBase
) -> None:
    prepared = mix(
        (SUMS, {"columns": COLUMNS, "weight": 2}),
        (CHATS, {"weight": 0.5}),
        (TEXTS, {"rows": 20, "shape": "text"}),
        eval_rows=4,
    )
    first, second, third = prepared.mixture
    assert (prepared.read_rows, prepared.eval_rows) == (38, 4)
    assert [one["read_rows"] for one in prepared.mixture] == [10, 20, 8]
    assert prepared.shape == "prompt-completion and messages and text"
    assert first["train_rows"] == 2 * first["distinct_rows"]
    assert third["train_rows"] == 20
    assert third["distinct_rows"] <= 8
    assert prepared.train_rows == sum(one["train_rows"] for one in prepared.mixture)
    assert prepared.target_tokens == sum(one["target_tokens"] for one in prepared.mixture)
    trained = texts(prepared, tokenizer)
    assert sum(trained.values()) == prepared.train_rows
    assert {times for text, times in trained.items() if "+ 1" in text} == {2}
    assert {times for text, times in trained.items() if "Say" in text} == {1}
    assert second["distinct_rows"] in (8, 9, 10)
    assert not trained.keys() & texts(prepared, tokenizer, 1).keys()


@pytest.mark.parametrize(
    ("weight", "rows", "counts"),
    [
        (1.0, None, {1: 8}),
        (None, None, {1: 8}),
        (1.25, None, {1: 6, 2: 2}),
        (0.25, None, {0: 6, 1: 2}),
        (3.0, None, {3: 8}),
        (None, 4, {0: 4, 1: 4}),
        (None, 20, {2: 4, 3: 4}),
    ],
)
def test_a_weight_or_a_number_of_rows_says_how_often_an_epoch_has_a_row(
    weight: float | None, rows: int | None, counts: dict[int, int]
) -> None:
    source = MixedSource(path="/r.jsonl", weight=weight, rows=rows)
    assert Counter(row_counts(source, 8)) == counts


def test_drawn_rows_stand_anywhere_in_a_source() -> None:
    source = MixedSource(path="/r.jsonl", rows=1_000)
    drawn = [number for number, times in enumerate(row_counts(source, 100_000)) if times]
    assert len(drawn) == 1_000
    tenths = Counter(number // 10_000 for number in drawn)
    assert len(tenths) == 10
    assert min(tenths.values()) > 60


def test_a_weight_that_takes_no_row_is_refused(mix: Mix) -> None:
    with pytest.raises(
        DataError, match=r"s0\.jsonl: weight 0\.01 of \d+ rows is no row"
    ) as refused:
        mix((CHATS, {"weight": 0.01}))
    assert "raise the weight" in refused.value.hint


def test_a_held_out_row_leaves_every_source_whatever_its_shape_and_columns(
    mix: Mix, tokenizer: PreTrainedTokenizerBase
) -> None:
    chats = [
        {
            "source": "other",
            "conversations": [
                {"from": "human", "value": row["question"]},
                {"from": "gpt", "value": row["answer"]},
            ],
        }
        for row in SUMS
    ]
    prepared = mix((SUMS, {"columns": COLUMNS}), (chats, {"weight": 3}), eval_rows=3)
    trained, held = texts(prepared, tokenizer), texts(prepared, tokenizer, 1)
    assert len(held) == 3
    assert not held.keys() & trained.keys()
    assert set(trained.values()) == {4}
    assert [one["train_rows"] for one in prepared.mixture] == [7, 21]
    assert any("3 train rows left out, because they repeat held-out" in n for n in prepared.notes)


def test_a_held_out_row_leaves_sources_with_another_system_message_of_the_recipe(
    mix: Mix, tokenizer: PreTrainedTokenizerBase
) -> None:
    prepared = mix((CHATS, {"system": "Be brief."}), (CHATS, {"system": "Be kind."}), eval_rows=3)
    [trained, held] = (
        {text.partition("user")[2] for text in texts(prepared, tokenizer, part)} for part in (0, 1)
    )
    assert (len(trained), len(held)) == (17, 3)
    assert not held & trained


def test_a_source_without_a_row_that_is_trained_on_is_reported(mix: Mix) -> None:
    prepared = mix((CHATS[:2], {}), (CHATS[2:5], {}), eval_rows=4)  # one row is left
    empty = next(n for n, one in enumerate(prepared.mixture) if not one["train_rows"])
    [note] = [note for note in prepared.notes if "is trained on" in note]
    assert note.startswith(f"none of the {empty + 2} rows of s{empty}.jsonl is trained on")


def test_rows_of_two_kinds_in_one_file_are_refused_with_a_hint_that_works(mix: Mix) -> None:
    pairs = [{"prompt": one["question"], "completion": one["answer"]} for one in SUMS]
    with pytest.raises(DataError) as refused:
        mix(([*pairs, *CHATS], {}))
    assert refused.value.what.startswith("s0.jsonl:11: has no column prompt (it has messages)")
    assert refused.value.hint.endswith("of their own, and list both files in data.train")
    assert mix((pairs, {}), (CHATS, {})).train_rows == 28


def test_a_number_of_rows_is_exact_beside_rows_that_are_held_out(mix: Mix) -> None:
    [chats] = mix((CHATS, {"rows": 30}), eval_rows=5).mixture
    assert (chats["read_rows"], chats["distinct_rows"], chats["train_rows"]) == (20, 15, 30)


def test_held_out_rows_do_not_depend_on_weights_or_the_order_of_sources(
    mix: Mix, tokenizer: PreTrainedTokenizerBase
) -> None:
    sums, chats = (SUMS, {"columns": COLUMNS}), (CHATS, {"weight": 2})
    one = texts(mix(sums, chats, eval_rows=5), tokenizer, 1)
    assert texts(mix((CHATS, {"rows": 3}), sums, eval_rows=5), tokenizer, 1) == one


def test_the_same_rows_are_drawn_each_time_and_other_weights_are_other_rows(mix: Mix) -> None:
    chats = (CHATS, {"weight": 0.5})
    first = mix(chats)
    again = mix(chats, max_tokens=255)  # another digest, and so prepared again
    other = mix((CHATS, {"weight": 0.6}))
    one, two, three = (load_prepared(p)[0]["input_ids"][:] for p in (first, again, other))
    assert one == two
    assert first.digest != other.digest
    assert len(three) > len(one)


def test_copies_that_a_weight_makes_are_no_repeated_rows(mix: Mix) -> None:
    assert not any("repeating" in note for note in mix((CHATS, {"weight": 3})).notes)


def test_held_out_rows_of_a_file_may_have_a_shape_of_their_own(mix: Mix, tmp_path: Path) -> None:
    held = tmp_path / "held.jsonl"
    held.write_text(json.dumps({"prompt": "Say 100", "completion": "100"}) + "\n")
    prepared = mix((CHATS, {}), (TEXTS, {"weight": 2}), eval=str(held))
    assert (prepared.eval_rows, prepared.train_rows) == (1, 36)


def test_a_row_that_is_refused_is_named_with_its_file(mix: Mix) -> None:
    with pytest.raises(DataError, match=r"s1\.jsonl:9: messages holds no turns"):
        mix((SUMS, {"columns": COLUMNS}), ([*CHATS[:8], {"messages": []}], {}))


def test_a_changed_source_is_named(mix: Mix, tmp_path: Path) -> None:
    prepared = mix((CHATS, {}), (TEXTS, {}))
    sources = [{"path": str(tmp_path / f"s{n}.jsonl")} for n in range(2)]
    data = recipe_with(sources).data
    check_unchanged(data, prepared.sources, tmp_path / "c")
    (tmp_path / "s1.jsonl").write_text('{"text": "other"}\n')
    with pytest.raises(DataError, match=r"the rows changed in .*s1\.jsonl"):
        check_unchanged(data, prepared.sources, tmp_path / "c")


def test_sources_share_a_mapping_of_columns_that_one_of_them_has(mix: Mix) -> None:
    rows = [{"prompt": f"{i}?", "completion": f"{i}"} for i in range(12)]
    persons = [{**row, "prompt": f"Say {row['prompt']}", "persona": "Be brief."} for row in rows]
    mapping: dict[str, Any] = {"columns": {"persona": "system"}}
    assert mix((persons, {}), (rows, {}), **mapping).train_rows
    assert mix((persons, mapping), (rows, {})).train_rows
    with pytest.raises(DataError, match=r"names persona, which no row of s1\.jsonl has"):
        mix((persons, {}), (rows, mapping))

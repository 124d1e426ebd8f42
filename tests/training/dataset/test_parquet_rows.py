"""Parquet files as other tools write them: what comes out is what was written."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest

from tests.training.dataset.conftest import Check, refusal
from workbench.errors import DataError
from workbench.training.dataset.files.rows import read_file
from workbench.training.dataset.prepared import load_prepared

USER, ANSWER = {"role": "user", "content": 'say "a\\b"'}, {"role": "assistant", "content": "a"}


def values_of(path: Path) -> list[dict[str, Any]]:
    return [row.values for row in read_file(path)]


@pytest.fixture(autouse=True)
def _quiet() -> None:
    datasets.disable_progress_bars()


def test_columns_of_mixed_types_written_by_datasets_come_out_as_they_were(tmp_path: Path) -> None:
    rows = [{"mix": 'say "a\\b"', "messages": [USER, {**ANSWER, "name": "bob"}]},
            {"mix": 3, "messages": [USER, ANSWER]}]  # fmt: skip
    path = tmp_path / "t.parquet"
    datasets.Dataset.from_list(rows, on_mixed_types="use_json").to_parquet(path)
    assert "arrow.json" in str(pq.read_schema(path))
    assert values_of(path) == rows


def test_chats_whose_turns_differ_in_keys_train_as_they_do_from_json_lines(
    check: Check, tmp_path: Path, tokenizer: Any
) -> None:
    rows = [
        {"messages": [{**USER, "name": "bob"} if n % 2 else USER, {**ANSWER, "content": f'"{n}"'}]}
        for n in range(10)
    ]
    path = tmp_path / "t.parquet"
    datasets.Dataset.from_list(rows, on_mixed_types="use_json").to_parquet(path)
    made = [load_prepared(check(source))[0].to_list() for source in (rows, path)]
    assert made[0] == made[1]
    assert any('"4"<|eot_id|>' in tokenizer.decode(row["input_ids"]) for row in made[0])


def test_a_conversational_parquet_of_prompts_and_completions_trains(
    check: Check, tmp_path: Path
) -> None:
    """TRL's form, as its data preparation writes it."""
    rows = [{"prompt": [USER], "completion": [{**ANSWER, "content": f"a {n}"}]} for n in range(10)]
    path = tmp_path / "t.parquet"
    datasets.Dataset.from_list(rows).to_parquet(path)
    made = [load_prepared(check(source))[0].to_list() for source in (rows, path)]
    assert made[0] == made[1]


@pytest.mark.parametrize(
    "column",
    [
        pa.array(["a", "b", "a"]).dictionary_encode(),
        pa.array(["a", "b", "a"], pa.large_string()),
        pa.array(["a", "b", "a"], pa.string_view()),
        pa.ExtensionArray.from_storage(pa.json_(pa.large_string()), pa.array(
            ['"a"', '"b"', '"a"'], pa.large_string())),
    ],
    ids=["dictionary", "large", "view", "json"],
)  # fmt: skip
def test_text_comes_out_as_text_however_it_is_stored(tmp_path: Path, column: Any) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"text": column}), path)
    assert values_of(path) == [{"text": "a"}, {"text": "b"}, {"text": "a"}]


def test_json_inside_lists_structs_and_nulls_is_read(tmp_path: Path) -> None:
    source = [json.dumps(one) for one in (USER, ANSWER)]
    inner = pa.ExtensionArray.from_storage(pa.json_(), pa.array(source))
    lists = pa.ListArray.from_arrays(pa.array([0, 2, None, 2], pa.int32()), inner)
    held = pa.StructArray.from_arrays([lists], names=["turns"])
    pairs = pa.array([[("k", 1)], None, []], pa.map_(pa.string(), pa.int8()))
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"held": held, "pairs": pairs}), path)
    first, second, third = values_of(path)
    assert first == {"held": {"turns": [USER, ANSWER]}, "pairs": {"k": 1}}
    assert second == {"held": {"turns": []}, "pairs": None}
    assert third == {"held": {"turns": None}, "pairs": {}}


def test_a_json_column_that_holds_no_json_is_refused_with_its_row(tmp_path: Path) -> None:
    column = pa.ExtensionArray.from_storage(pa.json_(), pa.array(['"a"', "{"]))
    pq.write_table(pa.table({"text": column}), tmp_path / "t.parquet")
    with pytest.raises(DataError, match=r"^t\.parquet row 2: .* holds no JSON") as refused:
        values_of(tmp_path / "t.parquet")
    assert "write the file again" in refused.value.hint


@pytest.mark.parametrize(
    ("value", "kind", "hint", "instead"),
    [
        (None, "nothing (null)", 'write "" where it is to be empty', ""),
        (datetime.date(2026, 1, 2), "a date or time", 'e.g. "2026-01-02"', "2026-01-02"),
        (datetime.datetime(2026, 1, 2), "a date or time", "as text", "2026-01-02"),
        (b"a", "bytes", "decode the bytes", "a"),
        (4.5, "a number", '"4.5" for 4.5', "4.5"),
    ],
)
def test_what_is_no_text_is_refused_with_a_hint_that_works(
    check: Check, tmp_path: Path, value: Any, kind: str, hint: str, instead: str
) -> None:
    def table(prompt: Any) -> Path:
        rows = {"prompt": [prompt] * 10, "completion": [f"a {n}" for n in range(10)]}
        pq.write_table(pa.table(rows), tmp_path / "t.parquet")
        return tmp_path / "t.parquet"

    said = refusal(check, table(value))
    assert f"t.parquet row 1: prompt holds {kind}, not text" in said
    assert hint in said
    assert check(table(instead)).train_rows == 8

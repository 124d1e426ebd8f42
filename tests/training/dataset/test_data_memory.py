"""Files larger than memory: rows pass through, and the longest that passes has a bound."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest
from transformers import PreTrainedTokenizerBase

from workbench.errors import DataError
from workbench.recipe import Recipe
from workbench.training.dataset.files.lines import MOST_BYTES
from workbench.training.dataset.files.rows import read_file
from workbench.training.dataset.prepared import load_prepared, prepare_data

MIB = 1 << 20
WORDS = "apples and books " * 2_000


@contextmanager
def peak() -> Iterator[list[int]]:
    """The most bytes that Python held inside the block, put into the list at its end."""
    held: list[int] = []
    tracemalloc.start()
    try:
        yield held
        held.append(tracemalloc.get_traced_memory()[1])
    finally:
        tracemalloc.stop()


def big(path: Path, rows: int) -> Path:
    """Rows of 34 kB each, in the form that the file's name says."""
    with path.open("w") as file:
        for n in range(rows):
            row = json.dumps({"text": f"{n} {WORDS}"})
            if path.suffix == ".json":
                file.write(("[" if n == 0 else ", ") + row)
            elif path.suffix == ".csv":
                file.write(("text\n" if n == 0 else "") + f'"{n} {WORDS}"\n')
            else:
                file.write(row + "\n")
        file.write("]" if path.suffix == ".json" else "")
    return path


@pytest.mark.parametrize("ending", ["jsonl", "json", "csv", "txt"])
def test_reading_a_file_takes_the_memory_of_a_stretch_of_it(tmp_path: Path, ending: str) -> None:
    path = big(tmp_path / f"big.{ending}", 600)
    assert path.stat().st_size > 18 * MIB
    with peak() as held:
        assert sum(1 for _ in read_file(path)) == 600
    assert held[0] < 8 * MIB


def test_preparing_a_file_does_not_take_memory_by_its_length(
    recipe_of: Callable[..., Recipe], tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    for rows in (10, 600):  # the first of them imports what is needed
        recipe = recipe_of(big(tmp_path / f"{rows}.jsonl", rows), max_rows=3)
        with peak() as held:
            prepared = prepare_data(recipe, tokenizer, tmp_path / "cache", lambda *_: None)
        assert (prepared.read_rows, prepared.train_rows) == (rows, 3)
    assert held[0] < 8 * MIB


def test_many_tokenised_rows_take_little_more_memory_than_few(
    recipe_of: Callable[..., Recipe], tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    peaks = []
    for rows in (300, 900):
        path = tmp_path / f"{rows}.jsonl"
        path.write_text("".join(f'{{"text": "{n} apples and {n} books"}}\n' for n in range(rows)))
        with peak() as held:
            prepared = prepare_data(recipe_of(path), tokenizer, tmp_path / "c", lambda *_: None)
        assert prepared.train_rows == rows - 2 == len(load_prepared(prepared)[0])
        peaks.append(held[0])
    assert peaks[1] - peaks[0] < MIB // 4


@pytest.mark.parametrize(
    ("name", "start"),
    [
        ("t.jsonl", '{"text": "a"}\n{"text": "'),
        ("t.json", '[{"text": "a"},\n {"text": "'),
        ("t.csv", 'text\n"'),
        ("t.txt", "one\n"),
    ],
)
def test_a_row_of_200_mb_is_refused_with_its_line_and_never_held(
    tmp_path: Path, name: str, start: str
) -> None:
    path = tmp_path / name
    with path.open("w") as file:
        file.write(start)
        for _ in range(40):
            file.write(("a" * 999 + ("\n" if name == "t.csv" else "a")) * 1_000)
        file.truncate(200 * MIB)  # the rest is a hole
    with peak() as held, pytest.raises(DataError, match=rf"^{name}:2: .* longer than 16 MiB"):
        list(read_file(path))
    assert held[0] < 6 * MOST_BYTES


def test_a_parquet_row_beyond_the_bound_is_refused_with_its_number(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"text": ["a", "a" * (MOST_BYTES + 1)]}), path)
    with pytest.raises(DataError, match=r"^t\.parquet row 2: .* longer than 16 MiB"):
        list(read_file(path))


def test_objects_across_the_stretches_of_an_array_come_out_whole(tmp_path: Path) -> None:
    texts = ["é" * n for n in range(0, 400_000, 37_001)]
    path = tmp_path / "t.json"
    path.write_text(json.dumps([{"text": text} for text in texts], ensure_ascii=False))
    assert [row.values["text"] for row in read_file(path)] == texts


def test_a_broken_byte_far_into_an_array_has_its_line(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    row = json.dumps({"text": "a" * 50_000}).encode()
    path.write_bytes(b"[\n" + b",\n".join([row] * 60) + b',\n{"text": "\xff"}]')
    with pytest.raises(DataError, match=r"^t\.json:62: holds bytes that are not UTF-8"):
        list(read_file(path))

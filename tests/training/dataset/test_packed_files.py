"""Data files that are packed, and folders of data files."""

from __future__ import annotations

import gzip
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest

from tests.training.dataset.conftest import Check
from workbench.errors import DataError
from workbench.recipe.schema import Data
from workbench.training.dataset.files.rows import read_file
from workbench.training.dataset.files.sources import find_sources

ROWS = [{"prompt": f"question {n}, é", "completion": f"answer {n}"} for n in range(40)]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
CSV = "prompt,completion\n" + "".join(f'"{r["prompt"]}",{r["completion"]}\n' for r in ROWS)
SKIPPED_FRAME = b"\x50\x2a\x4d\x18\x03\x00\x00\x00abc"


def zstd(content: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return bytes(sink.getvalue().to_pybytes())


@pytest.mark.parametrize(("ending", "pack"), [(".gz", gzip.compress), (".zst", zstd)])
@pytest.mark.parametrize(
    ("kind", "text"), [(".jsonl", LINES), (".json", json.dumps(ROWS, indent=1)), (".csv", CSV)]
)
def test_a_packed_file_of_several_members_gives_the_rows_of_the_plain_one(
    tmp_path: Path, ending: str, pack: Callable[[bytes], bytes], kind: str, text: str
) -> None:
    plain, packed = tmp_path / f"rows{kind}", tmp_path / f"rows{kind}{ending}"
    content = text.encode()
    plain.write_bytes(content)
    half = content.index(b"20")  # in the middle of a row
    packed.write_bytes(pack(content[:half]) + pack(content[half:]))
    rows = list(read_file(packed))
    assert [row.values for row in rows] == [row.values for row in read_file(plain)] == ROWS
    assert [row.place.replace(ending, "", 1) for row in rows] == [r.place for r in read_file(plain)]
    assert 0 < rows[-1].share <= 1


def test_frames_without_data_are_passed_over(tmp_path: Path) -> None:
    packed = tmp_path / "rows.jsonl.zst"
    content = LINES.encode()
    packed.write_bytes(SKIPPED_FRAME + zstd(content[:600]) + SKIPPED_FRAME + zstd(content[600:]))
    assert [row.values for row in read_file(packed)] == ROWS


@pytest.mark.parametrize(("ending", "pack"), [(".gz", gzip.compress), (".zst", zstd)])
def test_a_packed_file_that_is_cut_off_or_damaged_is_refused_as_that(
    tmp_path: Path, ending: str, pack: Callable[[bytes], bytes]
) -> None:
    packed = tmp_path / f"rows.jsonl{ending}"
    whole = pack(LINES.encode())
    for content in (whole[:-3], whole[:12] + b"\x00\xff\x00\xff" + whole[16:]):
        packed.write_bytes(content)
        with pytest.raises(DataError, match=rf"^rows\.jsonl\{ending}: is damaged or cut off"):
            list(read_file(packed))


@pytest.mark.parametrize(
    ("name", "content", "says", "hint"),
    [
        ("t.jsonl.gz", LINES.encode(), "is not packed as its ending says", r"take \.gz from"),
        ("t.jsonl", gzip.compress(b"{}"), "is packed with gzip", r"end in \.gz, as in rows\.jsonl"),
        ("t.gz", gzip.compress(b"{}"), "not a kind of file", r"as in rows\.jsonl\.gz"),
        ("t.parquet.gz", gzip.compress(b"{}"), "not a kind of file", "all but parquet"),
        ("t.jsonl.gz", gzip.compress(b"PAR1 and more"), "is a parquet file", r"\.parquet"),
        ("t.json.zst", zstd(b'{\n "a": [{"b": 1}]\n}'), "one object over several lines", "jq"),
    ],
    ids=["not packed", "packed", "no kind", "parquet", "inner parquet", "one object"],
)
def test_a_file_that_holds_something_else_is_refused_with_what_to_do(
    tmp_path: Path, name: str, content: bytes, says: str, hint: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=says) as refused:
        list(read_file(tmp_path / name))
    assert re.search(hint, refused.value.hint)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two parquet files, as a program that writes in parallel leaves them."""
    folder = tmp_path / "rows"
    folder.mkdir()
    for number in range(2):
        part = ROWS[20 * number : 20 * number + 20]
        pq.write_table(pa.Table.from_pylist(part), folder / f"part-{number:05d}.snappy.parquet")
    for name in ("_SUCCESS", ".part-00000.crc", "README.md"):
        (folder / name).write_text("x")
    return folder


def test_a_folder_of_parquet_is_prepared_in_the_order_of_its_names(
    check: Check, folder: Path
) -> None:
    prepared = check(folder, eval_rows=2)
    assert (prepared.read_rows, prepared.train_rows, prepared.eval_rows) == (40, 38, 2)
    assert prepared.examples[0]["place"].startswith("part-00000.snappy.parquet row")


def test_a_copy_in_a_folder_is_reported_with_the_file_it_stands_in(
    check: Check, folder: Path
) -> None:
    shutil.copy(folder / "part-00000.snappy.parquet", folder / "part-00002.snappy.parquet")
    [note] = [n for n in check(folder, eval_rows=1).notes if "repeating earlier ones" in n]
    assert "(first: part-00002.snappy.parquet row" in note


def test_the_digest_of_a_folder_follows_its_files(folder: Path, tmp_path: Path) -> None:
    def digest() -> str:
        data = Data(train=str(folder), eval_rows=1)
        return find_sources(data, tmp_path / "index", refresh=False)[0][0].digest

    before = digest()
    (folder / "_SUCCESS").write_text("y")
    assert digest() == before
    (folder / "part-00001.snappy.parquet").rename(folder / "part-00003.snappy.parquet")
    assert digest() != before


@pytest.mark.parametrize(
    ("names", "says", "hint"),
    [
        (["a.parquet", "b.jsonl"], r"several kinds: \.jsonl, \.parquet", "a folder of their own"),
        (["train-0.jsonl", "test-0.jsonl"], "several splits: test, train", "each split"),
        (["data/train-0.jsonl"], "holds no data files", "name the folder data in it"),
        (["state.json", "data.arrow"], "holds no data files", r"to_parquet\(\"NEW\.parquet\"\)"),
        (["a.xlsx"], "holds no data files", "a folder of parquet"),
    ],
)
def test_a_folder_whose_rows_are_not_clear_is_refused(
    tmp_path: Path, names: list[str], says: str, hint: str
) -> None:
    for name in names:
        (tmp_path / "rows" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "rows" / name).write_text(LINES)
    with pytest.raises(DataError, match=says) as refused:
        find_sources(Data(train=str(tmp_path / "rows")), tmp_path / "index", refresh=False)
    assert re.search(hint, refused.value.hint)

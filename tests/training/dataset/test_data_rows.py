"""Data files read row by row, with true line numbers in every complaint."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import json
import lzma
import re
import shutil
import subprocess
from pathlib import Path

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.errors import DataError
from workbench.training.dataset.files.lines import DataRow
from workbench.training.dataset.files.rows import read_file
from workbench.training.dataset.files.sources import DataSource
from workbench.training.dataset.first_pass import survey_rows


def written(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_blank_lines_are_skipped_and_still_counted(tmp_path: Path) -> None:
    path = written(tmp_path, "t.jsonl", '\ufeff{"text": "a"}\n\n  \n{"text": "b"}')
    assert list(read_file(path)) == [
        DataRow("t.jsonl:1", {"text": "a"}),
        DataRow("t.jsonl:4", {"text": "b"}),
    ]


def test_a_json_array_knows_the_line_of_each_object(tmp_path: Path) -> None:
    path = written(
        tmp_path, "t.json", '[\n {"text":\n  "a"},\n\n {"text": "b"}, {"text": "c"}\n]\n'
    )
    assert [row.place for row in read_file(path)] == ["t.json:2", "t.json:5", "t.json:5"]


def test_csv_fields_may_hold_line_ends_and_rows_know_where_they_begin(tmp_path: Path) -> None:
    path = written(tmp_path, "t.csv", 'prompt,completion\n"a\nb",c\nd,"e, f"\n')
    assert list(read_file(path)) == [
        DataRow("t.csv:2", {"prompt": "a\nb", "completion": "c"}),
        DataRow("t.csv:4", {"prompt": "d", "completion": "e, f"}),
    ]


def test_a_text_file_is_a_row_a_line(tmp_path: Path) -> None:
    path = written(tmp_path, "t.txt", "one\r\n\ntwo\n")
    assert list(read_file(path)) == [
        DataRow("t.txt:1", {"text": "one"}),
        DataRow("t.txt:3", {"text": "two"}),
    ]


def test_parquet_rows_are_counted_from_one(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"text": ["a", "b"]}), path)
    assert [row.place for row in read_file(path)] == ["t.parquet row 1", "t.parquet row 2"]


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("t.jsonl", '{"text": "a"}\n\n{"text": \n', r"^t\.jsonl:3: is not JSON: "),
        ("t.jsonl", '{"text": "a"}\n"b"\n', r"^t\.jsonl:2: holds text, not an object"),
        ("t.jsonl", b'{"text": "a"}\n{"text": "\xff"}\n', r"^t\.jsonl:2: byte 11 .* not UTF-8"),
        ("t.json", '[{"text": "a"},\n {"text": }]', r"^t\.json:2: is not JSON: "),
        ("t.json", '[{"text": "a"}\n {"text": "b"}]', r"^t\.json:2: a comma is missing"),
        ("t.json", '[{"text": "a"},\n', r"^t\.json:2: the array is not closed"),
        ("t.json", '[{"text": "a"}]\n{}', r"something follows"),
        ("t.json", "[" * 100_000, r"is not JSON"),
        ("t.csv", "a,b\n1,2\n3\n", r"^t\.csv:3: has 1 fields, the header 2"),
        ("t.csv", "a,a\n1,2\n", r"^t\.csv:1: the header has a column twice"),
        ("t.csv", 'a,b\n1,"2\n', r"^t\.csv:2: is not CSV"),
        ("t.parquet", "PAR1 no", r"^t\.parquet, after row 0: cannot be read"),
        ("t.xlsx", "", r"is not a kind of file"),
    ],
)
def test_what_cannot_be_read_is_reported_with_file_line_and_hint(
    tmp_path: Path, name: str, content: str | bytes, complaint: str
) -> None:
    with pytest.raises(DataError, match=complaint) as refused:
        list(read_file(written(tmp_path, name, content)))
    assert refused.value.hint


def test_a_key_that_stands_twice_in_a_row_is_refused(tmp_path: Path) -> None:
    for name, content in (
        ("t.jsonl", '{"text": "a"}\n{"text": "b", "text": "c"}\n'),
        ("t.json", '[{"text": "a"},\n {"m": [{"text": "b", "text": "c"}]}]'),
    ):
        with pytest.raises(DataError, match=rf"^{name}:2: the key text stands twice") as refused:
            list(read_file(written(tmp_path, name, content)))
        assert refused.value.hint == "keep one of the two, or rename the other"


def test_a_first_row_that_only_cannot_be_read_is_not_taken_for_another_layout(
    tmp_path: Path,
) -> None:
    digits = "9" * 5000
    for row, why in (
        ('{"text": "b", "text": "c"}', "the key text stands twice"),
        (f'{{"text": {digits}}}', "Exceeds the limit"),
    ):
        path = written(tmp_path, "t.jsonl", f'{row}\n{{"text": "a"}}\n')
        with pytest.raises(DataError, match=rf"^t\.jsonl:1: .*{why}"):
            list(read_file(path))


def test_one_object_over_several_lines_is_refused_as_that_with_a_hint_that_works(
    tmp_path: Path,
) -> None:
    rows = [{"text": "a"}, {"text": "b"}]
    path = written(tmp_path, "t.json", json.dumps({"version": 1, "data": rows}, indent=2))
    with pytest.raises(DataError, match=r"^t\.json: is one object over several lines") as refused:
        list(read_file(path))
    assert "take the list of 2 objects under data out, into a file of its own" in refused.value.hint
    inside = json.dumps(json.loads(path.read_text())["data"], indent=2)  # as its jq writes it
    assert [row.values for row in read_file(written(tmp_path, "t.json", inside))] == rows


def test_an_object_over_several_lines_that_is_a_row_is_refused_with_hints_that_work(
    tmp_path: Path,
) -> None:
    text = json.dumps({"text": "a"}, indent=2)
    with pytest.raises(DataError, match=r"is one object over several lines") as refused:
        list(read_file(written(tmp_path, "t.jsonl", text)))
    assert refused.value.hint == "write the object on one line, or put [ ] around it"
    for mended in (f"[{text}]", text.replace("\n", "")):
        assert len(list(read_file(written(tmp_path, "t.jsonl", mended)))) == 1


def test_objects_over_several_lines_are_refused_with_a_hint_that_works(tmp_path: Path) -> None:
    texts = [json.dumps({"text": text}, indent=2) for text in "ab"]
    with pytest.raises(DataError, match=r"holds objects over several lines each") as refused:
        list(read_file(written(tmp_path, "t.jsonl", "\n".join(texts))))
    assert "write each object on a line of its own: jq -c . t.jsonl" in refused.value.hint
    lines = "\n".join(text.replace("\n", "") for text in texts)
    assert len(list(read_file(written(tmp_path, "t.jsonl", lines)))) == 2


LINES = ['{"text": "a, b,"}', '{"text": "é"}']
TEXT = "\n".join(LINES)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (gzip.compress(TEXT.encode(), mtime=0), r"is packed with gzip"),
        (bz2.compress(TEXT.encode()), r"is packed with bzip2"),
        (lzma.compress(TEXT.encode()), r"is packed with xz"),
        (TEXT.encode("utf-16"), r"is UTF-16 text"),
        (TEXT.encode("utf-32"), r"is UTF-32 text"),
        (",\n".join(LINES), r"has a comma behind each row"),
        (",\n".join([*LINES, ""]), r"has a comma behind each row"),
        ("".join(LINES), r"holds several objects on one line"),
        ("\r".join(LINES), r"holds several objects on one line"),
        ("\n".join(LINES).replace("{", "{\n"), r"holds objects over several lines each"),
    ],
)
def test_the_command_in_a_hint_makes_rows_of_the_file(
    tmp_path: Path, content: str | bytes, complaint: str
) -> None:
    with pytest.raises(DataError, match=rf"^rows\.jsonl: {complaint}") as refused:
        list(read_file(written(tmp_path, "rows.jsonl", content)))
    command = re.search(r": (\w+ [^>]*> NEW)", refused.value.hint)
    assert command is not None
    if shutil.which(command[1].split()[0]) is None:
        pytest.skip(f"needs {command[1].split()[0]}")
    subprocess.run(["sh", "-ec", command[1]], cwd=tmp_path, check=True)
    mended = (tmp_path / "NEW").rename(tmp_path / "mended.jsonl")
    assert [row.values["text"] for row in read_file(mended)] == ["a, b,", "é"]


@pytest.mark.parametrize(
    ("name", "content", "complaint", "hint"),
    [
        ("t.jsonl", "version https://git-lfs.github.com/spec/v1\noid", "Git LFS", "git lfs pull"),
        ("t.parquet", "version https://git-lfs.github.com/spec/v1\n", "Git LFS", "git lfs pull"),
        ("t.jsonl", "\n<!DOCTYPE html><html>", "a web page", "/resolve/"),
        ("t.jsonl", b"PAR1\x15\x04", "a parquet file", r"end in \.parquet"),
        ("t.jsonl", str({"text": "a"}), "as Python prints them", "json.dumps"),
        ("t.csv", "a;b\n1;2\n", "one column, with semicolons in", "separate the fields with"),
        ("t.csv", "a\tb\n1\t2\n", "one column, with tabs in its name", "with commas"),
    ],
)
def test_a_file_that_is_something_else_is_refused_as_that(
    tmp_path: Path, name: str, content: str | bytes, complaint: str, hint: str
) -> None:
    with pytest.raises(DataError, match=complaint) as refused:
        list(read_file(written(tmp_path, name, content)))
    assert re.search(hint, refused.value.hint)


def test_a_text_file_may_hold_a_web_page(tmp_path: Path) -> None:
    assert len(list(read_file(written(tmp_path, "t.txt", "<html>\n</html>\n")))) == 2


def test_two_parquet_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.Table.from_arrays([pa.array(["a"])] * 2, names=["text", "text"]), path)
    with pytest.raises(DataError, match=r"two columns with the name text"):
        list(read_file(path))


def test_a_missing_file_is_reported_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.jsonl cannot be read: No such file"):
        list(read_file(tmp_path / "gone.jsonl"))


@given(content=st.binary(max_size=200), ending=st.sampled_from(["jsonl", "json", "csv", "txt"]))
def test_any_bytes_are_rows_or_a_data_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, ending: str
) -> None:
    path = written(tmp_path_factory.getbasetemp(), f"any.{ending}", content)
    with contextlib.suppress(DataError):
        assert all(isinstance(row.values, dict) for row in read_file(path))


@pytest.mark.parametrize("ending", ["jsonl", "json", "csv", "txt", "parquet"])
def test_how_far_reading_is_can_be_estimated_from_its_first_rows(
    tmp_path: Path, ending: str
) -> None:
    path = tmp_path / f"t.{ending}"
    texts = [f"{n:05} apples and books " * 100 for n in range(3_000)]
    if ending == "parquet":
        pq.write_table(pa.table({"text": texts}), path)
    elif ending == "json":
        path.write_text(json.dumps([{"text": text} for text in texts]))
    else:
        lines = [json.dumps({"text": text}) if ending == "jsonl" else text for text in texts]
        path.write_text("\n".join((["text"] if ending == "csv" else []) + lines))
    updates: list[tuple[str, int, int]] = []
    source = DataSource(name="t", path=path, split="train", digest="d")
    rows = survey_rows(source, "training", lambda *seen: updates.append(seen), None, [])
    assert rows == 3_000
    assert [done for _, done, _ in updates] == [*range(500, 3_001, 500), 3_000]
    assert all(2_300 <= total <= 3_100 for _, _, total in updates)
    assert updates[-1] == ("reading training rows", 3_000, 3_000)

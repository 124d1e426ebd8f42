"""Hub data sets that `datasets` cannot generate: read by our own readers, or refused by cause."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import datasets
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest

from workbench.errors import DataError
from workbench.training.dataset.files.sources import DataSource
from workbench.training.dataset.first_pass import survey_rows

ROWS = "".join(json.dumps({"prompt": f"q {n}", "completion": f"a {n}"}) + "\n" for n in range(6))

leaks_in_datasets = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
"""Up to 5.0 `datasets` leaves files open when it cannot generate a set."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data set of files, which `datasets` reads from a folder as it does from the hub."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    (tmp_path / "set").mkdir()
    return tmp_path / "set"


def source_of(folder: Path) -> DataSource:
    return DataSource(name=str(folder), path=None, split="train", digest="0" * 40)


@leaks_in_datasets
def test_a_column_that_only_a_later_file_has_is_read_all_the_same(folder: Path) -> None:
    (folder / "train-1.csv").write_text("prompt,completion\nq,a\n")
    (folder / "train-2.csv").write_text("prompt,completion,more\nr,b,c\n")
    with pytest.raises(datasets.exceptions.DatasetGenerationError):
        datasets.load_dataset(str(folder), split="train")
    assert [(row.place, row.values) for row in source_of(folder).read()] == [
        ("train-1.csv:2", {"prompt": "q", "completion": "a"}),
        ("train-2.csv:2", {"prompt": "r", "completion": "b", "more": "c"}),
    ]


@leaks_in_datasets
def test_an_empty_file_is_refused_as_one(folder: Path) -> None:
    (folder / "train.jsonl").write_text("")
    with pytest.raises(DataError, match="holds no training rows"):
        survey_rows(source_of(folder), "training", lambda *_: None, None, [])


def test_a_broken_byte_is_refused_with_file_and_line(folder: Path) -> None:
    (folder / "train.jsonl").write_bytes(ROWS.encode() + b'{"prompt": "\xff", "completion": ""}\n')
    with pytest.raises(DataError, match=r"train\.jsonl:7: byte 13 of the line is not UTF-8"):
        assert len(list(source_of(folder).read())) == 6


def test_a_missing_package_is_named_with_what_to_do(folder: Path) -> None:
    (folder / "a.wav").write_bytes(b"RIFF")
    with pytest.raises(DataError, match="No module named 'torchcodec'") as refused:
        list(source_of(folder).read())
    assert "pip install torchcodec" in refused.value.hint
    assert "name that file in data.train" in refused.value.hint


def test_a_package_that_only_the_text_of_an_error_names_is_in_the_hint(folder: Path) -> None:
    (folder / "a.pdf").write_bytes(b"%PDF")
    with pytest.raises(DataError, match="please install 'pdfplumber'") as refused:
        list(source_of(folder).read())
    assert "pip install pdfplumber" in refused.value.hint


def test_a_split_that_is_not_there_is_refused_and_the_hint_names_those_that_are(
    folder: Path,
) -> None:
    (folder / "test.jsonl").write_text(ROWS)
    source = source_of(folder)
    with pytest.raises(DataError, match='Unknown split "train"') as refused:
        list(source.read())
    assert refused.value.hint == "set data.split: test"
    assert len(list(replace(source, split="test").read())) == 6


def test_a_configuration_is_named_by_data_config_and_the_hint_says_which_there_are(
    folder: Path,
) -> None:
    configs = [{"config_name": name, "data_files": f"{name}.jsonl"} for name in ("main", "other")]
    (folder / "README.md").write_text(f"---\nconfigs: {json.dumps(configs)}\n---\n")
    (folder / "main.jsonl").write_text(ROWS)
    (folder / "other.jsonl").write_text(ROWS.replace("q 0", "r 0"))
    source = source_of(folder)
    with pytest.raises(DataError, match="Config name is missing") as refused:
        list(source.read())
    assert refused.value.hint == "set data.config: main or other"
    first = [next(iter(replace(source, config=name).read())).values for name in ("main", "other")]
    assert [row["prompt"] for row in first] == ["q 0", "r 0"]
    with pytest.raises(DataError, match="not found") as refused:
        list(replace(source, config="mian").read())
    assert refused.value.hint == "set data.config: main or other"


def test_a_hint_speaks_of_the_network_only_where_it_may_be_at_fault(folder: Path) -> None:
    (folder / "README.md").write_text("---\nconfigs: [\n---\n")
    with pytest.raises(DataError, match="ParserError") as refused:
        list(source_of(folder).read())
    assert "network" not in refused.value.hint


def test_a_sound_beside_the_text_is_not_decoded(folder: Path) -> None:
    """Decoding one takes torchcodec."""
    voice = {"bytes": b"RIFF", "path": None}
    text = datasets.Value("string")
    features = datasets.Features({"prompt": text, "completion": text, "voice": datasets.Audio()})
    about = {"huggingface": json.dumps({"info": {"features": features.to_dict()}})}
    table = pa.table(
        {"prompt": ["q"], "completion": ["a"], "voice": [voice]}, features.arrow_schema
    )
    pq.write_table(table.replace_schema_metadata(about), folder / "train.parquet")
    [row] = source_of(folder).read()
    assert row.place.endswith("set[train] row 1")
    assert row.values == {"prompt": "q", "completion": "a", "voice": voice}


def test_a_set_without_readable_files_is_refused_with_its_cause(folder: Path) -> None:
    (folder / "data.pt").write_bytes(b"x")
    with pytest.raises(DataError, match=r"DataFilesNotFoundError: No .* data files") as refused:
        list(source_of(folder).read())
    assert "name that file in data.train" in refused.value.hint


def test_arguments_of_calls_are_read_as_they_stand_in_the_files(folder: Path) -> None:
    """`datasets` would give each call the arguments of all others, as null."""
    calls = [{"function": {"name": "f", "arguments": given}} for given in ({"a": 1}, {"b": 2})]
    rows = [{"messages": [{"role": "assistant", "tool_calls": [call]}]} for call in calls]
    pq.write_table(pa.Table.from_pylist(rows), folder / "train.parquet")
    loaded = datasets.load_dataset(str(folder), split="train")[0]
    assert loaded["messages"][0]["tool_calls"][0]["function"]["arguments"] == {"a": 1, "b": None}
    assert [row.values for row in source_of(folder).read()] == rows


@pytest.mark.parametrize("column", ["completion", "messages"])
def test_answers_that_are_all_dates_stay_the_text_that_the_file_holds(
    folder: Path, column: str
) -> None:
    """`datasets` 5.2 would give them as dates, which are no text."""
    days = ["2024-05-06", "2024-05-07"]
    chats = [[{"role": "assistant", "content": day}] for day in days]
    rows = [{column: value} for value in (days if column == "completion" else chats)]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert datasets.load_dataset(str(folder), split="train")[0] != rows[0]
    assert [row.values for row in source_of(folder).read()] == rows


def test_a_set_that_can_be_generated_is_read_by_datasets(folder: Path) -> None:
    (folder / "train.jsonl").write_text(ROWS)
    rows = list(source_of(folder).read())
    assert len(rows) == 6
    assert rows[0].place.endswith("set[train] row 1")

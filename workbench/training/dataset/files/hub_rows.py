"""Rows of a hub data set: by `datasets`, or where that fails by our own readers of its files.

`datasets` wraps whatever went wrong into an error that says nothing (DatasetGenerationError), so
causes are unwrapped. Some sets it cannot generate are plain files all the same: one with a column
that only later files have, or with an empty file.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import DataError
from workbench.text import safe_line
from workbench.training.dataset.files.lines import DataRow
from workbench.training.dataset.files.parquet_rows import TOOL_COLUMNS
from workbench.training.dataset.files.rows import can_read, read_file

if TYPE_CHECKING:
    from datasets import Dataset

_AS_FILE = "download the data as jsonl, csv or parquet and name that file in data.train"


def hub_rows(name: str, config: str | None, split: str, commit: str) -> Iterator[DataRow]:
    """Yield the rows of one split of a hub data set at a commit, downloading it on first use.

    Raises DataError with the innermost cause for a set that neither way can be read.
    """
    import datasets

    shown = f"{safe_line(name, 80)}[{safe_line(split, 40)}]"
    number = 0
    try:
        loaded = _undecoded(datasets.load_dataset(name, config, split=split, revision=commit))
        differs = _may_differ_from_files(loaded.features)
        own = _own_files(name, config, split, commit) if differs else []
        for number, values in enumerate(() if own else loaded, start=1):
            yield DataRow(f"{shown} row {number}", values, number / max(1, len(loaded)))
    except Exception as refused:  # its builders raise whatever their libraries do
        files = _own_files(name, config, split, commit)
        if not files:
            cause = root_cause(refused)
            raise DataError(
                f"{shown} cannot be loaded: {cause_text(cause)}", hint=_hint(refused)
            ) from refused
    else:
        yield from chain.from_iterable(read_file(path) for path in own)
        return
    rows = chain.from_iterable(read_file(path) for path in files)
    yield from islice(rows, number, None)  # the rows before were read by `datasets`


def _undecoded(loaded: Dataset) -> Dataset:
    """Return the rows with images and sounds as bytes: nothing here looks into them.

    Decoding takes packages of its own, and gives objects that differ at each reading.
    """
    import datasets

    for column, feature in loaded.features.items():
        if isinstance(feature, datasets.Image | datasets.Audio | datasets.Video):
            loaded = loaded.cast_column(column, replace(feature, decode=False))
    return loaded


def _may_differ_from_files(features: Any) -> bool:
    """Return whether `datasets` may give values that the set's files do not hold.

    It has one schema for all tools and calls, so that each call gets the arguments of all others,
    as null. And where every row of a JSON file has a date as its text, it gives dates: pyarrow
    takes such texts for `timestamp[s]`, a type that parquet files do not have.
    """
    if isinstance(features, Mapping):
        return any(
            name in TOOL_COLUMNS or _may_differ_from_files(one) for name, one in features.items()
        )
    if getattr(features, "dtype", "") == "timestamp[s]":
        return True
    inner = getattr(features, "feature", features[0] if isinstance(features, list) else None)
    return inner is not None and _may_differ_from_files(inner)


def _own_files(name: str, config: str | None, split: str, commit: str) -> list[Path]:
    """Return the split's files on disk where our readers can read all of them; else nothing."""
    import datasets
    from huggingface_hub import hf_hub_download

    found: list[Path] = []
    # Whatever fails here, the error of `datasets` is the one to report.
    with contextlib.suppress(Exception):
        builder = datasets.load_dataset_builder(name, config, revision=commit)
        named = [str(file) for file in (builder.config.data_files or {}).get(split, [])]
        if not named or not all(can_read(Path(file)) for file in named):
            return []
        for file in named:
            if "://" not in file:
                found.append(Path(file))
                continue
            inside = file.partition(f"@{commit}/")[2]  # hf://datasets/OWNER/NAME@COMMIT/PATH
            path = hf_hub_download(name, inside, repo_type="dataset", revision=commit)
            found.append(Path(path))
        return found
    return []


def root_cause(error: BaseException) -> BaseException:
    """Return the innermost error behind `error` that a `raise … from …` names."""
    return list(_causes(error))[-1]


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def cause_text(cause: BaseException) -> str:
    """Return an error's class and message in one line."""
    return safe_line(f"{type(cause).__name__}: {cause}".rstrip(": "), 300)


def _hint(refused: BaseException) -> str:
    cause = root_cause(refused)
    text = str(cause)
    if isinstance(cause, ImportError):
        # Some name it in the error, others in its text: "please install 'Pillow'".
        quoted = re.search(r"install '([\w.-]+)'", text)
        package = cause.name or (quoted and quoted[1])
        if package:
            return f"{_AS_FILE}; or, if its text needs it, pip install {safe_line(package, 60)}"
    if splits := re.search(r"Unknown split .*one of \[(.*)\]", text):
        names = [name.strip("' ") for name in splits[1].split(",")]
        return f"set data.split: {safe_line(' or '.join(names), 200)}"
    if configs := re.search(r"(?:available configs|Available): \[(.*)\]", text):
        names = [name.strip("' ") for name in configs[1].split(",")]
        return f"set data.config: {safe_line(' or '.join(names), 200)}"
    # Errors of connections are OSErrors, or were raised from one or made into one.
    if any(isinstance(one, OSError) for one in _causes(refused)):
        return f"check the name in data.train and the network; or {_AS_FILE}"
    return _AS_FILE

"""The data files of a folder, which together are one source of rows."""

from __future__ import annotations

import re
from pathlib import Path

from workbench.errors import DataError
from workbench.text import safe_line
from workbench.training.dataset.files.packed import data_ending
from workbench.training.dataset.files.rows import can_read

_SPLIT = re.compile(r"(train|validation|valid|val|dev|eval|test)(?=[-_.])", re.IGNORECASE)
"""Matches the split in front of a file's name, as in `test-00000-of-00001.parquet`."""
_ABOUT = ("readme", "license", "licence", "dataset_info", "dataset_infos", "dataset_dict", "state")
"""Names of files that describe data and hold none."""


def folder_files(folder: Path) -> list[Path]:
    """Return the data files directly in the folder, in the order of their names.

    Names that begin with `.` or `_` are passed over, as writers of such folders mean it. Raises
    DataError for a folder without data, with several kinds of files, or with several splits, and
    OSError for one that cannot be read.
    """
    shown = safe_line(folder.name, 120)
    inside = sorted(one for one in folder.iterdir() if not one.name.startswith((".", "_")))
    files = [one for one in inside if one.is_file() and _holds_rows(one)]
    if not files:
        raise DataError(f"the folder {shown} holds no data files", hint=_hint(folder, inside))
    kinds = sorted({data_ending(one) for one in files})
    if len(kinds) > 1:
        raise DataError(
            f"the folder {shown} holds files of several kinds: {', '.join(kinds)}",
            hint="put the files that are to be trained on into a folder of their own, or name one",
        )
    splits = sorted({match[1].lower() for one in files if (match := _SPLIT.match(one.name))})
    if len(splits) > 1:
        raise DataError(
            f"the folder {shown} holds several splits: {', '.join(splits)}",
            hint="put the files of each split into a folder of its own, and name one in data.train "
            "and one in data.eval",
        )
    return files


def _holds_rows(file: Path) -> bool:
    return can_read(file) and file.name.partition(".")[0].lower() not in _ABOUT


def _hint(folder: Path, inside: list[Path]) -> str:
    """Return what to name instead: a folder inside, or files that `datasets` writes itself."""
    if any(one.suffix == ".arrow" for one in inside):
        return (
            "it was written by save_to_disk: write parquet instead, with "
            f'datasets.load_from_disk("{safe_line(folder.name, 60)}").to_parquet("NEW.parquet")'
        )
    for one in inside:
        if one.is_dir() and any(_holds_rows(file) for file in one.iterdir() if file.is_file()):
            return f"name the folder {safe_line(one.name, 60)} in it"
    return "name a folder of parquet, jsonl, json, csv or txt files, or one such file"

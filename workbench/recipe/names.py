"""Resolve the names of models and data sets: shipped with the workbench, local, or on the hub."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from workbench.errors import NotThere
from workbench.recipe.shipped import SHIPPED, shipped_file
from workbench.recipe.source import KeyPath, YamlSource
from workbench.text import safe_line

_ENDINGS = (".jsonl", ".json", ".csv", ".parquet", ".txt")
DATA_ENDINGS = tuple(f"{ending}{packed}" for ending in _ENDINGS for packed in ("", ".gz", ".zst"))
"""Endings of names that are meant as local files."""

_HUB_ID = re.compile(r"[\w][\w.-]{0,95}(?:/[\w][\w.-]{0,95})?\Z", re.ASCII)


def is_shipped(name: str) -> bool:
    """Return True for a name with the prefix `workbench:`."""
    return name.startswith(SHIPPED)


def is_local(name: str) -> bool:
    """Return True for a resolved name that is a path on this machine.

    The reader makes every local name absolute, so an absolute path is enough of a test.
    """
    return os.path.isabs(name)


def local_path(name: str) -> Path | None:
    """Return the file or folder of a resolved name, or None for a hub id.

    Raises NotThere for a `workbench:` name that does not ship.
    """
    if is_shipped(name):
        return shipped_file(name)
    return Path(name) if is_local(name) else None


def resolve_names(source: YamlSource, folder: Path) -> None:
    """Make local names absolute, and record a mistake for each name that refers to nothing.

    A name in the file is relative to the file's folder. A name in an override was typed in a shell
    and is relative to the working directory.
    """
    for path in (("model", "name"), ("data", "train"), ("data", "eval"), ("data", "test")):
        section = source.data.get(path[0]) if isinstance(source.data, dict) else None
        if isinstance(section, dict) and isinstance(section.get(path[1]), str):
            name = section[path[1]]
            section[path[1]] = _resolved(source, path, name, folder, model=path[0] == "model")
    data = source.data.get("data") if isinstance(source.data, dict) else None
    if isinstance(data, dict):
        _resolve_list(source, ("data", "train"), data.get("train"), folder)
    _resolve_swept(source, folder)


def _resolve_list(source: YamlSource, at: KeyPath, sources: Any, folder: Path) -> None:
    """Resolve the names in a list of sources: an item is a name, or has one as its `path`."""
    for index, one in enumerate(sources if isinstance(sources, list) else ()):
        if isinstance(one, str):
            sources[index] = _resolved(source, (*at, index), one, folder, model=False)
        elif isinstance(one, dict) and isinstance(one.get("path"), str):
            place: KeyPath = (*at, index, "path")
            one["path"] = _resolved(source, place, one["path"], folder, model=False)


def _resolve_swept(source: YamlSource, folder: Path) -> None:
    data: Any = source.data
    at: KeyPath = ("sweep", "parameters", "data.train")
    for part in at:
        data = data.get(part) if isinstance(data, dict) else None
    if isinstance(data, dict):
        data, at = data.get("values"), (*at, "values")
    if isinstance(data, list):
        for index, name in enumerate(data):
            path = (*at, index)
            if isinstance(name, str) and name:
                data[index] = _resolved(source, path, name, folder, model=False)
            _resolve_list(source, path, name, folder)


def _resolved(source: YamlSource, path: KeyPath, name: str, folder: Path, *, model: bool) -> str:
    shown = f"{path[0]}.{path[1]}" if path[0] != "sweep" else "data.train"
    # The schema reports an empty name; a second message would only repeat it.
    if not name:
        return name
    if is_shipped(name):
        try:
            shipped_file(name)
        except NotThere as gone:
            source.wrong(path, f"{shown}: {gone.what}")
        return name
    # A name in a file and one typed in a shell are relative to different folders.
    from_override = source.place(path).text.startswith("-s ")
    here = _absolute(name, Path.cwd() if from_override else folder)
    if not _looks_local(name, here, model=model):
        if not _HUB_ID.match(name):
            kind = "folder" if model else "file"
            source.wrong(path, f"{shown}: {safe_line(name, 80)} is no {kind} here and no hub id")
        return name
    if model and not os.path.isdir(here):
        found = "is a file; a model is a folder" if os.path.exists(here) else "there is no folder"
        source.wrong(path, f"{shown}: {found} {safe_line(here, 200)}")
    elif not model and not os.path.exists(here):
        source.wrong(path, f"{shown}: there is no file {safe_line(here, 200)}")
    return here


def _absolute(name: str, folder: Path) -> str:
    return os.path.abspath(os.path.join(folder, os.path.expanduser(name)))


def _looks_local(name: str, here: str, *, model: bool) -> bool:
    if name.startswith(("./", "../", "/", "~")) or name in (".", ".."):
        return True
    # A missing file.jsonl is a mistake in a path, not a data set of the hub.
    if not model and name.lower().endswith(DATA_ENDINGS):
        return True
    return os.path.exists(here)

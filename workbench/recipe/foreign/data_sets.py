"""The data sets of a foreign file: for training, held out, and what of them a local file lacks."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from workbench.recipe.foreign.translation import NEEDLESS, Translation
from workbench.recipe.names import DATA_ENDINGS, is_local, is_shipped
from workbench.text import safe_line

_FORMATS = ("json", "csv", "parquet", "text")
"""Names of `datasets` for files of a format, whose names stand in `data_files`."""
_BY_COLUMNS = ("chat_template", "input_output")
"""Prompt formats of Axolotl that name no shape: it is recognised from the columns."""
_UNSET: Mapping[str, Any] = MappingProxyType({"shape": "auto", "columns": {}})
"""Settings of a source that say how its rows are read, and their defaults."""
_OF_HUB = ("split", "revision", "config")
"""Settings of a source that only a hub data set has."""


def take_train(
    found: Translation,
    key: str,
    data_sets: Any,
    names: Mapping[str, str],
    shapes: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Take a list of data sets as `data.train`: of several, each becomes a source.

    `names` are their keys with ours. `shapes` are the values of their key `type` that name a shape
    of ours.
    """
    sources = _read_sources(found, key, _numbered(data_sets), names, shapes)
    if not sources:
        found.leave(key, "is no list of data sets")
    elif len(sources) == 1:
        found.settings |= sources[0]
    else:
        ours = {"data.train": "path"}
        found.settings["data.train"] = [
            {ours.get(name, name.removeprefix("data.")): value for name, value in one.items()}
            for one in sources
        ]


def take_held_out(
    found: Translation,
    key: str,
    data_sets: Any,
    names: Mapping[str, str],
    shapes: Mapping[str, str],
) -> None:
    """Take the first of a list of data sets as `data.eval`; leave the length of a list of several.

    Call it after `take_train`. The arguments are the same: in `names`, too, the setting of the path
    is `data.train`, and that of the split `data.split`.
    """
    listed = _numbered(data_sets)
    sources = _read_sources(found, key, listed[:1], names, shapes)
    if not sources:
        found.leave(key, "is no list of data sets")
        return
    if len(listed) > 1:
        found.leave(key, f"has {len(listed)} data sets, of which the first is taken")
    found.settings["data.eval"] = sources[0]["data.train"]
    if split := sources[0].get("data.split"):
        found.settings["data.eval_split"] = split
    if "type" in listed[0][1]:
        shape = sources[0].get("data.shape", _UNSET["shape"])
        take_held_out_layout(found, f"{key}[0].type", {"shape": shape})


def take_held_out_layout(found: Translation, key: str, layout: Mapping[str, Any]) -> None:
    """Take the shape or columns of the held-out rows, which may differ from those for training.

    Beside a list in `data.train`, `data.shape` and `data.columns` are those of the held-out rows,
    and each source has its own. A single source becomes such a list where they differ, except one
    with `data.max_rows`, of which a list has no counterpart: then `key` is left.
    """
    settings = found.settings
    train = settings.get("data.train")
    mine = {name: settings.get(f"data.{name}", _UNSET[name]) for name in layout}
    if train is None or (not isinstance(train, list) and mine == layout):
        return
    if not isinstance(train, list) and "data.max_rows" in settings:
        found.leave(key, _OTHER_LAYOUT)
        return
    sources = train if isinstance(train, list) else [_only_source(settings)]
    settings["data.train"] = [{**mine, **one} for one in sources]
    settings |= {f"data.{name}": value for name, value in layout.items()}


_OTHER_LAYOUT = (
    "is not that of the training rows: write data.train as a list whose source has its own shape "
    "and columns, and rows in place of data.max_rows"
)


def _only_source(settings: dict[str, Any]) -> dict[str, Any]:
    """Take the single training source out of the settings, as an item of a list."""
    source = {"path": settings.pop("data.train")}
    given = [name for name in _OF_HUB if f"data.{name}" in settings]
    return source | {name: settings.pop(f"data.{name}") for name in given}


def locate_files(settings: dict[str, Any], folder: Path) -> None:
    """Make names of local data absolute: trainers read them from where they are started."""
    train = settings.get("data.train")
    holders = [(settings, "data.train"), (settings, "data.eval")]
    holders += [(one, "path") for one in train] if isinstance(train, list) else []
    for holder, key in holders:
        if isinstance(given := holder.get(key), str) and given:
            holder[key] = _located(given, (Path.cwd(), folder))


def _located(name: str, places: Sequence[Path]) -> str:
    """Return the absolute path of what lies in one of the places; the name where nothing does."""
    there = (place / name for place in places if os.path.exists(place / name))
    found = next(there, None)
    return name if found is None else str(found.resolve())


def settle_hub_settings(found: Translation) -> None:
    """Leave the settings that only a hub data set has, where a source is a local file.

    The split `train` is no loss: trainers call all rows of a file so. A hub data set without a
    held-out split gets the one that the trainer takes.
    """
    settings = found.settings
    train, held = settings.get("data.train"), settings.get("data.eval")
    for n, one in enumerate(train if isinstance(train, list) else ()):
        if _is_file(one.get("path")):
            _leave_of_hub(found, one, {name: f"data.train[{n}].{name}" for name in _OF_HUB})
    if _is_file(train):
        _leave_of_hub(found, settings, {f"data.{name}": f"data.{name}" for name in _OF_HUB})
    if _is_file(held):
        _leave_of_hub(found, settings, {"data.eval_split": "data.eval_split"})
    elif held is None and _is_file(train):
        _leave_held_out_split(found)
    elif found.hub_eval_split and isinstance(held or train, str):
        settings.setdefault("data.eval_split", found.hub_eval_split)


def _leave_of_hub(found: Translation, holder: dict[str, Any], names: Mapping[str, str]) -> None:
    """Take settings out of their holder, and leave them unless they are all rows of a file."""
    for name, shown in names.items():
        value = holder.pop(name, None)
        if value is not None and not (name.endswith("split") and value == "train"):
            why = "is a part of a hub data set: all rows of the local file are used"
            found.leave(shown, f"{safe_line(value, 60)} {why}")


def _leave_held_out_split(found: Translation) -> None:
    if value := found.settings.pop("data.eval_split", None):
        why = "is a split of a hub data set: name the file with the held-out rows in data.eval"
        found.leave("data.eval_split", f"{safe_line(value, 60)} {why}")


def _is_file(name: Any) -> bool:
    """Return True for a name that the recipe's reader takes as a local file or folder."""
    if not isinstance(name, str):
        return False
    meant = name.startswith(("./", "../", "~")) or name.lower().endswith(DATA_ENDINGS)
    return meant or is_local(name) or is_shipped(name)


def _numbered(data_sets: Any) -> list[tuple[int, dict[str, Any]]]:
    """Return the data sets that have a path, one for each file, with their place in the list."""
    listed = enumerate(data_sets if isinstance(data_sets, list) else ())
    files = [(n, file) for n, one in listed for file in _each_file(one)]
    return [(n, file) for n, file in files if isinstance(file, dict) and file.get("path")]


def _each_file(data_set: Any) -> list[Any]:
    """Return the data set, or one for each of its files where its path names their format."""
    if not isinstance(data_set, dict) or data_set.get("path") not in _FORMATS:
        return [data_set]
    files = data_set.get("data_files")
    files = [files] if isinstance(files, str) else files
    if not isinstance(files, list) or not all(isinstance(file, str) for file in files):
        return [data_set]
    others = {name: value for name, value in data_set.items() if name != "data_files"}
    return [{**others, "path": file} for file in files]


def _read_sources(
    found: Translation,
    key: str,
    listed: Sequence[tuple[int, dict[str, Any]]],
    names: Mapping[str, str],
    shapes: Mapping[str, str],
) -> list[dict[str, Any]]:
    """Return our settings of each data set; keys without a counterpart are left."""
    return [_read_source(found, f"{key}[{n}]", one, names, shapes) for n, one in listed]


def _read_source(
    found: Translation,
    where: str,
    data_set: Mapping[str, Any],
    names: Mapping[str, str],
    shapes: Mapping[str, str],
) -> dict[str, Any]:
    source: dict[str, Any] = {}
    for name, value in data_set.items():
        if name == "type" and shapes:
            if str(value) in shapes:
                source["data.shape"] = shapes[str(value)]
            elif str(value) not in _BY_COLUMNS:
                found.leave(f"{where}.type", f"{safe_line(value, 60)} is a format of its own")
        elif value in (None, "", [], {}):
            continue
        elif name in names:
            source[names[name]] = value if isinstance(value, float) else str(value)
        else:
            found.leave(f"{where}.{name}", NEEDLESS.get(name, "has no counterpart"))
    return source

"""Settings given on the command line: `-s lora.rank=8`, typed by the schema."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from workbench.errors import RecipeError
from workbench.recipe import keys
from workbench.recipe.source import KeyPath, Mistake, Place, Source, parse, plain
from workbench.text import safe_line

BEHIND = 1 << 30
"""Overrides are told behind all lines of the file."""


def override(source: Source, overrides: Sequence[str]) -> None:
    """Put `key=value` settings into `source`; mistakes are noted there."""
    for index, text in enumerate(overrides):
        place = Place(BEHIND + index, f"-s {safe_line(text, 80)}")
        key, equals, value = text.partition("=")
        key = key.strip()
        if not equals or not key:
            source.mistakes.append(Mistake(place, "write it as key=value, e.g. lora.rank=8"))
        elif not _known(key):
            source.mistakes.append(Mistake(place, keys.unknown(key, safe_line(key, 80))))
        else:
            _put(source, keys.split(key), key, value.strip(), place)


def _known(key: str) -> bool:
    path = keys.split(key)
    free = ".".join(path[:2]) in keys.FREE and len(path) == 3 and bool(path[2])
    return free or key in keys.leaves() or key in keys.sections()


def _put(source: Source, path: tuple[str, ...], key: str, text: str, place: Place) -> None:
    try:
        value = _typed(key, text)
    except RecipeError:
        source.mistakes.append(Mistake(place, f"{key} wants {keys.wanted(key)}"))
        return
    if not isinstance(source.data, dict):
        source.data = {} if source.data is None else source.data
        if not isinstance(source.data, dict):
            return
    into: dict[str, Any] = source.data
    for part in path[:-1]:
        if into.get(part) is None:
            into[part] = {}
        if not isinstance(into[part], dict):
            return  # the file's own mistake, told with its line
        into = into[part]
    _forget(source, path)
    into[path[-1]] = value
    for depth in range(1, len(path)):
        source.places.setdefault(path[:depth], place)
    source.places[path] = place


def _typed(key: str, text: str) -> Any:
    """The value as the setting takes it; RecipeError where it cannot be read."""
    if keys.takes_text(key):
        return None if keys.takes_null(key) and text in ("", "null") else text
    read = parse(text, "-s") if text[:1] in ("[", "{", "'", '"') else None
    if read is None:
        return plain(text)
    if read.mistakes:
        raise RecipeError("not read")
    return read.data


def _forget(source: Source, path: KeyPath) -> None:
    """What stood below a replaced value in the file stands there no longer."""
    for table in (source.places, source.written):
        for old in [old for old in table if old[: len(path)] == path]:
            del table[old]

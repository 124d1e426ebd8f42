"""Apply settings from the command line, such as `-s lora.rank=8`, with the schema's types."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from workbench.errors import RecipeError
from workbench.recipe import keys
from workbench.recipe.source import KeyPath, Mistake, Place, YamlSource, parse_yaml, read_scalar
from workbench.text import safe_line

BEHIND = 1 << 30
"""Line number of the first override, so that its mistakes are listed after those of the file."""


def apply_overrides(source: YamlSource, overrides: Sequence[str]) -> None:
    """Put `key=value` settings into `source`, and record mistakes there.

    An override replaces the file's value together with everything below it. A key may lack its
    section, as in `rank=8`; `keys.meant_keys` says which setting it is where several have the name.
    """
    for index, text in enumerate(overrides):
        place = Place(BEHIND + index, f"-s {safe_line(text, 80)}")
        key, equals, value = text.partition("=")
        key = keys.full_key(key.strip())
        if not equals or not key:
            source.mistakes.append(Mistake(place, "write it as key=value, e.g. lora.rank=8"))
        elif not _known(key):
            source.mistakes.append(Mistake(place, keys.unknown_key(key, safe_line(key, 80))))
        else:
            _put(source, keys.split_key(key), key, value.strip(), place)


def _known(key: str) -> bool:
    path = keys.split_key(key)
    free = ".".join(path[:2]) in keys.FREE and len(path) == 3 and bool(path[2])
    return free or key in keys.setting_fields() or key in keys.section_models()


def _put(source: YamlSource, path: tuple[str, ...], key: str, text: str, place: Place) -> None:
    try:
        value = _typed(key, text)
    except RecipeError:
        source.mistakes.append(Mistake(place, f"{key} must be {keys.accepted_words(key)}"))
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
            return  # the file has a mistake there, which is reported with its line
        into = into[part]
    # Otherwise a mistake below the new value would be reported with a line of the file.
    _forget(source, path)
    into[path[-1]] = value
    for depth in range(1, len(path)):
        source.places.setdefault(path[:depth], place)
    source.places[path] = place


def _typed(key: str, text: str) -> Any:
    """Return the value with the type that the setting accepts.

    Lists, mappings and quoted text are read as YAML. Raises RecipeError if they cannot be read.
    """
    if keys.takes_text(key):
        return None if keys.takes_null(key) and text in ("", "null") else text
    # Only brackets and quotes are YAML here, so that `-s data.system=a: b` needs no quoting.
    read = parse_yaml(text, "-s") if text[:1] in ("[", "{", "'", '"') else None
    if read is None:
        return read_scalar(text)
    if read.mistakes:
        raise RecipeError("not read")
    return read.data


def _forget(source: YamlSource, path: KeyPath) -> None:
    """Drop the places and original texts recorded at and below a value that was replaced."""
    for table in (source.places, source.written):
        for old in [old for old in table if old[: len(path)] == path]:
            del table[old]

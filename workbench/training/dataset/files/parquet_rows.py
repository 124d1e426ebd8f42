"""A streaming reader of parquet files, whose columns become the values that were written.

`datasets` 5 stores columns of mixed types as JSON source text under the Arrow extension type
`arrow.json`, at any depth; read plainly, quotes and backslashes would be trained on. Dictionary-
encoded and large strings come out as text, maps as objects.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from workbench.errors import DataError
from workbench.text import safe_line
from workbench.training.dataset.files.json_rows import parse_json
from workbench.training.dataset.files.lines import MOST_BYTES, DataRow, file_label, too_long

_BATCH_ROWS = 64
_JSON = "arrow.json"
_EXTENSION_NAME = b"ARROW:extension:name"

Convert = Callable[[Any], Any]


def parquet_rows(path: Path) -> Iterator[DataRow]:
    """Yield the rows of a parquet file, numbered from 1; holds `_BATCH_ROWS` rows at a time.

    Raises DataError with the row's number for what cannot be read, or is too long.
    """
    import pyarrow as pa  # type: ignore[import-untyped]
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    number = 0
    try:
        with pq.ParquetFile(path) as file:
            total = max(1, file.metadata.num_rows)
            _refuse_copies(file.schema_arrow.names, file_label(path))
            converts = _converts(file.schema_arrow)
            for batch in file.iter_batches(batch_size=_BATCH_ROWS):
                for values in batch.to_pylist():
                    number += 1
                    place = f"{file_label(path)} row {number}"
                    if any(isinstance(v, str) and len(v) > MOST_BYTES for v in values.values()):
                        raise too_long(place)
                    for name, convert in converts.items():
                        values[name] = convert(values[name])
                    yield DataRow(place, values, number / total)
    except (pa.ArrowException, UnicodeDecodeError) as broken:
        raise DataError(
            f"{file_label(path)}, after row {number}: cannot be read: {safe_line(broken, 160)}",
            hint="write the file again; its text columns must hold UTF-8",
        ) from broken
    except ValueError as broken:
        raise DataError(
            f"{file_label(path)} row {number}: a column of type JSON holds no JSON: "
            f"{safe_line(broken, 120)}",
            hint="write the file again with `datasets`, or the column as plain text",
        ) from broken


def _refuse_copies(names: list[str], label: str) -> None:
    """Raise DataError for two columns of one name, of which only the last would be read."""
    if twice := next((name for name in names if names.count(name) > 1), ""):
        raise DataError(
            f"{label}: has two columns with the name {safe_line(twice, 60)}",
            hint="keep one of the two, or rename the other",
        )


def _converts(schema: Any) -> dict[str, Convert]:
    """Return the conversions that the columns need; most need none."""
    found = {field.name: _convert(field) for field in schema}
    return {name: convert for name, convert in found.items() if convert is not None}


TOOL_COLUMNS = ("tools", "tool_calls")
"""Names of columns and fields in whose values a key means something by being there."""


def _convert(field: Any) -> Convert | None:
    """Return what turns a value of this Arrow field into the one that was written; often None."""
    convert = _type_convert(field)
    if field.name not in TOOL_COLUMNS:
        return convert
    # Before JSON text is read, so that a null that was given stays.
    return without_nulls if convert is None else lambda value: convert(without_nulls(value))


def without_nulls(value: Any) -> Any:
    """Return a value without the keys that are null.

    Structs have one schema for all rows, so that every call got the arguments of all others.
    """
    if isinstance(value, list):
        return [without_nulls(one) for one in value]
    if isinstance(value, dict):
        return {key: without_nulls(one) for key, one in value.items() if one is not None}
    return value


def _type_convert(field: Any) -> Convert | None:
    import pyarrow.types as kinds  # type: ignore[import-untyped]

    type_ = field.type
    metadata = field.metadata or {}
    # pyarrow before 19 does not know the type, and leaves its name in the field's metadata.
    if _JSON in (getattr(type_, "extension_name", ""), metadata.get(_EXTENSION_NAME, b"").decode()):
        return _from_json
    if kinds.is_map(type_):
        return lambda pairs: None if pairs is None else dict(pairs)
    if kinds.is_struct(type_):
        inner = {one.name: convert for one in type_ if (convert := _convert(one)) is not None}
        return _each_member(inner) if inner else None
    is_list = kinds.is_list(type_) or kinds.is_large_list(type_) or kinds.is_fixed_size_list(type_)
    item = _convert(type_.value_field) if is_list else None
    return _each_item(item) if item else None


def _from_json(source: str | bytes | None) -> Any:
    if source is None:
        return None
    return parse_json(source.decode() if isinstance(source, bytes) else source)


def _each_item(convert: Convert) -> Convert:
    return lambda items: None if items is None else [convert(item) for item in items]


def _each_member(converts: dict[str, Convert]) -> Convert:
    def convert(members: dict[str, Any] | None) -> dict[str, Any] | None:
        if members is None:
            return None
        there = {name: one for name, one in converts.items() if name in members}
        return members | {name: one(members[name]) for name, one in there.items()}

    return convert

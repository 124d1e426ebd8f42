"""Comparison of a home's database with a rebuilt one, row by row."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import zip_longest
from typing import Any

from workbench.store.reader import Reader
from workbench.store.writer import Store
from workbench.text import safe_line

_PASSING = {"trials": {"waiting"}, "attempts": {"phase", "halt", "ends_utc"}}
"""Columns that are not compared, because the next tick writes them again."""


def table_differences(table: str, reader: Reader, store: Store, most: int = 20) -> Iterator[str]:
    """Yield how the table's rows in a home's database differ from those of a rebuilt one.

    Ends after `most` differences. Columns that the next tick writes again are not compared.
    """
    keys = [row for row in reader.db.execute(f"pragma table_info({table})") if row["pk"]]
    order = ", ".join(row["name"] for row in sorted(keys, key=lambda row: row["pk"]))
    query = f"select * from {table} order by {order}"
    found = 0
    for before, rebuilt in zip_longest(reader.db.execute(query), store.db.execute(query)):
        a, b = (None if row is None else _comparable(table, dict(row)) for row in (before, rebuilt))
        if a == b:
            continue
        found += 1
        if found > most:
            yield f"{table}: and more"
            return
        yield f"{table}: {_difference(a, b)}"


def _comparable(table: str, row: dict[str, Any]) -> dict[str, Any]:
    passing = _PASSING.get(table, set())
    if table == "attempts" and row["outcome"] is None:  # journaled at its end only
        passing = {*passing, "energy_wh"}
    return {k: v for k, v in row.items() if k not in passing}


def _difference(a: dict[str, Any] | None, b: dict[str, Any] | None) -> str:
    if a is None or b is None:
        return f"only in {'the rebuilt' if a is None else 'the database'}: {_brief(a or b or {})}"
    differs = {k: (v, b.get(k)) for k, v in a.items() if v != b.get(k)}
    return f"{_brief(a)}: {safe_line(json.dumps(differs), 300)}"


def _brief(row: dict[str, Any]) -> str:
    return safe_line(json.dumps(dict(list(row.items())[:3])), 120)

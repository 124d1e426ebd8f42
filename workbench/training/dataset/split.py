"""The choice of held-out and test rows, equal for every trial on the same data."""

from __future__ import annotations

import hashlib
import json

from workbench.errors import DataError
from workbench.training.dataset.files.lines import DataRow
from workbench.training.dataset.row_stats import RowCount

_SPARE = 4_096
"""Hashes kept beyond twice the draw before the largest are dropped: sorting then costs little."""


class HeldOut:
    """A draw of `count` held-out and `test` test rows by the hash of their contents.

    It does not depend on the order of the rows or on a seed, and the held-out rows are the same
    with and without test rows. Call `see` for every row, `all_seen` once, and then `part_of` for
    every row again, with the same keys. Copies of a drawn row leave training with it, whichever
    source they stand in, so that no drawn row is trained on. Keeps a few thousand hashes besides
    those of the drawn rows.
    """

    def __init__(self, count: int, test: int = 0) -> None:
        self._eval, self._count = count, count + test
        self._keys: dict[bytes, list[int]] = {}
        """Keys that may be drawn, each with the sources of its rows."""
        self._test: set[bytes] = set()
        self._taken: set[bytes] = set()
        self._seen = 0
        self._copies = RowCount()

    def see(self, key: bytes, source: int = 0) -> None:
        """Consider the row with that key, of that source, for the draw."""
        self._seen += 1
        self._keys.setdefault(key, []).append(source)
        if len(self._keys) > 2 * self._count + _SPARE:
            self._draw()

    def all_seen(self) -> None:
        """Fix the draw; `part_of` may be called from now on."""
        self._draw()
        self._test = set(sorted(self._keys)[self._eval :])

    def _draw(self) -> None:
        # A key that was dropped here and is seen again is dropped again: it is too large.
        self._keys = {key: self._keys[key] for key in sorted(self._keys)[: self._count]}

    def drawn_of(self, source: int) -> int:
        """Return how many rows of the source are not trained on: drawn ones and their copies."""
        return sum(sources.count(source) for sources in self._keys.values())

    def part_of(self, key: bytes, place: str) -> str:
        """Return `train`, `eval` or `test`, or an empty string for a copy of a drawn row."""
        if key not in self._keys:
            return "train"
        if key in self._taken:
            self._copies.add(place)
            return ""
        self._taken.add(key)
        return "test" if key in self._test else "eval"

    def check(self, train_rows: int) -> None:
        """Raise DataError when no row is left to train on."""
        if train_rows:
            return
        if len(self._keys) < 2:
            raise DataError(
                "all rows are one and the same, which is held out: none is left to train on",
                hint="add rows that differ, or give data.eval a file",
            )
        different = len(self._keys)
        rows = f"{self._seen} rows"
        rows += f", {different} of them different" if different < self._seen else ""
        raise DataError(
            f"{rows}, of which {self._count} are to be held out, leave none to train on",
            hint=self._fewer(len(self._keys)),
        )

    def _fewer(self, below: int) -> str:
        if self._count == self._eval:
            return f"lower data.eval_rows below {below}, or give data.eval a file"
        if not self._eval:
            return f"lower data.test_rows below {below}, or give data.test a file"
        return (
            f"lower data.eval_rows and data.test_rows to less than {below} together, or give "
            "data.test a file"
        )

    def notes(self) -> list[str]:
        """Return the warnings: copies that left training, and a large held-out share."""
        notes = self._copies.note(
            "train",
            "left out, because they repeat held-out ones",
            "take out those that are not meant",
        )
        if len(self._taken) * 3 > self._seen:
            both = 0 < self._eval < self._count
            name = "data.eval_rows" if self._eval else "data.test_rows"
            says = "data.eval_rows and data.test_rows say" if both else f"{name} says"
            notes.append(f"more than a third of the rows is held out; {says} how many")
        return notes


def row_key(row: DataRow) -> bytes:
    """Return the hash of a row's contents, by which held-out rows are drawn."""
    # Of the columns as they were read: the draw must not change with the model or its template.
    text = json.dumps(row.values, sort_keys=True, default=str)
    return hashlib.sha256(text.encode(errors="surrogatepass")).digest()

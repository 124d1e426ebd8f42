"""Which rows are trained on and which are held out; the same for every trial on the same data."""

from __future__ import annotations

import hashlib
import json

from workbench.errors import DataError
from workbench.training.dataset.files.rows import Row
from workbench.training.dataset.row_stats import Count

_SPARE = 4_096


class HeldOut:
    """Draws `count` rows by what they hold, not by order or seed: first all are seen, then asked.

    A row's copies leave training with it, so that nothing held out is trained on. Keeps a few
    thousand hashes besides those of the rows drawn.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._keys: set[bytes] = set()
        self._taken: set[bytes] = set()
        self._seen = 0
        self._copies = Count()

    def see(self, row: Row) -> None:
        self._seen += 1
        self._keys.add(_key(row))
        if len(self._keys) > 2 * self._count + _SPARE:
            self._draw()

    def all_seen(self) -> None:
        self._draw()

    def _draw(self) -> None:
        self._keys = set(sorted(self._keys)[: self._count])

    def part_of(self, row: Row) -> str:
        """`train`, `eval`, or nothing for a copy of what is held out."""
        key = _key(row)
        if key not in self._keys:
            return "train"
        if key in self._taken:
            self._copies.add(row.place)
            return ""
        self._taken.add(key)
        return "eval"

    def check(self, train_rows: int) -> None:
        """DataError when nothing is left to train on."""
        if train_rows:
            return
        if len(self._keys) < 2:
            raise DataError(
                "all rows are one and the same, which is held out: none is left to train on",
                hint="add rows that differ, or give data.eval a file",
            )
        raise DataError(
            f"{self._seen} rows, of which {self._count} are to be held out, leave none to train on",
            hint=f"lower data.eval_rows below {len(self._keys)}, or give data.eval a file",
        )

    def notes(self) -> list[str]:
        notes = self._copies.note(
            "train",
            "left out, because they repeat held-out ones",
            "take out those that are not meant",
        )
        if len(self._taken) * 3 > self._seen:
            notes.append("more than a third of the rows is held out; data.eval_rows says how many")
        return notes


def _key(row: Row) -> bytes:
    text = json.dumps(row.values, sort_keys=True, default=str)
    return hashlib.sha256(text.encode(errors="surrogatepass")).digest()

"""Which rows are trained on and which are held out; the same for every trial on the same data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from workbench.errors import DataError
from workbench.training.rows import Row


def hold_out(rows: Sequence[Row], count: int) -> tuple[list[Row], list[Row], list[str]]:
    """(train, eval, notes): `count` rows drawn by what they hold, not by a seed.

    A row's copies leave training with it, so that nothing held out is trained on. Both keep the
    file's order. DataError when nothing would be left to train on.
    """
    keys = [_key(row) for row in rows]
    chosen = set(sorted(set(keys))[:count])
    train = [row for row, key in zip(rows, keys, strict=True) if key not in chosen]
    if not train:
        raise DataError(
            f"{len(rows)} rows, of which {count} are to be held out, leave none to train on",
            mend=f"lower data.eval_rows below {max(len(set(keys)), 1)}, or give data.eval a file",
        )
    first: dict[str, Row] = {}
    for row, key in zip(rows, keys, strict=True):
        if key in chosen:
            first.setdefault(key, row)
    notes = [f"{len(first)} of {len(rows)} training rows are held out for evaluation"]
    if gone := len(rows) - len(train) - len(first):
        notes.append(f"{gone} copies of held-out rows are not trained on")
    if len(first) * 3 > len(rows):
        notes.append("more than a third of the rows is held out; data.eval_rows says how many")
    return train, list(first.values()), notes


def _key(row: Row) -> str:
    text = json.dumps(row.values, sort_keys=True, default=str)
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()

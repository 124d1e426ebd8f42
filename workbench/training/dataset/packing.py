"""Packing: several rows in one bin of at most `data.max_tokens` tokens, which a step counts as one.

A bin keeps its rows apart: `seq_lengths` says where each ends, the step gives each its own
positions and attention, and no row sees another. So packing decides how rows form a batch, and
nothing else.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]

from workbench.footprint.row_lengths import MOST_ROWS_PER_BIN
from workbench.training.dataset.row_stats import IGNORED, length_numbers

_IDS = pa.list_(pa.int32())
PACKED = pa.schema(
    [("input_ids", _IDS), ("labels", _IDS), ("length", pa.int32()), ("seq_lengths", _IDS)]
)
"""Columns of packed training rows: `length` counts the bin's tokens, `seq_lengths` those of its
rows. TRL's trainer keeps a column of that name."""
_BATCH_BINS = 256


def fill_bins(lengths: Sequence[int], most_tokens: int) -> list[list[int]]:
    """Return the numbers of the rows in each bin: best fit, the longest rows first.

    A bin has `most_tokens` tokens and MOST_ROWS_PER_BIN rows at most. The result depends on the
    lengths alone.
    """
    bins: list[list[int]] = []
    free: list[tuple[int, int]] = []  # tokens that are free, and the bin; ascending
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        at = bisect_left(free, (lengths[row], -1))
        left, number = free.pop(at) if at < len(free) else (most_tokens, len(bins))
        if number == len(bins):
            bins.append([])
        bins[number].append(row)
        left -= lengths[row]
        if left > 0 and len(bins[number]) < MOST_ROWS_PER_BIN:
            insort(free, (left, number))
    return bins


def pack_file(path: Path, most_tokens: int) -> dict[str, Any]:
    """Replace the rows of a training file by bins, and return the fields of `Prepared` that change.

    Reads the file twice, memory-mapped.
    """
    packed = path.with_suffix(".packed")
    with pa.memory_map(str(path)) as source:
        table = pa.ipc.open_stream(source).read_all()
        lengths = table["length"].to_pylist()
        bins = fill_bins(lengths, most_tokens)
        with packed.open("wb") as file, pa.ipc.new_stream(file, PACKED) as stream:
            for first in range(0, len(bins), _BATCH_BINS):
                stream.write_batch(_batch(table, bins[first : first + _BATCH_BINS]))
    packed.replace(path)
    totals = Counter(sum(lengths[row] for row in rows) for rows in bins)
    return {**length_numbers(totals), "train_rows": len(bins), "packed_rows": len(lengths)}


def _batch(table: Any, bins: list[list[int]]) -> Any:
    rows = table.take(pa.array([row for rows in bins for row in rows]))
    lengths = rows["length"].to_numpy()
    row_ends = np.cumsum(lengths)
    bin_rows = np.cumsum([0, *map(len, bins)])
    bin_ends = np.concatenate([[0], row_ends])[bin_rows]
    labels = rows["labels"].combine_chunks().flatten().to_numpy().copy()
    labels[row_ends - lengths] = IGNORED  # no position predicts the first token of a row
    columns = [
        _lists(bin_ends, rows["input_ids"].combine_chunks().flatten()),
        _lists(bin_ends, pa.array(labels, pa.int32())),
        pa.array(np.diff(bin_ends), pa.int32()),
        _lists(bin_rows, pa.array(lengths, pa.int32())),
    ]
    return pa.record_batch(columns, schema=PACKED)


def _lists(ends: Any, values: Any) -> Any:
    return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), values)

"""Packed rows: bins that hold every row once, and keep rows apart."""

from __future__ import annotations

import random
from typing import Any

import pytest

from tests.training.dataset.conftest import Check
from workbench.footprint.row_lengths import MOST_ROWS_PER_BIN
from workbench.training.dataset.packing import fill_bins
from workbench.training.dataset.prepared import load_prepared
from workbench.training.step.rows import collate_rows, split_examples

ROWS = [{"prompt": f"Count to {n}", "completion": " ".join("1234567"[:n])} for n in range(1, 8)]
ROWS = [{**row, "prompt": f"{row['prompt']} ({n})"} for n in range(6) for row in ROWS]


@pytest.mark.parametrize("seed", range(5))
def test_every_row_is_in_one_bin_and_no_bin_is_too_full(seed: int) -> None:
    chance = random.Random(seed)
    lengths = [chance.randint(1, 100) for _ in range(500)]
    bins = fill_bins(lengths, 100)
    assert sorted(row for rows in bins for row in rows) == list(range(500))
    assert max(sum(lengths[row] for row in rows) for rows in bins) <= 100
    assert len(bins) <= 1.06 * -(-sum(lengths) // 100)
    assert bins == fill_bins(lengths, 100)


def test_a_bin_of_short_rows_has_a_bounded_number_of_them() -> None:
    bins = fill_bins([2] * 1000, 4096)
    assert max(map(len, bins)) == MOST_ROWS_PER_BIN
    assert sum(map(len, bins)) == 1000


def test_bins_hold_the_rows_that_are_not_packed_and_each_stays_a_row(check: Check) -> None:
    plain, packed = check(ROWS, max_tokens=128), check(ROWS, max_tokens=128, packing=True)
    assert plain.digest != packed.digest
    assert packed.packed_rows == plain.train_rows
    assert packed.train_rows < plain.train_rows / 2
    assert (packed.target_tokens, packed.eval_digest) == (plain.target_tokens, plain.eval_digest)
    bins, rows = load_prepared(packed)[0], load_prepared(plain)[0]
    assert max(bins["length"]) == packed.max_length <= 128
    assert [sum(one) for one in bins["seq_lengths"]] == bins["length"][:]
    whole, apart = (split_examples(collate_rows(one)) for one in (bins, rows))
    assert sorted(map(_key, whole)) == sorted(map(_key, apart))


def _key(example: dict[str, Any]) -> tuple[list[int], list[int]]:
    return example["input_ids"], example["labels"]

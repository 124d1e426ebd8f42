"""Packed rows have the gradients of the same rows one at a time: none sees another in its bin."""

from __future__ import annotations

import pytest

from tests.training.step.conftest import ModelOf, assert_same_gradients, options
from workbench.training.step import Rows, Step, collate_rows
from workbench.training.step.rows import split_examples


def packed(rows: Rows) -> Rows:
    """Return the rows as the data set has them, in two bins."""
    examples = split_examples(rows)
    bins = []
    for members in (examples[1::2], examples[::2]):
        bins.append(
            {name: [id for one in members for id in one[name]] for name in ("input_ids", "labels")}
        )
        bins[-1]["seq_lengths"] = [len(one["input_ids"]) for one in members]
    return collate_rows(bins)


@pytest.mark.parametrize("family", ["llama", "gemma2"])
@pytest.mark.parametrize("rows_per_micro", [64, 1])
@pytest.mark.parametrize("off", [frozenset[str](), frozenset({"padding_free"})])
def test_packed_rows_have_the_gradients_of_rows_that_are_not_packed(
    family: str, rows_per_micro: int, off: frozenset[str], model_of: ModelOf, rows: Rows
) -> None:
    bins = packed(rows)
    assert sorted(bins.lengths) == sorted(rows.lengths)
    assert bins.lengths != rows.lengths
    model = model_of(family)
    assert_same_gradients(model, bins, Step(model, options(rows_per_micro=rows_per_micro, off=off)))

"""An adapter's capacity grows with its rank, and a warning names the rank that holds the rows."""

from __future__ import annotations

import pytest

from tests.support.tick_contexts import TINY, recipe
from workbench.footprint.scoring_plan import adapter_parameters
from workbench.judging.capacity import capacity_warning, rank_capacities


def test_capacity_is_that_of_the_smallest_and_largest_rank_of_the_sweep() -> None:
    swept = recipe(sweep={"parameters": {"lora.rank": [16, 4, 8]}})
    found = rank_capacities(swept, TINY)
    assert [one.rank for one in found] == [4, 16]
    assert found[1].parameters == 4 * found[0].parameters
    assert found[0].tokens == 2 * found[0].parameters
    lora = swept.lora.model_copy(update={"rank": 4})
    assert found[0].parameters == adapter_parameters(TINY, lora)


@pytest.mark.parametrize(
    "parameter", [{"min": 4, "max": 32, "integer": True}, {"values": [32, 4]}, [4, 32]]
)
def test_ranges_choices_and_lists_are_read(parameter: object) -> None:
    sweep = {"method": "random", "trials": 2, "parameters": {"lora.rank": parameter}}
    assert [one.rank for one in rank_capacities(recipe(sweep=sweep), TINY)] == [4, 32]


def test_one_rank_stands_once() -> None:
    assert [one.rank for one in rank_capacities(recipe(lora={"rank": 8}), TINY)] == [8]


def test_rows_that_hold_more_than_the_smallest_adapter_are_warned_about() -> None:
    (small,) = rank_capacities(recipe(lora={"rank": 8}), TINY)
    assert capacity_warning([small], small.tokens) == ""
    warning = capacity_warning([small], 3 * small.tokens)
    assert "an adapter of rank 8" in warning
    assert "lora.rank: 24 has room for all" in warning
    (enough,) = rank_capacities(recipe(lora={"rank": 24}), TINY)
    assert capacity_warning([enough], 3 * small.tokens) == ""

"""Ministral 3's queries, which are scaled by position, where no position of a row is scaled."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers.models.ministral3 import modeling_ministral3

from tests.training.decode.test_generate import by_lanes, by_transformers
from tests.training.step.conftest import MORE, ModelOf, assert_same_gradients, options
from workbench.training.decode.forward import FastForward
from workbench.training.decode.lanes import Prompt
from workbench.training.step import Step
from workbench.training.step.rows import Rows

LONGEST = 17
"""Tokens of the longest of the fixture's rows."""


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list that gets an entry whenever the factors are computed."""
    calls: list[int] = []
    original = modeling_ministral3.get_llama_4_attn_scale

    def counted(*given: Any) -> torch.Tensor:
        calls.append(1)
        factors: torch.Tensor = original(*given)
        return factors

    monkeypatch.setattr(modeling_ministral3, "get_llama_4_attn_scale", counted)
    return calls


def of_length(model_of: ModelOf, length: int) -> Any:
    """Return a model whose queries are scaled from that position on."""
    rope = MORE["ministral3"]["rope_parameters"]
    changed = {**rope, "original_max_position_embeddings": length}
    return model_of("ministral3", {"rope_parameters": changed})


@pytest.mark.parametrize(("length", "launched"), [(LONGEST, False), (LONGEST - 1, True)])
def test_factors_are_computed_where_a_row_is_longer(
    length: int, launched: bool, rows: Rows, model_of: ModelOf, computed: list[int]
) -> None:
    model = of_length(model_of, length)
    step = Step(model, options(recompute_layers=1))
    step.forward_backward(rows)
    assert bool(computed) is launched
    step.optimizer.zero_grad()
    assert_same_gradients(model, rows, step)


def test_lanes_compute_them_where_they_have_room_for_more(
    model_of: ModelOf, computed: list[int]
) -> None:
    asked = [Prompt(ids=[5, 9, 11, 40, 7], most=8), Prompt(ids=[8, 3], most=8)]
    for length, launched in ((13, False), (12, True)):
        model = of_length(model_of, length)
        want = [by_transformers(model, list(one.ids), most=8) for one in asked]
        computed.clear()
        forward = FastForward(model, torch.float32)
        try:
            got = by_lanes(forward, asked)
        finally:
            forward.restore()
        assert got == want
        assert bool(computed) is launched

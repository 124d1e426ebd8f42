"""The kernels and numbers that replace parts of a model while it trains."""

from __future__ import annotations

from typing import Any

import torch

from tests.training.step.conftest import ModelOf, assert_same_gradients, options
from tests.training.step.kernels.device import needs_triton
from workbench.training.step import Rows, Step
from workbench.training.step.model_parts import ModelParts, find_parts
from workbench.training.step.small_kernels import SmallKernels


def test_gemma_4s_layers_are_multiplied_by_a_number(model_of: ModelOf) -> None:
    model = model_of("gemma4_text")
    parts = find_parts(model.get_base_model())
    assert isinstance(parts, ModelParts)
    layers: list[Any] = list(parts.layers)
    for layer in layers:
        layer.layer_scalar.fill_(0.375)
    kernels = SmallKernels(parts, None, turn_in_place=True)
    model.to(torch.float64)  # as accelerate moves it, to a card
    assert [layer.layer_scalar for layer in layers] == [0.375] * 4
    assert all(isinstance(layer.layer_scalar, float) for layer in layers)
    kernels.restore()
    assert all(layer.layer_scalar.dtype == torch.float64 for layer in layers)


@needs_triton
def test_norms_of_embeddings_share_their_gradient_with_the_tables(
    model_of: ModelOf, rows: Rows
) -> None:
    """Their norm is added to the tables' rows; one of heads would overwrite what both are given."""
    targets = ["q_proj", "per_layer_model_projection", "embed_tokens_per_layer"]
    model = model_of("gemma4_text", target_modules=targets)
    step = Step(model, options())
    step.forward_backward(rows)
    assert_same_gradients(model, rows, step)

"""The planner's reading of a config, compared with the model that transformers builds from it."""

from __future__ import annotations

import pytest
from transformers import AutoConfig

from workbench.footprint import ModelShape
from workbench.footprint.model.shape import FUSED_FAMILIES


@pytest.mark.parametrize("kind", sorted(FUSED_FAMILIES))
def test_measures_that_a_config_leaves_out_are_those_of_transformers(kind: str) -> None:
    given = {"hidden_size": 4096, "intermediate_size": 64, "num_hidden_layers": 2}
    given |= {"num_attention_heads": 32, "vocab_size": 97}
    whole = AutoConfig.for_model(kind, **given)
    shape = ModelShape.of({"model_type": kind, **given})
    assert shape.kv_heads == whole.num_key_value_heads
    first = whole.per_layer_config[0]  # Gemma 4's layers are unlike
    assert shape.head_dim == (getattr(first, "head_dim", None) or 128)
    assert shape.tied == whole.tie_word_embeddings

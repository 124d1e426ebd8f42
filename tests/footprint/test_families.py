"""Knowledge of an architecture; counted weights are those of transformers' models."""

from __future__ import annotations

import json
from typing import Any

import pytest

from workbench.footprint import ModelShape, named_config
from workbench.footprint.model.families import COUNTED_FAMILIES, UNCOUNTED_WEIGHTS, family_of
from workbench.footprint.model.shape import FUSED_FAMILIES
from workbench.footprint.outlook import outlook_on
from workbench.footprint.usual_cards import usual_card
from workbench.recipe import Recipe

RECIPE = Recipe.model_validate(
    {"name": "x", "model": {"name": "a/b"}, "data": {"train": "/d.jsonl"}}
)
HYBRID = {
    "model_type": "falcon_h1",
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14_336,
    "vocab_size": 128_000,
}
SIZES: dict[str, dict[str, Any]] = {
    "gemma4_text": {"num_hidden_layers": 12, "num_kv_shared_layers": 0},
    "qwen3_5_text": {"num_hidden_layers": 8},
}


@pytest.mark.parametrize("kind", sorted(COUNTED_FAMILIES | FUSED_FAMILIES))
def test_counted_weights_are_those_of_transformers_models(kind: str) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(kind, **SIZES.get(kind, {"num_hidden_layers": 4}))
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    head = model.get_output_embeddings()
    tied = config.tie_word_embeddings  # a tied head counts once, as the embeddings
    linear = other = 0
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if module is head:
                other += 0 if tied else parameter.numel()
            elif isinstance(module, torch.nn.Linear) and name == "weight":
                linear += parameter.numel()
            else:
                other += parameter.numel()
    shape = ModelShape.of(json.loads(json.dumps(config.to_dict(), default=str)))
    assert shape.linear_params == pytest.approx(linear, rel=0.02)
    assert shape.other_params == pytest.approx(other, rel=0.02)
    assert family_of(shape).counted


def test_a_measured_family_comes_without_a_warning() -> None:
    llama = named_config("meta-llama/Meta-Llama-3-8B") or {}
    outlook = outlook_on(RECIPE, llama, usual_card("3090"))
    assert outlook.family.warning() == ""
    assert outlook.range_bytes == (outlook.plan.predicted_bytes,) * 2


def test_a_family_without_a_formula_is_named_with_its_interval() -> None:
    outlook = outlook_on(RECIPE, HYBRID, usual_card("3090"))
    least, most = outlook.range_bytes
    weights = sum(outlook.plan.buckets[name] for name in ("base", "embeddings"))
    assert most - outlook.plan.predicted_bytes == int(weights * (UNCOUNTED_WEIGHTS[1] - 1))
    assert least < outlook.plan.predicted_bytes < most
    assert "there is no formula for falcon_h1" in outlook.family.warning()


def test_a_counted_family_is_named_as_not_measured() -> None:
    family = family_of(ModelShape.of({**HYBRID, "model_type": "olmo2"}))
    assert (family.counted, family.measured) == (True, False)
    assert "olmo2 was not measured: its weights are counted" in family.warning()


def test_what_keeps_a_known_family_from_the_fused_step_is_named() -> None:
    llama = named_config("meta-llama/Meta-Llama-3-8B") or {}
    dropping = ModelShape.of({**llama, "attention_dropout": 0.1})
    assert family_of(dropping).name == "llama with a dropout of its own"
    nested = ModelShape.of({"model_type": "llava", "text_config": llama})
    assert family_of(nested).name == "llama inside a larger model"

"""Knowledge of an architecture; counted weights are those of transformers' models."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from typing import Any

import pytest

from workbench.errors import ModelError
from workbench.footprint import ModelShape, named_config
from workbench.footprint.model.config_values import WRAPPER_FAMILIES
from workbench.footprint.model.extra_weights import ExtraWeights
from workbench.footprint.model.families import COUNTED_FAMILIES, UNCOUNTED_WEIGHTS, family_of
from workbench.footprint.model.loadable import WITH_IMAGES, causal_class, is_loadable
from workbench.footprint.model.shape import FUSED_FAMILIES
from workbench.footprint.model.weight_counts import WeightCounts, with_counts
from workbench.footprint.outlook import outlook_on, usual_outlooks
from workbench.footprint.peak.buckets import NF4_BYTES
from workbench.footprint.peak.layers import lora_params
from workbench.footprint.usual_cards import card_of_size, usual_card
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
GIB = 1 << 30
TWO_LAYERS = {"num_hidden_layers": 2}
DENSE: dict[str, dict[str, Any]] = {
    "granitemoehybrid": {"num_local_experts": 0, "layer_types": ["full_attention"] * 2}
}
"""Settings with which a family's model has no experts, and attention in all layers."""


@cache
def built(kind: str, **settings: Any) -> tuple[dict[str, Any], WeightCounts]:
    """Return the config.json of a model_type, its other sizes by default, and what it counts."""
    import torch
    from transformers import AutoConfig

    from workbench.training.model.weight_counting import count_weights
    from workbench.training.model.weights import model_loader

    config = AutoConfig.for_model(kind, **settings)
    with torch.device("meta"):
        model = model_loader(kind).from_config(config)
    return json.loads(json.dumps(config.to_dict(), default=str)), count_weights(model)


@cache
def causal_kinds() -> tuple[str, ...]:
    """Return each model_type for which the installed transformers has a causal language model."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return tuple(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def assert_equal_weights(config: dict[str, Any], counts: WeightCounts) -> None:
    """Assert that the formula gives the counted weights; some small biases have no formula."""
    shape = ModelShape.of(config)
    assert shape.linear_params == counts.linear, config["model_type"]
    others = shape.other_params + shape.width
    assert others == pytest.approx(counts.other, rel=0.001), config["model_type"]
    assert shape.layers == len(counts.layers)


def share_of_formula(config: dict[str, Any], counts: WeightCounts) -> list[float]:
    """Return the bytes of the weights as shares of the formula's, with NF4 and in 16 bits."""
    shape = ModelShape.of(config)
    others = shape.other_params + shape.width
    return [
        (counts.linear * per_param + counts.other * 2)
        / (shape.linear_params * per_param + others * 2)
        for per_param in (NF4_BYTES[True], 2)
    ]


@pytest.mark.parametrize("kind", sorted(COUNTED_FAMILIES | FUSED_FAMILIES))
def test_counted_weights_are_those_of_transformers_models(kind: str) -> None:
    config, counts = built.__wrapped__(kind, **TWO_LAYERS, **DENSE.get(kind, {}))
    assert_equal_weights(config, counts)
    assert family_of(ModelShape.of(config)).counted


VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("gemma4_text", {}),
    ("gemma4_text", {"num_kv_shared_layers": 10, "use_double_wide_mlp": True}),
    ("gemma4_text", {"attention_k_eq_v": True, "num_global_key_value_heads": 2}),
    ("gemma4_text", {"hidden_size_per_layer_input": 0, "global_head_dim": 128}),
    ("gemma4_unified_text", {"attention_k_eq_v": True, "num_global_key_value_heads": 1}),
    ("qwen3_5_text", {}),
    ("qwen3_5_text", {"num_hidden_layers": 6, "linear_num_value_heads": 16}),
]


@pytest.mark.parametrize(("kind", "settings"), VARIANTS)
def test_weights_of_unlike_layers_are_counted_each(kind: str, settings: dict[str, Any]) -> None:
    config, counts = built(kind, **settings)
    assert_equal_weights(config, counts)
    adapted = RECIPE.lora.model_copy(update={"targets": "all-linear"})
    by_formula = ModelShape.of(config)
    by_class = replace(by_formula, counts=counts)
    assert lora_params(by_formula, adapted) == lora_params(by_class, adapted)


@pytest.mark.parametrize("inside", ["ministral3", "mistral"])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("more", [{}, {"multimodal_projector_bias": True, "spatial_merge_size": 1}])
def test_mistral_3_is_counted_with_its_vision_tower(
    inside: str, tied: bool, more: dict[str, Any]
) -> None:
    text = {"model_type": inside, "hidden_size": 512, "vocab_size": 4_096, **TWO_LAYERS}
    outer = {"text_config": text, "tie_word_embeddings": tied, **more}
    config, counts = built.__wrapped__("mistral3", **outer)
    shape = ModelShape.of(config)
    assert (shape.kind, shape.fused, shape.tied) == (inside, True, tied)
    assert (shape.linear_params, shape.params - shape.linear_params) == (
        counts.linear,
        counts.other,
    )
    every = RECIPE.lora.model_copy(update={"targets": "all-linear"})
    alone = replace(shape, extra=ExtraWeights())
    assert lora_params(shape, every) == lora_params(alone, every)


EYES_AND_EARS: list[dict[str, Any]] = [
    {},
    {"vision_config": {}},
    {"vision_config": {"hidden_size": 96, "head_dim": 32, "intermediate_size": 200,
     "num_hidden_layers": 3, "num_attention_heads": 3, "num_key_value_heads": 3,
     "position_embedding_size": 50, "mm_embed_dim": 64, "mm_posemb_size": 20}},
    {"audio_config": {}},
    {"vision_config": {}, "audio_config": {"hidden_size": 64, "num_hidden_layers": 2,
     "subsampling_conv_channels": [16, 8], "output_proj_dims": 48, "audio_embed_dim": 32}},
]  # fmt: skip


@pytest.mark.parametrize("towers", EYES_AND_EARS)
@pytest.mark.parametrize("outer", ["gemma4", "gemma4_unified"])
def test_gemma_4_is_counted_with_what_sees_and_hears(outer: str, towers: dict[str, Any]) -> None:
    text = {
        "model_type": f"{outer}_text", "hidden_size": 512, "num_hidden_layers": 6,
        "global_head_dim": 256, "vocab_size": 4_096, "vocab_size_per_layer_input": 4_096,
    }  # fmt: skip
    config, counts = built.__wrapped__(outer, text_config=text, **towers)
    shape = ModelShape.of(config)
    assert (shape.kind, shape.fused, shape.tied) == (f"{outer}_text", True, True)
    assert shape.linear_params == counts.linear
    assert shape.params - shape.linear_params == counts.other


NAMED_GEMMA_4 = {"E2B": 5.10e9, "E4B": 7.94e9, "12B": 11.96e9, "31B": 31.27e9}


@pytest.mark.parametrize("size", NAMED_GEMMA_4)
def test_gemma_4_as_it_is_published_is_known_by_its_name(size: str) -> None:
    config = named_config(f"google/gemma-4-{size}-it") or {}
    shape = ModelShape.of(config)
    assert shape.params == pytest.approx(NAMED_GEMMA_4[size], rel=0.002)
    whole = {key: config[key] for key in config if key.endswith("_config")}
    _, counts = built.__wrapped__(config["model_type"], **whole)
    assert (shape.linear_params, shape.params) == (counts.linear, counts.linear + counts.other)


def test_granite_4_with_state_space_layers_or_experts_has_no_formula() -> None:
    dense, _ = built.__wrapped__("granitemoehybrid", **TWO_LAYERS, **DENSE["granitemoehybrid"])
    assert family_of(ModelShape.of(dense)).counted
    hybrid = {**dense, "layer_types": ["linear_attention", "full_attention"]}
    assert not family_of(ModelShape.of(hybrid)).counted
    with pytest.raises(ModelError, match="mixture of experts"):
        ModelShape.of({**dense, "num_local_experts": 8})


def test_a_configuration_before_transformers_5_24_says_the_same_of_gemma_4() -> None:
    config, counts = built("gemma4_text", global_head_dim=384, num_hidden_layers=12)
    old = {key: value for key, value in config.items() if key != "per_layer_config"}
    assert_equal_weights({**old, "global_head_dim": 384}, counts)


@pytest.mark.slow
def test_every_causal_model_of_transformers_is_counted_within_its_interval() -> None:
    low, high = UNCOUNTED_WEIGHTS
    outside, compared = [], 0
    for kind in causal_kinds():
        for settings in (TWO_LAYERS, {}):
            try:
                config, counts = built(kind, **settings)
                family = family_of(ModelShape.of(config))
            except ModelError:
                continue  # a mixture of experts, or without a decoder's sizes: refused
            except Exception:  # its default configuration builds no model, whatever it raises
                continue
            compared += 1
            if kind in WRAPPER_FAMILIES:  # its tower is counted in 16 bits, though it is quantised
                assert all(0.9 < share < 1.01 for share in share_of_formula(config, counts))
            elif family.counted:
                assert_equal_weights(config, counts)
            elif not all(low <= share <= high for share in share_of_formula(config, counts)):
                outside.append((kind, settings, share_of_formula(config, counts)))
            exact = ModelShape.of(with_counts(config, counts))
            if not exact.fused:
                assert (exact.linear_params, exact.params) == (
                    counts.linear,
                    counts.linear + counts.other,
                ), kind
    assert not outside
    assert compared > 150


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_loading_is_refused_for_exactly_what_transformers_refuses(every: bool) -> None:
    """Importing every kind of model that transformers has takes seconds; a few stand for them."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    def loads(kind: str) -> bool:
        try:
            return CONFIG_MAPPING[kind] in MODEL_FOR_CAUSAL_LM_MAPPING
        except (AttributeError, ImportError):  # a configuration that needs another library
            return is_loadable(kind) is True

    known = {*COUNTED_FAMILIES, *FUSED_FAMILIES, *WITH_IMAGES, "falcon_h1", "qwen3_5"}
    refused = {"clip", "siglip", "t5", "vit"}
    kinds = list(CONFIG_MAPPING) if every else sorted(known | refused)
    assert not any(map(loads, refused))
    unlike = [kind for kind in kinds if loads(kind) != is_loadable(kind)]
    assert unlike == sorted(WITH_IMAGES)  # loaded by another of transformers' classes
    assert all(is_loadable(kind) for kind in causal_kinds())
    assert causal_class("qwen3_5") == causal_class("qwen3_5_text")


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
    assert "`workbench check` counts its weights exactly" in outlook.family.warning()


def test_a_family_without_a_formula_fits_only_if_its_most_bytes_do() -> None:
    outlooks = usual_outlooks(RECIPE, HYBRID)
    assert any(one.undecided for one in outlooks)
    for one in outlooks:
        least, most = one.range_bytes
        assert one.fits == (most <= one.room_bytes)
        assert one.undecided == (least <= one.room_bytes < most)


def test_nothing_is_suggested_by_weights_that_are_not_counted() -> None:
    outlook = outlook_on(RECIPE, HYBRID, card_of_size(2 * GIB, "2 GB"))
    assert (outlook.fits, outlook.suggestions) == (False, ())


def test_counted_weights_take_the_place_of_the_interval() -> None:
    config, counts = built("falcon_h1", **TWO_LAYERS)
    outlook = outlook_on(RECIPE, with_counts(config, counts), usual_card("3090"))
    assert (outlook.fits, outlook.family.counted) == (True, True)
    assert outlook.range_bytes == (outlook.plan.predicted_bytes,) * 2
    assert outlook.plan.buckets["base"] == int(counts.linear * NF4_BYTES[True])
    assert outlook.plan.buckets["embeddings"] == counts.other * 2
    assert outlook.plan.buckets["dequantisation"] == counts.largest * 2


def test_counts_survive_their_way_through_json() -> None:
    _, counts = built("qwen3_5_text", **TWO_LAYERS)
    assert WeightCounts.from_json(json.loads(json.dumps(counts.to_json()))) == counts


def test_a_counted_family_is_named_as_not_measured() -> None:
    family = family_of(ModelShape.of({**HYBRID, "model_type": "stablelm"}))
    assert (family.counted, family.measured) == (True, False)
    assert "stablelm was not measured: its weights are counted" in family.warning()


def test_what_keeps_a_known_family_from_the_fused_step_is_named() -> None:
    llama = named_config("meta-llama/Meta-Llama-3-8B") or {}
    dropping = ModelShape.of({**llama, "attention_dropout": 0.1})
    assert family_of(dropping).name == "llama with a dropout of its own"
    nested = family_of(ModelShape.of({"model_type": "llava", "text_config": llama}))
    assert (nested.name, nested.counted) == ("llama inside a larger model", False)


def test_a_text_model_that_is_loaded_alone_is_counted_alone() -> None:
    config, counts = built("qwen3_5")
    assert_equal_weights(config, counts)
    assert family_of(ModelShape.of(config)).counted

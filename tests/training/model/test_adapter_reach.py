"""The weights of a base are counted on its class, and the layers without an adapter named."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from workbench.recipe.schema import LLAMA_PROJECTIONS, Lora
from workbench.training.model.adapter_reach import adapted_layers, reach_notes
from workbench.training.model.targets import find_targets
from workbench.training.model.weight_counting import count_weights


def empty(kind: str, **settings: Any) -> Any:
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **settings))


def test_linear_attention_that_no_target_reaches_is_named_with_its_layers() -> None:
    model = empty("qwen3_5_text", num_hidden_layers=8)
    (note,) = reach_notes(model, list(LLAMA_PROJECTIONS))
    assert note == (
        "lora.targets: 6 of 8 layers (0-2, 4-6) have a linear_attn that gets no adapter (out_proj, "
        "in_proj_qkv, in_proj_z, in_proj_b, in_proj_a); write targets: all-linear, or name these"
    )
    assert adapted_layers(model, list(LLAMA_PROJECTIONS))["q_proj"] == 2


def test_all_linear_reaches_every_layer_and_leaves_the_head_out() -> None:
    model = empty("qwen3_5_text", num_hidden_layers=8)
    targets, _ = find_targets(model, Lora(targets="all-linear"))
    assert reach_notes(model, targets) == []
    adapted = adapted_layers(model, targets)
    assert (adapted["in_proj_qkv"], adapted["q_proj"], adapted["up_proj"]) == (6, 2, 8)
    assert "lm_head" not in adapted


def test_targets_that_leave_a_part_of_every_layer_out_are_meant() -> None:
    assert reach_notes(empty("llama", num_hidden_layers=2), ["q_proj", "v_proj"]) == []


def test_layers_without_any_adapter_are_named() -> None:
    notes = reach_notes(empty("qwen3_5_text", num_hidden_layers=8), ["k_proj"])
    assert notes[-1] == "lora.targets: 6 of 8 layers (0-2, 4-6) get no adapter at all"


def test_a_tied_head_is_counted_once_and_in_16_bits() -> None:
    sizes = {"hidden_size": 64, "intermediate_size": 128, "vocab_size": 1000}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 4, "num_hidden_layers": 2}
    tied, apart = (
        count_weights(empty("llama", **sizes, **heads, tie_word_embeddings=tie))
        for tie in (True, False)
    )
    assert tied.linear == apart.linear == 2 * (4 * 64 * 64 + 3 * 64 * 128)
    assert apart.other - tied.other == 1000 * 64
    assert tied.layers == ((4 * 64 * 64 + 3 * 64 * 128, 2 * 64),) * 2
    assert tied.largest == 64 * 128


def test_a_subclass_of_linear_layers_is_counted_in_16_bits_because_it_stays_there() -> None:
    counts = count_weights(empty("falcon", num_hidden_layers=2))
    assert counts.linear == 0
    assert counts.projections["dense"].modules == 2


def test_a_tower_that_text_never_passes_gets_no_adapter() -> None:
    model = empty("gemma3")
    names = [name for name, _ in model.named_modules() if name.endswith(".q_proj")]
    assert any("vision" in name for name in names)
    counts = count_weights(model)
    assert counts.projections["q_proj"].modules == len(counts.layers) == 26

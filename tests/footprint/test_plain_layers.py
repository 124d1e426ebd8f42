"""Bytes of layers outside the fused step, compared with what transformers and PEFT keep."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from workbench.footprint import ModelShape, named_config
from workbench.footprint.peak.layers import plain_layer
from workbench.recipe.schema import Lora
from workbench.training.model.targets import all_linear

TOKENS, RANK = 128, 4
QWEN = "qwen3_5_text"
SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "vocab_size": 97,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
HEADS = [
    {"linear_num_value_heads": 8, "linear_num_key_heads": 4},
    {"linear_num_value_heads": 4, "linear_num_key_heads": 4, "linear_value_head_dim": 64},
]


def kept_bytes(layers: int, kind: str, **sizes: int) -> int:
    """Return the bytes that a forward pass of PEFT's modules saves, without parameters."""
    config = AutoConfig.for_model(kind, **SIZES | sizes, num_hidden_layers=layers)
    base = AutoModelForCausalLM.from_config(config).to(torch.bfloat16)
    lora = LoraConfig(r=RANK, target_modules=all_linear(base), task_type="CAUSAL_LM")
    model: Any = get_peft_model(base, lora).train()
    constant = {one.untyped_storage().data_ptr() for one in (*model.parameters(), *model.buffers())}
    seen: dict[int, int] = {}
    held: list[torch.Tensor] = []

    def note(tensor: torch.Tensor) -> torch.Tensor:
        if (storage := tensor.untyped_storage()).data_ptr() not in constant:
            seen[storage.data_ptr()] = storage.nbytes()
            held.append(tensor)
        return tensor

    ids = torch.arange(TOKENS)[None] % 97
    casting = torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=False)
    with casting, torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        model.get_base_model().model(input_ids=ids, use_cache=False)
    return sum(seen.values())


@pytest.mark.filterwarnings("ignore::FutureWarning")  # PEFT asks by an old name
@pytest.mark.parametrize("heads", HEADS, ids=["more value heads", "narrow values"])
def test_a_gated_delta_layer_keeps_what_is_predicted(heads: dict[str, int]) -> None:
    shape = ModelShape.of({"model_type": QWEN, **SIZES, **heads, "num_hidden_layers": 4})
    assert shape.delta is not None
    measured = (kept_bytes(3, QWEN, **heads) - kept_bytes(2, QWEN, **heads)) / TOKENS
    # The norms' inputs in fp32, the feed-forward block, adapters' inputs and what A makes of them.
    rest = 8 * shape.width + 6 * shape.ffn + 2 * (2 * shape.width + shape.ffn) + 2 * 8 * RANK
    assert shape.delta.kept_bytes == pytest.approx(measured - rest, rel=0.08)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # PEFT asks by an old name
@pytest.mark.parametrize("kind", ["gemma", "stablelm", "cohere", "internlm3"])
def test_a_layer_of_a_counted_family_keeps_no_more_than_predicted(kind: str) -> None:
    sizes = {"hidden_size": 512, "intermediate_size": 1536, "num_attention_heads": 4}
    sizes |= {"num_key_value_heads": 4, "head_dim": 128}
    shape = ModelShape.of({"model_type": kind, **SIZES, **sizes, "num_hidden_layers": 3})
    measured = (kept_bytes(3, kind, **sizes) - kept_bytes(2, kind, **sizes)) / TOKENS
    lora = Lora(rank=RANK, targets="all-linear", dropout=0.0)
    predicted = plain_layer(shape, lora, "bf16", quadratic=False).kept
    assert measured * 0.97 < predicted < measured * 1.15


def test_the_layers_with_linear_attention_are_counted() -> None:
    nine = ModelShape.of(named_config("Qwen/Qwen3.5-9B") or {})
    assert nine.delta is not None
    assert (nine.delta.count, nine.layers) == (24, 32)
    assert ModelShape.of(named_config("Qwen/Qwen3-8B") or {}).delta is None

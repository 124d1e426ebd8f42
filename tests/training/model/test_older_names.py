"""Merged configurations hold the names that transformers 4 reads, whatever the architecture.

Each expectation was compared with transformers 4.57.3: with these keys the logits of random models
of 30 architectures were those of transformers 5; without them Phi-3's long context was refused,
and GPT-NeoX, gpt-oss and Qwen3-MoE were read otherwise.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from tests.training.model.bases import copied, made
from workbench.training.model.portable import add_older_names

THETA = 500_000.0
LONG: dict[str, Any] = {"short_factor": [1.1] * 4, "long_factor": [2.0] * 4}
EXPERTS = {"num_experts": 4, "moe_intermediate_size": 32, "num_experts_per_tok": 2}


def config_of(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "config.json").read_text()))


@pytest.mark.parametrize(
    ("kind", "rope", "expected"),
    [
        ("gpt_neox", {"partial_rotary_factor": 0.5}, {"rotary_emb_base": THETA, "rotary_pct": 0.5}),
        ("llama", {}, {"rope_theta": THETA, "rope_scaling": None}),
        (
            "phi3",
            {"rope_type": "longrope", **LONG, "original_max_position_embeddings": 128},
            {
                "rope_scaling": {"type": "longrope", **LONG},
                "original_max_position_embeddings": 128,
            },
        ),
    ],
    ids=["gpt_neox", "llama", "phi3"],
)
def test_an_architecture_finds_its_own_older_names(
    kind: str, rope: dict[str, Any], expected: dict[str, Any], tmp_path: Path
) -> None:
    rope = {"rope_type": "default", "rope_theta": THETA} | rope
    length = rope.get("original_max_position_embeddings", 64)
    folder = made(
        tmp_path / "model", kind, rope_parameters=rope, original_max_position_embeddings=length
    )
    before = AutoConfig.from_pretrained(folder).rope_parameters
    add_older_names(folder)
    config = config_of(folder)
    assert {name: config.get(name, "lacking") for name in expected} == expected
    after = AutoConfig.from_pretrained(folder).rope_parameters
    assert {name: after[name] for name in before} == before


def test_keys_that_transformers_5_renamed_stay_as_the_base_has_them(tmp_path: Path) -> None:
    folder = made(tmp_path / "merged", "qwen3_moe", **EXPERTS)
    assert "num_experts" not in config_of(folder)
    base = tmp_path / "base"
    base.mkdir()
    own = EXPERTS | {"quantization_config": {"bits": 4}, "torch_dtype": "float16"}
    (base / "config.json").write_text(json.dumps({"model_type": "qwen3_moe", **own}))
    add_older_names(folder, str(base))
    config = config_of(folder)
    assert config["num_experts"] == 4
    assert "quantization_config" not in config
    assert config["torch_dtype"] == config["dtype"] == "float32"


def test_a_key_of_the_base_that_would_change_the_model_is_left_out(tmp_path: Path) -> None:
    folder = made(tmp_path / "merged", "llama")
    before = AutoConfig.from_pretrained(folder).to_dict()
    (tmp_path / "base").mkdir()
    scaling = {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}
    (tmp_path / "base" / "config.json").write_text(json.dumps(scaling))
    add_older_names(folder, str(tmp_path / "base"))
    after = AutoConfig.from_pretrained(folder).to_dict()
    assert {name: after[name] for name in before} == before
    assert config_of(folder)["rope_scaling"] is None
    assert config_of(folder)["rope_theta"] == config_of(folder)["rope_parameters"]["rope_theta"]


@pytest.mark.parametrize("own", [True, False])
def test_a_head_of_its_own_is_not_called_the_embedding(own: bool, tmp_path: Path) -> None:
    """transformers 4 would put the embedding in its place: other logits by 25 of 29."""

    def change(weights: dict[str, Tensor]) -> None:
        if not own:
            weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()

    folder = copied(tmp_path / "merged", change, tie_word_embeddings=True)
    head = AutoModelForCausalLM.from_pretrained(folder).lm_head.weight
    add_older_names(folder)
    assert config_of(folder)["tie_word_embeddings"] is not own
    after = AutoModelForCausalLM.from_pretrained(folder).lm_head.weight
    assert torch.equal(after, head)

"""Folders of adapters made by other tools: what is read of them, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.adapters.folders import (
    AXOLOTL,
    LLAMA_FACTORY,
    OLD_PEFT,
    PEFT,
    UNSLOTH,
    llama_modules,
    write_adapter,
)
from workbench.adapters.adapter_folder import adapter_digest, read_adapter
from workbench.adapters.lora_settings import parse_settings
from workbench.errors import CheckpointError, NotThere


@pytest.mark.parametrize(
    "config", [PEFT, OLD_PEFT, AXOLOTL, UNSLOTH], ids=["trl", "old-peft", "axolotl", "unsloth"]
)
def test_a_folder_of_another_tool_is_read(tmp_path: Path, config: dict[str, Any]) -> None:
    found = read_adapter(write_adapter(tmp_path, config))
    assert found.rank == 8
    assert found.settings.alpha == 16
    assert found.settings.rslora is bool(config.get("use_rslora"))
    assert sorted(found.modules) == sorted(llama_modules())
    assert found.parameters == 4 * (8 * 32 + 32 * 8)


def test_ranks_come_from_the_weights_and_alphas_from_the_pattern(tmp_path: Path) -> None:
    found = read_adapter(write_adapter(tmp_path, LLAMA_FACTORY, llama_modules(8, v_rank=4)))
    assert found.modules["model.layers.1.self_attn.v_proj"] == (32, 32, 4)
    assert found.modules["model.layers.1.self_attn.q_proj"] == (32, 32, 8)
    assert found.settings.alpha_of("model.layers.1.self_attn.v_proj") == 8
    assert found.settings.alpha_of("model.layers.1.self_attn.q_proj") == 16


def test_the_first_entry_of_the_alpha_pattern_decides_as_in_peft() -> None:
    pattern = {"^model.layers.0.self_attn.q_proj": 1, "layers.1.self_attn.q_proj": 2, "q_proj": 3}
    settings = parse_settings({**PEFT, "alpha_pattern": pattern})
    alphas = [settings.alpha_of(f"model.layers.{n}.self_attn.q_proj") for n in range(3)]
    assert alphas == [1, 2, 3]
    assert settings.alpha_of("vision.model.layers.0.self_attn.q_proj") == 3


@pytest.mark.parametrize(
    "pattern",
    [
        {"q_proj": 8, "self_attn.q_proj": 8},
        {"self_attn.q_proj": 64, "q_proj": 8},
        {"^q_proj": 8, "self_attn.q_proj": 64},
        {"q_proj": 8, "fused_q_proj": 64},
    ],
    ids=["equal", "exception first", "one module", "another name"],
)
def test_an_alpha_pattern_whose_every_entry_counts_is_read(pattern: dict[str, float]) -> None:
    assert parse_settings({**PEFT, "alpha_pattern": pattern}).alpha_pattern == pattern


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"peft_type": "IA3"}, "it is IA3, not a LoRA"),
        ({"peft_type": None}, "it is not given, not a LoRA"),
        ({"task_type": "SEQ_CLS"}, "it was trained for SEQ_CLS"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save: ['lm_head']"),
        ({"trainable_token_indices": [1]}, "embeddings of single tokens"),
        ({"layer_replication": [[0, 4]]}, "it repeats layers"),
        ({"target_parameters": ["experts.up"]}, "outside linear layers"),
        ({"init_lora_weights": "pissa_niter_4"}, "changed the base's weights too"),
        ({"use_qalora": True}, "it sets use_qalora"),
        ({"invented_in_2027": 3}, "it sets invented_in_2027"),
        ({"r": 0}, "its rank r is 0"),
        ({"r": True}, "its rank r is True"),
        ({"lora_alpha": None}, "its lora_alpha is not given"),
        ({"lora_alpha": float("inf")}, "its lora_alpha is inf"),
        ({"bias": "some"}, "its bias is some"),
        ({"alpha_pattern": {"(a+)+b": 3}}, "a regular expression"),
        ({"alpha_pattern": {"q_proj": 8, "self_attn.q_proj": 64}}, "trained in another order"),
        ({"alpha_pattern": {"q_proj": 8, "^x.q_proj": 64}}, "trained in another order"),
        ({"invented\x1b[31m": 1}, "it sets invented,"),
    ],
)
def test_what_would_be_scored_wrongly_is_refused(changed: dict[str, Any], says: str) -> None:
    with pytest.raises(CheckpointError) as refused:
        parse_settings({**PEFT, **changed})
    assert says in refused.value.what


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("base_model.model.lm_head.modules_to_save.weight", "no part of a LoRA"),
        ("base_model.model.model.embed_tokens.weight", "no part of a LoRA"),
        ("base_model.model.model.layers.0.self_attn.q_proj.bias", "no part of a LoRA"),
        ("base_model.model.lm_head.lora_A.weight", "it adapts lm_head"),
        ("base_model.model.model.layers.0.mlp.up_proj.lora_A.weight", "are not a pair"),
    ],
)
def test_weights_beyond_the_matrices_are_refused(tmp_path: Path, name: str, says: str) -> None:
    extra = {name: np.zeros((4, 4), np.float32)}
    with pytest.raises(CheckpointError) as refused:
        read_adapter(write_adapter(tmp_path, PEFT, extra=extra))
    assert says in refused.value.what


def test_magnitudes_of_dora_and_trained_biases_are_accepted(tmp_path: Path) -> None:
    q_proj = "base_model.model.model.layers.0.self_attn.q_proj"
    extra = {
        f"{q_proj}.lora_magnitude_vector": np.ones(32, np.float32),
        f"{q_proj}.base_layer.bias": np.ones(32, np.float32),
    }
    config = {**PEFT, "use_dora": True, "bias": "lora_only"}
    found = read_adapter(write_adapter(tmp_path, config, extra=extra))
    assert found.settings.dora
    assert found.settings.bias == "lora_only"


def test_what_is_no_adapter_is_refused_with_a_hint(tmp_path: Path) -> None:
    with pytest.raises(NotThere, match="there is no folder"):
        read_adapter(tmp_path / "nothing")
    with pytest.raises(CheckpointError, match=r"adapter_config\.json is missing"):
        read_adapter(tmp_path)
    write_adapter(tmp_path / "checkpoint-9", PEFT)
    write_adapter(tmp_path / "checkpoint-10", PEFT)
    with pytest.raises(CheckpointError, match="holds checkpoints") as nested:
        read_adapter(tmp_path)
    assert "checkpoint-10" in nested.value.hint
    pickled = write_adapter(tmp_path / "pickled", PEFT)
    (pickled / "adapter_model.safetensors").rename(pickled / "adapter_model.bin")
    with pytest.raises(CheckpointError, match="pickled"):
        read_adapter(pickled)


@pytest.mark.parametrize("damage", ["cut", "longer", "header", "type", "empty"])
def test_a_damaged_file_is_refused(tmp_path: Path, damage: str) -> None:
    folder = write_adapter(tmp_path, PEFT)
    file = folder / "adapter_model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(
        {
            "cut": whole[:-5],
            "longer": whole + b"more",
            "header": (1 << 62).to_bytes(8, "little") + whole[8:],
            "type": whole.replace(b'"F32"', b'"I32"'),
            "empty": b"",
        }[damage]
    )
    with pytest.raises(CheckpointError, match="no whole safetensors file"):
        read_adapter(folder)


def test_the_digest_changes_with_the_weights_and_with_the_configuration(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path, PEFT)
    before = adapter_digest(folder)
    assert adapter_digest(folder) == before
    (folder / "adapter_config.json").write_text(json.dumps({**PEFT, "lora_alpha": 32}))
    assert adapter_digest(folder) != before
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="cannot be read"):
        adapter_digest(folder)

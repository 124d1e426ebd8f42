"""Each shipped recipe for a model of the hub trains a tiny random model of its family."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from tests.training.model.bases import made, seeing
from tests.training.step.conftest import SEEING
from tests.training.trials import Bench, plan
from workbench.adapters.adapter_folder import WEIGHTS
from workbench.attempts.events import Outcome
from workbench.footprint import ModelShape, named_config
from workbench.footprint.peak.layers import lora_params
from workbench.recipe import Recipe, find_recipe, list_recipes, load_recipe

HUB = [one.name for one in list_recipes() if one.name.endswith(("-qlora", "gb"))]
"""Recipes of one trial for a model of the hub, with rows of the hub."""
QUICK = (
    "gemma4-e4b-qlora",
    "granite-8b-qlora",
    "granite4-micro-qlora",
    "ministral3-8b-qlora",
    "olmo3-7b-qlora",
    "qwen3.5-4b-qlora",
    "smollm3-3b-qlora",
)
CASES = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in HUB]
SIZES: dict[str, dict[str, Any]] = {
    "granite": {"logits_scaling": 16.0, "embedding_multiplier": 12.0, "residual_multiplier": 0.22},
    "granitemoehybrid": {
        "layer_types": ["full_attention", "full_attention"],
        "num_local_experts": 0,
        "shared_intermediate_size": 48,
        "position_embedding_type": "rope",
        "mamba_n_heads": 4,
    },
    "qwen3_5_text": {
        "num_hidden_layers": 4,
        "head_dim": 32,
        "linear_num_value_heads": 4,
        "linear_num_key_heads": 2,
        "linear_key_head_dim": 16,
        "linear_value_head_dim": 16,
    },
    "smollm3": {"no_rope_layer_interval": 2},
}
"""Settings by which a tiny model belongs to its family."""


def chats(folder: Path, *, rows: int = 24) -> Path:
    """Write conversations of two turns."""
    said = [
        {"role": role, "content": f"{role} says {number}"}
        for number in range(2)
        for role in ("user", "assistant")
    ]
    file = folder / "train.jsonl"
    file.write_text("".join(json.dumps({"messages": said, "id": n}) + "\n" for n in range(rows)))
    return file


@pytest.mark.parametrize("name", CASES)
def test_a_shipped_recipe_trains_a_model_of_its_family(name: str, tmp_path: Path) -> None:
    shipped = load_recipe(find_recipe(name))
    kind = str((named_config(shipped.model.name) or {})["model_type"])
    more = {"bos_token_id": 0, "eos_token_id": 0, **SIZES.get(kind, {})}
    folder = tmp_path / "model"
    model = seeing(folder, kind) if kind in SEEING else made(folder, kind, **more)
    settings = shipped.model_dump(mode="json")
    settings["model"]["name"] = str(model)
    settings["data"] |= {"train": str(chats(tmp_path)), "eval_rows": 4, "max_tokens": 96}
    settings["train"] |= {"max_steps": 2, "warmup": 0}
    bench = Bench(tmp_path / "home", Recipe.model_validate(settings), plan())
    log = bench.run()
    assert log.outcome is Outcome.DONE, log.end
    prepared = json.loads((tmp_path / "home/experiments/1/prepared.json").read_text())
    shape = ModelShape.of(prepared["model"]["config"])
    trained = load_file(bench.trial / "adapter" / WEIGHTS).values()
    assert sum(tensor.numel() for tensor in trained) == lora_params(shape, shipped.lora)
    assert shape.fused == (kind != "granitemoehybrid")

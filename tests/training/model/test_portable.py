"""Adapters and merged models are read by other programs: plain PEFT, transformers 4, servers."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from tests.training.model.bases import DEMO, copied, made
from tests.training.trials import Bench, recipe
from workbench.attempts.events import Outcome
from workbench.errors import ModelError
from workbench.export.merge import merge_adapter
from workbench.training import libraries
from workbench.training.model.portable import add_older_names

IDS = torch.arange(3, 60)[None]


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model.eval()(IDS).logits.float()
    return found


def demo(**settings: Any) -> Any:
    return AutoModelForCausalLM.from_pretrained(DEMO, **settings)


@pytest.fixture(autouse=True)
def _quiet() -> None:
    libraries.silence_loggers()


@pytest.fixture(scope="module")
def rslora(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """Return a trial of rsLoRA with rank 8, whose base is a copy that ends turns its own way."""
    home = tmp_path_factory.mktemp("home")
    base = copied(home / "base")
    config = json.loads((base / "tokenizer_config.json").read_text())
    config |= {"eos_token": "<|end_of_text|>", "tokenizer_class": "PreTrainedTokenizerFast"}
    (base / "tokenizer_config.json").write_text(json.dumps(config))
    (base / "generation_config.json").write_text(json.dumps({"eos_token_id": 497}))
    settings = {"model__name": str(base), "lora__rslora": True, "lora__rank": 8, "lora__alpha": 16}
    bench = Bench(home, recipe(**settings))
    assert bench.run().outcome is Outcome.DONE
    return bench


def test_an_rslora_adapter_is_saved_as_plain_lora_of_the_same_scale(rslora: Bench) -> None:
    config = json.loads((rslora.trial / "adapter" / "adapter_config.json").read_text())
    assert config["use_rslora"] is False
    assert config["lora_alpha"] / 8 == pytest.approx(16 / math.sqrt(8))
    as_saved = logits(PeftModel.from_pretrained(demo(dtype="float32"), rslora.trial / "adapter"))
    older = rslora.home / "older"
    shutil.copytree(rslora.trial / "adapter", older, dirs_exist_ok=True)
    config |= {"use_rslora": True, "lora_alpha": 16}
    (older / "adapter_config.json").write_text(json.dumps(config))
    as_rslora = logits(PeftModel.from_pretrained(demo(dtype="float32"), older))
    torch.testing.assert_close(as_saved, as_rslora, rtol=1e-5, atol=1e-5)
    assert float((as_saved - logits(demo(dtype="float32"))).abs().max()) > 0.1


def test_pefts_weighted_sum_of_one_adapter_is_that_adapter(rslora: Bench) -> None:
    model = PeftModel.from_pretrained(demo(dtype="float32"), rslora.trial / "adapter", "one")
    alone = logits(model)
    model.add_weighted_adapter(["one"], [1.0], "sum", combination_type="cat")
    model.set_adapter("sum")
    torch.testing.assert_close(logits(model), alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("older", [False, True])
def test_an_rslora_adapter_can_be_started_from(rslora: Bench, older: bool, tmp_path: Path) -> None:
    """Adapters of earlier versions name rsLoRA in their configuration."""
    folder = tmp_path / "source"
    shutil.copytree(rslora.trial / "adapter", folder)
    if older:
        file = folder / "adapter_config.json"
        config = json.loads(file.read_text()) | {"use_rslora": True, "lora_alpha": 16}
        file.write_text(json.dumps(config))
    from workbench.machine import staging

    weights = folder / "adapter_model.safetensors"
    source = {"trial": 7, "folder": str(folder), "sha256": staging.file_sha256(weights)}
    begun = rslora.recipe.model_copy(
        update={"train": rslora.recipe.train.model_copy(update={"max_steps": 1, "warmup": 0})}
    )
    log = Bench(tmp_path / "home", begun).run(warm=source)
    assert log.outcome is Outcome.DONE, log.end


def test_the_lines_of_the_card_load_an_adapter_moved_elsewhere_with_peft_and_its_base_alone(
    rslora: Bench, tmp_path: Path
) -> None:
    """Another process on another machine has the adapter's folder and the base, nothing else."""
    moved = tmp_path / "elsewhere" / "adapter"
    shutil.copytree(rslora.trial / "adapter", moved)
    card = (moved / "README.md").read_text()
    assert "digest of the prepared rows" in card
    assert str(rslora.home) not in card
    (code,) = re.findall(r"```python\n(.*?)```", card, re.S)
    assert len(code.strip().splitlines()) == 5
    script = (
        "import gc; gc.disable()\n"  # a fifth of the imports' time
        + code.replace("THIS FOLDER", str(moved)).replace("FOLDER OF base", str(DEMO))
        + "import sys, torch\n"
        + "assert tokenizer('1 + 1')['input_ids']\n"
        + "logits = model.eval()(torch.arange(3, 60)[None]).logits.float()\n"
        + "torch.save(logits.detach(), sys.argv[1])\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "logits.pt")]
    subprocess.run(command, check=True, cwd=tmp_path, capture_output=True)
    here = logits(PeftModel.from_pretrained(demo(), rslora.trial / "adapter"))
    torch.testing.assert_close(torch.load(tmp_path / "logits.pt"), here, rtol=1e-5, atol=1e-5)


@pytest.fixture(scope="module")
def merged(rslora: Bench) -> tuple[Path, dict[str, Any]]:
    """Return the folder of the merged model and what the merge reports."""
    folder = rslora.home / "merged"
    return folder, merge_adapter(rslora.trial / "adapter", folder)


def test_adapter_and_merged_model_name_every_token_that_ended_a_trained_turn(
    rslora: Bench, merged: tuple[Path, dict[str, Any]]
) -> None:
    """The base ends texts with 497; the turns of its template end with 504, `<|eot_id|>`."""
    assert merged[1]["eos_token_id"] == [497, 504]
    for folder in (rslora.trial / "adapter", merged[0]):
        assert GenerationConfig.from_pretrained(folder).eos_token_id == [497, 504]


def test_tokenizers_keep_the_class_of_the_base(
    rslora: Bench, merged: tuple[Path, dict[str, Any]]
) -> None:
    """transformers 4 refuses TokenizersBackend, and a list of extra_special_tokens."""
    for folder in (rslora.trial / "adapter", merged[0]):
        config = json.loads((folder / "tokenizer_config.json").read_text())
        assert config["tokenizer_class"] == "PreTrainedTokenizerFast"
        assert not {"is_local", "local_files_only", "backend"} & set(config)
        assert not isinstance(config.get("extra_special_tokens"), list)
        text = "What is 2 + 2?"
        assert AutoTokenizer.from_pretrained(folder)(text) == AutoTokenizer.from_pretrained(DEMO)(
            text
        )


@pytest.mark.parametrize(
    ("kind", "rope", "expected"),
    [
        ("llama", {"rope_type": "default", "rope_theta": 500_000.0}, {"rope_theta": 500_000.0}),
        (
            "llama",
            {"rope_type": "linear", "rope_theta": 20_000.0, "factor": 4.0},
            {"rope_theta": 20_000.0, "rope_scaling": {"rope_type": "linear", "factor": 4.0}},
        ),
        (
            "phi3",
            {"rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": 0.75},
            {"rope_theta": 10_000.0, "partial_rotary_factor": 0.75},
        ),
    ],
)
def test_a_merged_config_has_the_rotary_base_under_its_older_names_too(
    kind: str, rope: dict[str, Any], expected: dict[str, Any], tmp_path: Path
) -> None:
    folder = made(tmp_path / "model", kind, rope_parameters=rope)
    before = AutoConfig.from_pretrained(folder).rope_parameters
    add_older_names(folder)
    config = json.loads((folder / "config.json").read_text())
    assert {name: config.get(name) for name in expected} == expected
    assert config["torch_dtype"] == config["dtype"]
    assert AutoConfig.from_pretrained(folder).rope_parameters == before


def test_an_adapter_of_plain_peft_merges_with_the_bases_tokenizer(tmp_path: Path) -> None:
    model = get_peft_model(demo(), LoraConfig(target_modules=["q_proj"], init_lora_weights=False))
    model.save_pretrained(tmp_path / "adapter")
    report = merge_adapter(tmp_path / "adapter", tmp_path / "merged")
    assert report["max_logit"] > 0
    assert AutoTokenizer.from_pretrained(tmp_path / "merged").chat_template
    assert 504 in report["eos_token_id"]


@pytest.mark.parametrize("dtype", [None, "bfloat16", "float16", "float32"])
def test_every_merged_weight_is_the_exact_sum_rounded_once(
    rslora: Bench, dtype: str | None, tmp_path: Path
) -> None:
    report = merge_adapter(rslora.trial / "adapter", tmp_path / "merged", dtype=dtype)
    assert report["dtype"] == (dtype or "bfloat16")
    exact = PeftModel.from_pretrained(demo(dtype="float32"), rslora.trial / "adapter")
    ideal = dict(exact.merge_and_unload().named_parameters())
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype="auto")
    for name, param in merged.named_parameters():
        assert torch.equal(param, ideal[name].to(getattr(torch, report["dtype"]))), name


def test_a_weight_beyond_float16_is_refused(tmp_path: Path) -> None:
    def huge(weights: dict[str, torch.Tensor]) -> None:
        weights["model.layers.1.mlp.up_proj.weight"][0, 0] = 1e6

    base = copied(tmp_path / "base", huge)
    model = get_peft_model(demo(), LoraConfig(target_modules=["q_proj"]))
    model.save_pretrained(tmp_path / "adapter")
    with pytest.raises(ModelError, match="beyond float16"):
        merge_adapter(tmp_path / "adapter", tmp_path / "merged", str(base), "float16")
    assert not (tmp_path / "merged").exists()

"""A base is loaded whole, or refused with the name of what is wrong, wherever it is loaded."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import huggingface_hub
import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM

from tests.training.model import bases
from tests.training.model.bases import UP, Q, copied, cut_short, in_four_bits, made, sharded
from tests.training.trials import Bench, plan, recipe, shallow_model
from workbench.attempts.events import Outcome
from workbench.errors import ModelError
from workbench.export.merge import merge_adapter
from workbench.recipe.schema import Model
from workbench.training import libraries
from workbench.training.model.base import BaseSpec, load_base
from workbench.training.model.preflight import check_model
from workbench.training.model.source import ModelSource, has_weights, resolve_model


def spec(path: Path, **settings: Any) -> BaseSpec:
    fields: dict[str, Any] = {"quantization": "nf4", "double_quantization": True, "device": "cpu"}
    fields |= {"precision": "fp32", "attention": "sdpa", "revision": None, "path": str(path)}
    return BaseSpec(**fields | settings)


def one_row_less(weights: dict[str, Tensor]) -> None:
    weights[UP] = weights[UP][:-1].clone()


def a_bias_more(weights: dict[str, Tensor]) -> None:
    weights[f"{Q}.bias"] = torch.zeros(4)


def not_a_number(weights: dict[str, Tensor]) -> None:
    weights[UP][3, 5] = float("nan")


BROKEN: dict[str, tuple[Callable[[Path], Path], str]] = {
    "missing": (lambda to: copied(to, lambda weights: weights.pop(UP)), f"asks for: {UP}"),
    "mismatched": (lambda to: copied(to, one_row_less), rf"{UP} is \[383, 128\], not \[384, 128\]"),
    "unexpected": (lambda to: copied(to, a_bias_more), rf"no place for: {Q}\.bias"),
    "more layers": (lambda to: copied(to, num_hidden_layers=6), "lacks 9 weights .* and 6 more"),
    "fewer layers": (lambda to: copied(to, num_hidden_layers=4), "has 9 weights .* no place for"),
    "cut short": (cut_short, "model.safetensors in .* is cut short or damaged"),
    "a file lost": (lambda to: sharded(to, lost_file=True), "has no model-00002-of-00002"),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_a_base_that_is_not_whole_is_refused_by_the_check_and_by_loading(
    broken: str, tmp_path: Path
) -> None:
    make, words = BROKEN[broken]
    folder = make(tmp_path / "model")
    with pytest.raises(ModelError, match=words) as refused:
        check_model(resolve_model(Model(name=str(folder))), recipe())
    assert refused.value.hint
    for quantization in ("none", "nf4"):
        with pytest.raises(ModelError, match=words):
            load_base(spec(folder, quantization=quantization))


def test_a_base_in_several_files_is_whole(tmp_path: Path) -> None:
    folder = sharded(tmp_path / "model")
    assert check_model(resolve_model(Model(name=str(folder))), recipe()) == []
    load_base(spec(folder))


def test_a_base_whose_head_is_its_embedding_is_whole(tmp_path: Path) -> None:
    folder = made(tmp_path / "model", "qwen2", tie_word_embeddings=True)
    assert check_model(resolve_model(Model(name=str(folder))), recipe()) == []
    load_base(spec(folder))


def test_a_broken_base_is_refused_before_rows_are_prepared(tmp_path: Path) -> None:
    folder = copied(tmp_path / "model", lambda weights: weights.pop(UP))
    with pytest.raises(ModelError, match=UP):
        Bench(tmp_path / "home", recipe(model__name=str(folder)))


def test_a_merge_refuses_a_base_that_is_not_whole(tmp_path: Path) -> None:
    """It would compare a base of random weights with itself and find no difference."""
    bench = Bench(tmp_path / "home", recipe(train__max_steps=1))
    bench.run()
    folder = copied(tmp_path / "model", lambda weights: weights.pop(UP))
    with pytest.raises(ModelError, match=UP):
        merge_adapter(bench.trial / "adapter", tmp_path / "merged", str(folder))
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize(("quantization", "save_every"), [("none", 1), ("nf4", 50)])
def test_a_base_with_a_weight_that_is_nan_is_named_as_the_cause(
    quantization: str, save_every: int, tmp_path: Path
) -> None:
    folder = copied(tmp_path / "model", not_a_number, Path(shallow_model(2)))
    settings: dict[str, Any] = {"model__name": str(folder), "model__quantization": quantization}
    settings |= {"train__save_every": save_every, "train__max_steps": 30}
    log = Bench(tmp_path / "home", recipe(**settings)).run()
    assert (log.outcome, log.end["cause"]) == (Outcome.FAILED, "model")
    assert UP in log.end["reason"]
    assert "checkpoint" not in log.end["hint"]


@pytest.mark.parametrize("keep", ["best", "last"])
def test_a_short_trial_on_a_base_with_nan_names_the_weight(keep: str, tmp_path: Path) -> None:
    """Its few steps are skipped, so that the held-out rows are the first to show it."""
    folder = copied(tmp_path / "model", not_a_number, Path(shallow_model(2)))
    settings = {"model__name": str(folder), "train__keep": keep, "train__max_steps": 2}
    log = Bench(tmp_path / "home", recipe(**settings)).run()
    assert log.end["cause"] == "model"
    assert UP in log.end["reason"]


def test_scoring_a_base_with_nan_names_the_weight(tmp_path: Path) -> None:
    folder = copied(tmp_path / "model", not_a_number, Path(shallow_model(2)))
    log = Bench(tmp_path / "home", recipe(model__name=str(folder)), kind="base").run()
    assert UP in log.end["reason"]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_base_stored_in_four_bits_computes_in_the_plans_precision(
    precision: str, tmp_path: Path
) -> None:
    folder = in_four_bits(tmp_path / "model")
    assert check_model(resolve_model(Model(name=str(folder))), recipe()) == []
    model = load_base(spec(folder, precision=precision))
    plain = load_base(spec(bases.DEMO, precision=precision))
    ids = torch.arange(3, 40)[None]
    with torch.no_grad():
        stored, made_here = model(ids).logits.float(), plain(ids).logits.float()
    torch.testing.assert_close(stored, made_here, atol=0.1, rtol=0.1)


def test_a_base_stored_in_four_bits_trains_and_merges(tmp_path: Path) -> None:
    folder = in_four_bits(tmp_path / "model", source=Path(shallow_model(2)))
    settings = recipe(model__name=str(folder), model__quantization="nf4", train__max_steps=3)
    bench = Bench(tmp_path / "home", settings)
    log = bench.run()
    assert log.outcome is Outcome.DONE, log.end
    report = merge_adapter(bench.trial / "adapter", tmp_path / "merged", dtype="float32")
    assert report["dequantized"] is True
    # On a CPU with AVX-512-BF16 a forward before dequantising would give an error of 1.4 here.
    ids = torch.arange(3, 40)[None]
    libraries.silence_loggers()
    adapted = PeftModel.from_pretrained(load_base(spec(folder)), bench.trial / "adapter")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype="float32")
    with torch.no_grad():
        trained, written = adapted(ids).logits, merged(ids).logits
    torch.testing.assert_close(written, trained, atol=0.15, rtol=0.05)


@pytest.mark.parametrize(
    ("stored", "quantization", "words"),
    [
        ({"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, "none", "published in 4 bits"),
        ({"load_in_4bit": True, "bnb_4bit_quant_type": "fp4"}, "nf4", "fp4"),
        ({"load_in_8bit": True}, "nf4", "bitsandbytes"),
        ({"quant_method": "gptq", "bits": 4}, "nf4", "gptq"),
        ({"quant_method": "awq", "bits": 4}, "none", "awq"),
        ({"quant_method": "fp8"}, "nf4", "fp8"),
    ],
)
def test_other_quantised_bases_are_refused_with_a_hint(
    stored: dict[str, Any], quantization: Literal["nf4", "none"], words: str, tmp_path: Path
) -> None:
    folder = copied(tmp_path / "model", quantization_config=stored)
    with pytest.raises(ModelError, match=words) as refused:
        resolve_model(Model(name=str(folder), quantization=quantization))
    assert "original weights" in refused.value.hint


def test_a_model_with_capped_scores_needs_no_setting(tmp_path: Path) -> None:
    """transformers has no sdpa for Gemma 2; the plan scores it with eager attention by itself."""
    folder = made(tmp_path / "model", "gemma2", head_dim=8)
    settings = recipe(model__name=str(folder), train__max_steps=2)
    log = Bench(tmp_path / "home", settings, plan=plan(attention="eager")).run()
    assert log.outcome is Outcome.DONE, log.end


def test_a_model_without_sdpa_is_refused_with_the_setting_that_works(tmp_path: Path) -> None:
    folder = made(tmp_path / "model", "bloom")
    settings: dict[str, Any] = {"model__name": str(folder), "lora__targets": "all-linear"}
    settings |= {"train__max_steps": 1, "train__warmup": 0}
    with pytest.raises(ModelError) as refused:
        Bench(tmp_path / "a", recipe(**settings))
    assert refused.value.hint == "set model.attention: eager"
    eager = recipe(**settings, model__attention="eager")
    log = Bench(tmp_path / "b", eager, plan=plan(attention="eager")).run()
    assert log.outcome is Outcome.DONE, log.end


def test_a_hub_model_is_checked_by_what_is_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A download that is not whole is no mistake before `fetch_weights` has finished it."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    snapshots = {}
    for name in ("whole", "partial", "config"):
        cached = tmp_path / f"models--me--{name}"
        (cached / "refs").mkdir(parents=True)
        (cached / "refs" / "main").write_text("0" * 40)
        snapshots[name] = cached / "snapshots" / ("0" * 40)
    copied(snapshots["whole"])
    sharded(snapshots["partial"], lost_file=True)
    copied(snapshots["config"])
    (snapshots["config"] / "model.safetensors").unlink()
    found = {}
    for name, folder in snapshots.items():
        config = json.loads((folder / "config.json").read_text())
        source = ModelSource(
            path=f"me/{name}", revision="0" * 40, config=config, model_type="llama"
        )
        found[name] = (has_weights(source), check_model(source, recipe()))
    assert found == {"whole": (True, []), "partial": (False, []), "config": (False, [])}

"""GGUF files hold what was merged, and llama.cpp answers from them as transformers does."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.export.adapters import random_adapter
from tests.export.test_merge import FAMILIES as MERGED
from tests.training.model.bases import DEMO, made
from workbench.errors import ModelError, UsageError, WorkbenchError
from workbench.export.changes import read_changes
from workbench.export.gguf.families import rope_factors, to_pairs
from workbench.export.gguf.read_back import allowed_error
from workbench.export.gguf.write import write_gguf

FAMILIES = {name: MERGED[name] for name in ("llama", "mistral", "qwen3", "gemma3_text", "phi3")}
WEIGHT = "model.layers.1.self_attn.k_proj.weight"


def tensor(file: Path, name: str) -> Any:
    found = {one.name: one for one in gguf.GGUFReader(file).tensors}[name]
    return gguf.dequantize(found.data, found.tensor_type)


def field(file: Path, name: str) -> Any:
    return gguf.GGUFReader(file).fields[name].contents()


@pytest.mark.parametrize("family", [*FAMILIES, "qwen2", "gemma", "gemma2"])
def test_every_family_is_written_and_read_back(family: str, tmp_path: Path) -> None:
    model = made(
        tmp_path / "model", family, **FAMILIES.get(family, {"head_dim": 8}), **scale(family)
    )
    report = write_gguf(model, tmp_path / "model.gguf", "f16")
    whole = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    embedding = whole.get_input_embeddings().weight.detach().numpy()
    assert (
        tensor(tmp_path / "model.gguf", "token_embd.weight") == embedding.astype(np.float16)
    ).all()
    assert report["tensors"] >= 12


def scale(family: str) -> dict[str, Any]:
    """Gemma scales queries by a setting, which GGUF expects to be the head's size."""
    return {"query_pre_attn_scalar": 8} if family.startswith("gemma") else {}


@pytest.mark.parametrize("kind", ["f32", "f16", "bf16", "q8_0"])
def test_numbers_come_back_within_the_types_step(kind: str, tmp_path: Path) -> None:
    write_gguf(DEMO, tmp_path / "m.gguf", kind)
    model = AutoModelForCausalLM.from_pretrained(DEMO, dtype=torch.float32)
    weight = to_pairs(model.state_dict()[WEIGHT], model.config.num_key_value_heads).numpy()
    apart = np.abs(tensor(tmp_path / "m.gguf", "blk.1.attn_k.weight") - weight)
    assert (apart <= allowed_error(weight, kind.upper())).all()
    assert bool(apart.max() == 0) is (kind != "q8_0")  # the demo's weights are bf16


def test_the_file_holds_tokenizer_template_and_the_ends_of_an_answer(tmp_path: Path) -> None:
    file = tmp_path / "m.gguf"
    write_gguf(DEMO, file, "f16")
    tokenizer = AutoTokenizer.from_pretrained(DEMO)
    assert field(file, "tokenizer.ggml.pre") == "qwen2"  # digits one by one, as Qwen 2 cuts them
    assert field(file, "tokenizer.chat_template") == tokenizer.chat_template
    assert field(file, "tokenizer.ggml.eos_token_id") == tokenizer.eos_token_id
    assert len(field(file, "tokenizer.ggml.tokens")) == 512
    assert field(file, "tokenizer.ggml.add_bos_token") is True


def test_a_vocabulary_larger_than_the_tokenizer_is_filled_up(tmp_path: Path) -> None:
    model = made(tmp_path / "model", "llama", vocab_size=576)
    write_gguf(model, tmp_path / "m.gguf", "f16")
    tokens = field(tmp_path / "m.gguf", "tokenizer.ggml.tokens")
    assert (len(tokens), tokens[-1]) == (576, "[PAD575]")
    assert len(tensor(tmp_path / "m.gguf", "token_embd.weight")) == 576


def test_llama_3s_rotary_factors_are_those_of_transformers(tmp_path: Path) -> None:
    rope = {"rope_type": "llama3", "rope_theta": 500_000.0, "factor": 8.0, "low_freq_factor": 1.0}
    rope |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
    model = AutoModelForCausalLM.from_pretrained(
        made(tmp_path / "m", "llama", hidden_size=512, rope_parameters=rope)
    )
    plain = 1 / 500_000.0 ** (np.arange(0, 128, 2) / 128)
    factors = rope_factors(model.config)
    assert factors is not None
    np.testing.assert_allclose(plain / factors, model.model.rotary_emb.inv_freq, rtol=1e-5)


@pytest.mark.parametrize("kind", ["falcon", "a scaling", "a pre-tokenizer"])
def test_what_cannot_be_expressed_is_refused(kind: str, tmp_path: Path) -> None:
    if kind == "falcon":
        model = made(tmp_path / "m", "granite")
    elif kind == "a scaling":
        yarn = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0}
        model = made(tmp_path / "m", "llama", rope_parameters=yarn)
    else:
        model = made(tmp_path / "m", "llama")
        whole = json.loads((model / "tokenizer.json").read_text())
        whole["pre_tokenizer"] = {"type": "Whitespace"}
        (model / "tokenizer.json").write_text(json.dumps(whole))
    with pytest.raises(ModelError, match="cannot be written") as refused:
        write_gguf(model, tmp_path / "m.gguf", "f16")
    assert "convert_hf_to_gguf" in refused.value.hint
    assert [one.name for one in tmp_path.iterdir()] == ["m"]


def test_an_existing_file_and_half_a_model_are_refused(tmp_path: Path) -> None:
    (tmp_path / "there").write_text("mine")
    with pytest.raises(UsageError):
        write_gguf(DEMO, tmp_path / "there", "f16")
    half = shutil.copytree(DEMO, tmp_path / "half")
    data = (half / "model.safetensors").read_bytes()
    (half / "model.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(WorkbenchError):
        write_gguf(half, tmp_path / "m.gguf", "f16")
    assert (tmp_path / "there").read_text() == "mine"


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"use_rslora": True},
        {"alpha_pattern": {"q_proj": 3}, "rank_pattern": {"v_proj": 2}},
    ],
)
def test_an_adapter_alone_scales_as_it_was_trained(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    base = made(tmp_path / "base", "llama")
    adapter = random_adapter(base, tmp_path / "adapter", **settings)
    file = tmp_path / "a.gguf"
    write_gguf(adapter, file, "f32", lora=True)
    alpha = field(file, "adapter.lora.alpha")
    changes = read_changes(adapter)
    for name, place in ((WEIGHT, "blk.1.attn_k"), (WEIGHT.replace("k_p", "v_p"), "blk.1.attn_v")):
        a = torch.from_numpy(tensor(file, f"{place}.weight.lora_a").copy())
        b = torch.from_numpy(tensor(file, f"{place}.weight.lora_b").copy())
        change = changes.lora[name]
        wanted = change.b_OR @ change.a_RI * change.scale
        wanted = to_pairs(wanted, 2) if "attn_k" in place else wanted
        torch.testing.assert_close(b @ a * (alpha / a.shape[0]), wanted)


@pytest.mark.parametrize(
    "settings", [{"use_dora": True}, {"modules_to_save": ["lm_head"]}, {"bias": "lora_only"}]
)
def test_an_adapter_that_the_format_cannot_hold_is_refused(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    base = made(tmp_path / "base", "llama", attention_bias=True)
    adapter = random_adapter(base, tmp_path / "adapter", target_modules=["q_proj"], **settings)
    with pytest.raises(ModelError, match="cannot hold"):
        write_gguf(adapter, tmp_path / "a.gguf", "f32", lora=True)


@pytest.mark.parametrize("sizes", [{"hidden_size": 64}, {"num_hidden_layers": 1}])
def test_an_adapter_alone_of_another_base_is_refused(sizes: dict[str, Any], tmp_path: Path) -> None:
    adapter = random_adapter(made(tmp_path / "base", "llama"), tmp_path / "adapter")
    other = made(tmp_path / "other", "llama", **sizes)
    config = json.loads((adapter / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = str(other)
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="weights for"):
        write_gguf(adapter, tmp_path / "a.gguf", "f32", lora=True)
    assert not (tmp_path / "a.gguf").exists()


def test_an_adapter_alone_is_written_where_its_base_was_moved(tmp_path: Path) -> None:
    base = made(tmp_path / "base", "llama")
    adapter = random_adapter(base, tmp_path / "adapter")
    base.rename(tmp_path / "moved")
    with pytest.raises(ModelError, match=f"the base {base} is not here") as refused:
        write_gguf(adapter, tmp_path / "a.gguf", "f32", lora=True)
    assert "--base" in refused.value.hint
    write_gguf(adapter, tmp_path / "a.gguf", "f32", lora=True, base=str(tmp_path / "moved"))
    assert len(tensor(tmp_path / "a.gguf", "blk.1.attn_k.weight.lora_a"))


@pytest.mark.slow
def test_a_killed_writer_leaves_no_file(tmp_path: Path) -> None:
    out = tmp_path / "m.gguf"
    command = [sys.executable, "-m", "workbench.export.gguf.write", str(DEMO), str(out)]
    env = {**os.environ, "WORKBENCH_FAULT": "gguf.before_rename=kill"}
    ended = subprocess.run(command, env=env, check=False, capture_output=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    assert not out.exists()


# ── by llama.cpp itself ──────────────────────────────────────────────────────────────────────

PROMPTS, ANSWER = 20, 40


def _prompts() -> list[list[int]]:
    tokenizer = AutoTokenizer.from_pretrained(DEMO)
    lines = (DEMO.parent / "data" / "eval.jsonl").read_text().splitlines()[:PROMPTS]
    turns = [[{"role": "user", "content": json.loads(line)["question"]}] for line in lines]
    texts = [
        tokenizer.apply_chat_template(one, tokenize=False, add_generation_prompt=True)
        for one in turns
    ]
    return [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]


@pytest.mark.llama_cpp
@pytest.mark.parametrize(("kind", "most"), [("f32", 0.02), ("f16", 0.05)])
def test_llama_cpp_answers_as_transformers_does(kind: str, most: float, tmp_path: Path) -> None:
    llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    write_gguf(DEMO, tmp_path / "m.gguf", kind)
    model = AutoModelForCausalLM.from_pretrained(DEMO, dtype=torch.float32)
    runtime = llama_cpp.Llama(
        str(tmp_path / "m.gguf"), n_ctx=512, verbose=False, logits_all=True, n_threads=2
    )
    for ids in _prompts():
        wanted = model.generate(torch.tensor([ids]), max_new_tokens=ANSWER, do_sample=False)
        answer = wanted[0, len(ids) :].tolist()
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0, -1].numpy()
        runtime.reset()
        runtime.eval(ids)
        assert np.abs(runtime.scores[runtime.n_tokens - 1] - logits).max() <= most
        found = list[int]()
        while len(found) < len(answer):
            found.append(int(runtime.scores[runtime.n_tokens - 1].argmax()))
            runtime.eval(found[-1:])
        if kind == "f32":
            assert found == answer

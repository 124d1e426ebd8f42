"""A merge by shard is base plus adapter, for every family and kind of adapter, or is refused."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from tests.export.adapters import ROWS, random_adapter, random_rows
from tests.support.forked import run_forked
from tests.training.model.bases import copied, in_four_bits, made, sharded
from workbench.errors import ModelError, UsageError, WorkbenchError
from workbench.export.agreement import CheckedRow, Comparison
from workbench.export.merge import merge_adapter

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {},
    "qwen3": {"head_dim": 8},
    "gemma3_text": {"head_dim": 8, "sliding_window": 16, "initializer_range": 0.2},
    "phi3": {},
    "granite": {"logits_scaling": 8.0, "embedding_multiplier": 12.0, "residual_multiplier": 0.22},
    "glm4": {"head_dim": 8},
    "olmo3": {},
    "qwen3_5_text": {
        "head_dim": 32,
        "layer_types": ["linear_attention", "full_attention"],
        "linear_num_value_heads": 4,
        "linear_num_key_heads": 2,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 16,
    },
}
IN_BF16 = ["llama", "gemma3_text", "phi3"]
"""Families that stand for those whose tensors are merged as they are, with factors beside them, and
in fused projections: which tensors a family has does not depend on the kind of numbers."""
KINDS: dict[str, dict[str, Any]] = {
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "rank and alpha patterns": {
        "rank_pattern": {"q_proj": 2, "layers.1.mlp.down_proj": 8},
        "alpha_pattern": {"v_proj": 3, "layers.0.self_attn.q_proj": 5},
    },
    "modules_to_save": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head", "norm"]},
    "the head adapted": {"target_modules": ["q_proj", "lm_head"]},
    "biases trained": {"target_modules": ["q_proj"], "bias": "lora_only"},
}


Trained = Callable[..., tuple[Path, Path]]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Makes a family's random base and an adapter of it, once for all tests: none changes them."""

    @cache
    def make(family: str) -> tuple[Path, Path]:
        folder = tmp_path_factory.mktemp(family)
        base = made(folder / "base", family, **FAMILIES[family])
        return base, random_adapter(base, folder / "adapter")

    return make


@pytest.fixture(scope="module")
def in_nf4(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Makes a family's base in NF4 and an adapter of it, once for both kinds of numbers."""

    @cache
    def make(family: str) -> tuple[Path, Path]:
        folder = tmp_path_factory.mktemp(f"nf4-{family}")
        # NF4 is stored in blocks of 64 values: the narrowest layers need as many.
        config = {**FAMILIES[family], "hidden_size": 64, "intermediate_size": 64}
        plain = made(folder / "plain", family, **config)
        adapter = random_adapter(plain, folder / "adapter")
        return in_four_bits(folder / "base", source=plain), adapter

    return make


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_rows(tmp_path_factory.mktemp("rows") / "eval")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_merge_in_fp32_equals_base_and_adapter(
    family: str, tmp_path: Path, rows: Path, trained: Trained
) -> None:
    _, adapter = trained(family)
    report = merge_adapter(adapter, tmp_path / "out", dtype="float32", rows=rows)
    assert (report["by_shard"], report["rows"]) == (True, ROWS)
    assert report["max_logits_difference"] <= 1e-5 * max(1.0, report["max_logit"])
    AutoModelForCausalLM.from_pretrained(tmp_path / "out")


@pytest.mark.parametrize("family", IN_BF16)
def test_a_merge_in_bf16_agrees_on_the_likeliest_tokens(
    family: str, tmp_path: Path, rows: Path, trained: Trained
) -> None:
    _, adapter = trained(family)
    report = merge_adapter(adapter, tmp_path / "out", dtype="bfloat16", rows=rows)
    assert report["top1_share"] >= 0.99
    assert report["dtype"] == "bfloat16"


def test_a_base_in_nf4_alone_is_dequantised_and_never_merged_in_4_bits(
    tmp_path: Path, rows: Path
) -> None:
    base = in_four_bits(tmp_path / "base")
    plain = copied(tmp_path / "plain")
    adapter = random_adapter(plain, tmp_path / "adapter")
    report = merge_adapter(adapter, tmp_path / "out", str(base), dtype="float32", rows=rows)
    assert (report["dequantized"], report["by_shard"]) == (True, True)
    assert report["max_logits_difference"] <= 1e-5 * max(1.0, report["max_logit"])
    assert "quantization_config" not in json.loads((tmp_path / "out/config.json").read_text())
    assert report["top1_share"] >= 0.99


@pytest.mark.parametrize(
    ("family", "dtype"),
    [
        *((family, "float32") for family in ("llama", "mistral", "qwen3", "gemma3_text", "phi3")),
        *((family, "bfloat16") for family in IN_BF16),
    ],
)
def test_a_merge_into_a_family_in_nf4_equals_base_and_adapter(
    family: str, dtype: str, tmp_path: Path, rows: Path, in_nf4: Trained
) -> None:
    base, adapter = in_nf4(family)
    report = merge_adapter(adapter, tmp_path / "out", str(base), dtype=dtype, rows=rows)
    assert (report["dequantized"], report["rows"]) == (True, ROWS)
    if dtype == "float32":
        assert report["max_logits_difference"] <= 1e-5 * max(1.0, report["max_logit"])
    assert report["top1_share"] >= 0.99


def test_a_vocabulary_larger_than_the_tokenizer_stays_as_the_base_has_it(
    tmp_path: Path, rows: Path
) -> None:
    base = made(tmp_path / "base", "llama", vocab_size=576)
    adapter = random_adapter(base, tmp_path / "adapter")
    report = merge_adapter(adapter, tmp_path / "out", dtype="float32", rows=rows)
    assert report["max_logits_difference"] <= 1e-5 * max(1.0, report["max_logit"])
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert merged.get_input_embeddings().weight.shape[0] == 576


@pytest.fixture(scope="module")
def biased(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("biased") / "base", "llama", attention_bias=True)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_adapter_merges_as_peft_computes_it(
    kind: str, tmp_path: Path, rows: Path, biased: Path
) -> None:
    adapter = random_adapter(biased, tmp_path / "adapter", **KINDS[kind])
    report = merge_adapter(adapter, tmp_path / "out", dtype="float32", rows=rows)
    assert report["max_logits_difference"] <= 2e-5 * max(1.0, report["max_logit"])
    assert report["by_shard"] is (kind != "biases trained")


@pytest.mark.parametrize("saved", [["lm_head"], ["embed_tokens"]])
def test_tied_embeddings_come_apart_where_one_of_them_was_trained(
    saved: list[str], tmp_path: Path, rows: Path
) -> None:
    base = made(tmp_path / "base", "llama", tie_word_embeddings=True)
    adapter = random_adapter(
        base, tmp_path / "adapter", target_modules=["q_proj"], modules_to_save=saved
    )
    report = merge_adapter(adapter, tmp_path / "out", dtype="float32", rows=rows)
    assert report["untied"] is True
    assert report["max_logits_difference"] <= 2e-5 * max(1.0, report["max_logit"])
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.lm_head.weight is not model.model.embed_tokens.weight


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning")
@pytest.mark.parametrize("ensured", [False, True])
@pytest.mark.parametrize("targets", [["q_proj", "embed_tokens"], ["q_proj", "lm_head"]])
def test_a_lora_on_one_of_tied_embeddings_is_merged_as_peft_computes_it(
    targets: list[str], ensured: bool, tmp_path: Path, rows: Path
) -> None:
    base = made(tmp_path / "base", "llama", tie_word_embeddings=True)
    adapter = random_adapter(
        base, tmp_path / "adapter", target_modules=targets, ensure_weight_tying=ensured
    )
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter)
    # As PEFT saves by default: with copies of the base's embedding and head.
    adapted.save_pretrained(adapter, save_embedding_layers=True)
    report = merge_adapter(adapter, tmp_path / "out", dtype="float32", rows=rows)
    assert report["untied"] is True
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    ids = torch.arange(3, 40)[None]
    with torch.no_grad():
        expected, found = adapted.eval()(input_ids=ids).logits, model.eval()(input_ids=ids).logits
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_tied_embeddings_stay_tied_where_neither_was_trained(tmp_path: Path, rows: Path) -> None:
    base = made(tmp_path / "base", "llama", tie_word_embeddings=True)
    adapter = random_adapter(base, tmp_path / "adapter")
    report = merge_adapter(adapter, tmp_path / "out", rows=rows)
    assert report["untied"] is False
    with safe_open(tmp_path / "out/model.safetensors", framework="pt") as file:
        assert "lm_head.weight" not in file.keys()  # noqa: SIM118 - no dictionary


def _with_more_tokens(adapter: Path, *modules: str) -> None:
    weights = load_file(adapter / "adapter_model.safetensors")
    for name in weights:
        if any(name.endswith(f"{module}.weight") for module in modules):
            weights[name] = torch.cat([weights[name], torch.randn(8, weights[name].shape[1])])
    save_file(weights, adapter / "adapter_model.safetensors", {"format": "pt"})


def test_a_larger_vocabulary_is_merged_whole_or_refused(tmp_path: Path, rows: Path) -> None:
    base = made(tmp_path / "base", "llama")
    saved = {"target_modules": ["q_proj"], "modules_to_save": ["lm_head", "embed_tokens"]}
    adapter = random_adapter(base, tmp_path / "adapter", **saved)
    half = shutil.copytree(adapter, tmp_path / "half")
    _with_more_tokens(adapter, "lm_head", "embed_tokens")
    _with_more_tokens(half, "lm_head")
    report = merge_adapter(adapter, tmp_path / "out", dtype="float32", rows=rows)
    assert report["max_logits_difference"] <= 2e-5 * max(1.0, report["max_logit"])
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").config.vocab_size == 520
    with pytest.raises(ModelError, match="do not agree"):
        merge_adapter(half, tmp_path / "no", rows=rows)


def test_an_adapter_of_another_base_is_refused(
    tmp_path: Path, rows: Path, trained: Trained
) -> None:
    _, adapter = trained("llama")
    other = made(tmp_path / "other", "llama", hidden_size=64)
    with pytest.raises(ModelError, match="weights for") as refused:
        merge_adapter(adapter, tmp_path / "out", str(other), rows=rows)
    assert "--base" in refused.value.hint
    assert not (tmp_path / "out").exists()


def test_another_commit_of_the_base_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commits = ("a" * 40, "b" * 40)
    folder = tmp_path / "models--org--name" / "snapshots" / commits[0]
    base = made(folder, "llama")
    adapter = random_adapter(base, tmp_path / "adapter")
    config = json.loads((adapter / "adapter_config.json").read_text())
    config |= {"base_model_name_or_path": "org/name", "revision": commits[1]}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    monkeypatch.chdir(tmp_path)
    for named in (base, base.relative_to(tmp_path)):
        with pytest.raises(ModelError, match="commit"):
            merge_adapter(adapter, tmp_path / "out", str(named))


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_half_written_adapter_is_refused(name: str, tmp_path: Path, trained: Trained) -> None:
    adapter = shutil.copytree(trained("llama")[1], tmp_path / "adapter")
    data = (adapter / name).read_bytes()
    (adapter / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(WorkbenchError):
        merge_adapter(adapter, tmp_path / "out")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["adapter"]


def test_weights_that_are_not_what_was_trained_fail_the_check(
    tmp_path: Path, rows: Path, trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, adapter = trained("llama")
    from workbench.export import changes

    right = changes._change

    def twice(*given: Any) -> Any:
        found = right(*given)
        return changes.LoraChange(found.a_RI, found.b_OR, 2 * found.scale)

    monkeypatch.setattr(changes, "_change", twice)
    with pytest.raises(ModelError, match="not what was trained"):
        merge_adapter(adapter, tmp_path / "out", dtype="float32", rows=rows)
    assert not (tmp_path / "out").exists()


def test_successors_as_likely_as_rounding_can_tell_are_no_disagreement() -> None:
    rows = [CheckedRow(ids=[1, 2], labels=[1, 2])]
    before = torch.tensor([[[0.0, 3.0, 3.05], [0.0, 3.0, 3.3]]])
    after = torch.tensor([[[0.0, 3.05, 3.0], [0.0, 3.3, 3.0]]])
    sums = Comparison()
    sums.add(rows, before, after)
    assert sums.result().top1_share == 0.5


def test_a_killed_merge_leaves_nothing_and_continues_behind_its_last_shard(
    tmp_path: Path, rows: Path
) -> None:
    base = sharded(tmp_path / "base")
    adapter = random_adapter(base, tmp_path / "adapter")
    out, staged = tmp_path / "out", tmp_path / ".out.staging"
    kill = {"WORKBENCH_FAULT": "export.before_rename=kill@2"}
    ended = run_forked(lambda: merge_adapter(adapter, out), kill)
    assert ended.code == -signal.SIGKILL, ended.out
    assert not out.exists()
    (first,) = staged.glob("*.safetensors")
    before = first.stat()
    report = merge_adapter(adapter, out, rows=rows)
    after = (out / first.name).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert (report["rows"], staged.exists()) == (ROWS, False)


def test_a_full_disk_is_not_blamed_on_the_adapter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = sharded(tmp_path / "base")
    adapter = random_adapter(base, tmp_path / "adapter")
    monkeypatch.setenv("WORKBENCH_FAULT", "export.before_rename=no_space")
    with pytest.raises(WorkbenchError, match="out cannot be written: No space left") as refused:
        merge_adapter(adapter, tmp_path / "out")
    assert "free space" in refused.value.hint
    assert {file.name for file in tmp_path.iterdir()} == {"base", "adapter"}


@pytest.mark.parametrize("place", [None, "./nowhere"])
def test_a_base_that_was_moved_is_not_looked_for_on_the_hub(
    place: str | None, tmp_path: Path
) -> None:
    base = sharded(tmp_path / "base")
    adapter = random_adapter(base, tmp_path / "adapter")
    base.rename(tmp_path / "moved")
    with pytest.raises(ModelError, match=f"{place or base} is not here") as refused:
        merge_adapter(adapter, tmp_path / "out", place)
    assert "--base" in refused.value.hint


def test_two_merges_to_one_folder_do_not_mix_their_shards(tmp_path: Path, rows: Path) -> None:
    base = sharded(tmp_path / "base")
    adapter, other = (random_adapter(base, tmp_path / name) for name in ("one", "two"))
    refusals = []

    def merge_the_other(done: int, total: int) -> None:
        with pytest.raises(UsageError, match="another command is writing") as refused:
            merge_adapter(other, tmp_path / "out")
        refusals.append(refused.value.hint)

    report = merge_adapter(adapter, tmp_path / "out", rows=rows, progress=merge_the_other)
    assert refusals
    assert report["top1_share"] >= 0.99


def test_shards_of_another_merge_are_not_taken_over(tmp_path: Path, rows: Path) -> None:
    base = sharded(tmp_path / "base")
    adapter = random_adapter(base, tmp_path / "adapter")
    staged = tmp_path / ".out.staging"
    staged.mkdir()
    (staged / "merge-plan.json").write_text("another")
    (staged / "model-00001-of-00002.safetensors").write_bytes(b"other weights")
    assert merge_adapter(adapter, tmp_path / "out", rows=rows)["top1_share"] >= 0.99

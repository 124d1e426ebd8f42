"""Peak host memory and time of a merge, on random weights of a Llama-3-8B's shape.

    python benchmarks/merge.py FOLDER               # 16 GB in FOLDER, and 16 GB more while it runs
    python benchmarks/merge.py FOLDER --layers 2    # a part of it

A Llama-3-8B's base that is there as FOLDER/base, or a link to one, is taken as it is.
Prints JSON: seconds, the largest anonymous memory of the merging process (mapped files do not
count), and what the check found.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import LlamaConfig

from workbench.export.shard_writer import TensorPlan, index_text, write_shard
from workbench.machine.python_children import cpu_environment
from workbench.recipe.shipped import shipped_file

RANK, WIDTH, INNER, KEYS, VOCABULARY = 16, 4096, 14336, 1024, 128256
SHAPES = {
    "self_attn.q_proj": (WIDTH, WIDTH),
    "self_attn.k_proj": (KEYS, WIDTH),
    "self_attn.v_proj": (KEYS, WIDTH),
    "self_attn.o_proj": (WIDTH, WIDTH),
    "mlp.gate_proj": (INNER, WIDTH),
    "mlp.up_proj": (INNER, WIDTH),
    "mlp.down_proj": (WIDTH, INNER),
}


def make_base(folder: Path, layers: int) -> None:
    """Write a base in bf16, one shard for the embeddings and one for every four layers."""
    folder.mkdir(parents=True)
    LlamaConfig(
        hidden_size=WIDTH,
        intermediate_size=INNER,
        num_hidden_layers=layers,
        num_attention_heads=32,
        num_key_value_heads=8,
        vocab_size=VOCABULARY,
        tie_word_embeddings=False,
        dtype="bfloat16",
        architectures=["LlamaForCausalLM"],
    ).save_pretrained(folder)
    groups = [dict.fromkeys(("model.embed_tokens.weight", "lm_head.weight"), (VOCABULARY, WIDTH))]
    groups[0]["model.norm.weight"] = (WIDTH,)  # type: ignore[assignment]
    for layer in range(layers):
        if layer % 4 == 0:
            groups.append({})
        place = f"model.layers.{layer}"
        groups[-1] |= {f"{place}.{name}.weight": shape for name, shape in SHAPES.items()}
        for norm in ("input_layernorm", "post_attention_layernorm"):
            groups[-1][f"{place}.{norm}.weight"] = (WIDTH,)  # type: ignore[assignment]
    files, total = {}, 0
    for number, group in enumerate(groups):
        plans = {name: TensorPlan(torch.bfloat16, shape) for name, shape in group.items()}
        file = f"model-{number:05}.safetensors"
        write_shard(folder / file, plans, _Random(plans))
        files[file], total = list(plans), total + sum(one.bytes for one in plans.values())
    (folder / "model.safetensors.index.json").write_text(index_text(files, total))
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(shipped_file("workbench:demo/model") / name, folder)


class _Random:
    """Random numbers for the tensors of one file; ones for norms."""

    def __init__(self, plans: dict[str, TensorPlan]) -> None:
        self._plans = plans

    def __call__(self, name: str) -> torch.Tensor:
        shape = self._plans[name].shape
        if len(shape) == 1:
            return torch.ones(shape)
        return torch.randn(shape, dtype=torch.bfloat16) * 0.02


def make_adapter(folder: Path, base: Path, layers: int) -> None:
    """Write a LoRA of rank 16 on every projection."""
    folder.mkdir()
    tensors = {}
    for layer in range(layers):
        for name, (outputs, inputs) in SHAPES.items():
            place = f"base_model.model.model.layers.{layer}.{name}"
            tensors[f"{place}.lora_A.weight"] = torch.randn(RANK, inputs) * 0.02
            tensors[f"{place}.lora_B.weight"] = torch.randn(outputs, RANK) * 0.02
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
    targets = [name.rpartition(".")[2] for name in SHAPES]
    about = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": RANK}
    about |= {"base_model_name_or_path": str(base), "target_modules": targets}
    (folder / "adapter_config.json").write_text(json.dumps(about))


def _kib(pid: int, key: str) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(key)), 0)


def main() -> None:
    """Make base and adapter unless they are there, merge in a child, and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, default=32)
    given = parser.parse_args()
    base, adapter = given.folder.absolute() / "base", given.folder.absolute() / "adapter"
    if not base.exists():
        make_base(base, given.layers)
    if not adapter.exists():
        make_adapter(adapter, base, given.layers)
    out = given.folder.absolute() / "merged"
    shutil.rmtree(out, ignore_errors=True)
    began, anonymous = time.monotonic(), 0
    command = [sys.executable, "-m", "workbench.export.merge", str(adapter), str(out)]
    env = cpu_environment()  # as `workbench merge` runs it
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env)
    while child.poll() is None:
        anonymous = max(anonymous, _kib(child.pid, "RssAnon:"))
        time.sleep(0.05)
    assert child.stdout is not None
    report = json.loads(child.stdout.read() or "{}")
    taken = {"seconds": time.monotonic() - began, "peak_anonymous_gib": anonymous / (1 << 20)}
    print(json.dumps({"code": child.returncode, **taken, **report}, indent=2))


if __name__ == "__main__":
    main()

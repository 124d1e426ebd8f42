"""Predicted against measured peaks of training steps: `python benchmarks/footprint_peaks.py`.

Needs a GPU; models have random weights and the shapes of `workbench.footprint.shapes`. Each line:
shape, rows × tokens, what was varied, peak reserved by the allocator plus the CUDA context, the
prediction, and their ratio. `OUT` (environment) gets the same as JSON lines.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from dataclasses import replace
from typing import Any

import torch
from bitsandbytes.nn import Linear4bit, Params4bit
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PrinterCallback
from trl import SFTConfig, SFTTrainer
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from workbench.footprint import ModelShape, named_config, predict
from workbench.footprint.buckets import Run
from workbench.recipe import Recipe, apply_settings, shipped_file

GIB = 1 << 30
BASE = Recipe.model_validate(
    {"name": "peaks", "model": {"name": "acme/shape"}, "data": {"train": "acme/rows"}}
)
RUN = Run(
    precision="bf16",
    attention="sdpa",
    optimizer="adamw_8bit",
    rows=4,
    tokens=512,
    recompute=False,
)
CASES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"recompute": True}, {}),
    ({"recompute": True, "tokens": 256}, {}),
    ({"recompute": True, "rows": 1, "tokens": 4096}, {}),
    ({}, {}),
    ({"tokens": 230}, {}),
    ({"tokens": 230}, {"lora.dropout": 0.0}),
    ({"tokens": 230}, {"lora.rank": 64}),
    ({"tokens": 230}, {"lora.targets": ["q_proj", "v_proj"]}),
    ({"tokens": 256, "optimizer": "adamw_torch", "recompute": True}, {"lora.rank": 64}),
    ({"tokens": 512, "attention": "eager", "quadratic": True}, {}),
    ({"tokens": 256, "precision": "fp16", "recompute": True}, {}),
]


def quantised(config: dict[str, Any]) -> Any:
    """A model of random weights with its projections in NF4, on the GPU."""
    kind = config["model_type"].removesuffix("_text")
    made = AutoConfig.for_model(kind, **{k: v for k, v in config.items() if k != "model_type"})
    with torch.device("cuda"):
        model = AutoModelForCausalLM.from_config(made, dtype=torch.bfloat16)
    for name, old in list(model.named_modules()):
        if isinstance(old, torch.nn.Linear) and name != "lm_head":
            parent, _, leaf = name.rpartition(".")
            new = Linear4bit(
                old.in_features,
                old.out_features,
                bias=old.bias is not None,
                compute_dtype=torch.bfloat16,
                quant_type="nf4",
            )
            new.weight = Params4bit(
                old.weight.data, requires_grad=False, quant_type="nf4", compress_statistics=True
            )
            if old.bias is not None:
                new.bias = torch.nn.Parameter(old.bias.data, requires_grad=False)
            setattr(model.get_submodule(parent), leaf, new.to("cuda"))
    model.is_loaded_in_4bit = True  # what PEFT asks
    return model


def peak(model: Any, recipe: Recipe, run: Run, tokenizer: Any) -> int:
    """Bytes reserved at most over two optimizer steps."""
    lora = recipe.lora
    model.set_attn_implementation(run.attention)
    targets = lora.targets if isinstance(lora.targets, str) else list(lora.targets)
    peft_model = get_peft_model(
        model,
        LoraConfig(
            r=lora.rank,
            lora_alpha=lora.alpha,
            lora_dropout=lora.dropout,
            target_modules=targets,
            task_type="CAUSAL_LM",
        ),
    )
    arguments = SFTConfig(
        output_dir="/tmp/peaks",
        max_steps=2,
        per_device_train_batch_size=run.rows,
        optim=run.optimizer,
        bf16=run.precision == "bf16",
        fp16=run.precision == "fp16",
        activation_checkpointing=run.recompute,
        activation_checkpointing_kwargs={"use_reentrant": False},
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    row = torch.randint(0, 30_000, (run.tokens,)).tolist()
    rows = Dataset.from_dict({"input_ids": [row] * run.rows * 2, "labels": [row] * run.rows * 2})
    trainer = SFTTrainer(
        model=peft_model,
        args=arguments,
        data_collator=DataCollatorForLanguageModeling(pad_token_id=0),
        train_dataset=rows,
        processing_class=tokenizer,
    )
    trainer.remove_callback(PrinterCallback)
    for parameter in peft_model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    trainer.train()
    measured = torch.cuda.max_memory_reserved()
    told = {"allocated": torch.cuda.max_memory_allocated()}
    print(json.dumps(told), file=sys.stderr)
    peft_model.unload()
    model.__dict__.pop("forward", None)
    model.gradient_checkpointing_disable()
    model.disable_input_require_grads()
    model.get_input_embeddings()._forward_hooks.clear()
    return int(measured)


def main(names: list[str]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(str(shipped_file("workbench:demo/model")))
    torch.zeros(1, device="cuda")
    for name in names:
        config = named_config(name)
        assert config is not None
        began = time.monotonic()
        model = quantised(config)
        gc.collect()
        torch.cuda.empty_cache()
        loaded = torch.cuda.memory_allocated()
        print(f"{name}: {loaded / GIB:.2f} GiB loaded in {time.monotonic() - began:.0f} s")
        for how, settings in CASES:
            run, recipe = replace(RUN, **how), apply_settings(BASE, settings)
            buckets = predict(ModelShape.of(config), recipe, run)
            try:
                reserved = peak(model, recipe, run, tokenizer)
            except torch.OutOfMemoryError:
                print(f"  {how} {settings}: out of memory")
                continue
            free, total = torch.cuda.mem_get_info()
            context = total - free - torch.cuda.memory_reserved()
            measured, predicted = reserved + context, sum(buckets.values())
            line = {
                "shape": name,
                **how,
                **settings,
                "measured": round(measured / GIB, 2),
                "predicted": round(predicted / GIB, 2),
                "ratio": round(predicted / measured, 3),
                "context": round(context / GIB, 2),
                "buckets": {key: round(size / GIB, 2) for key, size in buckets.items()},
            }
            print("  " + json.dumps(line), flush=True)
            if out := os.environ.get("OUT"):
                with open(f"{out}/peaks.jsonl", "a") as file:
                    file.write(json.dumps(line) + "\n")
            gc.collect()
            torch.cuda.empty_cache()
        del model
        gc.collect()
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main(sys.argv[1:] or ["llama-3.2-1b", "qwen2.5-1.5b", "meta-llama-3-8b"])

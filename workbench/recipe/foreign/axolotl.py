"""Axolotl's YAML."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from workbench.recipe.foreign.translation import (
    EVAL_STRATEGY,
    NO_DORA,
    NO_EIGHT_BITS,
    OPTIMIZER,
    SCHEDULE,
    SHARED_RULES,
    NoCounterpart,
    Rule,
    Translation,
    held_out_rows,
    number,
    positive,
    switch,
    targets,
)

DEFAULTS: dict[str, Any] = {
    "lora.rank": 8,
    "lora.alpha": 16,
    "lora.dropout": 0.0,
    "train.epochs": 1,
    "train.batch_size": 1,
    "train.weight_decay": 0.0,
    "train.max_grad_norm": 1.0,
    "train.schedule": "cosine",
    "train.optimizer": "adamw_torch",
    "data.max_tokens": 512,
    "train.keep": "last",
    "model.quantization": "none",
}
"""What Axolotl takes for a key that is not given, where ours differs (Axolotl 0.13)."""

NAMES = {
    "path": "data.train",
    "name": "data.config",
    "split": "data.split",
    "revision": "data.revision",
}
"""Keys of one data set, and our settings."""
SHAPES = {"alpaca": "alpaca", "completion": "text", "sharegpt": "sharegpt"}
"""Prompt formats that name one shape of rows; `chat_template` is recognised from the columns."""


RULES: dict[str, Rule] = {
    **SHARED_RULES,
    "base_model": Rule("model.name", str),
    "revision_of_model": Rule("model.revision", str),
    "load_in_4bit": Rule("model.quantization", switch("nf4", "none")),
    "load_in_8bit": Rule("model.quantization", NO_EIGHT_BITS),
    "bf16": Rule("model.precision", lambda value: {True: "bf16", "auto": "auto"}.get(value)),
    "fp16": Rule("model.precision", lambda value: "fp16" if value is True else None),
    "flash_attention": Rule("model.attention", switch("flash_attention_2", None)),
    "sdp_attention": Rule("model.attention", switch("sdpa", None)),
    "lora_r": Rule("lora.rank", positive),
    "lora_target_modules": Rule("lora.targets", targets),
    "lora_target_linear": Rule("lora.targets", switch("all-linear", None)),
    "peft_use_rslora": Rule("lora.rslora", switch(True, False)),
    "peft_use_dora": Rule("lora.rslora", NO_DORA),
    "sequence_len": Rule("data.max_tokens", positive),
    "sample_packing": Rule("data.packing", switch(True, False)),
    "group_by_length": Rule("data.group_by_length", switch(True, False)),
    "train_on_inputs": Rule("data.loss_on", switch("all", None)),
    "val_set_size": Rule("data.eval_rows", held_out_rows),
    "num_epochs": Rule("train.epochs", number),
    "micro_batch_size": Rule("train.batch_size", positive),
    "lr_scheduler": Rule("train.schedule", SCHEDULE),
    "optimizer": Rule("train.optimizer", OPTIMIZER),
    "eval_batch_size": Rule("evaluate.batch_size", positive),
}


def translate_axolotl(keys: Mapping[str, Any]) -> Translation:
    """Return what the keys of an Axolotl file become. Raises NoCounterpart for another task."""
    if keys.get("rl"):
        raise NoCounterpart(f"the file trains by {keys['rl']}, not by supervised fine-tuning")
    if keys.get("adapter") not in ("lora", "qlora"):
        raise NoCounterpart("the file trains no LoRA adapter")
    found = Translation("Axolotl", settings=dict(DEFAULTS))
    if keys["adapter"] == "qlora":
        found.settings["model.quantization"] = "nf4"
    found.take(keys, RULES)
    if any(keys.get(key) is not None for key in EVAL_STRATEGY):  # else eval_steps alone is enough
        found.take_eval_strategy(keys)
    known: dict[str, object] = {**RULES, "adapter": None, **dict.fromkeys(EVAL_STRATEGY)}
    if mixture := keys.get("datasets"):
        found.take_mixture("datasets", mixture, NAMES, SHAPES)
    if held := keys.get("test_datasets"):
        found.take_first("test_datasets", held, {"path": "data.eval", "split": "data.eval_split"})
        found.left.pop("test_datasets[0].type", None)  # it is that of the training rows
    known |= {"datasets": None, "test_datasets": None}
    found.leave_unknown(keys, known)
    return found

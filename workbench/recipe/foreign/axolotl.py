"""Axolotl's YAML."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from workbench.recipe.foreign.data_sets import take_held_out, take_train
from workbench.recipe.foreign.translation import (
    EVAL_STRATEGY,
    NO_DORA,
    NO_EIGHT_BITS,
    OPTIMIZER,
    SCHEDULE,
    SHARED_RULES,
    NoCounterpart,
    OtherValue,
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


def _bf16(value: Any) -> str | None:
    if value not in (True, False, "auto"):
        raise OtherValue("is none of true, false, auto")
    return "auto" if value == "auto" else "bf16" if value else None


RULES: dict[str, Rule] = {
    **SHARED_RULES,
    "base_model": Rule("model.name", str),
    "revision_of_model": Rule("model.revision", str),
    "load_in_4bit": Rule("model.quantization", switch("nf4", "none")),
    "load_in_8bit": Rule("model.quantization", NO_EIGHT_BITS),
    "bf16": Rule("model.precision", _bf16),
    "fp16": Rule("model.precision", switch("fp16", None)),
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
    found.name_full_precision(keys)
    if keys.get("lora_target_linear") is True:  # names beside it add nothing
        found.settings["lora.targets"] = "all-linear"
    if any(keys.get(key) is not None for key in EVAL_STRATEGY):  # else eval_steps alone is enough
        found.take_eval_strategy(keys)
    known: dict[str, object] = {**RULES, "adapter": None, **dict.fromkeys(EVAL_STRATEGY)}
    if mixture := keys.get("datasets"):
        take_train(found, "datasets", mixture, NAMES, SHAPES)
    if held := keys.get("test_datasets"):
        found.hub_eval_split = "test"  # what Axolotl takes of a data set without a split
        names = {"path": "data.train", "split": "data.split"}
        take_held_out(found, "test_datasets", held, names, SHAPES)
    if "data.eval" in found.settings:
        found.left.pop("val_set_size", None)  # no rows are split off beside held-out ones
    known |= {"datasets": None, "test_datasets": None}
    found.leave_unknown(keys, known)
    return found

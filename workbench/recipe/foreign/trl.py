"""TRL's YAML for its SFT script: SFTConfig, ModelConfig and the data set on one level."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from workbench.recipe.foreign.translation import (
    ATTENTION,
    OPTIMIZER,
    PRECISION,
    RECOMPUTE,
    SCHEDULE,
    NoCounterpart,
    Rule,
    Translation,
    number,
    only,
    positive,
    share_or_refuse,
    switch,
    targets,
)

DEFAULTS: dict[str, Any] = {
    "lora.rank": 16,
    "lora.alpha": 32,
    "lora.dropout": 0.05,
    "lora.targets": ["q_proj", "v_proj"],
    "train.epochs": 3,
    "train.batch_size": 8,
    "train.learning_rate": 2e-5,
    "train.weight_decay": 0.0,
    "train.max_grad_norm": 1.0,
    "train.schedule": "linear",
    "train.warmup": 0.0,
    "train.optimizer": "adamw_torch",
    "data.max_tokens": 1024,
    "train.keep": "last",
    "model.quantization": "none",
}
"""What TRL takes for a key that is not given, where ours differs (TRL 1.16). Without
`lora_target_modules` PEFT chooses by the family: these two for Llama, Qwen, Gemma and Mistral."""

RULES: dict[str, Rule] = {
    "model_name_or_path": Rule("model.name", str),
    "model_revision": Rule("model.revision", lambda value: None if value == "main" else str(value)),
    "load_in_4bit": Rule("model.quantization", switch("nf4", "none")),
    "load_in_8bit": Rule("model.quantization", only(False, "bases are loaded in 4 or 16 bits")),
    "bnb_4bit_quant_type": Rule("model.quantization", only("nf4", "is not NF4")),
    "use_bnb_nested_quant": Rule("model.double_quantization", switch(True, False)),
    "dtype": Rule("model.precision", PRECISION),
    "torch_dtype": Rule("model.precision", PRECISION),
    "bf16": Rule("model.precision", switch("bf16", None)),
    "fp16": Rule("model.precision", switch("fp16", None)),
    "attn_implementation": Rule("model.attention", ATTENTION),
    "use_peft": Rule("lora.rank", only(True, "full fine-tuning has no counterpart: LoRA is used")),
    "lora_r": Rule("lora.rank", positive),
    "lora_alpha": Rule("lora.alpha", number),
    "lora_dropout": Rule("lora.dropout", number),
    "lora_target_modules": Rule("lora.targets", targets),
    "use_rslora": Rule("lora.rslora", switch(True, False)),
    "use_dora": Rule("lora.rslora", only(False, "DoRA has no counterpart")),
    "dataset_name": Rule("data.train", str),
    "dataset_train_split": Rule("data.split", str),
    "dataset_test_split": Rule("data.eval_split", str),
    "max_length": Rule("data.max_tokens", positive),
    "max_seq_length": Rule("data.max_tokens", positive),
    "packing": Rule("data.packing", only(False, "is not available: rows are not packed")),
    "assistant_only_loss": Rule("data.loss_on", switch("assistant", None)),
    "completion_only_loss": Rule("data.loss_on", switch("completion", "all")),
    "num_train_epochs": Rule("train.epochs", number),
    "max_steps": Rule("train.max_steps", positive),
    "per_device_train_batch_size": Rule("train.batch_size", positive),
    "gradient_accumulation_steps": Rule("train.accumulation", positive),
    "learning_rate": Rule("train.learning_rate", number),
    "weight_decay": Rule("train.weight_decay", number),
    "max_grad_norm": Rule("train.max_grad_norm", number),
    "lr_scheduler_type": Rule("train.schedule", SCHEDULE),
    "warmup_ratio": Rule("train.warmup", share_or_refuse),
    "warmup_steps": Rule("train.warmup", share_or_refuse),
    "optim": Rule("train.optimizer", OPTIMIZER),
    "gradient_checkpointing": Rule("train.gradient_checkpointing", RECOMPUTE),
    "save_steps": Rule("train.save_every", positive),
    "logging_steps": Rule("train.log_every", positive),
    "seed": Rule("train.seed", int),
    "eval_steps": Rule("evaluate.every", positive),
    "per_device_eval_batch_size": Rule("evaluate.batch_size", positive),
}


def translate_trl(keys: Mapping[str, Any]) -> Translation:
    """Return what the keys of a TRL file become. Raises NoCounterpart for another task."""
    if any(key in keys for key in ("beta", "loss_type", "num_generations", "reward_model_path")):
        raise NoCounterpart("the file is for preference or reward training, not for fine-tuning")
    found = Translation("TRL", settings=dict(DEFAULTS))
    found.take(keys, RULES)
    if "use_peft" not in keys:
        found.leave("use_peft", "is not given, so that TRL trains all weights: LoRA is used here")
    evaluates = keys.get("eval_strategy", "no") not in ("no", False)
    if not evaluates:
        found.settings.pop("evaluate.every", None)
    known: dict[str, object] = {**RULES, "eval_strategy": None}
    if mixture := keys.get("datasets"):
        take_first(found, "datasets", mixture, {"path": "data.train", "split": "data.split"})
        known["datasets"] = None
    if column := keys.get("dataset_text_field"):
        if column != "text":
            found.settings["data.columns"] = {str(column): "text"}
        known["dataset_text_field"] = None
    found.leave_unknown(keys, known)
    return found


def take_first(found: Translation, key: str, mixture: Any, names: Mapping[str, str]) -> None:
    """Take the first data set of a list by `names`, their key to ours; leave whatever else it has.

    A list of several is left with its length: only one data set is trained on.
    """
    if not isinstance(mixture, list) or not mixture or not isinstance(mixture[0], dict):
        found.leave(key, "is no list of data sets")
        return
    for name, value in mixture[0].items():
        if name in names:
            found.settings[names[name]] = str(value)
        elif value not in (None, "", [], {}):
            found.leave(f"{key}[0].{name}", "has no counterpart")
    if len(mixture) > 1:
        found.leave(key, f"has {len(mixture)} data sets, of which the first is taken")

"""TRL's YAML for its SFT script: SFTConfig, ModelConfig and the data set on one level."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from workbench.recipe.foreign.data_sets import take_train
from workbench.recipe.foreign.translation import (
    ATTENTION,
    EVAL_STRATEGY,
    NO_EIGHT_BITS,
    PRECISION,
    TRAINER_RULES,
    NoCounterpart,
    Rule,
    Translation,
    only,
    positive,
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
    "model.double_quantization": False,
}
"""What TRL takes for a key that is not given, where ours differs (TRL 1.16). Without
`lora_target_modules` PEFT chooses by the family: these two for Llama, Qwen, Gemma and Mistral."""


def _loss_type(value: Any) -> None:
    if value == "dft":
        raise NoCounterpart("has no counterpart: the loss is the mean over tokens with loss")


RULES: dict[str, Rule] = {
    **TRAINER_RULES,
    "load_in_4bit": Rule("model.quantization", switch("nf4", "none")),
    "load_in_8bit": Rule("model.quantization", NO_EIGHT_BITS),
    "bnb_4bit_quant_type": Rule("model.quantization", only("nf4", "is not NF4")),
    "use_bnb_nested_quant": Rule("model.double_quantization", switch(True, False)),
    "dtype": Rule("model.precision", PRECISION),
    "torch_dtype": Rule("model.precision", PRECISION),
    "attn_implementation": Rule("model.attention", ATTENTION),
    "use_peft": Rule("lora.rank", only(True, "full fine-tuning has no counterpart: LoRA is used")),
    "lora_r": Rule("lora.rank", positive),
    "lora_target_modules": Rule("lora.targets", targets),
    "dataset_name": Rule("data.train", str),
    "dataset_config": Rule("data.config", str),
    "dataset_train_split": Rule("data.split", str),
    "dataset_test_split": Rule("data.eval_split", str),
    "max_length": Rule("data.max_tokens", positive, null="no row is truncated"),
    "max_seq_length": Rule("data.max_tokens", positive, null="no row is truncated"),
    "assistant_only_loss": Rule("data.loss_on", switch("assistant", None)),
    "loss_type": Rule("data.loss_on", _loss_type),
    "completion_only_loss": Rule("data.loss_on", switch("completion", "all")),
}


_SFT_LOSSES = ("nll", "chunked_nll", "dft")
"""Values of `loss_type` in SFTConfig; other trainers of TRL have others."""


def translate_trl(keys: Mapping[str, Any]) -> Translation:
    """Return what the keys of a TRL file become. Raises NoCounterpart for another task."""
    other_task = any(key in keys for key in ("beta", "num_generations", "reward_model_path"))
    if other_task or keys.get("loss_type", "nll") not in _SFT_LOSSES:
        raise NoCounterpart("the file is for preference or reward training, not for fine-tuning")
    found = Translation("TRL", settings=dict(DEFAULTS))
    found.take(keys, RULES)
    found.name_full_precision(keys)
    if "use_peft" not in keys:
        found.leave("use_peft", "is not given, so that TRL trains all weights: LoRA is used here")
    if "data.loss_on" not in found.settings:
        why = "is not true, so that TRL learns chats whole: here loss is on the answers"
        found.leave("assistant_only_loss", f"{why}; data.loss_on: all learns all")
    found.take_eval_strategy(keys)
    if any(keys.get(key) not in (None, "no", False) for key in EVAL_STRATEGY):
        found.hub_eval_split = "test"  # the default of dataset_test_split, read by evaluations only
    known: dict[str, object] = {**RULES, **dict.fromkeys(EVAL_STRATEGY)}
    if mixture := keys.get("datasets"):
        take_train(
            found,
            "datasets",
            mixture,
            {
                "path": "data.train",
                "name": "data.config",
                "split": "data.split",
                "fraction": "data.weight",
            },
        )
        known["datasets"] = None
    if column := keys.get("dataset_text_field"):
        if column != "text":
            found.settings["data.columns"] = {str(column): "text"}
        known["dataset_text_field"] = None
    found.leave_unknown(keys, known)
    return found

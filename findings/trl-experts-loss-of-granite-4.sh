#!/usr/bin/env bash
# trl 1.16.0 with transformers 5.24.0, seen on 2026-11-29 (Python 3.11, Linux x86_64, torch 2.13.0 on the CPU).
#
# Granite 4's dense models (`granitemoehybrid` with `num_local_experts` 0) have the settings of their family,
# among them `router_aux_loss_coef`, by which mixtures of experts add a loss; its default is 0.001. SFTTrainer
# goes by that setting alone and turns the loss on, and the first step raises an AttributeError: it looks for
# `num_experts`, while this family calls it `num_local_experts`. So neither the dense models nor the mixtures
# of Granite 4 train with TRL's defaults. With `SFTConfig(router_aux_loss_coef=0.0)` both do.
#
# What the workbench does: it sets that coefficient to 0 (workbench/training/training_arguments.py);
# mixtures of experts are refused.
#
# Passes while that is so; fails if it changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'trl==1.16.0' 'transformers==5.24.0' 'torch==2.13.0'
cd "$folder"
HF_HUB_OFFLINE=1 HF_DATASETS_CACHE="$folder/cache" HF_DATASETS_DISABLE_PROGRESS_BARS=1 venv/bin/python - <<'PY'
import warnings

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    GraniteMoeHybridConfig,
    GraniteMoeHybridForCausalLM,
    PreTrainedTokenizerFast,
    PrinterCallback,
)
from transformers.utils.logging import set_verbosity_error
from trl import SFTConfig, SFTTrainer

warnings.simplefilter("ignore")
set_verbosity_error()
words = Tokenizer(models.WordLevel({"<end>": 0, "sun": 1, "in": 2, "Oslo": 3}, unk_token="<end>"))
words.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<end>", eos_token="<end>")


def model(experts: int) -> GraniteMoeHybridForCausalLM:
    """Return a small Granite 4 without state-space layers; `experts` 0: a dense one."""
    torch.manual_seed(0)
    shape = GraniteMoeHybridConfig(
        vocab_size=8, hidden_size=32, intermediate_size=64, shared_intermediate_size=64,
        num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2,
        layer_types=["attention", "attention"], mamba_n_heads=4, mamba_d_head=16,
        num_local_experts=experts, num_experts_per_tok=min(experts, 2),
    )  # fmt: skip
    assert shape.router_aux_loss_coef == 0.001, "the family's own default"
    assert not shape.output_router_logits
    return GraniteMoeHybridForCausalLM(shape)


def outcome(experts: int, **settings: float) -> str:
    """Train one step with TRL's defaults and these settings; return what came of it."""
    arguments = SFTConfig(
        "out", max_steps=1, report_to="none", save_strategy="no", use_cpu=True, bf16=False,
        disable_tqdm=True, **settings,
    )  # fmt: skip
    rows = Dataset.from_dict({"text": ["sun in Oslo", "in Oslo sun"]})
    trainer = SFTTrainer(model(experts), arguments, train_dataset=rows, processing_class=tokenizer)
    trainer.remove_callback(PrinterCallback)
    try:
        trainer.train()
    except AttributeError as error:
        return str(error)
    return "trains"


missing = "'GraniteMoeHybridConfig' object has no attribute 'num_experts'"
for experts in (0, 4):
    for settings, expected in (({}, missing), ({"router_aux_loss_coef": 0.0}, "trains")):
        seen = outcome(experts, **settings)
        print(f"{experts} experts, {settings or 'defaults'}: {seen}")
        assert seen == expected, "no longer so"
PY
echo "unchanged"

"""The LoRA adapter on a base: its construction, its weights, and the folder a trial ends with."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils.save_and_load import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file
from torch import nn

from workbench import fault_points
from workbench.adapters.adapter_folder import TEMPLATE, WEIGHTS
from workbench.adapters.lora_settings import CONFIG
from workbench.adapters.published_base import published_base
from workbench.errors import CheckpointError
from workbench.footprint.model.loadable import loader_name
from workbench.machine import staging
from workbench.machine.files import sync_path
from workbench.recipe.dump import to_yaml
from workbench.recipe.schema import Lora, Recipe
from workbench.training.checkpoints import checkpoint
from workbench.training.checkpoints.contents import write_weights
from workbench.training.control import Emit
from workbench.training.dataset.chat.template import unthinking_by_default
from workbench.training.model.card import CardFacts, model_card
from workbench.training.model.linear_layers import outside_language_model
from workbench.training.model.portable import write_end_ids
from workbench.training.model.targets import find_targets
from workbench.training.model.tokenizer import KeptTokenizer


def add_adapter(base: nn.Module, recipe: Recipe, emit: Emit) -> PeftModel:
    """Return `base` with a new LoRA in fp32, initialised from the recipe's seed.

    The numbers are drawn on the card: 42 million of them for an 8B adapter take a host core 0.3 s.
    Raises RecipeError when the model has none of `lora.targets`.
    """
    from transformers import set_seed

    lora = recipe.lora
    targets, notes = find_targets(base, lora)
    for note in notes:
        emit("log", level="warning", text=note)
    set_seed(recipe.train.seed)
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=int(lora.alpha) if lora.alpha == int(lora.alpha) else lora.alpha,
        lora_dropout=lora.dropout,
        bias=lora.bias,
        use_rslora=lora.rslora,
        target_modules=targets,
        exclude_modules=outside_language_model(base),
        task_type="CAUSAL_LM",
    )
    with next(base.parameters()).device:
        model = get_peft_model(base, config)
    for param in model.parameters():
        if param.requires_grad:  # trained biases of a 16-bit base; the LoRA itself is fp32 already
            param.data = param.data.float()
    return model


def adapter_state(model: PeftModel) -> dict[str, torch.Tensor]:
    """Return the adapter's own tensors under PEFT's names; training changes them."""
    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    return {name: tensor.detach() for name, tensor in state.items()}


def load_weights(model: PeftModel, file: Path) -> None:
    """Copy saved weights into the adapter; raise CheckpointError when names or shapes differ."""
    found = load_file(file)
    expected = get_peft_model_state_dict(model, save_embedding_layers=False)
    if {name: tensor.shape for name, tensor in found.items()} != {
        name: tensor.shape for name, tensor in expected.items()
    }:
        raise CheckpointError(
            "the checkpoint's adapter has another shape than the recipe's",
            hint="clone the trial: a clone starts from step 0 with the changed settings",
        )
    set_peft_model_state_dict(model, found)


@dataclass(slots=True)
class WrittenWeights:
    """An adapter's weights in a file beside its folder, into which `save_adapter` moves them.

    They are known before the scores that the folder holds too. The checkpoint with the same weights
    has them on the disk already, so that a link is enough; pruning the checkpoint leaves the file.
    """

    file: Path
    sha256: str = ""
    """Empty until the file is there."""

    def link(self, committed: Path) -> None:
        """Link the weights of a checkpoint that this attempt wrote or verified.

        Does nothing where a file of it is missing or short, or where the file system has no links.
        """
        fault_points.at("adapter.linked")
        with suppress(CheckpointError, OSError):
            found = checkpoint.verify_sizes(committed)
            self.file.hardlink_to(committed / checkpoint.WEIGHTS)
            self.sha256 = found.files[checkpoint.WEIGHTS]["sha256"]

    def write(self, weights: dict[str, torch.Tensor]) -> None:
        """Write and flush the file; raise CheckpointError when a weight is not finite."""
        write_weights(weights, self.file)
        sync_path(self.file)
        self.sha256 = staging.file_sha256(self.file)


def save_adapter(
    model: PeftModel,
    tokenizer: Any,
    recipe: Recipe,
    folder: Path,
    *,
    weights: WrittenWeights,
    kept_tokenizer: KeptTokenizer,
    revision: str | None,
    end_ids: Sequence[int],
    scores: dict[str, Any],
    versions: dict[str, str],
    data_digest: str = "",
    hardware: str = "",
) -> tuple[int, str]:
    """Write the adapter's folder, whole or not at all; return its weights' bytes and SHA-256.

    `weights` are those of `model`, on the same disk as `folder`; their file is moved.
    `kept_tokenizer` holds the vocabulary of `tokenizer`.

    Besides weights and configuration it holds the tokenizer with its chat template, which asks for
    no reasoning by itself where the recipe drops it, the tokens that end an answer
    (`generation_config.json`), the resolved recipe, the scores and a model card.
    """
    config = model.peft_config["default"]
    with staging.whole_folder(folder) as staged:
        weights.file.rename(staged / WEIGHTS)
        base = published_base(recipe.model.name, revision)
        values = {**config.to_dict(), "inference_mode": True, "revision": base.revision}
        values |= {"base_model_name_or_path": base.name}
        values |= {"lora_alpha": plain_alpha(recipe.lora), "use_rslora": False}
        text = json.dumps(values, indent=2, sort_keys=True, default=_plain)
        (staged / CONFIG).write_text(text + "\n", encoding="utf-8")
        kept_tokenizer.save(staged)
        template = staged / TEMPLATE
        if recipe.data.drops_reasoning and template.is_file():
            text = unthinking_by_default(template.read_text(encoding="utf-8"))
            template.write_text(text, encoding="utf-8")
        write_end_ids(staged, tokenizer, end_ids)
        (staged / "recipe.yaml").write_text(to_yaml(recipe), encoding="utf-8")
        (staged / "scores.json").write_text(json.dumps(scores, indent=2) + "\n", encoding="utf-8")
        loader = loader_name(model.get_base_model().config.model_type)
        facts = CardFacts(data_digest, hardware, loader)
        card = model_card(recipe, scores, versions, base, facts)
        (staged / "README.md").write_text(card, encoding="utf-8")
        fault_points.at("adapter.before_rename", staged / WEIGHTS)
    fault_points.at("adapter.after_rename", folder / WEIGHTS)
    return (folder / WEIGHTS).stat().st_size, weights.sha256


def plain_alpha(lora: Lora) -> float:
    """Return the alpha with which plain LoRA scales as the recipe does.

    Adapters are saved as plain LoRA (scale alpha/rank): GGUF's adapter format has no rsLoRA, which
    would make such an adapter sqrt(rank) too weak there, and PEFT 0.21's `add_weighted_adapter`
    scales its weights twice.
    """
    alpha = lora.alpha * math.sqrt(lora.rank) if lora.rslora else lora.alpha
    return int(alpha) if alpha == int(alpha) else alpha


def loadable_name(name: str) -> str:
    """Return the base's name as transformers loads it: a hub id, or a folder of this machine.

    `workbench:` names are known to the workbench alone; PEFT's AutoPeftModel needs their folder.
    """
    return published_base(name).name


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, set | frozenset) else str(value)

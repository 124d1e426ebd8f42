"""A plain script of TRL and PEFT that trains a trial's adapter again, without the workbench.

python -m workbench.export.trl_script ADAPTER ROWS FOLDER

ADAPTER is the trial's adapter, ROWS the train.arrow of its prepared rows. FOLDER gets the script,
the rows as tokens and the order in which each epoch takes them.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

from workbench.adapters.adapter_folder import WEIGHTS
from workbench.adapters.lora_settings import CONFIG
from workbench.errors import CheckpointError, DataError, NotThere, UsageError
from workbench.export.child import print_report
from workbench.machine import staging
from workbench.recipe import Recipe, load_recipe
from workbench.text import safe_line
from workbench.training import libraries

SCRIPT, ROWS, ORDER = "train.py", "rows.jsonl", "order.json"
_SCHEDULES = {"constant": "constant_with_warmup", "linear": "linear", "cosine": "cosine"}


def write_trl_script(adapter: Path, rows_file: Path, out: Path) -> dict[str, Any]:
    """Write the folder, whole or not at all; return `folder`, `rows`, `steps` and `notes`.

    Raises CheckpointError for an adapter without its recipe, DataError for rows that are no longer
    in the cache, UsageError where `out` exists.
    """
    out = out.absolute()
    staging.refuse_existing(out)
    recipe, config, step = _about(adapter)
    if recipe.data.packing:
        raise UsageError(
            "the trial's rows are packed, and TRL's batches are of rows",
            hint="export a trial without data.packing",
        )
    if not rows_file.is_file():
        raise DataError(
            f"the prepared rows are gone: {safe_line(rows_file)}",
            hint="`workbench check RECIPE` on the trial's recipe prepares them again",
        )
    libraries.import_libraries(threads=None)
    from datasets import Dataset

    rows = Dataset.from_file(str(rows_file))
    size = recipe.train.rows_per_step
    per_epoch = math.ceil(len(rows) / size)
    total = recipe.train.max_steps or math.ceil(recipe.train.epochs * per_epoch)
    settings = _settings(recipe, config, total, min(step, total) or total)
    with staging.new_folder(out) as staged:
        with (staged / ROWS).open("w", encoding="utf-8") as file:
            for row in rows.select_columns(["input_ids", "labels"]):
                file.write(json.dumps(row) + "\n")
        orders = _orders(recipe, list(rows["length"]), math.ceil(total / per_epoch))
        (staged / ORDER).write_text(json.dumps(orders), encoding="utf-8")
        script = script_text(recipe.name, settings, _loader(adapter))
        (staged / SCRIPT).write_text(script, encoding="utf-8")
    notes = ["its dropout is drawn by torch, not as in the trial"] if recipe.lora.dropout else []
    return {"folder": str(out), "rows": len(rows), "steps": settings["stop_at"], "notes": notes}


def script_text(name: str, settings: dict[str, Any], loader: str = "AutoModelForCausalLM") -> str:
    """Return the script, with the settings as one dictionary at its top.

    `loader` is the name of transformers' class that loads the base.
    """
    lines = "".join(f"    {key!r}: {value!r},\n" for key, value in settings.items())
    title = safe_line(name, 80).replace("\\", "/").replace('"', "'")
    text = _TEMPLATE.replace("@TITLE@", title).replace("@LOADER@", loader)
    return text.replace("@SETTINGS@", lines)


def _loader(adapter: Path) -> str:
    """Return the class that loads the base: the adapter's names say if it sees, too."""
    from safetensors import safe_open

    with safe_open(adapter / WEIGHTS, framework="numpy") as file:
        sees = any(".language_model." in name for name in file.keys())  # noqa: SIM118
    return "AutoModelForImageTextToText" if sees else "AutoModelForCausalLM"


def _about(adapter: Path) -> tuple[Recipe, dict[str, Any], int]:
    """Return the recipe, PEFT's configuration and the step of an adapter's folder."""
    try:
        recipe = load_recipe(adapter / "recipe.yaml")
        config = json.loads((adapter / CONFIG).read_bytes())
        step = int(json.loads((adapter / "scores.json").read_bytes())["step"])
    except (OSError, ValueError, KeyError, TypeError, NotThere) as broken:
        raise CheckpointError(
            f"{safe_line(adapter)} is no adapter of a trial: {safe_line(broken, 200)}",
            hint="name a trial, or the folder `adapter` that a trial left",
        ) from broken
    return recipe, config, step


def _settings(recipe: Recipe, config: dict[str, Any], steps: int, stop_at: int) -> dict[str, Any]:
    train = recipe.train
    optimizer = "adamw_torch" if train.optimizer == "auto" else train.optimizer
    return {
        "base": config["base_model_name_or_path"],
        "revision": config.get("revision"),
        "quantization": recipe.model.quantization,
        "double_quantization": recipe.model.double_quantization,
        "precision": recipe.model.precision,
        "rank": config["r"],
        "alpha": config["lora_alpha"],
        "dropout": config["lora_dropout"],
        "bias": config["bias"],
        "targets": sorted(config["target_modules"]),
        "exclude": config.get("exclude_modules"),
        "batch_size": train.batch_size,
        "accumulation": train.accumulation,
        "learning_rate": train.learning_rate,
        "weight_decay": train.weight_decay,
        "max_grad_norm": train.max_grad_norm,
        "schedule": _SCHEDULES[train.schedule],
        "warmup": train.warmup,
        "optimizer": optimizer,
        "recompute": train.gradient_checkpointing == "on",
        "seed": train.seed,
        "steps": steps,
        "stop_at": stop_at,
    }


def _orders(recipe: Recipe, lengths: list[int], epochs: int) -> list[list[int]]:
    """Return the row numbers of each epoch in the order in which the trial took them."""
    from workbench.training.row_order import EpochOrder

    return [
        list(
            EpochOrder(
                lengths,
                recipe.train.rows_per_step,
                recipe.train.seed,
                lambda epoch=epoch: epoch,  # type: ignore[misc]
                grouped=recipe.data.group_by_length,
            )
        )
        for epoch in range(epochs)
    ]


_TEMPLATE = '''\
"""Trains the adapter of "@TITLE@" with TRL and PEFT alone: python train.py

rows.jsonl has the training rows as tokens, order.json the row numbers of each epoch. The adapter is
written to the folder `adapter` beside this file.
"""

import json
import math
from pathlib import Path

import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoTokenizer,
    BitsAndBytesConfig,
    @LOADER@,
    TrainerCallback,
    set_seed,
)
from trl import SFTConfig, SFTTrainer
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

SETTINGS = {
@SETTINGS@}
HERE = Path(__file__).parent
CUDA = torch.cuda.is_available()


def compute_dtype():
    """Return the number format of the computation."""
    named = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
    if SETTINGS["precision"] in named:
        return named[SETTINGS["precision"]]
    if not CUDA:
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(False) else torch.float16


def adapted_model():
    """Return the frozen base with a new adapter in fp32, drawn from the seed."""
    four_bits = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=SETTINGS["double_quantization"],
        bnb_4bit_compute_dtype=compute_dtype(),
    )
    base = @LOADER@.from_pretrained(
        SETTINGS["base"],
        revision=SETTINGS["revision"],
        dtype=compute_dtype(),
        quantization_config=four_bits if SETTINGS["quantization"] == "nf4" else None,
        device_map={"": "cuda" if CUDA else "cpu"},
    )
    base.requires_grad_(False)
    set_seed(SETTINGS["seed"])
    lora = LoraConfig(
        r=SETTINGS["rank"],
        lora_alpha=SETTINGS["alpha"],
        lora_dropout=SETTINGS["dropout"],
        bias=SETTINGS["bias"],
        target_modules=SETTINGS["targets"],
        exclude_modules=SETTINGS["exclude"],
        task_type="CAUSAL_LM",
    )
    with next(base.parameters()).device:
        model = get_peft_model(base, lora)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return model


class Order(torch.utils.data.Sampler):
    """The rows of the current epoch in the order of order.json."""

    def __init__(self, orders, epoch):
        self.orders, self.epoch = orders, epoch

    def __len__(self):
        return len(self.orders[0])

    def __iter__(self):
        return iter(self.orders[self.epoch()])


class Trainer(SFTTrainer):
    """TRL's trainer with that order."""

    def _get_train_sampler(self, train_dataset=None):
        orders = json.loads((HERE / "order.json").read_text())
        size = SETTINGS["batch_size"] * SETTINGS["accumulation"]
        steps_per_epoch = math.ceil(len(orders[0]) / size)
        return Order(orders, lambda: self.state.global_step // steps_per_epoch)


class StopAt(TrainerCallback):
    """Ends the training after the step whose weights the trial kept."""

    def on_step_end(self, args, state, control, **_):
        control.should_training_stop |= state.global_step >= SETTINGS["stop_at"]


def main():
    arguments = SFTConfig(
        output_dir=str(HERE / "trainer"),
        per_device_train_batch_size=SETTINGS["batch_size"],
        gradient_accumulation_steps=SETTINGS["accumulation"],
        max_steps=SETTINGS["steps"],
        router_aux_loss_coef=0.0,
        learning_rate=SETTINGS["learning_rate"],
        weight_decay=SETTINGS["weight_decay"],
        max_grad_norm=SETTINGS["max_grad_norm"],
        lr_scheduler_type=SETTINGS["schedule"],
        warmup_steps=SETTINGS["warmup"],
        optim=SETTINGS["optimizer"],
        activation_checkpointing=SETTINGS["recompute"],
        seed=SETTINGS["seed"],
        bf16=compute_dtype() is torch.bfloat16,
        fp16=compute_dtype() is torch.float16,
        use_cpu=not CUDA,
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
        logging_steps=1,
        save_strategy="no",
        report_to="none",
    )
    with (HERE / "rows.jsonl").open(encoding="utf-8") as file:
        rows = Dataset.from_list([json.loads(line) for line in file])
    tokenizer = AutoTokenizer.from_pretrained(SETTINGS["base"], revision=SETTINGS["revision"])
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    model = adapted_model()
    masters = {name: one.data for name, one in model.named_parameters() if one.requires_grad}
    trainer = Trainer(
        model=model,
        args=arguments,
        data_collator=DataCollatorForLanguageModeling(pad_token_id=tokenizer.pad_token_id),
        train_dataset=rows,
        processing_class=tokenizer,
        callbacks=[StopAt()],
    )
    for name, parameter in model.named_parameters():  # TRL casts them to bf16
        if parameter.requires_grad:
            parameter.data = masters[name]
    trainer.train()
    trainer.model.save_pretrained(HERE / "adapter")


if __name__ == "__main__":
    main()
'''


def main() -> int:
    """Write as the command line asks, print the report as JSON and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("adapter", type=Path)
    parser.add_argument("rows", type=Path)
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    return print_report(lambda: write_trl_script(given.adapter, given.rows, given.out))


if __name__ == "__main__":
    sys.exit(main())

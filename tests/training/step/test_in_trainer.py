"""The step inside a Trainer: its options, the numbers of its masks, exact resume."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from tests.training.step.conftest import ModelOf, options
from workbench.footprint.plan import Plan
from workbench.footprint.row_lengths import MOST_ROWS_PER_BIN
from workbench.recipe.schema import Recipe
from workbench.training.step import Rows, Step, StepOptions, collate_rows
from workbench.training.step.in_trainer import (
    MOST_ROWS,
    StepTraining,
    options_from,
    step_config,
)
from workbench.training.step.rows import split_examples


def test_plan_and_recipe_decide_its_options() -> None:
    recipe = Recipe.model_validate(
        {"name": "x", "model": {"name": "m"}, "data": {"train": "t", "max_tokens": 64}}
        | {"train": {"weight_decay": 0.02, "seed": 7, "log_every": 9}}
    )
    plan = Plan(
        precision="fp16", attention="sdpa", attention_why="", optimizer="adamw_torch",
        rows_per_step=4, tokens_per_micro=128, longest=64, recompute_layers=3, layers=8,
        long_recompute_layers=5, predicted_bytes=0, offload=True, off=("graphs",),
    )  # fmt: skip
    made = options_from(plan, recipe)
    assert (made.precision, made.tokens_per_micro, made.max_length) == ("fp16", 128, 64)
    assert (made.rows_per_micro, made.recompute_layers, made.dequantised_layers) == (4, 3, 0)
    assert (made.offload, made.long_recompute_layers) == (True, 5)
    assert made.off == {"graphs"}
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan
    assert (made.learning_rate, made.max_grad_norm) == (2e-4, 0.3)
    assert (made.weight_decay, made.seed, made.log_every) == (0.02, 7, 9)
    packed = recipe.model_copy(update={"data": recipe.data.model_copy(update={"packing": True})})
    assert options_from(plan, packed).rows_per_micro == 4 * MOST_ROWS_PER_BIN
    large = replace(plan, rows_per_step=1024)
    assert options_from(large, packed).rows_per_micro == MOST_ROWS


def test_no_two_optimizer_steps_share_a_mask(model_of: ModelOf, rows: Rows) -> None:
    """However many micro-steps each is cut into."""

    class Trains(StepTraining):
        step = Step(model_of(lora_dropout=0.3), options(rows_per_micro=1))
        state = SimpleNamespace(global_step=0)

    trains, ends = Trains(), []
    for number in range(3):
        trains.state.global_step = number
        trains.training_step(None, rows)
        assert trains.step is not None
        ends.append(trains.step.micro_steps)
    assert all(after - 4 >= before for before, after in pairwise(ends))


class Trained(StepTraining, SFTTrainer):  # type: ignore[misc]
    pass


def trainer_of(
    model: Any, rows: Dataset, folder: Path, tokenizer: Any, optimizer: str, **more: Any
) -> Trained:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = Trained(
            model=model,
            args=SFTConfig(
                output_dir=str(folder),
                use_cpu=True,
                learning_rate=0.01,
                max_steps=6,
                lr_scheduler_type="linear",
                warmup_steps=2,
                max_length=None,
                dataset_kwargs={"skip_prepare_dataset": True},
                dataloader_pin_memory=False,
                report_to="none",
                disable_tqdm=True,
                logging_strategy="no",
                **(step_config(2) | {"save_strategy": "no"} | more),
            ),
            data_collator=collate_rows,
            train_dataset=rows,
            processing_class=tokenizer,
        )
    trainer.step_options = StepOptions(
        precision="fp32", optimizer=optimizer, rows_per_micro=2,
        learning_rate=0.01, weight_decay=0.0, max_grad_norm=0.3,
    )  # fmt: skip
    return trainer


@pytest.mark.parametrize("optimizer", ["adamw_torch", "paged_adamw_8bit", "sgd"])
def test_a_trainer_resumes_with_it_exactly(
    optimizer: str, model_of: ModelOf, rows: Rows, tmp_path: Path, tokenizer: Any
) -> None:
    data = Dataset.from_list([dict(row) for row in split_examples(rows)] * 3)
    finals = []
    for resume in (False, True):
        trainer = trainer_of(
            model_of(lora_dropout=0.2), data, tmp_path / "run", tokenizer,
            optimizer, save_strategy="steps", save_steps=3,
        )  # fmt: skip
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = str(tmp_path / "run" / "checkpoint-3") if resume else None
            trainer.train(resume_from_checkpoint=found)
        assert trainer.step is not None
        assert trainer.state.global_step == 6
        finals.append([param.detach().clone() for param in trainer.step.flat.params])
    assert all(torch.equal(left, right) for left, right in zip(*finals, strict=True))

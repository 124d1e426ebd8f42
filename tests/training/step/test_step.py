"""The step as a whole: it learns, it stops at NaN, it leaves no trace, it lives in a Trainer."""

from __future__ import annotations

import json
import math
import warnings
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft.utils.save_and_load import get_peft_model_state_dict
from trl import SFTConfig, SFTTrainer

from tests.training.step.conftest import ModelOf, options
from workbench.errors import Diverged
from workbench.footprint.plan import Plan
from workbench.recipe.schema import Recipe
from workbench.training.step import LEVERS, Rows, Step, StepOptions, collate
from workbench.training.step.in_trainer import StepTraining, options_from, step_config
from workbench.training.step.rows import examples_of


def test_it_learns_a_batch_by_heart(model_of: ModelOf, rows: Rows) -> None:
    step = Step(model_of(lora_dropout=0.05), options(learning_rate=0.1, max_grad_norm=10.0))
    for _ in range(40):
        step.forward_backward(rows)
        step.optimizer_step()
    losses = [row["loss"] for row in step.measured()]
    assert len(losses) == 40
    assert max(losses[-5:]) < losses[0] - 0.05


def test_a_base_in_eval_mode_trains_all_the_same(model_of: ModelOf, rows: Rows) -> None:
    model = model_of()
    model.get_base_model().eval()
    model.training = True  # as PEFT leaves it on a base that was loaded to score
    Step(model, options()).forward_backward(rows)
    assert all(module.training for module in model.modules())


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
    assert (made.rows_per_micro, made.recompute_layers, made.resident_layers) == (4, 3, 0)
    assert (made.offload, made.long_recompute_layers) == (True, 5)
    assert made.off == {"graphs"}
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan
    assert (made.learning_rate, made.max_grad_norm) == (2e-4, 0.3)
    assert (made.weight_decay, made.seed, made.log_every) == (0.02, 7, 9)


def test_every_lever_is_told_with_a_reason(model_of: ModelOf) -> None:
    levers = Step(model_of(), options(off=frozenset({"fused_lora"}))).levers()
    assert [lever.name for lever in levers] == list(LEVERS)
    assert all(lever.why for lever in levers)
    assert {lever.name: lever.why for lever in levers}["fused_lora"] == "switched off"


def test_twenty_steps_without_a_finite_gradient_are_a_failure(
    model_of: ModelOf, rows: Rows
) -> None:
    step = Step(model_of(), options())
    before = step.flat.values.clone()
    for _ in range(20):
        step.forward_backward(rows)
        step.flat.grads[0] = math.nan
        step.optimizer_step()
    with pytest.raises(Diverged) as failed:
        step.measured()
    assert failed.value.hint
    assert torch.equal(step.flat.values, before)


def test_twenty_bad_steps_are_a_failure_also_where_a_good_one_follows(
    model_of: ModelOf, rows: Rows
) -> None:
    step = Step(model_of(), options())
    for turn in range(21):
        step.forward_backward(rows)
        if turn < 20:
            step.flat.grads[0] = math.nan
        step.optimizer_step()
    with pytest.raises(Diverged):
        step.measured()


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
        ends.append(trains.step.optimizer.micro_steps)
    assert all(after - 4 >= before for before, after in pairwise(ends))


def test_restore_leaves_modules_as_they_were_with_the_trained_weights(
    model_of: ModelOf, rows: Rows
) -> None:
    model = model_of(lora_dropout=0.1)
    before = [(module, dict(module.__dict__)) for module in model.modules()]
    names = set(get_peft_model_state_dict(model))
    step = Step(model, options(recompute_layers=1))
    step.forward_backward(rows)
    step.optimizer_step()
    trained = {n: v.clone() for n, v in get_peft_model_state_dict(model).items()}
    step.restore()
    assert names == set(trained)
    for module, attributes in before:
        assert module.__dict__.keys() == attributes.keys()
        assert "forward" not in module.__dict__
    after = get_peft_model_state_dict(model)
    assert all(torch.equal(value, trained[name]) for name, value in after.items())


def test_scoring_between_steps_sees_the_trained_adapter(model_of: ModelOf, rows: Rows) -> None:
    model = model_of()
    step = Step(model, options(learning_rate=0.02))
    ids = rows.ids_T[None, :5]
    for _ in range(3):
        step.forward_backward(rows)
        step.optimizer_step()
    with torch.no_grad():
        during = model.eval()(input_ids=ids).logits
        step.restore()
        after = model(input_ids=ids).logits
    assert torch.equal(during, after)


def test_the_same_seed_draws_the_same_masks_and_another_other_ones(
    model_of: ModelOf, rows: Rows
) -> None:
    losses = []
    for seed in (1, 1, 2):
        step = Step(model_of(lora_dropout=0.5), options(seed=seed))
        losses.append([float(step.forward_backward(rows)) for _ in range(2)])
    assert losses[0] == losses[1]
    assert losses[0] != losses[2]
    assert losses[0][0] != losses[0][1]


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
            data_collator=collate,
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
    data = Dataset.from_list([dict(row) for row in examples_of(rows)] * 3)
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

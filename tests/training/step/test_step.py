"""The step as a whole: it learns, it stops at NaN, it leaves no trace."""

from __future__ import annotations

import math

import pytest
import torch
from peft.utils.save_and_load import get_peft_model_state_dict

from tests.training.step.conftest import ModelOf, options
from workbench.errors import Diverged
from workbench.training.step import OPTIMIZATIONS, Rows, Step


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


def test_every_optimization_is_reported_with_a_reason(model_of: ModelOf) -> None:
    optimizations = Step(model_of(), options(off=frozenset({"fused_lora"}))).optimizations()
    assert [entry.name for entry in optimizations] == list(OPTIMIZATIONS)
    assert all(entry.why for entry in optimizations)
    assert {entry.name: entry.why for entry in optimizations}["fused_lora"] == "switched off"


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


@pytest.mark.parametrize("family", ["llama", "qwen3_5_text"])
def test_scoring_between_steps_sees_the_trained_adapter(
    family: str, model_of: ModelOf, rows: Rows
) -> None:
    model = model_of(family)
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

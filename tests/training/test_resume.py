"""A resumed trial gives the same losses and weights as an uninterrupted one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.training.model.bases import made
from tests.training.trials import Bench, halt_at, plan, recipe, recipe_of_two_layers
from workbench.attempts.events import Outcome
from workbench.fleet import Halt
from workbench.footprint import Plan
from workbench.recipe import Recipe
from workbench.training.model.base import ResidentBase

SETTINGS: dict[str, Any] = {
    "data__max_rows": 16,
    "train__epochs": 2,
    "train__save_every": 3,
    "train__log_every": 3,
}
"""Eight steps; step 7 lies in the middle of the second epoch and inside a metric window."""

RESUMED: dict[str, dict[str, Any]] = {
    "exaone4": {},
    "gemma4_text": {
        "num_hidden_layers": 4,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "num_kv_shared_layers": 2,
        "global_head_dim": 16,
        "hidden_size_per_layer_input": 8,
        "vocab_size_per_layer_input": 1024,
    },
    "glm4": {},
    "granite": {},
    "ministral3": {},
    "olmo3": {},
    "qwen3_5_text": {
        "head_dim": 32,
        "layer_types": ["linear_attention", "full_attention"],
        "linear_num_value_heads": 4,
        "linear_num_key_heads": 2,
        "linear_key_head_dim": 16,
        "linear_value_head_dim": 16,
    },
    "smollm3": {},
}
"""Families, with settings by which a tiny model belongs to each."""


@pytest.mark.parametrize(
    ("optimizer", "quantization", "cut"),
    [
        ("adamw_torch", "none", {"tokens_per_micro": 192, "recompute_layers": 5}),
        ("paged_adamw_8bit", "nf4", {"dequantised_layers": 2}),
    ],
)
def test_a_resumed_trial_repeats_the_uninterrupted_one(
    optimizer: str,
    quantization: str,
    cut: dict[str, int],
    tmp_path: Path,
) -> None:
    settings = recipe_of_two_layers(model__quantization=quantization, **SETTINGS)
    assert_repeats(settings, plan(optimizer=optimizer, **cut), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("family", RESUMED)
def test_a_family_of_the_step_resumes_as_a_llama_does(family: str, tmp_path: Path) -> None:
    sizes = {"bos_token_id": 0, "eos_token_id": 0, "head_dim": 8, **RESUMED[family]}
    model = made(tmp_path / "model", family, **sizes)
    settings = recipe(model__name=str(model), model__quantization="nf4", **SETTINGS)
    assert_repeats(settings, plan(recompute_layers=1, dequantised_layers=1), tmp_path)


def assert_repeats(settings: Recipe, plans: Plan, tmp_path: Path) -> None:
    """Assert that a trial in three attempts has the losses and weights of one in a single one."""
    straight = Bench(tmp_path / "a", settings, plan=plans)
    expected = straight.run()
    broken = Bench(tmp_path / "b", settings, plan=plans)
    first = broken.run(on=halt_at(3, Halt.YIELD))
    second = broken.run(on=halt_at(6, Halt.YIELD))
    third = broken.run(ResidentBase())
    assert [log.end["step"] for log in (first, second, third)] == [4, 7, 8]
    losses = {**first.losses, **second.losses, **third.losses}
    assert losses == pytest.approx(expected.losses, rel=1e-6)
    assert third.scores == pytest.approx(expected.scores, rel=1e-6)
    weights = "adapter/adapter_model.safetensors"
    left, right = (load_file(bench.trial / weights) for bench in (straight, broken))
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_a_resumed_trial_refuses_a_changed_recipe(tmp_path: Path) -> None:
    bench = Bench(tmp_path, recipe())
    bench.run(on=halt_at(2, Halt.YIELD))
    bench.recipe = recipe(train__learning_rate=1e-3)
    log = bench.run()
    assert log.outcome is Outcome.FAILED
    assert "the recipe changed" in log.end["reason"]
    assert "clone" in log.end["hint"]


def test_a_resumed_trial_refuses_changed_rows(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    lines = [f'{{"prompt": "{n} and", "completion": "{n}"}}\n' for n in range(32)]
    rows.write_text("".join(lines))
    settings = recipe(data__train=str(rows), data__eval=None, data__columns={})
    bench = Bench(tmp_path / "home", settings)
    bench.run(on=halt_at(2, Halt.YIELD))
    rows.write_text("".join(lines).replace('"31"', '"32"').replace('"30"', '"33"'))
    end = bench.run().end
    assert "rows changed in" in end["reason"]
    assert "submit the recipe again" in end["hint"]
    rows.write_text("".join(lines))
    assert bench.run().outcome is Outcome.DONE


def test_damaged_checkpoints_are_reported_and_without_a_whole_one_training_restarts(
    tmp_path: Path,
) -> None:
    bench = Bench(tmp_path, recipe(train__epochs=2))
    bench.run(on=halt_at(10, Halt.YIELD))
    os.truncate(bench.checkpoints / "step-000008" / "optimizer.pt", 100)
    os.truncate(bench.checkpoints / "step-000011" / "optimizer.pt", 100)
    log = bench.run()
    assert log.outcome is Outcome.DONE
    told = [line["text"] for line in log.of("log") if "damaged" in line["text"]]
    assert len(told) == 2
    assert "step-000011 is damaged: optimizer.pt" in told[0]
    assert min(row["step"] for row in log.of("metric")) == 2
    assert [row["from_step"] for row in log.of("phase") if row["name"] == "loading"] == [0]


def test_a_resumed_trial_refuses_another_precision(tmp_path: Path) -> None:
    bench = Bench(tmp_path, recipe())
    bench.run(on=halt_at(2, Halt.YIELD))
    bench.plan = plan(precision="bf16")
    log = bench.run()
    assert "precision fp32, not bf16" in log.end["reason"]


def test_a_resumed_trial_may_be_cut_finer(tmp_path: Path) -> None:
    bench = Bench(tmp_path, recipe())
    bench.run(on=halt_at(2, Halt.YIELD))
    bench.plan = plan(tokens_per_micro=96, recompute_layers=5)
    log = bench.run()
    assert log.outcome is Outcome.DONE
    assert log.end["step"] == 6

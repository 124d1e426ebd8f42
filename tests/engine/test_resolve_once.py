"""All trials of an experiment have one precision, optimizer and number of rows scored at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.support.tick_contexts import TINY, Bench, gpu_card, recipe
from workbench.footprint import plan_trial
from workbench.footprint.peak.buckets import GIB
from workbench.footprint.row_lengths import Lengths
from workbench.footprint.sweeps.resolve_once import resolve_once
from workbench.machine.cards import Card
from workbench.recipe import Recipe, apply_settings
from workbench.scheduler.evaluation.known_scores import base_key
from workbench.scheduler.plans.remembered_plans import trial_recipe

MakeBench = Callable[..., Bench]
LARGE = {
    **TINY,
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "vocab_size": 128256,
}
SHORT: Lengths = {"longest": 512, "sample": [300] * 16, "scored": 512}


def card(gib: float) -> Card:
    return Card(
        uuid=f"GPU-{gib}",
        kind="cuda",
        name="card",
        total_bytes=int(gib * (1 << 30)),
        capability=(8, 6),
    )


def sweep(*ranks: int) -> Recipe:
    return recipe(
        data={"train": "/d.jsonl", "max_tokens": 4096},
        evaluate={"answer_pattern": "####", "batch_size": 256},
        sweep={"parameters": {"lora.rank": list(ranks)}},
    )


def resolved_rows(wanted: Recipe, *cards: Card) -> int:
    return int(resolve_once(wanted, LARGE, list(cards))["evaluate.batch_size"])


def test_the_weakest_card_decides_and_one_that_fits_nothing_does_not() -> None:
    large, small = (resolved_rows(sweep(8), card(gib)) for gib in (80, 16))
    assert 1 <= small < large <= 256
    assert resolved_rows(sweep(8), card(80), card(16), card(80)) == small
    assert resolved_rows(sweep(8), card(80), card(2)) == large


def test_every_trial_of_the_sweep_has_a_plan_for_as_many_rows() -> None:
    wanted, where = sweep(4, 64), card(24)
    settings = resolve_once(wanted, LARGE, [where])
    plain = wanted.model_copy(update={"sweep": None})
    rows = {
        plan_trial(apply_settings(plain, {**settings, "lora.rank": rank}), LARGE, where).eval_batch
        for rank in (4, 64)
    }
    assert rows == {settings["evaluate.batch_size"]}


def test_the_sweeps_largest_trial_decides_the_optimizer() -> None:
    """Every trial that `plan` says fits a card has a plan there with what was resolved."""
    ranks, where = (8, 512), card(24)
    apart = [
        plan_trial(recipe(lora={"rank": rank}), LARGE, where, lengths=SHORT).optimizer
        for rank in ranks
    ]
    assert apart == ["adamw_torch", "paged_adamw_8bit"]
    wanted = recipe(sweep={"parameters": {"lora.rank": list(ranks)}})
    settings = resolve_once(wanted, LARGE, [where, card(12)], SHORT)
    assert settings["train.optimizer"] == "paged_adamw_8bit"
    for rank in ranks:
        one = apply_settings(wanted, {**settings, "lora.rank": rank})
        assert plan_trial(one, LARGE, where, lengths=SHORT).predicted_bytes < 24 * GIB
    assert resolve_once(wanted, LARGE, [card(80)], SHORT)["train.optimizer"] == "adamw_torch"


def test_trials_get_what_was_resolved(bench_of: MakeBench) -> None:
    bench = bench_of(gpu_card(0, 24))
    id = bench.submit(recipe(evaluate={"answer_pattern": "####", "batch_size": 8}))
    [trial] = bench.store.trials(id)[-1:]
    experiment = bench.store.experiment(id)
    assert experiment.resolved["evaluate.batch_size"] == 8
    assert trial_recipe(trial, experiment).evaluate.batch_size == 8


def test_a_base_scored_with_other_batches_is_the_same_only_in_fp32() -> None:
    wanted: dict[str, Any] = recipe().model_dump(mode="json")
    prepared = {"model": {"path": "/m", "revision": None}, "evaluation_digest": "e"}

    def keys(precision: str) -> set[str]:
        return {
            base_key(wanted, prepared, {"model.precision": precision, "evaluate.batch_size": rows})
            for rows in (4, 16)
        }

    assert len(keys("fp32")) == 1
    assert len(keys("bf16")) == 2

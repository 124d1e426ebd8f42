"""The out-of-memory fallback: which plan follows which, and when there is none."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from workbench.footprint import Plan
from workbench.footprint.oom_fallback import (
    FallbackStep,
    fallback_plan,
    hardware_key,
    next_fallback,
)
from workbench.footprint.plan import describe_plan, summarize_plan
from workbench.machine.cards import Card

CARD = Card(uuid="GPU-1", kind="cuda", name="RTX 3090", total_bytes=24 << 30, capability=(8, 6))
PLAN = Plan(
    precision="bf16", attention="sdpa", attention_why="", optimizer="adamw_torch",
    rows_per_step=4, tokens_per_micro=2048, longest=512, layers=32, dequantised_layers=14,
    predicted_bytes=1000, buckets={"base": 1000}, eval_batch=16,
)  # fmt: skip


def way(plan: Plan | None) -> dict[str, Any] | None:
    """Return the settings of a plan that the fallback changes."""
    if plan is None:
        return None
    keys = "dequantised_layers micro_steps recompute_layers offload host_tables eval_batch"
    return {key: getattr(plan, key) for key in keys.split()}


def steps_below(stage: str, plan: Plan = PLAN, **how: Any) -> list[dict[str, Any] | None]:
    """Return every step below `plan`, to the last."""
    found = []
    lower: Plan | None = plan
    while lower is not None:
        lower = next_fallback(lower, stage, **how)
        found.append(way(lower))
    return found[:-1]


def changed(**found: Any) -> dict[str, Any]:
    return {**(way(PLAN) or {}), **found}


@pytest.mark.parametrize("stage", ["rehearsing", "training", "saving"])
def test_training_drops_dequantised_layers_then_rows_then_recomputes(stage: str) -> None:
    assert steps_below(stage) == [
        changed(dequantised_layers=0),
        changed(dequantised_layers=0, micro_steps=2),
        changed(dequantised_layers=0, micro_steps=4),
        changed(dequantised_layers=0, micro_steps=4, recompute_layers=32),
        changed(
            dequantised_layers=0, micro_steps=4, recompute_layers=32, offload=True, host_tables=True
        ),
    ]


def test_longer_rows_that_go_alone_recompute_all_before_the_others_do() -> None:
    keys = ("tokens_per_micro", "recompute_layers", "long_recompute_layers", "offload")
    plan = replace(PLAN, longest=2048, tokens_per_micro=1280, long_recompute_layers=9)
    plan, found = replace(plan, dequantised_layers=0), []
    while (lower := next_fallback(plan)) is not None:
        found.append(tuple(getattr(lower, key) for key in keys))
        plan = lower
    assert found == [(1280, 0, 32, False), (1280, 32, 32, False), (2048, 32, 32, True)]


def test_half_the_rows_are_half_also_of_odd_numbers() -> None:
    for tokens, half in ((2048, 1024), (7 * 512, 3 * 512), (8000, 8 * 512), (1500, 512)):
        plan = replace(PLAN, dequantised_layers=0, rows_per_step=16, tokens_per_micro=tokens)
        assert next_fallback(plan) == replace(plan, tokens_per_micro=half)


def test_a_cut_that_is_no_multiple_of_rows_comes_down_to_one_row() -> None:
    plan = replace(PLAN, dequantised_layers=0, tokens_per_micro=800)
    assert next_fallback(plan) == replace(plan, tokens_per_micro=512)
    assert summarize_plan(plan) == "800 tokens at a time"
    assert summarize_plan(PLAN) == "4 rows × 1"


def test_the_words_say_what_longer_rows_recompute() -> None:
    plan = replace(PLAN, longest=2048, tokens_per_micro=1280, long_recompute_layers=9)
    assert (
        summarize_plan(plan) == "1,280 tokens at a time, recomputing 9 of 32 layers in longer rows"
    )
    found = describe_plan(replace(plan, recompute_layers=2).to_json())
    assert found["micro-step"] == "1,280 tokens, longer rows alone"
    assert found["recompute"] == "2 of 32 layers, 9 in longer rows"


def test_without_recompute_it_ends_at_one_row_and_tables_in_host_memory() -> None:
    assert steps_below("training", recompute=False)[-1] == changed(
        host_tables=True, dequantised_layers=0, micro_steps=4
    )


def test_scoring_has_come_down_to_one_row_by_itself_and_drops_dequantised_layers() -> None:
    assert steps_below("evaluating") == [changed(dequantised_layers=0, eval_batch=1)]
    assert steps_below("evaluating", replace(PLAN, dequantised_layers=0)) == []


def test_graphs_that_stay_are_let_go_at_the_first_step() -> None:
    keeps = replace(PLAN, keeps_graphs=True)
    assert next_fallback(keeps, "evaluating") == PLAN
    assert next_fallback(keeps, "training") == next_fallback(PLAN, "training")


def test_loading_has_nothing_to_make_smaller() -> None:
    assert steps_below("loading") == []


def down(*falls: tuple[Plan, str]) -> dict[str, Any] | None:
    found = [
        FallbackStep(hardware=hardware_key(CARD), plan=plan.to_json(), stage=stage)
        for plan, stage in falls
    ]
    return way(fallback_plan(PLAN, found, recompute=True, price=lambda plan: plan))


@pytest.mark.parametrize("stage", ["rehearsing", "training", "evaluating", "saving"])
def test_one_end_is_enough_where_the_worker_has_tried_on_an_emptied_card(stage: str) -> None:
    assert down((PLAN, stage)) != way(PLAN)


def test_loading_is_tried_once_more() -> None:
    assert down((PLAN, "loading")) == way(PLAN)
    assert down((PLAN, "loading"), (PLAN, "loading")) is None


def test_there_is_no_plan_after_the_last_step() -> None:
    less = replace(PLAN, dequantised_layers=0, eval_batch=1)
    assert down((PLAN, "evaluating")) == way(less)
    assert down((PLAN, "evaluating"), (less, "evaluating")) is None


def test_an_attempt_counts_where_its_plan_was_predicted_to_take_less_but_not_where_more() -> None:
    less, more = (replace(PLAN, buckets={"base": size}) for size in (900, 1100))
    assert down((less, "training")) != way(PLAN)
    assert down((more, "training")) == way(PLAN)

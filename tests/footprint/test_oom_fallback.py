"""Down the ladder: which rung is below which, and when there is none."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from workbench.footprint import Plan
from workbench.footprint.oom_fallback import Fall, climb_down, kind_of, squeeze, words
from workbench.footprint.plan import shown
from workbench.machine.cards import Card

CARD = Card(uuid="GPU-1", kind="cuda", name="RTX 3090", total_bytes=24 << 30, capability=(8, 6))
PLAN = Plan(
    precision="bf16", attention="sdpa", attention_why="", optimizer="adamw_torch",
    rows_per_step=4, tokens_per_micro=2048, longest=512, layers=32, resident_layers=14,
    predicted_bytes=1000, buckets={"base": 1000}, eval_batch=16,
)  # fmt: skip


def way(plan: Plan | None) -> dict[str, Any] | None:
    """What of a plan the ladder moves."""
    if plan is None:
        return None
    keys = ("resident_layers", "micro_steps", "recompute_layers", "offload", "eval_batch")
    return {key: getattr(plan, key) for key in keys}


def rungs(stage: str, plan: Plan = PLAN, **how: Any) -> list[dict[str, Any] | None]:
    """From `plan` to the last rung."""
    found = []
    lower: Plan | None = plan
    while lower is not None:
        lower = squeeze(lower, stage, **how)
        found.append(way(lower))
    return found[:-1]


def changed(**told: Any) -> dict[str, Any]:
    return {**(way(PLAN) or {}), **told}


@pytest.mark.parametrize("stage", ["rehearsing", "training", "saving"])
def test_training_gives_up_unpacked_layers_then_rows_then_what_recompute_saves(stage: str) -> None:
    assert rungs(stage) == [
        changed(resident_layers=0),
        changed(resident_layers=0, micro_steps=2),
        changed(resident_layers=0, micro_steps=4),
        changed(resident_layers=0, micro_steps=4, recompute_layers=32),
        changed(resident_layers=0, micro_steps=4, recompute_layers=32, offload=True),
    ]


def test_longer_rows_that_go_alone_recompute_all_before_the_others_do() -> None:
    keys = ("tokens_per_micro", "recompute_layers", "long_recompute_layers", "offload")
    plan = replace(PLAN, longest=2048, tokens_per_micro=1280, long_recompute_layers=9)
    plan, told = replace(plan, resident_layers=0), []
    while (lower := squeeze(plan)) is not None:
        told.append(tuple(getattr(lower, key) for key in keys))
        plan = lower
    assert told == [(1280, 0, 32, False), (1280, 32, 32, False), (2048, 32, 32, True)]


def test_half_the_rows_are_half_also_of_odd_numbers() -> None:
    for tokens, half in ((2048, 1024), (7 * 512, 3 * 512), (8000, 8 * 512), (1500, 512)):
        plan = replace(PLAN, resident_layers=0, rows_per_step=16, tokens_per_micro=tokens)
        assert squeeze(plan) == replace(plan, tokens_per_micro=half)


def test_what_is_no_number_of_rows_comes_down_to_one() -> None:
    plan = replace(PLAN, resident_layers=0, tokens_per_micro=800)
    assert squeeze(plan) == replace(plan, tokens_per_micro=512)
    assert words(plan) == "800 tokens at a time"
    assert words(PLAN) == "4 rows × 1"


def test_what_longer_rows_recompute_is_told_in_words() -> None:
    plan = replace(PLAN, longest=2048, tokens_per_micro=1280, long_recompute_layers=9)
    assert words(plan) == "1,280 tokens at a time, recomputing 9 of 32 layers in longer rows"
    told = shown(replace(plan, recompute_layers=2).to_json())
    assert told["micro-step"] == "1,280 tokens, longer rows alone"
    assert told["recompute"] == "2 of 32 layers, 9 in longer rows"


def test_without_recompute_it_ends_at_one_row() -> None:
    assert rungs("training", recompute=False)[-1] == changed(resident_layers=0, micro_steps=4)


def test_scoring_has_come_down_to_one_row_by_itself_and_gives_up_unpacked_layers() -> None:
    assert rungs("evaluating") == [changed(resident_layers=0, eval_batch=1)]
    assert rungs("evaluating", replace(PLAN, resident_layers=0)) == []


def test_loading_has_nothing_to_make_smaller() -> None:
    assert rungs("loading") == []


def down(*falls: tuple[Plan, str]) -> dict[str, Any] | None:
    told = [Fall(card=kind_of(CARD), plan=plan.to_json(), stage=stage) for plan, stage in falls]
    return way(climb_down(PLAN, told, recompute=True, price=lambda plan: plan))


@pytest.mark.parametrize("stage", ["rehearsing", "training", "evaluating", "saving"])
def test_one_end_is_enough_where_the_worker_has_tried_on_an_emptied_card(stage: str) -> None:
    assert down((PLAN, stage)) != way(PLAN)


def test_loading_is_tried_once_more() -> None:
    assert down((PLAN, "loading")) == way(PLAN)
    assert down((PLAN, "loading"), (PLAN, "loading")) is None


def test_it_ends_below_the_last_rung() -> None:
    less = replace(PLAN, resident_layers=0, eval_batch=1)
    assert down((PLAN, "evaluating")) == way(less)
    assert down((PLAN, "evaluating"), (less, "evaluating")) is None


def test_a_plan_meant_to_take_less_tells_of_this_one_and_one_that_took_more_does_not() -> None:
    less, more = (replace(PLAN, buckets={"base": size}) for size in (900, 1100))
    assert down((less, "training")) != way(PLAN)
    assert down((more, "training")) == way(PLAN)

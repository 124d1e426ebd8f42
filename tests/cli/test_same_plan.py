"""One planner: scheduler, commands and foreground get the same plan from the same facts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Workbench
from tests.support.tick_contexts import Bench, gpu_card, make_bench
from tests.tui.filled import engine_running
from workbench.cli.recipes.check import _fit
from workbench.cli.recipes.plan import cards_here
from workbench.cli.recipes.train import prepare_folder, write_factors
from workbench.errors import DoesNotFit
from workbench.footprint import Plan, named_config, plan_trial
from workbench.footprint.plan import uncorrected_bytes
from workbench.footprint.row_lengths import Lengths
from workbench.home import Home
from workbench.machine.cards import Card
from workbench.recipe import Recipe, find_recipe, load_recipe
from workbench.scheduler.plans import planning
from workbench.scheduler.plans.remembered_plans import trial_recipe
from workbench.service import Service
from workbench.store.rows import card_of
from workbench.training.foreground import _plan_here

GUIDE = "llama3-8b-qlora"
LLAMA = named_config("meta-llama/Meta-Llama-3-8B") or {}
PREPARED: dict[str, Any] = {"model": {"config": LLAMA}, "data": {}}
RECOMPUTES = [
    "train.gradient_checkpointing=on",
    "train.optimizer=adamw_torch",
    "train.batch_size=1",
    "train.accumulation=1",
]
"""Settings that leave one class of plans, so that a correction is not escaped by another plan."""


@pytest.fixture
def gpu_bench(home: Home, tmp_path: Path) -> Iterator[Bench]:
    made = make_bench(tmp_path, [gpu_card(0, 16.0)])
    yield made
    made.context.fleet.close()
    made.store.close()


def scheduled(bench: Bench) -> Plan:
    """Return the plan that the scheduler makes for the first tuned trial, the card all free."""
    bench.context.refresh()
    trial = bench.trials()[1]
    experiment = bench.store.experiment(trial.experiment)
    recipe = trial_recipe(trial, experiment)
    return planning.plan_for(bench.context, recipe, experiment, the_card(bench), None)


def the_card(bench: Bench) -> Card:
    return card_of(bench.store.cards()[0])


def measure(bench: Bench, plan: Plan, ratio: float) -> None:
    """Finish three attempts of that plan whose peak was `ratio` times the prediction."""
    raw = uncorrected_bytes(plan.to_json())
    for _ in range(3):
        attempt = bench.store.add_attempt(2, "GPU-0", plan.to_json(), raw, 0)
        bench.store.touch_attempt(attempt, peak_bytes=int(raw * ratio))
        bench.store.end_attempt(attempt, "done", "")


def test_scheduler_commands_and_foreground_get_the_same_plan(
    gpu_bench: Bench, workbench: Workbench, tmp_path: Path
) -> None:
    recipe = load_recipe(find_recipe(GUIDE), [])
    gpu_bench.submit(recipe, LLAMA)
    before = scheduled(gpu_bench)
    measure(gpu_bench, before, 1.2)
    plan = scheduled(gpu_bench)
    assert uncorrected_bytes(plan.to_json()) != uncorrected_bytes(before.to_json())
    assert workbench("plan", GUIDE, "--json").data["plan"] == plan.to_json()
    service = Service()
    (checked, *_), _ = _fit(recipe, PREPARED, service, cards_here(service))
    assert checked.plan == plan
    folder = prepare_folder(tmp_path / "run", recipe)
    write_factors(folder)
    assert _plan_here(folder, recipe, PREPARED, the_card(gpu_bench)) == plan


def test_a_foreground_trial_keeps_the_micro_steps_of_its_checkpoint(tmp_path: Path) -> None:
    recipe = load_recipe(find_recipe(GUIDE), [])
    card = Card(uuid="GPU-0", kind="cuda", name="x", total_bytes=16 << 30, capability=(8, 6))
    folder = prepare_folder(tmp_path / "run", recipe)
    first = _plan_here(folder, recipe, PREPARED, card)
    read: dict[str, Any] = {**PREPARED, "data": {"max_length": 200, "length_sample": [100, 200]}}
    other = _plan_here(folder, recipe, read, card)
    assert other.tokens_per_micro != first.tokens_per_micro, "it has no checkpoint yet"
    (folder / "checkpoints" / "step-2").mkdir(parents=True)
    assert _plan_here(folder, recipe, PREPARED, card).tokens_per_micro == other.tokens_per_micro


@pytest.fixture
def too_much(gpu_bench: Bench) -> Recipe:
    """A recipe that fits by prediction, and not by what its class has measured."""
    recipe = load_recipe(find_recipe(GUIDE), RECOMPUTES)
    shortest: Lengths = {"longest": 1, "sample": [1], "scored": 1}
    plan = plan_trial(recipe, LLAMA, the_card(gpu_bench), lengths=shortest)
    gpu_bench.submit(recipe, LLAMA, max_length=1, length_sample=[1], eval_max_length=1)
    measure(gpu_bench, plan, 1.5)
    size = int(plan.predicted_bytes * 1.3)
    gpu_bench.store.db.execute("update cards set total_bytes = ?", (size,))
    gpu_bench.seen[0]["total_bytes"] = size
    return recipe


def test_what_was_measured_counts_where_a_clone_or_a_move_is_checked(
    gpu_bench: Bench, too_much: Recipe
) -> None:
    gpu_bench.context.refresh()
    experiment = gpu_bench.store.experiment(1)
    recipe = trial_recipe(gpu_bench.trials()[1], experiment)
    with pytest.raises(DoesNotFit, match="by what was measured here"):
        planning.check_fits(gpu_bench.context, recipe, experiment, [the_card(gpu_bench)])


def test_what_was_measured_counts_when_a_recipe_is_submitted(
    gpu_bench: Bench, home: Home, workbench: Workbench, too_much: Recipe
) -> None:
    changes = [word for setting in RECOMPUTES for word in ("-s", setting)]
    with engine_running(home):
        said = workbench("run", GUIDE, *changes)
    assert said.code == 1
    assert "no card here can ever take it" in said.err
    assert "by what was measured here" in said.err

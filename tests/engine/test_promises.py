"""`plan` and `check` promise of a sweep on a set of cards exactly what the engine plans there."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.engine.test_resolve_once import LARGE, MakeBench
from tests.support.tick_contexts import Bench, gpu_card, make_bench, recipe
from workbench.errors import WorkbenchError
from workbench.footprint import Plan
from workbench.footprint.outlook import Outlook
from workbench.footprint.row_lengths import lengths_of
from workbench.footprint.sweeps.card_outlooks import card_outlooks
from workbench.recipe import Recipe
from workbench.scheduler.handlers.creation import clone_trial
from workbench.scheduler.plans.remembered_plans import remembered_plan
from workbench.service import Service
from workbench.store.rows import card_of
from workbench.trial import Kind, State

SHORT_ROWS = {"max_length": 300, "length_sample": [200] * 8, "eval_max_length": 300}
T4 = {"name": "T4", "capability": "7.5"}


SPACE: dict[str, list[Any]] = {
    "lora.rank": [4, 64, 512],
    "lora.dropout": [0.0, 0.1],
    "lora.targets": [["q_proj", "v_proj"], "all-linear"],
    "train.batch_size": [1, 4],
    "train.optimizer": ["auto", "adamw_torch", "sgd"],
    "train.gradient_checkpointing": ["auto", "on"],
    "model.double_quantization": [True, False],
    "model.precision": ["auto", "fp16"],
    "data.max_tokens": [512, 4096],
    "data.packing": [False, True],
}


class Promise:
    """A recipe on cards: what people are told of each card, and what the engine plans there."""

    def __init__(
        self, bench: Bench, wanted: Recipe, config: dict[str, Any], data: dict[str, Any]
    ) -> None:
        bench.context.refresh()
        self.cards = [card_of(row) for row in bench.store.cards()]
        outlooks = card_outlooks(wanted, config, self.cards, lengths_of(data))
        self._told = {one.card.plan_key: one for one in outlooks}
        self._bench, self._id = bench, bench.submit(wanted, config, **data)
        bench.context.refresh()

    def told(self, card: int) -> Outlook:
        return self._told[self.cards[card].plan_key]

    def planned(self, card: int, kind: Kind = Kind.TUNE) -> list[Plan | None]:
        """Return the plan of each trial on the whole card; None where the engine refuses it."""
        trials = [one for one in self._bench.store.trials(self._id) if one.kind is kind]
        found: list[Plan | None] = []
        for trial in trials:
            experiment = self._bench.store.experiment(self._id)
            place = (self._bench.context, trial, experiment, self.cards[card], None)
            try:
                found.append(remembered_plan(*place))
            except WorkbenchError:
                found.append(None)
        return found

    def is_kept(self, card: int) -> bool:
        """Return whether the engine does on the card what people were told of it."""
        told, planned = self.told(card), self.planned(card)
        if not told.fits:
            return None in planned
        return told.plan in planned and None not in planned


Promised = Callable[..., Promise]


@pytest.fixture
def promised(tmp_path: Path) -> Iterator[Promised]:
    made: list[Bench] = []

    def promise(wanted: Recipe, *cards: dict[str, Any], **data: Any) -> Promise:
        made.append(make_bench(tmp_path / str(len(made)), list(cards)))
        return Promise(made[-1], wanted, LARGE, data)

    yield promise
    for bench in made:
        bench.context.fleet.close()
        bench.store.close()


def swept(own: dict[str, Any] | None = None, **parameters: list[Any]) -> Recipe:
    """Return a recipe with a sweep over settings, named with `__` for the dot."""
    named = {key.replace("__", "."): values for key, values in parameters.items()}
    return recipe(sweep={"parameters": named}, **(own or {}))


def test_the_weakest_gpu_decides_the_precision_that_plan_shows(promised: Promised) -> None:
    made = promised(swept(lora__rank=[8, 16]), gpu_card(0, 24), gpu_card(1, 16, **T4))
    assert [made.told(card).plan.precision for card in (0, 1)] == ["fp16", "fp16"]
    assert made.is_kept(0)
    assert made.is_kept(1)


def test_the_card_that_needs_the_smaller_optimizer_decides_what_plan_shows(
    promised: Promised,
) -> None:
    wanted = swept({"data": {"train": "/d.jsonl", "max_tokens": 512}}, lora__rank=[8, 512])
    alone = promised(wanted, gpu_card(0, 80), **SHORT_ROWS)
    assert alone.told(0).plan.optimizer == "adamw_torch"
    made = promised(wanted, gpu_card(0, 80), gpu_card(1, 24), **SHORT_ROWS)
    assert made.told(0).plan.optimizer == "paged_adamw_8bit"
    assert made.is_kept(0)
    assert made.is_kept(1)


def test_all_trials_score_as_many_rows_at_once_as_plan_shows(promised: Promised) -> None:
    own = {"data": {"train": "/d.jsonl", "max_tokens": 512}, "lora": {"rank": 64}}
    made = promised(swept(own, train__batch_size=[1, 4]), gpu_card(0, 10.25))
    assert made.is_kept(0)
    rows = {plan.eval_batch for plan in made.planned(0) if plan}
    assert rows == {made.told(0).plan.eval_batch}


def test_trials_that_fit_are_not_refused_because_a_larger_one_fits_no_card(
    promised: Promised,
) -> None:
    wanted = swept({"data": {"train": "/d.jsonl", "max_tokens": 512}}, lora__rank=[8, 512, 8192])
    made = promised(wanted, gpu_card(0, 24), **SHORT_ROWS)
    assert not made.told(0).fits
    assert [plan is not None for plan in made.planned(0)] == [True, True, False]


def test_rows_of_a_sweep_over_data_count_as_unread_for_people_too(promised: Promised) -> None:
    data = {"train": "/d.jsonl", "max_tokens": 65536}
    wanted = swept({"data": data}, data__loss_on=["auto", "all"])
    made = promised(wanted, gpu_card(0, 10), **SHORT_ROWS)
    assert not made.told(0).fits
    assert made.is_kept(0)


def test_the_optimizer_is_settled_for_rows_that_the_recipe_itself_does_not_read(
    promised: Promised,
) -> None:
    own = {"data": {"train": "/d.jsonl", "max_tokens": 300}, "lora": {"rank": 256}}
    made = promised(swept(own, data__max_tokens=[300, 8192]), gpu_card(0, 18), **SHORT_ROWS)
    assert made.told(0).plan.optimizer == "paged_adamw_8bit"
    assert made.is_kept(0)


def test_batches_of_similar_rows_are_planned_with_the_rows_that_were_read(
    promised: Promised,
) -> None:
    data = {"train": "/d.jsonl", "max_tokens": 65536}
    made = promised(
        swept({"data": data}, data__group_by_length=[False, True]), gpu_card(0, 10), **SHORT_ROWS
    )
    assert made.told(0).fits
    assert made.is_kept(0)


def test_the_base_is_scored_where_the_recipes_own_values_fit_no_card(promised: Promised) -> None:
    own = {"data": {"train": "/d.jsonl", "max_tokens": 512}, "lora": {"rank": 4096}}
    made = promised(swept(own, lora__rank=[8, 16]), gpu_card(0, 16), gpu_card(1, 12))
    assert made.told(0).fits
    assert made.is_kept(0)
    [base], [plan, _] = made.planned(0, Kind.BASE), made.planned(0)
    assert base is not None
    assert plan is not None
    assert base.eval_batch == plan.eval_batch
    assert promised(recipe(**own), gpu_card(0, 16)).planned(0, Kind.BASE) == [None]


def test_a_trials_own_auto_is_what_was_settled_for_all(promised: Promised) -> None:
    wanted = swept(model__precision=["auto", "fp16"], train__optimizer=["auto", "sgd"])
    made = promised(wanted, gpu_card(0, 24), gpu_card(1, 24, **T4))
    ways = [(plan.precision, plan.optimizer) for plan in made.planned(0) if plan]
    assert set(ways) == {("fp16", "adamw_torch"), ("fp16", "sgd")}
    assert made.is_kept(0)
    assert made.is_kept(1)


def test_a_lower_max_tokens_reads_the_same_rows_cut_shorter(promised: Promised) -> None:
    own = {"data": {"train": "/d.jsonl", "max_tokens": 65536}}
    made = promised(swept(own, data__max_tokens=[32768, 65536]), gpu_card(0, 10), **SHORT_ROWS)
    assert made.told(0).fits
    assert made.is_kept(0)
    assert {plan.longest for plan in made.planned(0) if plan} == {300}
    longer = promised(swept(own, data__max_tokens=[65536, 70000]), gpu_card(0, 10), **SHORT_ROWS)
    assert not longer.told(0).fits
    assert longer.is_kept(0)


def test_a_clone_goes_to_a_smaller_card_that_has_what_it_names(bench_of: MakeBench) -> None:
    bench = bench_of(gpu_card(0, 24, **T4), gpu_card(1, 12))
    id = bench.submit(swept(model__precision=["fp16", "bf16"]))
    bench.context.refresh()
    trial = bench.store.trials(id)[-1].id
    answer = clone_trial(bench.context, {"trial": trial, "settings": {"train.seed": 7}})
    assert bench.store.trial(answer.data["trial"]).settings["model.precision"] == "bf16"


def test_the_reason_is_that_of_a_card_that_has_what_the_recipe_names(bench_of: MakeBench) -> None:
    bench = bench_of(gpu_card(0, 4, **T4), gpu_card(1, 2))
    wanted = swept(model__precision=["bf16"])
    bench.submit(wanted, LARGE)
    row = bench.until(State.FAILED, bench.trials()[-1].id)
    told = card_outlooks(wanted, LARGE, [card_of(card) for card in bench.store.cards()])
    assert [one.card.uuid for one in told] == ["GPU-1"]
    assert row.reason == told[0].reason


def test_a_cards_page_names_the_precision_that_its_trials_get(bench_of: MakeBench) -> None:
    bench = bench_of(gpu_card(0, 24), gpu_card(1, 16, **T4))
    service = Service(bench.context.home)
    before = [service.card(f"GPU-{n}").precision for n in range(2)]
    assert [text.split(":")[0] for text in before] == ["fp16", "fp16"]
    assert ["the other cards here decide it" in text for text in before] == [True, False]
    bench.submit(recipe())
    bench.until(State.DONE, bench.trials()[-1].id)
    assert [service.card(f"GPU-{n}").precision for n in range(2)] == before


def test_the_optimizer_that_takes_most_at_the_sweeps_rank_is_judged(promised: Promised) -> None:
    own = {"data": {"train": "/d.jsonl", "max_tokens": 8192}, "lora": {"rank": 64}}
    own["train"] = {"max_steps": 6, "optimizer": "sgd"}
    wanted = swept(own, train__optimizer=["auto", "sgd", "adamw_torch"], lora__rank=[128, 4])
    made = promised(wanted, gpu_card(0, 11.5))
    assert None in made.planned(0)
    assert not made.told(0).fits


@pytest.mark.parametrize("seed", range(16))
def test_what_people_are_told_of_any_sweep_on_any_cards_is_kept(
    promised: Promised, seed: int
) -> None:
    dice = random.Random(seed)
    own = {"data": {"train": "/d.jsonl", "max_tokens": 512}, "lora": {"rank": 16}}
    names = dice.sample(list(SPACE), 2)
    wanted = recipe(sweep={"parameters": {name: SPACE[name] for name in names}}, **own)
    models = [T4, {"name": "RTX 3090"}, {"name": "H100", "capability": "9.0"}]
    cards = [gpu_card(n, dice.uniform(7, 16), **dice.choice(models)) for n in range(3)]
    made = promised(wanted, *cards)
    assert [made.is_kept(card) for card in range(3)] == [True, True, True]

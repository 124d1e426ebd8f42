"""Peaks that attempts measured on a card correct the plans made for it."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.support.tick_contexts import TINY, Bench, cpu_card, recipe
from workbench.errors import DoesNotFit
from workbench.footprint import named_config
from workbench.footprint.plan import uncorrected_bytes
from workbench.footprint.row_lengths import UNREAD
from workbench.machine.cards import Card
from workbench.scheduler.place import _previous_tokens_per_micro
from workbench.scheduler.plans import measured_peaks, planning
from workbench.scheduler.plans.remembered_plans import remembered_plan, trial_recipe
from workbench.store.rows import card_of

GIB = 1 << 30
MakeBench = Callable[..., Bench]


def gpu(uuid: str = "GPU-0", gib: float = 24.0) -> dict[str, Any]:
    return {
        **cpu_card(0, gib),
        "uuid": uuid,
        "kind": "cuda",
        "name": "RTX 3090",
        "capability": "8.6",
        "free_bytes": int(gib * GIB),
    }


def make(bench: Bench, uuid: str = "GPU-0", free_bytes: int | None = None) -> Any:
    """The plan of the first tuned trial for that card, as the next tick would make it."""
    bench.context.refresh()
    trial = bench.trials()[1]
    experiment = bench.store.experiment(trial.experiment)
    card = next(card_of(row) for row in bench.context.cards if row.uuid == uuid)
    wanted = trial_recipe(trial, experiment)
    return planning.plan_for(bench.context, wanted, experiment, card, free_bytes)


def finish(bench: Bench, plan: Any, ratio: float, uuid: str = "GPU-0") -> None:
    """An attempt of that plan that measured `ratio` of what had been predicted."""
    raw = uncorrected_bytes(plan.to_json())
    attempt = bench.store.add_attempt(2, uuid, plan.to_json(), plan.predicted_bytes, 0)
    bench.store.touch_attempt(attempt, peak_bytes=int(raw * ratio))
    bench.store.end_attempt(attempt, "done", "")


@pytest.fixture
def bench(bench_of: MakeBench) -> Bench:
    made = bench_of(gpu(), gpu("GPU-1"), gpu("GPU-2", 48.0))
    made.submit(recipe())
    return made


def test_three_finished_attempts_correct_the_next_on_that_kind_of_card(bench: Bench) -> None:
    plan = make(bench)
    for ratio in (1.04, 1.05, 1.06):
        finish(bench, plan, ratio)
    raw = uncorrected_bytes(plan.to_json())
    assert plan.predicted_bytes == raw
    assert make(bench).predicted_bytes == int(raw * 1.05)
    assert make(bench, "GPU-1").predicted_bytes == int(raw * 1.05)
    assert uncorrected_bytes(make(bench).to_json()) == raw, "the buckets stay what was predicted"
    other = make(bench, "GPU-2")
    assert other.predicted_bytes == uncorrected_bytes(other.to_json())


def test_what_took_less_lowers_it_by_two_percent_at_most(bench: Bench) -> None:
    plan = make(bench)
    for _ in range(3):
        finish(bench, plan, 0.5)
    assert make(bench).predicted_bytes == int(uncorrected_bytes(plan.to_json()) * 0.98)


def test_a_plan_that_would_not_fit_after_its_correction_is_not_chosen(
    bench_of: MakeBench,
) -> None:
    bench = bench_of(gpu())
    config = named_config("meta-llama/Meta-Llama-3-8B")
    bench.submit(recipe(data={"train": "/d.jsonl", "max_tokens": 2048}), config)
    first = make(bench)
    for _ in range(3):
        finish(bench, first, 1.2)
    second = make(bench)
    assert first.predicted_bytes * 1.2 > 24 * GIB
    assert uncorrected_bytes(second.to_json()) < uncorrected_bytes(first.to_json())
    assert second.predicted_bytes <= 24 * GIB


def test_a_trial_goes_on_with_the_cut_of_its_checkpoint(bench_of: MakeBench) -> None:
    """Whatever is free by then: dropout's masks depend on it."""
    bench = bench_of(gpu(), gpu("GPU-1"), gpu("GPU-2", 48.0))
    config = named_config("meta-llama/Meta-Llama-3-8B")
    rows = {"max_length": 512, "length_sample": [*range(150, 350, 5), 512]}
    bench.submit(recipe(data={"train": "/d.jsonl", "max_tokens": 512}), config, **rows)
    bench.context.refresh()
    trial = bench.trials()[1]
    experiment = bench.store.experiment(trial.experiment)
    card, like, other = (card_of(row) for row in bench.context.cards)

    def cut(gib: float, on: Card = card) -> int:
        row = bench.store.trial(trial.id)
        kept = _previous_tokens_per_micro(bench.context, row, on)
        return remembered_plan(
            bench.context, row, experiment, on, int(gib * GIB), kept
        ).tokens_per_micro

    sizes = {gib: cut(gib) for gib in (9.0, 12.0, 23.5)}
    assert len(set(sizes.values())) > 1
    began = replace(
        remembered_plan(bench.context, trial, experiment, card, None), tokens_per_micro=640
    )
    bench.store.add_attempt(trial.id, card.uuid, began.to_json(), began.predicted_bytes, 0)
    assert {gib: cut(gib) for gib in sizes} == sizes, "it has no checkpoint yet"
    bench.store.db.execute("update trials set checkpoint_step = 2 where id = ?", (trial.id,))
    assert {cut(gib) for gib in sizes} == {640} == {cut(9.0, like)}
    assert cut(12.0, other) == sizes[12.0], "on another kind of card, what is best there"


def test_an_end_that_an_older_version_stored_counts_for_todays_plan(
    bench_of: MakeBench,
) -> None:
    bench = bench_of(gpu(gib=9.0))
    config = named_config("meta-llama/Meta-Llama-3-8B")
    bench.submit(recipe(data={"train": "/d.jsonl", "max_tokens": 512}), config)
    plan = make(bench)
    assert plan.recompute_layers
    found = plan.to_json()
    del found["longest"], found["long_recompute_layers"]
    attempt = bench.store.add_attempt(2, "GPU-0", found, plan.predicted_bytes, 0)
    bench.store.end_attempt(attempt, "failed", "", cause="out_of_memory", stage="training")
    bench.context.refresh()
    assert make(bench).recompute_layers > plan.recompute_layers


def test_a_refusal_says_that_more_was_measured(bench_of: MakeBench) -> None:
    bench = bench_of(gpu())
    model = {"name": "/m", "quantization": "none"}
    train = {"max_steps": 6, "batch_size": 1, "gradient_checkpointing": "off"}
    bench.submit(recipe(model=model, train=train))
    plan = make(bench)
    for _ in range(3):
        finish(bench, plan, 1.4)
    with pytest.raises(DoesNotFit, match="by what was measured here, it takes 40% more"):
        make(bench, free_bytes=int(plan.predicted_bytes * 1.01))


def test_attempts_that_failed_or_were_lost_teach_nothing(bench: Bench) -> None:
    plan = make(bench)
    for outcome in ("failed", "lost", "yielded"):
        attempt = bench.store.add_attempt(2, "GPU-0", plan.to_json(), plan.predicted_bytes, 0)
        bench.store.touch_attempt(attempt, peak_bytes=3 * plan.predicted_bytes)
        bench.store.end_attempt(attempt, outcome, "")
    bench.context.refresh()
    assert measured_peaks.known_factors(bench.context) == {}


def test_the_queue_is_planned_again_when_something_was_learned(bench: Bench) -> None:
    before = planning.history_version(bench.context, 1)
    plan = make(bench)
    for _ in range(3):
        finish(bench, plan, 1.1)
    bench.context.refresh()
    assert planning.history_version(bench.context, 1) != before


def test_short_data_gets_the_plan_of_its_longest_row(bench: Bench) -> None:
    bench.context.refresh()
    trial = bench.trials()[1]
    experiment = bench.store.experiment(trial.experiment)
    wanted = trial_recipe(trial, experiment)
    assert experiment.prepared is not None
    assert experiment.prepared["model"]["config"] == TINY
    experiment.prepared["data"]["max_length"] = 20
    assert planning.known_lengths(wanted, experiment)["longest"] == 20
    longer = wanted.model_copy(update={"data": wanted.data.model_copy(update={"max_tokens": 99})})
    assert planning.known_lengths(longer, experiment) == UNREAD, "its rows are cut elsewhere"

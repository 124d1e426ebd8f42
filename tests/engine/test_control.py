"""Requests that arrive while the engine runs: each one's answer and its effect."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.tick_contexts import Bench, cpu_card, recipe
from workbench import scheduler
from workbench.errors import EngineError
from workbench.machine.locks import Lock
from workbench.scheduler import process_requests
from workbench.scheduler.process_requests import HANDLERS
from workbench.scheduler.recover import requeue_all
from workbench.scheduler.tick_context import assignment_file
from workbench.service import EngineStatus, Service
from workbench.store import trial_queue
from workbench.store.requests import drop_request, scan_requests
from workbench.store.rows import RequestAnswer, TrialRow
from workbench.trial import State

MakeBench = Callable[..., Bench]
GRID = {"parameters": {"train.learning_rate": [0.01, 0.05, 0.1], "lora.rank": [4, 8]}}
LONG = {"max_steps": 900, "save_every": 2, "learning_rate": 0.01}


def ask(bench: Bench, verb: str, **args: Any) -> RequestAnswer:
    """Sent twice under one id: the second time changes nothing."""
    id = drop_request(bench.context.home.requests, verb, args)
    process_requests(bench.context)
    drop_request(bench.context.home.requests, verb, args, id=id)
    process_requests(bench.context)
    answer = bench.store.answer(id)
    assert answer is not None
    return answer


def states(bench: Bench, experiment: int) -> list[State]:
    return [trial.state for trial in bench.store.trials(experiment)]


def queued(bench: Bench) -> list[int]:
    return [t.id for t in trial_queue.first_queued(bench.store, 100, of_each=100)]


def live(bench: Bench) -> list[TrialRow]:
    return [t for t in bench.trials() if t.state.live]


# --- every verb ---


@pytest.mark.parametrize(
    ("verb", "args"),
    [
        ("clone", {"trial": 99}),
        ("extend", {"trial": 99, "epochs": 1}),
        ("add", {"experiment": 99}),
        ("order", {"trial": 99, "to": "front"}),
        ("move", {"trial": 99, "card": "cpu-0"}),
        ("move", {"trial": 2, "card": "GPU-nowhere"}),
        ("priority", {"experiment": "nope", "priority": 1}),
        ("max-parallel", {"experiment": 99, "limit": 1}),
        ("hold", {"experiment": 99}),
        ("release", {"experiment": 99}),
        ("drain", {"card": "GPU-nowhere"}),
        ("undrain", {"card": ""}),
        ("clone", {"trial": 2, "warm_trial": 99}),
    ],
)
def test_an_unknown_name_is_answered_with_the_known_ones(
    bench_of: MakeBench, verb: str, args: dict[str, Any]
) -> None:
    bench = bench_of()
    bench.submit(recipe())
    answer = ask(bench, verb, **args)
    assert not answer.ok
    assert answer.data["exit_code"] == 3
    assert answer.hint


@pytest.mark.parametrize("verb", sorted(set(HANDLERS) - {"engine-stop", "engine-start", "hold"}))
@pytest.mark.parametrize("args", [{}, {"trial": None, "experiment": [], "card": {}}, {"trial": -1}])
def test_garbage_is_answered_and_changes_nothing(
    bench_of: MakeBench, verb: str, args: dict[str, Any]
) -> None:
    bench = bench_of(cpu_card(0))
    bench.submit(recipe())
    before = bench.trials()
    answer = ask(bench, verb, **args)
    if verb != "release":
        assert not answer.ok
    assert bench.trials() == before


@pytest.mark.parametrize(
    ("verb", "args"),
    [("order", {"to": "front"}), ("move", {"card": "cpu-0"}), ("resume", {}), ("stop", {})],
)
def test_what_has_ended_cannot_be_steered(
    bench_of: MakeBench, verb: str, args: dict[str, Any]
) -> None:
    bench = bench_of()
    bench.submit(recipe())
    bench.until(State.DONE, 2)
    answer = ask(bench, verb, trial=2, **args)
    assert not answer.ok
    assert "is done already" in answer.text
    assert "workbench extend 2" in answer.hint


# --- clone, add, extend, warm start ---


def test_a_clone_with_other_training_settings_joins_its_experiment(bench_of: MakeBench) -> None:
    bench = bench_of()
    id = bench.submit(recipe(sweep=GRID))
    answer = ask(bench, "clone", trial=3, settings={"lora.rank": 32})
    assert answer.ok
    assert answer.data == {"trial": 8, "experiment": id, "name": "tiny"}
    clone = bench.store.trial(8)
    assert clone.settings == {**bench.store.trial(3).settings, "lora.rank": 32}
    assert bench.until(State.DONE, 8).score is not None


@pytest.mark.parametrize(
    "settings",
    [
        {"data.max_tokens": 128},
        {"model.quantization": "none"},
        {"evaluate.answer_pattern": None},
        {"lora.rank": 4, "data.system": "be brief"},
    ],
)
def test_a_clone_that_could_not_be_compared_is_an_experiment_of_its_own(
    bench_of: MakeBench, settings: dict[str, Any]
) -> None:
    bench = bench_of()
    id = bench.submit(recipe(sweep=GRID))
    answer = ask(bench, "clone", trial=3, settings=settings)
    assert answer.ok, answer.text
    assert "could not be compared" in answer.text
    assert answer.data["experiment"] != id
    other = bench.store.experiment(answer.data["experiment"])
    assert (other.name, other.state, other.recipe["sweep"]) == ("tiny-2", "preparing", None)
    assert other.recipe["train"]["learning_rate"] == 0.01
    written = json.loads((bench.context.home.experiment(other.id) / "recipe.json").read_text())
    assert written == other.recipe
    assert len(bench.store.trials(id)) == 7


def test_what_its_own_sweep_varies_may_differ(bench_of: MakeBench) -> None:
    bench = bench_of()
    sweep = {"parameters": {"data.max_tokens": [32, 64]}}
    id = bench.submit(recipe(sweep=sweep))
    answer = ask(bench, "clone", trial=2, settings={"data.max_tokens": 48})
    assert answer.data["experiment"] == id


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"lora.rnak": 4}, "Did you mean lora.rank?"),
        ({"lora.rank": "many"}, "lora.rank"),
        ({"notify.command": ["evil"]}, "is not a setting"),
    ],
)
def test_a_clone_with_a_mistake_is_refused(
    bench_of: MakeBench, settings: dict[str, Any], says: str
) -> None:
    bench = bench_of()
    bench.submit(recipe())
    answer = ask(bench, "clone", trial=2, settings=settings)
    assert not answer.ok
    assert says in answer.text
    assert len(bench.trials()) == 2


def test_a_clone_that_fits_no_card_is_refused_with_the_arithmetic(bench_of: MakeBench) -> None:
    bench = bench_of(cpu_card(0, 2))
    bench.submit(recipe())
    answer = ask(bench, "clone", trial=2, settings={"lora.rank": 10**6})
    assert not answer.ok
    assert "fit no card here" in answer.text
    assert len(bench.trials()) == 2


def test_a_clone_of_short_rows_is_judged_by_them_and_not_by_max_tokens(
    bench_of: MakeBench,
) -> None:
    bench = bench_of(cpu_card(0, 3), cpu_card(1, 3.1))
    long = {"train": "/d.jsonl", "max_tokens": 1 << 18}
    rows: dict[str, Any] = {"max_length": 40, "length_sample": [20], "eval_max_length": 40}
    bench.submit(recipe(data=long, train=LONG), **rows)
    bench.ticks(2)
    assert ask(bench, "clone", trial=2, settings={"train.seed": 7}).ok
    assert ask(bench, "move", trial=2, card="cpu-1").ok
    said = ask(bench, "clone", trial=2, settings={"lora.rank": 10**6})
    assert "fit no card here" in said.text


def test_the_base_cannot_be_cloned(bench_of: MakeBench) -> None:
    bench = bench_of()
    bench.submit(recipe())
    assert "untouched base" in ask(bench, "clone", trial=1).text


def test_a_failed_trial_is_run_again_as_a_clone(bench_of: MakeBench) -> None:
    bench = bench_of(cpu_card(0))
    bench.submit(recipe(train={"max_steps": 6, "learning_rate": 0.666}))
    bench.until(State.FAILED, 2)
    assert ask(bench, "clone", trial=2, settings={"train.learning_rate": 0.1}).ok
    bench.until(State.DONE, 3)
    assert bench.store.trial(2).state is State.FAILED


def test_killed_before_the_answer_was_kept_there_is_one_clone(bench_of: MakeBench) -> None:
    bench = bench_of()
    bench.submit(recipe())
    drop_request(bench.context.home.requests, "clone", {"trial": 2}, id="c-1")
    record = bench.store.record_answer

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    bench.store.record_answer = killed  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        process_requests(bench.context)
    assert len(bench.trials()) == 2
    bench.store.record_answer = record  # type: ignore[method-assign]
    process_requests(bench.context)
    assert len(bench.trials()) == 3
    bench.until(State.DONE, 3)


def test_a_warm_start_hands_the_worker_the_adapter_and_its_digest(bench_of: MakeBench) -> None:
    bench = bench_of(cpu_card(0))
    bench.submit(recipe())
    bench.until(State.DONE, 2)
    answer = ask(bench, "clone", trial=2, settings={"train.learning_rate": 0.2}, warm_trial=2)
    assert "start from the adapter of trial 2" in answer.text
    bench.until(State.STARTING, 3)
    given = json.loads(assignment_file(bench.context.home, 3).read_text())
    folder = str(bench.context.home.trial(2) / "adapter")
    assert given["warm"] == {"trial": 2, "folder": folder, "sha256": "0" * 64}
    assert json.loads(assignment_file(bench.context.home, 2).read_text())["warm"] is None


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"lora.rank": 8}, "lora.rank is 8, and the adapter of trial 2 has 16"),
        ({"lora.alpha": 8}, "lora.alpha is 8"),
        ({"lora.targets": ["q_proj"]}, "lora.targets"),
        ({"model.name": "/other"}, "is for /m, not for /other"),
    ],
)
def test_a_warm_start_that_cannot_be_loaded_is_refused_at_once(
    bench_of: MakeBench, settings: dict[str, Any], says: str
) -> None:
    bench = bench_of()
    bench.submit(recipe())
    bench.until(State.DONE, 2)
    answer = ask(bench, "clone", trial=2, settings=settings, warm_trial=2)
    assert not answer.ok
    assert says in answer.text
    assert answer.hint
    assert len(bench.store.experiments()) == 1


def test_a_warm_start_needs_an_adapter(bench_of: MakeBench) -> None:
    bench = bench_of()
    bench.submit(recipe(sweep=GRID))
    assert "has left no adapter" in ask(bench, "clone", trial=2, warm_trial=3).text


def test_an_experiment_can_start_warm(bench_of: MakeBench) -> None:
    bench = bench_of()
    bench.submit(recipe())
    bench.until(State.DONE, 2)
    wider = recipe(data={"train": "/d", "max_tokens": 32})
    body = wider.model_dump(mode="json")
    id = ask(bench, "submit", recipe=body, warm_trial=2).data["experiment"]
    assert bench.store.experiment(id).warm_trial == 2
    trial = bench.store.add_trial(id, 1, bench.store.trial(2).kind, {})
    assert bench.store.trial(trial).warm_trial == 2


def test_extending_is_a_new_trial_that_starts_from_the_old_ones_weights(
    bench_of: MakeBench,
) -> None:
    bench = bench_of(cpu_card(0))
    bench.submit(recipe())
    assert "only what has ended" in ask(bench, "extend", trial=2, epochs=1.0).text
    bench.until(State.DONE, 2)
    answer = ask(bench, "extend", trial=2, steps=4)
    assert "A warm start" in answer.text
    assert "optimizer and schedule begin again" in answer.text
    longer = bench.store.trial(3)
    assert longer.settings == {"train.max_steps": 4, "train.seed": 43}
    assert longer.warm_trial == 2
    done = bench.until(State.DONE, 3)
    assert bench.store.trial(2).state is State.DONE
    assert done.step == 4
    more = ask(bench, "extend", trial=3, epochs=2.0)
    assert bench.store.trial(more.data["trial"]).settings == {
        "train.max_steps": None,
        "train.epochs": 2.0,
        "train.seed": 44,
    }


@pytest.mark.parametrize("args", [{}, {"epochs": 1.0, "steps": 2}, {"steps": 0}, {"epochs": -1.0}])
def test_extending_by_nothing_is_refused(bench_of: MakeBench, args: dict[str, Any]) -> None:
    bench = bench_of()
    bench.submit(recipe())
    bench.until(State.DONE, 2)
    assert not ask(bench, "extend", trial=2, **args).ok
    assert len(bench.trials()) == 2


def test_a_trial_is_added_to_a_running_experiment(bench_of: MakeBench) -> None:
    bench = bench_of()
    id = bench.submit(recipe(sweep=GRID))
    bench.ticks(2)
    answer = ask(bench, "add", experiment="tiny", settings={"train.learning_rate": 0.3})
    assert answer.data["trial"] == 8
    assert bench.store.trial(8).number == 7
    refused = ask(bench, "add", experiment=id, settings={"data.max_tokens": 9})
    assert "could not be compared" in refused.text
    bench.until(State.DONE, 8)


def test_a_random_sweep_draws_more_and_the_same_as_if_it_had_at_once(bench_of: MakeBench) -> None:
    bench = bench_of(*[cpu_card(i) for i in range(6)])
    span = {"train.learning_rate": {"min": 0.01, "max": 0.5}}
    short = bench.submit(recipe(sweep={"method": "random", "trials": 2, "parameters": span}))
    long = bench.submit(recipe(sweep={"method": "random", "trials": 5, "parameters": span}))
    assert "2 more for tiny, 4 in all" in ask(bench, "add", experiment=short, trials=2).text
    assert ask(bench, "add", experiment=short, trials=1).ok
    bench.ticks(60)
    assert set(states(bench, short)) == {State.DONE}
    assert bench.store.experiment(short).ended_utc
    drawn = [t.settings for t in bench.store.trials(short) if t.number]
    assert drawn == [t.settings for t in bench.store.trials(long) if t.number]


def test_a_whole_grid_has_no_more(bench_of: MakeBench) -> None:
    bench = bench_of()
    id = bench.submit(recipe(sweep=GRID))
    answer = ask(bench, "add", experiment=id, trials=3)
    assert "all points of its grid" in answer.text
    cut = bench.submit(recipe(sweep={**GRID, "trials": 4}))
    assert len(ask(bench, "add", experiment=cut, trials=1).data["trials"]) == 1
    assert "has no more" in ask(bench, "add", experiment=cut, trials=9).text
    settings = [t.settings for t in bench.store.trials(cut) if t.number]
    assert settings == [t.settings for t in bench.store.trials(id) if t.number]
    single = bench.submit(recipe())
    assert "has no sweep" in ask(bench, "add", experiment=single, trials=3).text


def test_a_sweep_by_tpe_goes_on_where_it_ended(bench_of: MakeBench) -> None:
    bench = bench_of()
    span = {"train.learning_rate": {"min": 0.01, "max": 0.5}}
    id = bench.submit(recipe(sweep={"method": "tpe", "trials": 2, "parameters": span}))
    bench.ticks(40)
    assert bench.store.experiment(id).ended_utc
    ask(bench, "add", experiment=id, trials=2)
    assert bench.store.experiment(id).ended_utc is None
    bench.ticks(60)
    assert len(states(bench, id)) == 5
    assert set(states(bench, id)) == {State.DONE}


def test_a_sweep_whose_budget_is_spent_draws_no_more(bench_of: MakeBench) -> None:
    bench = bench_of()
    span = {"train.learning_rate": {"min": 0.01, "max": 0.5}}
    sweep = {"method": "random", "hours": 0.001, "parameters": span}
    id = bench.submit(recipe(sweep=sweep))
    assert "until its budget" in ask(bench, "add", experiment=id, trials=2).text
    bench.ticks(60)
    answer = ask(bench, "add", experiment=id, trials=2)
    assert "budget of 0.001 h is spent" in answer.text
    assert not answer.ok
    assert ask(bench, "add", experiment=id, settings={"train.learning_rate": 0.2}).ok


# --- the queue ---


def test_a_trial_goes_to_the_front_before_those_of_other_experiments(bench_of: MakeBench) -> None:
    bench = bench_of(cpu_card(0))
    bench.submit(recipe(sweep=GRID, train=LONG))
    second = bench.submit(recipe(sweep=GRID, train=LONG))
    last = bench.store.trials(second)[-1].id
    assert ask(bench, "order", trial=last, to="front").ok
    bench.ticks(1)
    assert [t.id for t in live(bench)] == [last]


def test_up_down_and_back_change_places_within_the_experiment(bench_of: MakeBench) -> None:
    bench = bench_of(cpu_card(0))
    bench.submit(recipe(sweep={"parameters": {"train.seed": [1, 2, 3]}}))
    assert queued(bench) == [1, 2, 3, 4]
    ask(bench, "order", trial=4, to="up")
    assert queued(bench) == [1, 2, 4, 3]
    ask(bench, "order", trial=1, to="down")
    assert queued(bench) == [2, 1, 4, 3]
    ask(bench, "order", trial=2, to="back")
    assert queued(bench) == [1, 4, 3, 2]
    first = ask(bench, "order", trial=1, to="up")
    assert "first" in first.text
    assert first.data["changed"] is False
    assert "last" in ask(bench, "order", trial=2, to="down").text
    assert not ask(bench, "order", trial=2, to="sideways").ok
    ask(bench, "order", trial=2, to="front")
    ask(bench, "order", trial=3, to="front")
    assert queued(bench) == [3, 2, 1, 4]


def test_a_trial_goes_back_to_the_place_it_had(bench_of: MakeBench) -> None:
    bench = bench_of(cpu_card(0))
    bench.submit(recipe(sweep={"parameters": {"train.seed": [1, 2, 3]}}))
    ask(bench, "order", trial=3, to="up")
    moved = next(t for t in bench.trials() if t.id == 3)
    before = queued(bench)
    ask(bench, "order", trial=3, to="front")
    assert queued(bench) != before
    assert ask(bench, "order", trial=3, to="place", rank=moved.rank).ok
    assert queued(bench) == before
    assert ask(bench, "order", trial=3, to="place", rank=None).ok
    assert queued(bench) == [1, 2, 3, 4]


@pytest.mark.parametrize("rank", ["first", float("nan"), True])
def test_a_place_that_is_no_number_is_refused(bench_of: MakeBench, rank: object) -> None:
    bench = bench_of(cpu_card(0))
    bench.submit(recipe(sweep={"parameters": {"train.seed": [1, 2, 3]}}))
    assert not ask(bench, "order", trial=3, to="place", rank=rank).ok


def test_up_a_hundred_times_keeps_the_order(bench_of: MakeBench) -> None:
    bench = bench_of(cpu_card(0))
    bench.submit(recipe(sweep={"parameters": {"train.seed": [1, 2, 3]}}))
    for turn in range(100):
        first, second = queued(bench)[:2]
        ask(bench, "order", trial=second, to="up")
        assert queued(bench)[:2] == [second, first], turn


def test_only_what_waits_changes_places(bench_of: MakeBench) -> None:
    bench = bench_of()
    bench.submit(recipe(train=LONG))
    bench.until(State.RUNNING, 2)
    assert "only what waits" in ask(bench, "order", trial=2, to="front").text


def test_priority_changes_who_is_next(bench_of: MakeBench) -> None:
    bench = bench_of(cpu_card(0))
    bench.submit(recipe(sweep=GRID))
    second = bench.submit(recipe(sweep=GRID))
    answer = ask(bench, "priority", experiment="tiny-2", priority=5)
    assert "priority 5 (was 0)" in answer.text
    bench.ticks(1)
    assert [t.experiment for t in live(bench)] == [second]
    for bad in (5.5, "5", True, 10**9, None):
        assert not ask(bench, "priority", experiment=second, priority=bad).ok


def test_max_parallel_changes_while_it_runs(bench_of: MakeBench) -> None:
    bench = bench_of(*[cpu_card(i) for i in range(4)])
    id = bench.submit(recipe(sweep=GRID, train=LONG))
    bench.ticks(2)
    said = ask(bench, "max-parallel", experiment=id, limit=1).text
    assert f"{len(live(bench))} run now, and those end by themselves" in said
    ask(bench, "kill", trial=live(bench)[0].id)
    bench.ticks(3)
    before = len(live(bench))
    bench.ticks(3)
    assert len(live(bench)) == before  # none came in its place
    assert "all cards" in ask(bench, "max-parallel", experiment=id, limit=None).text
    bench.ticks(2)
    assert len(live(bench)) == 4
    assert not ask(bench, "max-parallel", experiment=id, limit=0).ok


def test_a_held_queue_places_nothing_and_says_so(bench_of: MakeBench) -> None:
    bench = bench_of(cpu_card(0))
    bench.submit(recipe())
    answer = ask(bench, "hold")
    assert "no trial is placed" in answer.text
    bench.ticks(3)
    assert not live(bench)
    assert "held" in bench.store.trial(2).waiting
    ask(bench, "release")
    bench.until(State.DONE, 2)


def test_a_held_experiment_lets_others_go_on(bench_of: MakeBench) -> None:
    bench = bench_of()
    held = bench.submit(recipe(sweep=GRID))
    other = bench.submit(recipe())
    ask(bench, "hold", experiment=held)
    ask(bench, "hold", experiment=held)
    bench.until(State.DONE, bench.store.trials(other)[-1].id)
    mine = bench.store.trials(held)
    assert {t.waiting for t in mine if t.state is State.QUEUED} == {"its experiment is held"}
    ask(bench, "release", experiment=held)
    bench.until(State.DONE, mine[1].id)


# --- cards ---


def test_a_drained_card_finishes_what_it_runs_and_takes_no_more(bench_of: MakeBench) -> None:
    bench = bench_of(cpu_card(0))
    bench.submit(recipe(sweep=GRID))
    bench.until(State.RUNNING, 2)
    answer = ask(bench, "drain", card="cpu-0")
    assert "trial 2 runs there to its end" in answer.text
    bench.until(State.DONE, 2)
    bench.ticks(3)
    assert not live(bench)
    assert "cpu-0 drained" in bench.store.trial(3).waiting
    assert "takes trials again" in ask(bench, "undrain", card="cpu").text
    bench.until(State.DONE, 3)


def test_draining_now_sends_its_trial_to_another_card(bench_of: MakeBench) -> None:
    bench = bench_of()
    bench.submit(recipe(train=LONG))
    bench.until(State.RUNNING, 2)
    bench.ticks(3)
    here = str(bench.store.trial(2).card)
    answer = ask(bench, "drain", card=here, now=True)
    assert "goes on as soon as another card is free" in answer.text
    bench.ticks(3)
    there = bench.store.trial(2)
    assert there.card != here
    assert there.attempts == 2
    assert bench.store.attempts(2)[1].from_step == bench.store.attempts(2)[0].checkpoint_step


def test_a_box_is_drained_with_all_its_cards(bench_of: MakeBench) -> None:
    bench = bench_of(cpu_card(0), *({**cpu_card(n), "uuid": f"two:cpu-{n}"} for n in (0, 1)))
    answer = ask(bench, "drain", box="two", now=True)
    assert answer.text == "box two takes no more trials; it is free now"
    drained = {card.uuid: card.drained for card in bench.store.cards()}
    assert drained == {"cpu-0": False, "two:cpu-0": True, "two:cpu-1": True}
    assert ask(bench, "undrain", box="two").ok
    assert not any(card.drained for card in bench.store.cards())
    refused = ask(bench, "drain", box="three")
    assert (refused.data["exit_code"], refused.hint) == (3, "there are: two")


def test_draining_a_box_now_sends_its_trials_to_other_cards(bench_of: MakeBench) -> None:
    bench = bench_of(cpu_card(0), {**cpu_card(1), "uuid": "two:cpu-0"})
    bench.submit(recipe(train=LONG))
    ask(bench, "drain", card="cpu-0")
    bench.until(State.RUNNING, 2)
    bench.ticks(3)
    ask(bench, "undrain", card="cpu-0")
    assert bench.store.trial(2).card == "two:cpu-0"
    answer = ask(bench, "drain", box="two", now=True)
    assert (answer.data["trials"], "go on as soon as other cards" in answer.text) == ([2], True)
    bench.ticks(3)
    assert (bench.store.trial(2).card, bench.store.trial(2).attempts) == ("cpu-0", 2)


def test_a_card_is_named_by_its_beginning_if_that_is_one(bench_of: MakeBench) -> None:
    bench = bench_of(cpu_card(1), cpu_card(10))
    assert "may be several cards" in ask(bench, "drain", card="cpu").text
    assert ask(bench, "drain", card="cpu-1").data["card"] == "cpu-1"


def test_a_trial_moves_to_the_named_card_from_its_checkpoint(bench_of: MakeBench) -> None:
    bench = bench_of(cpu_card(0, 4), cpu_card(1, 64))
    bench.submit(recipe(train=LONG))
    bench.until(State.RUNNING, 2)
    bench.ticks(3)
    here = str(bench.store.trial(2).card)
    there = {"cpu-0": "cpu-1", "cpu-1": "cpu-0"}[here]
    answer = ask(bench, "move", trial=2, card=there)
    assert f"goes on on {there}" in answer.text
    bench.ticks(3)
    row = bench.store.trial(2)
    assert (row.card, row.attempts, row.desired_card) == (there, 2, None)
    assert bench.store.attempts(2)[1].from_step > 0
    assert "is on" in ask(bench, "move", trial=2, card=there).text


def test_a_moved_trial_waits_for_its_card_and_is_next_there(bench_of: MakeBench) -> None:
    bench = bench_of()
    bench.submit(recipe(sweep={"parameters": {"train.seed": [1, 2, 3]}}))
    bench.until(State.RUNNING, 3)
    busy = {t.card: t.id for t in live(bench)}
    ask(bench, "move", trial=4, card="cpu-1")
    bench.ticks(1)
    if bench.store.trial(4).state is State.QUEUED:
        assert f"waits for cpu-1: runs trial {busy['cpu-1']}" in bench.store.trial(4).waiting
    assert bench.until(State.DONE, 4).card == "cpu-1"


def test_a_trial_moved_to_a_card_that_vanished_names_the_way_out(bench_of: MakeBench) -> None:
    bench = bench_of()
    bench.seen = [card for card in bench.seen if card["uuid"] != "cpu-1"]
    bench.ticks(2)
    bench.submit(recipe())
    ask(bench, "hold")
    bench.ticks(2)
    bench.store.steer_trial(2, desired_card="cpu-1")
    ask(bench, "release")
    bench.ticks(2)
    assert "waits for cpu-1: gone; `workbench move` takes the trial" in bench.store.trial(2).waiting
    ask(bench, "move", trial=2, card="any")
    assert bench.until(State.DONE, 2).card == "cpu-0"


def test_a_trial_moved_while_the_engine_dies_still_arrives(bench_of: MakeBench) -> None:
    bench = bench_of()
    bench.submit(recipe(train=LONG))
    bench.until(State.RUNNING, 2)
    here = str(bench.store.trial(2).card)
    there = {"cpu-0": "cpu-1", "cpu-1": "cpu-0"}[here]
    ask(bench, "move", trial=2, card=there)
    bench.context.fleet.close()
    requeue_all(bench.context, "the engine was restarted")
    bench.ticks(2)
    assert bench.store.trial(2).card == there


def test_a_move_to_where_it_cannot_run_is_refused_politely(bench_of: MakeBench) -> None:
    bench = bench_of(cpu_card(0, 0.05), cpu_card(1, 64), cpu_card(2, 64))
    bench.submit(recipe(data={"train": "/d", "max_tokens": 4096}, train={**LONG, "batch_size": 64}))
    bench.until(State.RUNNING, 2)
    answer = ask(bench, "move", trial=2, card="cpu-0")
    assert not answer.ok
    assert "so it stays where it is" in answer.text
    ask(bench, "drain", card="cpu-2")
    ask(bench, "drain", card="cpu-1")
    drained = {"cpu-1": "cpu-2", "cpu-2": "cpu-1"}[str(bench.store.trial(2).card)]
    answer = ask(bench, "move", trial=2, card=drained)
    assert not answer.ok
    assert f"workbench undrain {drained}" in answer.hint
    bench.ticks(2)
    assert bench.store.trial(2).attempts == 1


def test_what_runs_stays_where_it_is_when_it_may_go_anywhere(bench_of: MakeBench) -> None:
    bench = bench_of()
    bench.submit(recipe(train={"max_steps": 900}))
    row = bench.until(State.RUNNING, 2)
    assert f"stays on {row.card}" in ask(bench, "move", trial=2, card="any").text


def test_a_chosen_card_can_be_unset(bench_of: MakeBench) -> None:
    bench = bench_of()
    bench.submit(recipe(train=LONG))
    ask(bench, "pause", trial=2)
    bench.ticks(2)
    assert "once it is resumed" in ask(bench, "move", trial=2, card="cpu-1").text
    assert bench.store.trial(2).desired_card == "cpu-1"
    assert "any card" in ask(bench, "move", trial=2, card="any").text
    assert bench.store.trial(2).desired_card is None


# --- stop, and go on after all ---


def test_resuming_what_is_being_stopped_goes_on_from_its_checkpoint(bench_of: MakeBench) -> None:
    bench = bench_of(cpu_card(0))
    bench.submit(recipe(train=LONG))
    bench.until(State.RUNNING, 2)
    bench.ticks(3)
    ask(bench, "stop", trial=2)
    attempt = bench.store.live_attempts()[0]
    bench.context.fleet.halt = lambda *_: None  # type: ignore[method-assign]
    scheduler.reconcile(bench.context)
    assert bench.store.attempt(attempt.id).halt == "finish"
    del bench.context.fleet.halt
    answer = ask(bench, "resume", trial=2)
    assert "was being stopped" in answer.text
    bench.ticks(2)
    assert bench.until(State.RUNNING, 2).attempts == 2
    assert bench.store.attempts(2)[0].outcome == "yielded"


def test_resuming_what_was_asked_to_pause_goes_on_by_itself(bench_of: MakeBench) -> None:
    bench = bench_of(cpu_card(0))
    bench.submit(recipe(train=LONG))
    bench.until(State.RUNNING, 2)
    ask(bench, "pause", trial=2)
    assert "was asked for its card" in ask(bench, "resume", trial=2).text
    assert "is at work already" in ask(bench, "resume", trial=2).text
    bench.ticks(4)
    assert bench.store.trial(2).state is State.RUNNING


def test_a_stop_meant_for_an_earlier_engine_is_ignored(bench_of: MakeBench) -> None:
    bench = bench_of()
    bench.context.keeper = 4321
    answer = ask(bench, "engine-stop", keeper=1234)
    assert "this one goes on" in answer.text
    assert not bench.context.stopping
    assert "the engine stops" in ask(bench, "engine-stop", keeper=4321).text
    assert bench.context.stopping


def test_an_engine_that_is_stopping_goes_on_when_it_is_started(bench_of: MakeBench) -> None:
    bench = bench_of(cpu_card(0))
    bench.submit(recipe(train=LONG))
    bench.until(State.RUNNING, 2)
    bench.ticks(2)
    ask(bench, "engine-stop")
    scheduler.reconcile(bench.context)
    assert "goes on" in ask(bench, "engine-start").text
    bench.ticks(3)
    assert bench.store.trial(2).state is State.RUNNING


def test_a_trial_that_is_pruned_goes_on_when_a_person_resumes_it(bench_of: MakeBench) -> None:
    bench = bench_of(cpu_card(0))
    bench.submit(recipe(train=LONG))
    bench.until(State.RUNNING, 2)
    bench.ticks(2)
    bench.store.mark_pruned(2, "median: behind")
    assert ask(bench, "resume", trial=2).ok
    bench.ticks(4)
    assert bench.store.trial(2).state is State.RUNNING


def test_a_start_while_it_stops_is_a_request_to_go_on(bench_of: MakeBench) -> None:
    bench = bench_of(cpu_card(0))
    home = bench.context.home
    service, keeper = Service(home), Lock(home.keeper_lock)
    assert keeper.take()
    service.start_engine()
    assert scan_requests(home.requests) == []
    ask(bench, "engine-stop")
    assert service.stopping()
    service.start_engine()
    process_requests(bench.context)
    assert not bench.context.stopping
    assert not service.stopping()
    home.tick.touch()
    loop = Lock(home.loop_lock)
    assert loop.take()
    ask(bench, "engine-stop")
    home.stopped.touch()  # too late: it is on its way out
    assert service.stopping()
    loop.release()
    keeper.release()
    assert not service.stopping()


def test_whoever_waits_for_a_stop_learns_that_it_was_cancelled(bench_of: MakeBench) -> None:
    bench = bench_of(cpu_card(0))
    home = bench.context.home
    locks = [Lock(home.keeper_lock), Lock(home.loop_lock)]
    assert all(lock.take() for lock in locks)
    home.tick.touch()
    ask(bench, "engine-stop")

    class Meanwhile(Service):
        """Another terminal starts the engine while this one waits."""

        def engine(self) -> EngineStatus:
            ask(bench, "engine-start")
            return super().engine()

    with pytest.raises(EngineError, match="started again"):
        Meanwhile(home).wait_for_engine(running=False, timeout_s=30)
    for lock in locks:
        lock.release()


def test_where_it_was_paused_or_stopped_is_its_reason(bench_of: MakeBench) -> None:
    bench = bench_of()
    bench.submit(recipe(train={"max_steps": 900}, sweep={"parameters": {"train.seed": [1, 2]}}))
    bench.ticks(12)
    ask(bench, "pause", trial=2)
    ask(bench, "stop", trial=3)
    paused, stopped = bench.until(State.PAUSED, 2), bench.until(State.STOPPED, 3)
    assert paused.reason == f"paused at step {paused.checkpoint_step}"
    assert stopped.reason.startswith("stopped at step ")

"""A tick on a real store and an inline fleet; no clock, no threads."""

import os
import sqlite3
from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.support.tick_contexts import Bench, cpu_card, gpu_card, recipe
from workbench import scheduler
from workbench.attempts.assignment import Assignment
from workbench.attempts.events import EventWriter
from workbench.attempts.results_file import ResultsHead, write_results
from workbench.errors import IllegalMove, UsageError
from workbench.footprint import named_config, plan_trial
from workbench.machine.cards import Card
from workbench.machine.locks import Lock
from workbench.scheduler.recover import requeue_all, why_hopeless
from workbench.scheduler.tick_context import BRAKE, assignment_file, events_file
from workbench.search import initial_points
from workbench.store import card_table, results
from workbench.store.board import rank_adapters
from workbench.store.queries.metrics import read_series
from workbench.store.requests import drop_request
from workbench.store.row_results import put_row_results, read_row_results
from workbench.trial import FINAL, MOVES, DesiredState, State

GRID = {"parameters": {"train.learning_rate": [0.01, 0.05, 0.1], "lora.rank": [4, 8]}}
MakeBench = Callable[..., Bench]


def test_every_move_names_a_function_of_the_scheduler() -> None:
    assert {move.by for move in MOVES} <= set(scheduler.__all__)


def test_no_final_state_has_a_way_out_and_every_state_can_finish() -> None:
    assert not [move for move in MOVES if move.before in FINAL]
    can_finish = set(FINAL)
    for _ in State:
        can_finish |= {move.before for move in MOVES if move.after in can_finish}
    assert can_finish == set(State)


def test_stopping_is_legal_from_every_live_state() -> None:
    stoppable = {move.before for move in MOVES if move.after is State.STOPPED}
    assert stoppable == set(State) - FINAL


def test_of_equal_scores_the_lower_held_out_loss_ranks_first(bench_of: MakeBench) -> None:
    bench = bench_of()
    id = bench.submit(recipe(sweep={"parameters": {"train.seed": [1, 2, 3]}}))
    for trial, loss in ((2, 0.3), (3, 0.1), (4, 0.2)):
        attempt = bench.store.add_attempt(trial, "cpu-0", {}, 0, 0)
        results.put_scores(bench.store, trial, attempt, 6, {"exact_match": 0.5, "loss": loss})
        bench.store.end_attempt(attempt, "done", "")
    ranked = rank_adapters(bench.store, bench.store.experiment(id), 0.0)
    assert [row.trial for row in ranked if row.rank] == [3, 4, 2]


def test_a_grid_runs_to_a_ranked_board(bench_of: MakeBench) -> None:
    bench = bench_of()
    id = bench.submit(recipe(sweep=GRID))
    bench.ticks(60)
    assert {t.state for t in bench.trials()} == {State.DONE}
    rows = rank_adapters(bench.store, bench.store.experiment(id), bench.now)
    scores = [row.score for row in rows if row.rank and row.score is not None]
    assert len(scores) == 6
    assert scores == sorted(scores, reverse=True)
    assert rows[0].settings == {"train.learning_rate": 0.1, "lora.rank": 4}
    assert rows[0].base_score == 0.1
    assert rows[0].gain == pytest.approx(0.5)
    assert rows[-1].kind == "base"


def test_two_run_at_once_and_a_third_waits_and_says_why(bench_of: MakeBench) -> None:
    bench = bench_of()
    bench.submit(recipe(sweep=GRID))
    bench.ticks(1)
    live = [t for t in bench.trials() if t.state.live]
    assert len({t.card for t in live}) == len(live) == 2
    *_, waiting = (t for t in bench.trials() if t.state is State.QUEUED)
    bench.ticks(1)
    why = bench.store.trial(waiting.id).waiting
    assert "runs trial" in why
    assert "cpu-0" in why


def test_the_database_refuses_two_live_attempts_on_a_card(bench_of: MakeBench) -> None:
    bench = bench_of(cpu_card(0))
    bench.submit(recipe(sweep=GRID))
    bench.ticks()
    with pytest.raises(sqlite3.IntegrityError):
        bench.store.add_attempt(3, "cpu-0", {}, 0, 0)


def test_max_parallel_holds_an_experiment_back(bench_of: MakeBench) -> None:
    bench = bench_of(*[cpu_card(i) for i in range(4)])
    bench.submit(recipe(sweep={**GRID, "max_parallel": 2}))
    bench.ticks(3)
    assert len([t for t in bench.trials() if t.state.live]) == 2
    queued = [t for t in bench.trials() if t.state is State.QUEUED]
    assert "2 at once" in queued[0].waiting


def test_the_base_is_scored_once_for_two_experiments_on_it(bench_of: MakeBench) -> None:
    bench = bench_of()
    bench.submit(recipe())
    bench.ticks(20)
    second = bench.submit(recipe())
    bench.ticks(20)
    assert [t.kind for t in bench.store.trials(second)] == ["tune"]
    rows = rank_adapters(bench.store, bench.store.experiment(second), bench.now)
    assert rows[0].base_score == 0.1
    assert bench.store.experiment(second).name == "tiny-2"


def test_a_lost_worker_puts_its_trial_back_in_the_queue_from_its_checkpoint(
    bench_of: MakeBench,
) -> None:
    bench = bench_of(cpu_card(0))
    bench.submit(recipe())
    trial = bench.trials()[1]
    bench.until(State.RUNNING, trial.id)
    bench.ticks(3)
    bench.context.fleet.end("cpu-0", "killed by signal 9")
    bench.ticks(1)
    last = bench.store.moves(trial.id)[-2:]
    assert any(m.by == "recover" and "signal 9" in m.why and "step" in m.why for m in last)
    assert bench.until(State.DONE, trial.id).attempts == 2
    resumed = bench.store.attempts(trial.id)[1]
    assert resumed.from_step == bench.store.attempts(trial.id)[0].checkpoint_step
    assert resumed.generation == 2
    steps = [p.step for p in read_series(bench.store, trial.id, "loss")]
    assert steps == [1, 2, 3, 4, 5, 6]


def test_three_losses_without_a_new_checkpoint_fail_the_trial(bench_of: MakeBench) -> None:
    bench = bench_of(*[cpu_card(i) for i in range(2)])
    bench.submit(recipe(train={"max_steps": 50, "save_every": 40, "learning_rate": 0.1}))
    trial = bench.trials()[1].id
    for steps in (1, 2, 4):
        bench.until(State.RUNNING, trial)
        bench.ticks(steps)
        card = bench.store.trial(trial).card
        bench.context.fleet.end(str(card), f"died after {steps}")
        bench.ticks(1)
    row = bench.store.trial(trial)
    assert row.state is State.FAILED
    assert "3 attempts in a row" in row.reason
    assert "died after 4" in row.reason
    assert row.hint


def test_losses_are_free_as_long_as_each_attempt_commits_a_checkpoint(
    bench_of: MakeBench,
) -> None:
    bench = bench_of(cpu_card(0))
    bench.submit(recipe(train={"max_steps": 60, "save_every": 2, "learning_rate": 0.01}))
    trial = bench.trials()[1].id
    for extra in (3, 4, 3, 4, 3):
        bench.until(State.RUNNING, trial)
        bench.ticks(extra)
        bench.context.fleet.end("cpu-0", "supply")
        bench.ticks(1)
    assert bench.until(State.DONE, trial).attempts == 6


def test_a_card_that_loses_two_different_trials_is_quarantined(bench_of: MakeBench) -> None:
    bench = bench_of(cpu_card(0))
    bench.submit(recipe(sweep=GRID))
    first, second = bench.trials()[1].id, bench.trials()[2].id
    bench.until(State.RUNNING, first)
    drop_request(bench.context.home.requests, "pause", {"trial": first})
    bench.context.fleet.end("cpu-0", "fell off the bus")
    bench.until(State.RUNNING, second)
    bench.context.fleet.end("cpu-0", "fell off the bus")
    bench.ticks(2)
    card = bench.store.cards()[0]
    assert "in a row" in card.quarantined
    assert not [t for t in bench.trials() if t.state.live]
    drop_request(bench.context.home.requests, "undrain", {"card": "cpu-0", "quarantine": True})
    bench.until(State.DONE, second)


def test_a_failed_trial_carries_its_reason_and_hint(bench_of: MakeBench) -> None:
    bench = bench_of(cpu_card(0))
    bench.submit(recipe(train={"max_steps": 6, "learning_rate": 0.666}))
    row = bench.until(State.FAILED, 2)
    assert row.reason == "the loss is NaN"
    assert row.hint == "lower train.learning_rate"
    assert row.attempts == 1


def test_stop_keeps_what_was_learned(bench_of: MakeBench) -> None:
    bench = bench_of(cpu_card(0))
    bench.submit(recipe(train={"max_steps": 500, "save_every": 2, "learning_rate": 0.01}))
    bench.until(State.RUNNING, 2)
    bench.ticks(5)
    id = drop_request(bench.context.home.requests, "stop", {"trial": 2})
    row = bench.until(State.STOPPED, 2)
    assert row.score is not None
    answer = bench.store.answer(id)
    assert answer is not None
    assert "kept as its adapter" in answer.text


def test_pause_gives_the_card_back_and_resume_goes_on(bench_of: MakeBench) -> None:
    bench = bench_of(cpu_card(0))
    bench.submit(recipe())
    bench.until(State.RUNNING, 2)
    bench.ticks(2)
    drop_request(bench.context.home.requests, "pause", {"trial": 2})
    paused = bench.until(State.PAUSED, 2)
    assert not [one for one in bench.store.live_attempts() if one.trial == 2]
    drop_request(bench.context.home.requests, "resume", {"trial": 2})
    done = bench.until(State.DONE, 2)
    assert done.attempts == 2
    assert bench.store.attempts(2)[1].from_step == paused.checkpoint_step


def test_stopping_a_paused_trial_scores_its_checkpoint(bench_of: MakeBench) -> None:
    bench = bench_of(cpu_card(0))
    bench.submit(recipe())
    bench.until(State.RUNNING, 2)
    bench.ticks(3)
    drop_request(bench.context.home.requests, "pause", {"trial": 2})
    bench.until(State.PAUSED, 2)
    drop_request(bench.context.home.requests, "stop", {"trial": 2})
    row = bench.until(State.STOPPED, 2)
    assert row.score is not None
    assert bench.store.attempts(2)[-1].outcome == "stopped"


def test_kill_keeps_nothing_and_frees_the_card(bench_of: MakeBench) -> None:
    bench = bench_of(cpu_card(0))
    bench.submit(recipe(sweep=GRID))
    bench.until(State.RUNNING, 2)
    drop_request(bench.context.home.requests, "kill", {"trial": 2})
    row = bench.until(State.STOPPED, 2)
    assert row.reason == "killed"
    assert row.score is None
    bench.until(State.RUNNING, 3)
    drop_request(bench.context.home.requests, "kill", {"trial": 3})
    bench.until(State.STOPPED, 3)
    assert bench.store.cards()[0].quarantined == ""  # people's kills are not the card's fault
    bench.until(State.DONE, 4)


def test_a_kill_removes_checkpoints(bench_of: MakeBench) -> None:
    bench = bench_of(cpu_card(0))
    bench.submit(recipe(train={"max_steps": 900, "save_every": 2}))
    folder = bench.context.home.trial(2) / "checkpoints"
    for _ in range(200):
        bench.ticks(1)
        if bench.store.trial(2).checkpoint_step:
            break
    assert any(folder.iterdir())
    drop_request(bench.context.home.requests, "kill", {"trial": 2})
    bench.until(State.STOPPED, 2)
    bench.ticks(3)
    assert not folder.exists()
    assert bench.store.trial(2).checkpoint_step is None


def test_a_kill_removes_results_by_row(bench_of: MakeBench) -> None:
    bench = bench_of(cpu_card(0))
    bench.submit(recipe(train={"max_steps": 900, "save_every": 2}))
    bench.until(State.RUNNING, 2)
    head = ResultsHead(
        evaluation="e" * 32,
        tokens="f" * 32,
        step=2,
        scored=False,
        targets=[1],
        sums={"loss": [1.0]},
    )
    write_results(bench.context.home.trial(2), head)
    (ahead := bench.context.home.trial(2) / "ahead").mkdir()
    put_row_results(bench.store, 2, bench.store.live_attempts()[0].id, head)
    drop_request(bench.context.home.requests, "kill", {"trial": 2})
    bench.until(State.STOPPED, 2)
    bench.ticks(3)
    assert not (bench.context.home.trial(2) / "results").exists()
    assert not ahead.exists()
    assert read_row_results(bench.store, [2], all_steps=True) == []


def test_a_queued_base_ends_when_all_its_trials_are_killed(bench_of: MakeBench) -> None:
    bench = bench_of(cpu_card(0))
    card_table.set_drained(bench.store, "cpu-0", True)
    bench.submit(recipe(sweep=GRID))
    bench.ticks(2)
    tuned = [trial.id for trial in bench.trials() if trial.kind == "tune"]
    for id in tuned[:-1]:
        drop_request(bench.context.home.requests, "kill", {"trial": id})
    bench.ticks(2)
    assert bench.store.trial(1).state is State.QUEUED
    drop_request(bench.context.home.requests, "kill", {"trial": tuned[-1]})
    bench.ticks(3)
    assert bench.store.trial(1).state is State.STOPPED
    assert bench.store.experiment(1).ended_utc is not None


@pytest.mark.parametrize("verb", ["stop", "kill"])
def test_a_queued_trial_without_a_checkpoint_stops_at_once(bench_of: MakeBench, verb: str) -> None:
    bench = bench_of(cpu_card(0))
    bench.submit(recipe(sweep=GRID))
    bench.ticks(2)
    drop_request(bench.context.home.requests, verb, {"trial": 6})
    bench.ticks(1)
    assert bench.store.trial(6).state is State.STOPPED


def test_the_same_request_sent_twice_is_carried_out_once(bench_of: MakeBench) -> None:
    bench = bench_of(cpu_card(0))
    body = {"recipe": recipe().model_dump(mode="json")}
    drop_request(bench.context.home.requests, "submit", body, id="a-1")
    scheduler.process_requests(bench.context)
    drop_request(bench.context.home.requests, "submit", body, id="a-1")
    scheduler.process_requests(bench.context)
    assert len(bench.store.experiments()) == 1
    assert not list(bench.context.home.requests.glob("*.json"))


def test_a_request_that_cannot_be_read_is_set_aside_and_reported(bench_of: MakeBench) -> None:
    bench = bench_of(cpu_card(0))
    (bench.context.home.requests / "x.json").write_text("{nonsense")
    bench.ticks(1)
    assert (bench.context.home.requests / "bad" / "x.json").exists()
    assert "requests/bad" in bench.store.events()[-1].text


@pytest.mark.parametrize(
    ("verb", "args", "says"),
    [
        ("dance", {}, "does not know dance"),
        ("stop", {"trial": 99}, "there is no trial 99"),
        ("stop", {}, "KeyError"),
        ("submit", {"recipe": {"name": "x"}}, "not valid"),
    ],
)
def test_a_request_that_cannot_be_carried_out_is_answered(
    bench_of: MakeBench, verb: str, args: dict[str, object], says: str
) -> None:
    bench = bench_of(cpu_card(0))
    id = drop_request(bench.context.home.requests, verb, args)
    bench.ticks(1)
    answer = bench.store.answer(id)
    assert answer is not None
    assert not answer.ok
    assert says in answer.text


def test_a_broken_event_line_never_stops_the_loop(bench_of: MakeBench) -> None:
    bench = bench_of(cpu_card(0))
    bench.submit(recipe())
    bench.until(State.RUNNING, 2)
    attempt = bench.store.live_attempts()[0]
    with (bench.context.home.attempt(attempt.id) / "events.jsonl").open("ab") as file:
        file.write(b"{garbage\n" + b'{"n": 9, "t": 1, "kind": "metric", "step": "x"}\n')
    bench.until(State.DONE, 2)
    aside = [e for e in bench.store.events() if e.kind == "bad-line"]
    assert len(aside) == 2


def test_the_engine_stopping_gives_cards_back_and_the_next_one_goes_on(
    bench_of: MakeBench,
) -> None:
    bench = bench_of()
    bench.submit(recipe(sweep=GRID))
    bench.until(State.RUNNING, 2)
    drop_request(bench.context.home.requests, "engine-stop", {})
    bench.ticks(3)
    assert not bench.store.live_attempts()
    assert {t.state for t in bench.trials() if t.id != 1} == {State.QUEUED}
    bench.store.set_fact("stopping", "")
    bench.ticks(60)
    assert {t.state for t in bench.trials()} == {State.DONE}


def test_after_a_restart_whatever_ran_goes_on_from_its_checkpoint(bench_of: MakeBench) -> None:
    bench = bench_of()
    bench.submit(recipe(sweep=GRID))
    bench.until(State.RUNNING, 2)
    bench.ticks(3)
    bench.context.fleet.close()
    requeue_all(bench.context, "the engine was restarted")
    assert not bench.store.live_attempts()
    bench.ticks(60)
    assert {t.state for t in bench.trials()} == {State.DONE}
    assert bench.store.trial(2).attempts <= 2


def test_an_attempt_placed_but_never_sent_is_sent_again(bench_of: MakeBench) -> None:
    bench = bench_of(cpu_card(0))
    bench.submit(recipe())
    sent: list[int] = []
    start = bench.context.fleet.start

    def lose_the_first(card: Card, assignment: Assignment) -> None:
        sent.append(1)
        if len(sent) > 1:
            start(card, assignment)

    bench.context.fleet.start = lose_the_first  # type: ignore[method-assign]
    bench.until(State.DONE, 1)
    assert len(sent) >= 2


def test_with_the_brake_on_nothing_new_is_placed_and_the_queue_says_why(
    bench_of: MakeBench,
) -> None:
    bench = bench_of()
    bench.submit(recipe())
    bench.store.set_fact(BRAKE, "the engine crashed 5 times")
    bench.ticks(2)
    assert {t.waiting for t in bench.trials()} == {"the engine crashed 5 times"}


def test_an_illegal_move_is_refused_by_table_and_by_row(bench_of: MakeBench) -> None:
    bench = bench_of()
    bench.submit(recipe())
    with pytest.raises(IllegalMove):
        bench.store.move(2, State.QUEUED, State.DONE, by="reconcile", why="")
    with pytest.raises(IllegalMove):
        bench.store.move(2, State.RUNNING, State.DONE, by="reconcile", why="")
    assert bench.store.moves(2) == []


def test_a_trial_goes_to_the_smallest_card_that_takes_it(bench_of: MakeBench) -> None:
    bench = bench_of(cpu_card(0, 24), cpu_card(1, 2), cpu_card(2, 12))
    bench.submit(recipe())
    bench.ticks(1)
    assert bench.store.trial(2).card == "cpu-1"
    assert bench.store.trial(1).card == "cpu-2"


def test_a_trial_that_fits_no_card_here_fails_with_the_arithmetic(bench_of: MakeBench) -> None:
    bench = bench_of(cpu_card(0, 0.05))
    bench.submit(recipe(data={"train": "/d", "max_tokens": 4096}, train={"batch_size": 64}))
    bench.ticks(1)
    row = bench.store.trial(2)
    assert row.state is State.FAILED
    assert "GiB" in row.reason or "MiB" in row.reason
    assert row.hint


def test_the_desired_state_survives_a_restart(bench_of: MakeBench) -> None:
    bench = bench_of(cpu_card(0))
    bench.submit(recipe())
    bench.until(State.RUNNING, 2)
    bench.store.set_desired_state(2, DesiredState.PAUSE)
    bench.context.fleet.close()
    requeue_all(bench.context, "the engine was restarted")
    bench.ticks(1)
    assert bench.store.trial(2).state is State.PAUSED


def test_killed_before_a_trial_was_moved_its_end_is_read_again(bench_of: MakeBench) -> None:
    bench = bench_of(cpu_card(0))
    bench.submit(recipe())
    bench.until(State.RUNNING, 2)
    move = bench.store.move

    def killed(trial: int, before: State, after: State, **told: str) -> None:
        if after is State.DONE:
            raise KeyboardInterrupt
        move(trial, before, after, **told)

    bench.store.move = killed  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        bench.ticks(20)
    bench.store.move = move  # type: ignore[method-assign]
    bench.context.fleet.close()
    requeue_all(bench.context, "the engine was restarted")
    assert bench.store.trial(2).state is State.DONE
    assert bench.store.trial(2).attempts == 1


def test_an_end_behind_megabytes_of_events_is_found_before_an_attempt_is_given_up(
    bench_of: MakeBench,
) -> None:
    bench = bench_of(cpu_card(0))
    bench.submit(recipe())
    bench.until(State.RUNNING, 2)
    attempt = bench.store.live_attempts()[0]
    writer = EventWriter(events_file(bench.context.home, attempt.id))
    for _ in range(6):
        writer.write("log", text="x" * 1_000_000)
    writer.write("end", outcome="done", step=6)
    writer.close()
    bench.context.fleet.close()
    requeue_all(bench.context, "the engine was restarted")
    assert bench.store.trial(2).state is State.DONE


@pytest.mark.parametrize("trial", [10**30, float("inf"), [], None])
def test_a_request_with_an_odd_number_is_answered(bench_of: MakeBench, trial: object) -> None:
    bench = bench_of(cpu_card(0))
    id = drop_request(bench.context.home.requests, "stop", {"trial": trial})
    bench.ticks(1)
    answer = bench.store.answer(id)
    assert answer is not None
    assert not answer.ok


def test_a_verb_that_no_table_can_hold_is_answered(bench_of: MakeBench) -> None:
    bench = bench_of(cpu_card(0))
    id = drop_request(bench.context.home.requests, "\ud800\x1b[31m", {})
    bench.ticks(1)
    assert bench.store.answer(id) is not None


def test_a_requests_folder_that_is_gone_stops_nothing(bench_of: MakeBench) -> None:
    bench = bench_of(cpu_card(0))
    bench.submit(recipe())
    bench.context.home.requests.rmdir()
    bench.until(State.DONE, 2)


def test_an_experiment_whose_folder_is_gone_is_refused_and_stops_nothing(
    bench_of: MakeBench,
) -> None:
    bench = bench_of(cpu_card(0))
    lost = bench.store.add_experiment(recipe().model_dump(mode="json"), "loss")
    bench.ticks(1)
    assert bench.store.experiment(lost).state == "refused"
    assert "could not be queued" in bench.store.experiment(lost).reason


def test_a_sweep_without_end_is_refused_before_it_fills_memory() -> None:
    values = list(range(1, 101))
    keys = ("lora.rank", "train.seed", "train.batch_size", "train.save_every", "train.log_every")
    with pytest.raises(UsageError, match="10,000 at most"):
        initial_points(recipe(sweep={"parameters": dict.fromkeys(keys, values)}))
    some = initial_points(recipe(sweep={"parameters": dict.fromkeys(keys, values), "trials": 3}))
    assert len(some) == 3


def test_an_experiment_at_its_limit_keeps_no_card_from_the_others(bench_of: MakeBench) -> None:
    bench = bench_of()
    many = [1e-4 * n for n in range(1, 301)]
    sweep = {"parameters": {"train.learning_rate": many}, "max_parallel": 1}
    bench.submit(recipe(sweep=sweep, train={"max_steps": 900}))
    other = bench.submit(recipe(train={"max_steps": 900}))
    bench.ticks(4)
    assert [t.state for t in bench.store.trials(other)] == [State.RUNNING]


def test_trials_that_wait_for_a_big_card_keep_no_small_one_from_others(
    bench_of: MakeBench,
) -> None:
    bench = bench_of(cpu_card(0, 2), cpu_card(1, 64))
    big = recipe(
        data={"train": "/d", "max_tokens": 32768},
        train={"batch_size": 64, "gradient_checkpointing": "off", "max_steps": 900},
        sweep={"parameters": {"train.seed": list(range(300))}},
    )
    bench.submit(big)
    other = bench.submit(recipe(train={"max_steps": 900}))
    bench.ticks(60)
    assert [t.card for t in bench.store.trials(other)] == ["cpu-0"]


def test_no_plan_takes_more_than_is_free_by_however_little_that_has_changed(
    bench_of: MakeBench,
) -> None:
    """The first plan takes all there is to the byte; a MiB less is free when it goes on."""
    llama = named_config("meta-llama/Meta-Llama-3-8B") or {}
    long = recipe(train={"max_steps": 900, "gradient_checkpointing": "on"})
    plain = long.model_copy(update={"sweep": None})
    whole = gpu_card(0, 24)
    card = Card(uuid="", kind="cuda", name="", total_bytes=24 << 30, capability=(8, 6))
    free = plan_trial(plain, llama, card).predicted_bytes
    bench = bench_of(whole)
    bench.configure("share = true")

    def left(bytes_: int) -> None:
        theirs = [{"pid": 1, "bytes": (24 << 30) - bytes_, "name": "x", "draws": False}]
        bench.seen = [{**whole, "free_bytes": bytes_, "processes": theirs}]

    left(free)
    bench.submit(long, llama)
    bench.until(State.RUNNING, 2)
    bench.store.set_desired_state(2, DesiredState.PAUSE)
    bench.until(State.PAUSED, 2)
    left(free - (1 << 20))
    bench.store.set_desired_state(2, DesiredState.RUN)
    bench.ticks(4)
    taken = [attempt.predicted_bytes for attempt in bench.store.attempts(2)]
    assert len(taken) == 2
    assert taken[0] <= free
    assert taken[1] <= free - (1 << 20)


def test_big_trials_do_not_starve_behind_small_ones(bench_of: MakeBench) -> None:
    """Cards of 24, 12 and 8 GiB, forty small trials and then three that only the first takes."""
    bench = bench_of(gpu_card(0, 24), gpu_card(1, 12), gpu_card(2, 8))
    seeds = {"parameters": {"train.seed": list(range(40))}}
    small = bench.submit(recipe(train={"max_steps": 30}, sweep=seeds))
    longest = recipe(
        data={"train": "/d", "max_tokens": 1 << 20},
        lora={"rank": 256},
        train={"max_steps": 3, "batch_size": 1, "gradient_checkpointing": "off"},
        evaluate={"batch_size": 1},
        sweep={"parameters": {"train.seed": [0, 1, 2]}},
    )
    big = bench.submit(longest)
    bench.ticks(8)  # cards are taken, and one after another comes free again
    for _ in range(400):
        if all(trial.state.final for trial in bench.store.trials(big)):
            break
        bench.ticks()
    done = bench.store.trials(big)
    assert {trial.state for trial in done} == {State.DONE}
    assert {bench.store.attempts(trial.id)[0].card for trial in done} == {"GPU-0"}
    rest = bench.store.trials(small)
    assert sum(not trial.state.final for trial in rest) > 10
    used = {attempt.card for trial in rest for attempt in bench.store.attempts(trial.id)}
    assert used >= {"GPU-1", "GPU-2"}


def test_small_trials_of_a_sweep_use_the_cards_that_its_big_ones_cannot(
    bench_of: MakeBench,
) -> None:
    """Forty that only the roomiest card takes stand in front of them."""
    bench = bench_of(gpu_card(0, 24), gpu_card(1, 12), gpu_card(2, 8))
    grid = {"data.max_tokens": [1 << 20, 64], "train.seed": list(range(40))}
    big = recipe(
        lora={"rank": 256},
        train={"max_steps": 900, "batch_size": 1, "gradient_checkpointing": "off"},
        evaluate={"batch_size": 1},
        sweep={"parameters": grid},
    )
    bench.submit(big)
    bench.ticks(12)
    tuned = [trial for trial in bench.trials() if trial.kind == "tune"]
    tokens = {t.card: t.settings["data.max_tokens"] for t in tuned if t.state.live}
    assert tokens == {"GPU-0": 1 << 20, "GPU-1": 64, "GPU-2": 64}
    waiting = [t.waiting for t in tuned if t.settings["data.max_tokens"] == 1 << 20]
    assert any(why.startswith("waits for a card: GPU-0 runs trial") for why in waiting)


def test_an_assignment_that_cannot_be_read_is_written_again(bench_of: MakeBench) -> None:
    bench = bench_of(cpu_card(0))
    bench.submit(recipe())
    start = bench.context.fleet.start
    bench.context.fleet.start = lambda card, assignment: None  # type: ignore[method-assign]
    bench.ticks(1)
    bench.context.fleet.start = start  # type: ignore[method-assign]
    [attempt] = bench.store.live_attempts()
    assignment_file(bench.context.home, attempt.id).write_text('{"attempt": 1}')
    bench.until(State.DONE, 2)
    assert "cannot be read" in bench.store.attempt(attempt.id).reason
    assert bench.store.cards()[0].quarantined == ""


def test_what_an_earlier_databases_attempt_wrote_speaks_for_nobody(bench_of: MakeBench) -> None:
    bench = bench_of(cpu_card(0))
    writer = EventWriter(events_file(bench.context.home, 1))
    writer.write("end", outcome="done", step=99)
    writer.close()
    bench.submit(recipe())
    bench.ticks(1)
    bench.until(State.DONE, 2)
    assert bench.store.trial(2).score is not None
    assert "99" not in bench.store.moves(2)[-1].why


def test_a_recipe_that_no_longer_validates_fails_its_trials_and_stops_nothing(
    bench_of: MakeBench,
) -> None:
    bench = bench_of()
    old = bench.submit(recipe())
    new = bench.submit(recipe())
    with bench.store.writing():
        bench.store.db.execute(
            "update experiments set recipe = json_set(recipe, '$.gone', 1) where id = ?", (old,)
        )
    bench.ticks(20)
    failed = bench.store.trials(old)
    assert {t.state for t in failed} == {State.FAILED}
    assert "cannot be planned" in failed[0].reason
    assert failed[0].hint
    assert {t.state for t in bench.store.trials(new)} == {State.DONE}


def test_trials_wait_for_a_card_that_is_gone_for_now(bench_of: MakeBench) -> None:
    bench = bench_of(cpu_card(0, 0.05), cpu_card(1, 64))
    bench.seen = [cpu_card(0, 0.05)]
    bench.ticks(1)
    bench.submit(
        recipe(data={"train": "/d", "max_tokens": 4096}, train={"batch_size": 64, "max_steps": 3})
    )
    bench.ticks(2)
    assert bench.store.trial(2).state is State.QUEUED
    assert "cpu-1 gone" in bench.store.trial(2).waiting
    bench.seen = [cpu_card(0, 0.05), cpu_card(1, 64)]
    bench.until(State.DONE, 2)


def test_nothing_is_placed_on_a_full_disk(bench_of: MakeBench) -> None:
    bench = bench_of(cpu_card(0))
    bench.context.disk_free = lambda folder: 5 << 20
    bench.submit(recipe())
    bench.ticks(2)
    assert "5 MiB left" in bench.store.trial(2).waiting
    bench.context.disk_free = lambda folder: 1 << 40
    bench.until(State.DONE, 2)


def test_a_card_in_the_hands_of_another_home_is_waited_for(bench_of: MakeBench) -> None:
    bench = bench_of(cpu_card(0))
    path = bench.context.home.card_lock("cpu-0", "cpu")
    path.parent.mkdir()
    other = Lock(path)
    assert other.take()
    bench.submit(recipe())
    bench.ticks(2)
    assert f"in the hands of process {os.getpid()}" in bench.store.trial(2).waiting
    other.release()
    bench.until(State.DONE, 2)


def test_what_went_with_the_engine_is_not_the_cards_fault(bench_of: MakeBench) -> None:
    bench = bench_of(cpu_card(0))
    bench.submit(recipe(sweep=GRID))
    bench.until(State.RUNNING, 2)
    bench.context.fleet.close()
    requeue_all(bench.context, "the engine was restarted")
    bench.store.set_desired_state(2, DesiredState.PAUSE)
    bench.until(State.RUNNING, 3)
    bench.context.fleet.end("cpu-0", "died once")
    bench.ticks(2)
    assert bench.store.cards()[0].quarantined == ""


def test_a_misfit_asked_for_again_and_again_keeps_no_traceback(bench_of: MakeBench) -> None:
    bench = bench_of(cpu_card(0, 0.05), cpu_card(1, 64))
    bench.seen = [cpu_card(0, 0.05)]
    bench.ticks(1)
    bench.submit(recipe(data={"train": "/d", "max_tokens": 4096}, train={"batch_size": 64}))
    bench.ticks(10)
    kept = [plan for plan in bench.context.plans.values() if isinstance(plan, Exception)]
    assert kept
    assert all(misfit.__traceback__ is None for misfit in kept)


def test_training_that_hangs_behind_a_worker_that_answers_is_tried_again(
    bench_of: MakeBench,
) -> None:
    bench = bench_of(cpu_card(0))
    bench.submit(recipe())
    bench.until(State.RUNNING, 2)
    observe = bench.context.fleet.observe
    bench.context.fleet.observe = lambda: {  # type: ignore[method-assign]
        card: replace(report, data={"still_s": 9_000.0}) for card, report in observe().items()
    }
    bench.ticks(1)
    bench.context.fleet.observe = observe  # type: ignore[method-assign]
    assert "no progress for 150 min" in bench.store.attempts(2)[0].reason
    assert bench.until(State.DONE, 2).attempts == 2


def test_training_that_is_still_for_long_is_asked_for_a_checkpoint_first(
    bench_of: MakeBench,
) -> None:
    bench = bench_of(cpu_card(0))
    bench.submit(recipe())
    bench.until(State.RUNNING, 2)
    observe = bench.context.fleet.observe
    bench.context.fleet.observe = lambda: {  # type: ignore[method-assign]
        card: replace(report, data={"still_s": 6_000.0}) for card, report in observe().items()
    }
    bench.ticks(2)
    bench.context.fleet.observe = observe  # type: ignore[method-assign]
    assert bench.until(State.DONE, 2).attempts == 2
    assert bench.store.attempts(2)[0].outcome == "yielded"
    assert [e.kind for e in bench.store.events(trial=2)].count("hangs") == 1


def test_dying_at_one_step_again_is_its_fault_only_when_it_got_no_further(
    bench_of: MakeBench,
) -> None:
    bench = bench_of(cpu_card(0))
    bench.submit(recipe())
    bench.until(State.RUNNING, 2)
    (attempt,) = bench.store.live_attempts()
    died = replace(attempt, outcome="lost", from_step=2, last_step=5, checkpoint_step=4)
    again = replace(died, from_step=4, checkpoint_step=None)
    assert "two attempts in a row ended at step 5" in why_hopeless([died, again])
    assert not why_hopeless([died, replace(again, checkpoint_step=5)])
    assert not why_hopeless([died, replace(again, outcome="cut")])


def test_ends_of_the_engine_before_any_worker_began_do_not_fail_a_trial(
    bench_of: MakeBench,
) -> None:
    bench = bench_of(cpu_card(0))
    bench.submit(recipe())
    bench.context.fleet.start = lambda *_: None  # type: ignore[method-assign]
    bench.until(State.STARTING, 2)
    for _ in range(5):
        requeue_all(bench.context, "the engine was restarted")
        assert bench.store.trial(2).state is State.QUEUED
        bench.until(State.STARTING, 2)
    assert len(bench.store.attempts(2)) == 6


def test_three_engine_ends_after_a_worker_began_fail_a_trial(bench_of: MakeBench) -> None:
    bench = bench_of(cpu_card(0))
    bench.submit(recipe(train={"max_steps": 1_000, "save_every": 900, "learning_rate": 0.1}))
    for _ in range(3):
        bench.until(State.RUNNING, 2)
        requeue_all(bench.context, "the engine was restarted")
        bench.context.fleet.end("cpu-0", "it ended with the engine")
        bench.context.fleet.observe()
    assert bench.store.trial(2).state is State.FAILED


def test_a_released_card_is_not_blamed_for_what_it_lost_before(bench_of: MakeBench) -> None:
    bench = bench_of(cpu_card(0))
    bench.submit(recipe(sweep={"parameters": {"train.learning_rate": [0.1, 0.2]}}))
    for trial in (2, 3):
        bench.until(State.RUNNING, trial)
        bench.context.fleet.end("cpu-0", "died")
        bench.ticks()
        if trial == 2:
            drop_request(bench.context.home.requests, "pause", {"trial": 2})
            bench.ticks()
    assert bench.store.cards()[0].quarantined
    drop_request(bench.context.home.requests, "undrain", {"card": "cpu-0", "quarantine": True})
    bench.until(State.RUNNING, 3)
    bench.context.fleet.end("cpu-0", "died again")
    bench.ticks()
    assert not bench.store.cards()[0].quarantined


def test_a_stop_is_carried_out_by_a_worker_that_takes_its_time_to_start(
    bench_of: MakeBench,
) -> None:
    bench = bench_of(cpu_card(0))
    bench.submit(recipe())
    bench.until(State.RUNNING, 2)
    bench.ticks(3)
    bench.context.fleet.end("cpu-0", "died")
    drop_request(bench.context.home.requests, "stop", {"trial": 2})
    start = bench.context.fleet.start
    bench.context.fleet.start = lambda card, assignment: None  # type: ignore[method-assign]
    bench.ticks(5)
    bench.context.fleet.start = start  # type: ignore[method-assign]
    assert bench.until(State.STOPPED, 2).attempts == 2
    assert bench.store.trial(2).score is not None


def test_a_start_that_arrives_after_it_was_called_off_trains_nothing(bench_of: MakeBench) -> None:
    bench = bench_of(cpu_card(0))
    long = {"max_steps": 1_000, "save_every": 2, "learning_rate": 0.1}
    bench.submit(recipe(train=long, evaluate={}))
    bench.until(State.DONE, 1)
    start, late = bench.context.fleet.start, []
    bench.context.fleet.end("cpu-0", "so that a new worker has to start")
    bench.context.fleet.start = lambda *told: late.append(told)  # type: ignore[method-assign]
    bench.ticks(2)
    drop_request(bench.context.home.requests, "pause", {"trial": 2})
    bench.until(State.PAUSED, 2)
    bench.context.fleet.start = start  # type: ignore[method-assign]
    start(*late[0])
    bench.ticks(4)
    assert bench.context.fleet.observe()["cpu-0"].attempt is None
    assert bench.store.trial(2).state is State.PAUSED

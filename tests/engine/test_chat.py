"""Chats in the queue: placed first, planned like scoring, and no part of their experiment."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.engine.test_control import LONG, MakeBench, ask
from tests.support.tick_contexts import Bench, recipe
from workbench.attempts.assignment import Assignment
from workbench.store.board import rank_adapters
from workbench.store.queries.sweep_progress import newly_ended
from workbench.trial import Kind, State

SEEDS = {"parameters": {"train.seed": [1, 2]}}


@pytest.fixture
def ended(bench_of: MakeBench) -> Bench:
    """Experiment 1 with the base (trial 1) and trials 2 and 3, all done and reported."""
    bench = bench_of()
    id = bench.submit(recipe(sweep=SEEDS))
    for trial in (1, 2, 3):
        bench.until(State.DONE, trial)
    while bench.store.experiment(id).ended_utc is None:
        bench.ticks()
    return bench


def _assignment(bench: Bench, trial: int) -> Assignment:
    folder = bench.context.home.attempt(bench.store.attempts(trial)[-1].id)
    return Assignment.from_json(json.loads((folder / "assignment.json").read_bytes()))


def test_a_chat_gets_the_adapters_it_named_and_the_base(ended: Bench) -> None:
    answer = ask(ended, "chat", subjects=[3, None, 2])
    assert answer.ok, answer.text
    trial = answer.data["trial"]
    ended.until(State.RUNNING, trial)
    given = _assignment(ended, trial)
    assert given.kind == "chat"
    assert given.chat is not None
    three, base, two = given.chat
    assert base is None
    assert three is not None
    assert two is not None
    assert (three["trial"], two["trial"]) == (3, 2)
    assert Path(three["folder"]) == ended.context.home.trial(3) / "adapter"
    assert three["sha256"] == ended.store.adapter_sha256(3)


def test_a_chat_leaves_its_experiment_ended_and_off_the_board(ended: Bench) -> None:
    before = ended.store.experiment(1)
    trial = ask(ended, "chat", subjects=[2]).data["trial"]
    after = ended.store.experiment(1)
    assert (after.ended_utc, after.counts) == (before.ended_utc, before.counts)
    assert newly_ended(ended.store) == []
    rows = rank_adapters(ended.store, after, ended.now)
    assert trial not in {row.trial for row in rows}


def test_a_chat_goes_before_everything_that_is_queued(bench_of: MakeBench, ended: Bench) -> None:
    ended.submit(recipe(train=LONG, sweep={"parameters": {"train.seed": [1, 2, 3, 4]}}))
    ended.ticks(3)
    trial = ask(ended, "chat", subjects=[2]).data["trial"]
    queued = [t for t in ended.store.trials() if t.state is State.QUEUED and t.id != trial]
    assert queued
    running = next(t for t in ended.store.trials() if t.state is State.RUNNING)
    assert ask(ended, "stop", trial=running.id).ok
    ended.until(State.RUNNING, trial)
    assert all(ended.store.trial(t.id).state is State.QUEUED for t in queued)


def test_a_chat_plans_no_training(ended: Bench) -> None:
    trial = ask(ended, "chat", subjects=[2, 3]).data["trial"]
    ended.until(State.RUNNING, trial)
    chat, tuned = (ended.store.attempts(t)[-1] for t in (trial, 2))
    assert chat.predicted_bytes > 0
    assert not chat.plan["buckets"].get("optimizer")
    assert tuned.plan["buckets"]["optimizer"]
    assert "optimizer" not in chat.plan["buckets"] or not chat.plan["buckets"]["optimizer"]


def test_a_chat_that_is_stopped_ends(ended: Bench) -> None:
    trial = ask(ended, "chat", subjects=[2]).data["trial"]
    ended.until(State.RUNNING, trial)
    answer = ask(ended, "stop", trial=trial)
    assert "the chat ends" in answer.text
    for _ in range(40):
        ended.ticks()
    assert ended.store.trial(trial).state.final


@pytest.mark.parametrize(
    ("subjects", "why"),
    [
        ([], "1 to 16 models"),
        ([None], "needs a trial"),
        ([2] * 17, "1 to 16 models"),
        ([99], "no trial 99"),
    ],
)
def test_a_chat_without_a_usable_trial_is_refused(
    ended: Bench, subjects: list[int | None], why: str
) -> None:
    answer = ask(ended, "chat", subjects=subjects)
    assert not answer.ok
    assert why in answer.text


def test_a_trial_without_an_adapter_or_on_another_base_is_refused(ended: Bench) -> None:
    other = ended.submit(recipe(model={"name": "/other"}, train=LONG))
    tuned = next(t.id for t in ended.store.trials(other) if t.kind is Kind.TUNE)
    assert "has left no adapter" in ask(ended, "chat", subjects=[tuned]).text
    ended.until(State.RUNNING, tuned)
    assert ask(ended, "stop", trial=tuned).ok
    ended.ticks(40)
    assert ended.store.adapter_sha256(tuned) is not None
    assert "another base" in ask(ended, "chat", subjects=[2, tuned]).text
    chat = ask(ended, "chat", subjects=[2]).data["trial"]
    assert "is a chat itself" in ask(ended, "chat", subjects=[chat]).text

"""Other users' programs that only hold bytes share their card; readings of our choosing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.support.tick_contexts import Bench, gpu_card, recipe
from workbench.footprint import plan_trial
from workbench.footprint.model.known_models import named_config
from workbench.machine.cards import Card
from workbench.scheduler.guards.idle_programs import GROWTH_BYTES, Rests, with_idle_times
from workbench.trial import State

MakeBench = Callable[..., Bench]
GIB = 1 << 30
LONG = {"train": {"max_steps": 900, "save_every": 2, "learning_rate": 0.1}}


def program(gib: float | None = 0.5, percent: int | None = 0, **more: Any) -> dict[str, Any]:
    size = None if gib is None else int(gib * GIB)
    return {"pid": 4711, "bytes": size, "name": "python", "utilisation": percent, **more}


def shows(bench: Bench, *programs: dict[str, Any], uuid: str = "GPU-0", **values: Any) -> None:
    """Set what the next samples report of a card."""
    held = sum(one["bytes"] or 0 for one in programs)
    bench.seen = [
        {**card, "free_bytes": card["total_bytes"] - held, "processes": list(programs), **values}
        if card["uuid"] == uuid
        else card
        for card in bench.seen
    ]


def guard(bench: Bench, uuid: str = "GPU-0") -> str:
    return next(row.guard for row in bench.store.cards() if row.uuid == uuid)


def warnings(bench: Bench) -> list[str]:
    return [event.text for event in bench.store.events() if event.level == "warning"]


def shared(bench_of: MakeBench, *programs: dict[str, Any], **values: Any) -> Bench:
    """A card that is shared with idle programs, after the minute in which they were watched."""
    bench = bench_of(gpu_card(0))
    shows(bench, *(programs or (program(),)), **values)
    bench.ticks(62)
    return bench


Reading = tuple[int | None, int | None, float, bool]
"""Utilisation of program and card, GiB of the program, whether a trial of ours ran."""


@pytest.mark.parametrize(
    ("readings", "idle_s"),
    [
        ([(0, 0, 1, False)] * 3, 2),
        ([(0, 0, 1, False), (4, 4, 1, False)], 1),
        ([(0, 0, 1, False), (5, 5, 1, False)], 0),
        ([(0, 0, 1, False), (0, 97, 1, True)], 1),
        ([(0, 0, 1, False), (0, 97, 1, False)], 0),
        ([(0, 0, 1, False), (0, 12, 1, False)], 1),
        ([(0, 0, 1, False), (0, 0, 2, False)], 0),
        ([(0, 0, 1, False), (0, 0, 1.4, False)], 1),
        ([(0, 0, 2, False), (0, 0, 1, False), (0, 0, 2, False)], 0),
        ([(None, 0, 1, False)] * 2, 1),
        ([(None, 97, 1, False)] * 2, 0),
        ([(None, 97, 1, True)] * 2, None),
        ([(None, 0, 1, False), (None, 97, 1, True)], 1),
        ([(None, None, 1, False)] * 2, None),
    ],
    ids=[
        "it rests",
        "next to nothing",
        "it computes",
        "only our trial computes",
        "somebody computes whom the driver does not name",
        "a desktop draws now and then",
        "it grows",
        "it grows little",
        "it shrinks and grows again",
        "the card rests, programs are not told apart",
        "the card computes, programs are not told apart",
        "only our trial was ever seen",
        "it rested before our trial",
        "nothing is told",
    ],
)
def test_how_long_a_program_is_idle(readings: list[Reading], idle_s: int | None) -> None:
    rests: Rests = {}
    for now, (percent, of_card, gib, ours) in enumerate(readings):
        card = {"uuid": "GPU-0", "utilisation": of_card, "processes": [program(gib, percent)]}
        [found] = with_idle_times(rests, card, ours_ran=ours, now=float(now))
    assert found["idle_s"] == idle_s


def test_a_pid_that_comes_back_is_another_program() -> None:
    rests: Rests = {}
    for now, programs in enumerate(([program()], [], [program()])):
        card = {"uuid": "GPU-0", "utilisation": 0, "processes": programs}
        found = with_idle_times(rests, card, ours_ran=False, now=float(now))
    assert found[0]["idle_s"] == 0


def test_a_program_that_is_idle_for_a_minute_shares_its_card(bench_of: MakeBench) -> None:
    bench = bench_of(gpu_card(0))
    shows(bench, program())
    bench.submit(recipe())
    bench.ticks(60)
    assert guard(bench) == "in use by pid 4711 (python, 0.5 GiB)"
    bench.until(State.DONE, 2, 30)
    told = [event.text for event in bench.store.events() if event.kind == "guard"]
    assert told[-1] == "card GPU-0 is shared with pid 4711 (python, 0.5 GiB), idle for a minute"


def test_a_plan_beside_an_idle_program_takes_what_it_leaves(bench_of: MakeBench) -> None:
    """The plan of the whole card takes all of it; the program keeps its bytes, and some to grow."""
    llama = named_config("meta-llama/Meta-Llama-3-8B") or {}
    whole = Card(uuid="", kind="cuda", name="", total_bytes=24 * GIB, capability=(8, 6))
    left = 24 * GIB - 4 * GIB - GROWTH_BYTES
    assert plan_trial(recipe(**LONG), llama, whole).predicted_bytes > left
    bench = shared(bench_of, program(4))
    bench.submit(recipe(**LONG), llama)
    bench.until(State.RUNNING, 2)
    assert bench.store.attempts(2)[0].predicted_bytes <= left


def test_a_trial_that_has_no_room_beside_a_program_says_beside_which(bench_of: MakeBench) -> None:
    llama = named_config("meta-llama/Meta-Llama-3-8B") or {}
    bench = shared(bench_of, program(22))
    bench.submit(recipe(), llama)
    bench.ticks(1)
    waits = "waits for a card: GPU-0 has too little free beside pid 4711 (python, 22.0 GiB)"
    assert bench.store.trial(2).waiting == waits


def test_of_equal_cards_the_one_without_an_idle_program_is_taken(bench_of: MakeBench) -> None:
    bench = bench_of(gpu_card(0), gpu_card(1))
    shows(bench, program())
    bench.ticks(62)
    bench.submit(recipe(**LONG))
    bench.until(State.RUNNING, 2)
    assert bench.store.attempts(2)[0].card == "GPU-1"


@pytest.mark.parametrize(
    ("busy", "why"),
    [
        ({"percent": 60}, "pid 4711 (python, 0.5 GiB)"),
        ({"gib": 3.0}, "pid 4711 (python, 3.0 GiB)"),
    ],
    ids=["it computes", "it grows"],
)
def test_a_program_that_wakes_beside_a_trial_is_told_and_keeps_the_card_from_the_next(
    bench_of: MakeBench, busy: dict[str, Any], why: str
) -> None:
    bench = shared(bench_of)
    bench.submit(recipe(sweep={"parameters": {"train.seed": [1, 2]}}))
    bench.until(State.RUNNING, 2)
    shows(bench, program(**busy))
    bench.until(State.DONE, 2)
    assert f"card GPU-0 is in use by {why} beside trial 2, which continues" in warnings(bench)
    bench.ticks(3)
    assert bench.store.trial(3).state is State.QUEUED
    assert bench.context.fleet.observe() == {}
    shows(bench, program(busy.get("gib", 0.5)))
    bench.until(State.DONE, 3)


def test_where_programs_are_not_told_apart_our_own_load_is_not_theirs(bench_of: MakeBench) -> None:
    """From trial to trial the worker stays, and a load that is not ours ends the sharing."""
    bench = shared(bench_of, program(percent=None), utilisation=0)
    bench.submit(recipe(sweep={"parameters": {"train.seed": [1, 2]}}))
    bench.until(State.RUNNING, 2)
    shows(bench, program(percent=None), utilisation=97)
    bench.until(State.DONE, 3)
    assert guard(bench) == ""
    assert {row.generation for row in bench.store.cards()} == {1}
    bench.ticks(10)
    assert guard(bench) == "in use by pid 4711 (python, 0.5 GiB)"


@pytest.mark.parametrize(
    ("guards", "programs", "free"),
    [
        ('idle_below = "1GiB"', [program()], True),
        ('idle_below = "1GiB"', [program(), program(pid=4712)], False),
        ('idle_below = "0"', [program()], False),
        ("", [program(None)], False),
    ],
    ids=["few bytes", "too many together", "never", "nobody knows how many"],
)
def test_who_shares_is_the_users_choice(
    bench_of: MakeBench, guards: str, programs: list[dict[str, Any]], free: bool
) -> None:
    bench = bench_of(gpu_card(0))
    bench.configure(guards)
    shows(bench, *programs)
    bench.ticks(62)
    assert (guard(bench) == "") == free

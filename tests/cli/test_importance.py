"""`workbench importance`: what it says of a sweep, and when it says that it cannot tell."""

from __future__ import annotations

from tests.cli.conftest import Workbench
from tests.support.tick_contexts import Bench, recipe
from workbench.store.requests import drop_request

GRID = {"parameters": {"train.learning_rate": [0.01, 0.05, 0.1, 0.15], "lora.rank": [4, 8]}}


def test_it_tells_what_mattered_and_how_sure_that_is(bench: Bench, workbench: Workbench) -> None:
    bench.submit(recipe(sweep=GRID))
    bench.ticks(70)
    said = workbench("importance", "tiny")
    assert said.code == 0
    title, heads, rate, rank = said.out.splitlines()
    assert title == "tiny: 8 trials counted"
    assert heads.split() == ["setting", "explains", "90", "%", "best"]
    assert rate.split()[0] == "train.learning_rate"
    assert rate.endswith("0.15")
    assert " to " in rate
    assert rank.startswith("lora.rank")
    assert "not significant (p " in rank


def test_as_json_it_tells_the_same(bench: Bench, workbench: Workbench) -> None:
    bench.submit(recipe(sweep=GRID))
    bench.ticks(70)
    told = workbench("importance", "1", "--json").data
    assert (told["experiment"], told["trials"], told["enough"]) == ("tiny", 8, True)
    rate, rank = told["settings"]
    assert rate["low"] <= rate["share"] <= rate["high"]
    assert rate["chance"] <= 0.05 < rank["chance"]


def test_it_tells_which_trials_it_did_not_count(bench: Bench, workbench: Workbench) -> None:
    bench.submit(recipe(sweep=GRID))
    bench.ticks(2)
    for trial in (8, 9):
        drop_request(bench.context.home.requests, "kill", {"trial": trial})
    bench.ticks(70)
    title = workbench("importance", "tiny").out.splitlines()[0]
    assert title == "tiny: 6 of 8 trials counted (not counted: 2 killed)"


def test_below_eight_trials_it_says_so(bench: Bench, workbench: Workbench) -> None:
    bench.submit(recipe(sweep={"parameters": {"lora.rank": [4, 8]}}))
    bench.ticks(30)
    said = workbench("importance", "tiny")
    assert said.out.splitlines() == [
        "tiny: 2 trials counted",
        "too few trials: at least 8 must finish with a score or end early",
    ]
    assert workbench("importance", "tiny", "--json").data["enough"] is False


def test_an_unknown_experiment_names_those_there_are(bench: Bench, workbench: Workbench) -> None:
    bench.submit(recipe())
    said = workbench("importance", "huge")
    assert said.code == 3
    assert "there are: tiny" in said.err

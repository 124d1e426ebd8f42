"""Sweeps in recipes are accepted, or refused with the line of the mistake."""

from __future__ import annotations

from pathlib import Path

import pytest

from workbench.errors import RecipeError
from workbench.recipe import (
    Recipe,
    finals_count,
    read_recipe,
    recipe_json_schema,
    to_yaml,
    trial_count,
)

SMALL = """\
name: small
model: {name: acme/tiny}
data: {train: acme/rows}
evaluate: {every: 10}
"""
FULL = (
    SMALL
    + """\
sweep:
  method: tpe
  trials: 30
  hours: 8
  gpu_hours: 12.5
  objective: loss
  direction: minimize
  early_stop: {method: asha, from_step: 20, reduction: 4}
  parameters:
    train.learning_rate: {min: 1e-5, max: 1e-3, log: true}
    lora.rank: [8, 16, 32]
    lora.rslora: [true, false]
    lora.alpha: {min: 1, max: 64, when: {lora.rslora: true}}
    train.schedule: {values: [linear, cosine], when: {lora.rank: [8, 16]}}
"""
)


def read(text: str, *overrides: str) -> Recipe:
    return read_recipe(text, folder=Path("/nowhere"), overrides=overrides)


def mistakes(text: str, *overrides: str) -> list[str]:
    with pytest.raises(RecipeError) as refused:
        read(text, *overrides)
    return refused.value.what.splitlines()


def swept(parameters: str, method: str = "tpe") -> str:
    lines = "".join(f"    {line}\n" for line in parameters.splitlines())
    return SMALL + f"sweep:\n  method: {method}\n  trials: 9\n  parameters:\n{lines}"


def stopped(early_stop: str, every: str = "10", steps: str = "100") -> str:
    return (
        SMALL.replace("every: 10", f"every: {every}")
        + f"train: {{max_steps: {steps}}}\n"
        + f"sweep:\n  early_stop: {{{early_stop}}}\n  parameters: {{lora.rank: [4, 8]}}\n"
    )


def test_a_whole_sweep_is_read_and_reads_back() -> None:
    recipe = read(FULL)
    assert recipe.sweep is not None
    assert recipe.sweep.early_stop is not None
    assert recipe.sweep.early_stop.reduction == 4
    assert recipe.objective == ("loss", False)
    assert read(to_yaml(recipe)) == recipe


def test_a_sweep_is_changed_from_the_command_line() -> None:
    recipe = read(
        FULL,
        "sweep.early_stop.method=median",
        "sweep.early_stop.reduction=3",
        "sweep.trials=5",
        "sweep.parameters.lora.alpha={min: 2, max: 4, when: {lora.rslora: [true]}}",
    )
    assert recipe.sweep is not None
    assert recipe.sweep.early_stop is not None
    assert recipe.sweep.early_stop.method == "median"
    assert recipe.sweep.trials == 5
    assert read(FULL, "sweep.early_stop=null").sweep.early_stop is None  # type: ignore[union-attr]


def test_the_objective_is_the_boards_where_none_is_named() -> None:
    scored = read(FULL, "sweep.objective=auto", "sweep.direction=auto", "evaluate.answer_pattern=x")
    assert scored.objective == ("exact_match", True)
    assert read(FULL, "sweep.objective=token_accuracy", "sweep.direction=auto").objective[1]


def test_the_board_ranks_by_the_objective_unless_it_says_otherwise() -> None:
    answers = "evaluate.answer_pattern=x"
    assert read(FULL, answers).rank_by == "loss"
    assert read(FULL, answers, "sweep.objective=perplexity").rank_by == "perplexity"
    assert read(FULL, answers, "sweep.objective=eval_loss").rank_by == "loss"  # where it ends
    assert read(FULL, answers, "evaluate.rank_by=exact_match").rank_by == "exact_match"


def test_a_direction_that_prefers_the_worst_is_refused_with_its_line() -> None:
    assert mistakes(FULL.replace("minimize", "maximize")) == [
        "recipe.yaml:11: sweep.direction: loss is better when it is lower; leave the direction out"
    ]


@pytest.mark.parametrize(
    ("parameters", "told"),
    [
        (
            "lora.alpha: {min: 1, max: 4, when: {lora.rslora: true}}",
            "recipe.yaml:9: lora.alpha exists when lora.rslora has a value, which is not swept",
        ),
        (
            "lora.rank: {min: 4, max: 8, integer: true}\n"
            "lora.alpha: {min: 1, max: 4, when: {lora.rank: 4}}",
            "recipe.yaml:10: lora.alpha depends on lora.rank, which is a range; list its values",
        ),
        (
            "lora.rslora: [true]\nlora.alpha: {values: [1], when: {lora.rslora: false}}",
            "recipe.yaml:10: lora.alpha never exists: lora.rslora is never false",
        ),
        (
            "lora.rank: {values: [4], when: {lora.alpha: 1}}\n"
            "lora.alpha: {values: [1], when: {lora.rank: 4}}",
            "the conditions of lora.rank and lora.alpha depend on each other",
        ),
        (
            "lora.rank: {values: [4, 0]}",
            "recipe.yaml:9: as a value to try, lora.rank must be above 0, not 0",
        ),
        ("lora.rank: {values: []}", "is empty"),
        (
            "lora.rank: {values: [4], wehn: {lora.alpha: 1}}",
            "sweep.parameters.lora.rank.wehn is not a setting",
        ),
        ("lora.dropout: {max: 0.5}", "min is missing"),
        ("lora.rank: 4", "must be a list of values, or a range with min and max, not 4"),
        ("lora.rank: {min: 4.2, max: 4.8, integer: true}", "no whole number"),
    ],
)
def test_a_parameter_that_cannot_be_is_reported(parameters: str, told: str) -> None:
    assert any(told in line for line in mistakes(swept(parameters)))


@pytest.mark.parametrize("method", ["random", "tpe"])
def test_draws_need_a_number_or_a_budget(method: str) -> None:
    text = swept("lora.rank: [4, 8]", method).replace("  trials: 9\n", "")
    assert "or a budget in hours or gpu_hours" in mistakes(text)[0]
    assert read(text, "sweep.hours=2").sweep is not None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            stopped("method: asha", every="null"),
            "recipe.yaml:7: sweep.early_stop needs a curve of held-out losses; set evaluate.every",
        ),
        (
            stopped("method: asha", every="100"),
            "trials have 100 steps and the first evaluation that counts is at step 100; lower",
        ),
        (stopped("method: patience, from_step: 200"), "is at step 200; lower evaluate.every"),
        (stopped("method: median, reduction: 4"), "reduction belongs to method: asha, not median"),
        (stopped("method: threshold"), "method: threshold needs above"),
        (stopped("method: ahsa"), "must be one of asha, median, patience, threshold"),
        (stopped("reduction: 1"), "sweep.early_stop.reduction must be at least 2, not 1"),
        (stopped("patience: 1"), "sweep.early_stop.patience is not a setting"),
    ],
)
def test_early_stopping_that_cannot_work_is_reported(text: str, told: str) -> None:
    assert any(told in line for line in mistakes(text))


def test_an_objective_that_no_trial_leaves_is_reported() -> None:
    assert (
        "needs evaluate.answer_pattern"
        in mistakes(FULL, "sweep.objective=exact_match", "sweep.direction=auto")[0]
    )
    text = FULL.replace("every: 10", "every: null")
    told = mistakes(text, "sweep.objective=eval_loss", "sweep.early_stop=null")
    assert "eval_loss needs a curve" in told[0]


def test_trials_are_counted() -> None:
    grid = "sweep: {parameters: {lora.rank: [1, 2], train.seed: [1, 2, 3]}}"
    assert trial_count(None) == 1
    assert trial_count(read(SMALL + grid).sweep) == 6
    assert trial_count(read(SMALL + grid, "sweep.trials=4").sweep) == 4
    assert trial_count(read(SMALL + grid, "sweep.method=random", "sweep.trials=9").sweep) == 6
    assert trial_count(read(SMALL + grid, "sweep.method=tpe", "sweep.trials=9").sweep) == 6
    assert trial_count(read(FULL, "sweep.trials=null").sweep) is None
    ranks = "{lora.rank: {min: 4, max: 6, integer: true}}"
    whole = f"sweep: {{method: random, trials: 9, parameters: {ranks}}}"
    assert trial_count(read(SMALL + whole).sweep) == 3
    conditional = (
        "lora.rslora: [true, false]\nlora.alpha: {values: [1, 2, 3], when: {lora.rslora: true}}"
    )
    text = swept(conditional, "grid").replace("  trials: 9\n", "")
    assert trial_count(read(text).sweep) == 4


def test_finals_add_their_trials_but_no_more_settings_than_there_are() -> None:
    assert finals_count(None) == 0
    assert finals_count(read(FULL, "sweep.finals=null").sweep) == 0
    assert finals_count(read(FULL, "sweep.finals={top: 3, seeds: 4}").sweep) == 12
    few = read(FULL, "sweep.finals={top: 3, seeds: 4}", "sweep.method=random", "sweep.trials=2")
    assert finals_count(few.sweep) == 8


def test_the_schema_describes_the_three_forms_of_a_parameter() -> None:
    defs = recipe_json_schema()["$defs"]
    forms = defs["Sweep"]["properties"]["parameters"]["additionalProperties"]["oneOf"]
    assert len(forms) == 3
    assert "arXiv" in defs["EarlyStop"]["properties"]["method"]["description"]

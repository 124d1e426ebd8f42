"""evaluate.scorer, and the scores that a board and a search may name."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from workbench.errors import RecipeError
from workbench.recipe import Recipe, read_recipe
from workbench.recipe.schema import Evaluate
from workbench.recipe.scorer_names import unknown_scorer
from workbench.trial import up_is_better

HEAD = "name: x\nmodel: {name: org/model}\ndata: {train: org/data}\n"


def recipe(text: str) -> Recipe:
    return read_recipe(f"{HEAD}{text}", file="recipe.yaml", folder=Path("/"))


@pytest.mark.parametrize(
    ("evaluate", "scorers", "rank_by"),
    [
        ("{}", (), "loss"),
        ("{answer_pattern: x}", ("exact_match",), "exact_match"),
        ("{scorer: f1}", ("f1",), "f1"),
        ("{scorer: [rouge_l, json], answer_pattern: x}", ("rouge_l", "json"), "rouge_l"),
        ("{scorer: [f1, 'rubric:min'], rank_by: 'rubric:min'}", ("f1", "rubric:min"), "rubric:min"),
        ("{scorer: f1, rank_by: loss}", ("f1",), "loss"),
    ],
)
def test_the_first_scorer_ranks_unless_another_score_is_named(
    evaluate: str, scorers: tuple[str, ...], rank_by: str
) -> None:
    read = recipe(f"evaluate: {evaluate}\n")
    assert read.evaluate.scorers == scorers
    assert read.rank_by == rank_by


@pytest.mark.parametrize(
    ("score", "up"),
    [
        *((name, True) for name in ("exact_match", "f1", "rouge_l", "json", "rubric")),
        *((name, False) for name in ("loss", "eval_loss", "perplexity", "rubric:min")),
        ("token_accuracy", True),
    ],
)
def test_the_name_of_a_score_says_its_direction(score: str, up: bool) -> None:
    assert up_is_better(score) is up


def test_a_search_may_optimise_a_scorer_in_its_own_direction_only() -> None:
    sweep = "sweep: {objective: 'errors:min', direction: %s, parameters: {lora.rank: [4, 8]}}\n"
    scored = "evaluate: {scorer: 'errors:min'}\n"
    assert recipe(f"{scored}{sweep % 'minimize'}").objective == ("errors:min", False)
    with pytest.raises(RecipeError, match="errors:min is better when it is lower"):
        recipe(f"{scored}{sweep % 'maximize'}")


def test_an_unknown_objective_names_the_nearest_score() -> None:
    sweep = "sweep: {objective: rouge_1, parameters: {lora.rank: [4, 8]}}\n"
    with pytest.raises(RecipeError, match=r"did you mean rouge_l\?"):
        recipe(f"evaluate: {{scorer: rouge_l}}\n{sweep}")


@pytest.mark.parametrize(
    ("scorer", "words"),
    [
        ("../evil", "names a scorer without folder and ending"),
        ("scorers/rubric.py", "names a scorer without folder and ending"),
        ("Rubric", "small letters"),
        ("loss", "another score has this name"),
        ("f1:min", "a higher f1 is better"),
        ([], "is empty"),
        (["f1", "f1"], "names a scorer twice"),
        (["rubric", "rubric:min"], "in both directions"),
    ],
)
def test_a_name_that_can_name_no_scorer_is_refused(scorer: str | list[str], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Evaluate(scorer=scorer)


def test_ranking_by_a_score_that_is_not_made_is_refused() -> None:
    with pytest.raises(ValidationError, match="f2 is no score of this recipe; it has auto, loss"):
        Evaluate(scorer="f1", rank_by="f2")


def test_an_unknown_scorer_is_told_the_known_ones(tmp_path: Path) -> None:
    told = unknown_scorer("rogue_l", ["rubric"], tmp_path)
    assert "Did you mean rouge_l? Known: exact_match, f1, rouge_l, json" in told
    assert f"of your own: rubric in {tmp_path}" in told


def test_a_task_file_is_named_by_its_absolute_path() -> None:
    assert Evaluate(task="/x/sums.yaml", rank_by="sums_acc").rank_by == "sums_acc"
    with pytest.raises(ValidationError, match="give its absolute path"):
        Evaluate(task="sums.yaml")

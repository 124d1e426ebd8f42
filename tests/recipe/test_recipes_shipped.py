"""Every shipped recipe loads, and suits the cards that it names."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from workbench.errors import NotThere
from workbench.footprint import named_config
from workbench.footprint.outlook import outlook_on
from workbench.footprint.usual_cards import card_of_size
from workbench.recipe import (
    find_recipe,
    list_recipes,
    load_recipe,
    read_recipe,
    shipped_file,
    to_yaml,
)
from workbench.recipe.schema import Range

NAMES = [recipe.name for recipe in list_recipes()]


def test_the_recipes_are_there() -> None:
    assert {"demo", "llama3-8b-qlora", "llama3-8b-qlora-16gb", "gsm8k-chat"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_recipe_loads_and_reads_back(name: str, tmp_path: Path) -> None:
    path = Path(shutil.copy(find_recipe(name), tmp_path))
    (tmp_path / "train.jsonl").touch()
    recipe = load_recipe(path)
    assert recipe.name == name
    assert read_recipe(to_yaml(recipe), folder=tmp_path) == recipe


@pytest.mark.parametrize("recipe", list_recipes(), ids=NAMES)
def test_a_shipped_recipe_says_what_it_is_for(recipe: object) -> None:
    about = getattr(recipe, "about", "")
    assert 20 < len(about) < 120


def test_the_guides_settings_are_the_defaults() -> None:
    told = load_recipe(find_recipe("llama3-8b-qlora"))
    assert told.train.optimizer == "paged_adamw_8bit"
    assert told.train.keep == "best"  # because it evaluates while it trains
    others = {"optimizer", "keep"}
    defaults = type(told.train)()
    assert told.train.model_dump(exclude=others) == defaults.model_dump(exclude=others)
    assert told.lora == type(told.lora)()


def test_a_t4_recipe_asks_for_nothing_a_t4_lacks() -> None:
    for name in ("llama3-8b-qlora-16gb", "llama3-8b-qlora-16gb-sweep"):
        recipe = load_recipe(find_recipe(name))
        assert (recipe.model.precision, recipe.model.attention) == ("fp16", "sdpa")


SUITED = {
    "llama3-8b-qlora": 24,
    "llama3-8b-qlora-sweep": 24,
    "llama3-8b-qlora-16gb": 16,
    "llama3-8b-qlora-16gb-sweep": 16,
    "llama3-8b-qlora-12gb": 12,
    "gemma4-e4b-qlora": 12,
    "granite-8b-qlora": 16,
    "granite4-micro-qlora": 12,
    "ministral3-8b-qlora": 16,
    "olmo3-7b-qlora": 16,
    "qwen3.5-4b-qlora": 12,
    "qwen3.5-9b-qlora": 24,
    "smollm3-3b-qlora": 8,
}
"""The card that a recipe's first sentence names, in GB."""


@pytest.mark.parametrize("name", SUITED)
def test_a_recipe_fits_the_card_that_it_names(name: str) -> None:
    about = next(one.about for one in list_recipes() if one.name == name)
    assert f"{SUITED[name]} GB card" in about
    recipe = load_recipe(find_recipe(name))
    card = card_of_size(SUITED[name] << 30, "")
    assert outlook_on(recipe, named_config(recipe.model.name) or {}, card).fits


def test_the_sweep_of_an_8b_holds_the_learning_rate_that_suits_it() -> None:
    sweep = load_recipe(find_recipe("llama3-8b-qlora-sweep")).sweep
    assert sweep is not None
    rates = sweep.parameters["train.learning_rate"]
    assert isinstance(rates, Range)
    assert rates.log
    assert rates.min < 2.9e-4 / 2 < 2.9e-4 * 2 < rates.max


def test_an_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(NotThere) as gone:
        find_recipe("dmeo")
    assert gone.value.hint == "did you mean demo?"


@pytest.mark.parametrize(
    "name", ["workbench:../pyproject.toml", "workbench:/etc/passwd", "workbench:", "workbench:no"]
)
def test_only_files_of_the_package_ship(name: str) -> None:
    with pytest.raises(NotThere):
        shipped_file(name)


def test_a_file_of_the_package_is_found() -> None:
    assert shipped_file("workbench:recipe/schema.py").is_file()


def test_a_name_longer_than_a_file_system_takes_is_not_there() -> None:
    with pytest.raises(NotThere):
        shipped_file("workbench:" + "x" * 3_000)
    with pytest.raises(NotThere):
        find_recipe("x" * 3_000)

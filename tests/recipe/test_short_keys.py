"""Settings named without their section."""

from __future__ import annotations

import pytest

from workbench.errors import RecipeError
from workbench.recipe import find_recipe, load_recipe
from workbench.recipe.keys import full_key


@pytest.mark.parametrize(
    ("short", "full"),
    [
        ("rank", "lora.rank"),
        ("lr", "train.learning_rate"),
        ("max_tokens", "data.max_tokens"),
        ("batch_size", "batch_size"),  # train and evaluate both have one
        ("lora.rank", "lora.rank"),
        ("name", "name"),
        ("nothing", "nothing"),
    ],
)
def test_a_key_without_a_section_is_understood_where_one_section_has_it(
    short: str, full: str
) -> None:
    assert full_key(short) == full


def test_overrides_take_short_keys() -> None:
    recipe = load_recipe(find_recipe("llama3-8b-qlora"), ["rank=8", "lr=1e-4"])
    assert (recipe.lora.rank, recipe.train.learning_rate) == (8, 1e-4)


def test_a_key_of_several_sections_names_them() -> None:
    with pytest.raises(RecipeError, match=r"train\.batch_size or evaluate\.batch_size"):
        load_recipe(find_recipe("llama3-8b-qlora"), ["batch_size=2"])

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
        ("batch_size", "train.batch_size"),  # evaluate has one too
        ("seed", "train.seed"),  # the sweep has one too
        ("method", "sweep.method"),  # sweep.early_stop has one too
        ("revision", "revision"),  # model and data have one
        ("lora.rank", "lora.rank"),
        ("name", "name"),
        ("nothing", "nothing"),
    ],
)
def test_a_key_without_a_section_is_understood_where_one_section_comes_first(
    short: str, full: str
) -> None:
    assert full_key(short) == full


def test_overrides_take_short_keys() -> None:
    recipe = load_recipe(find_recipe("llama3-8b-qlora"), ["rank=8", "lr=1e-4"])
    assert (recipe.lora.rank, recipe.train.learning_rate) == (8, 1e-4)


def test_a_key_of_several_sections_names_what_can_be_typed() -> None:
    with pytest.raises(RecipeError, match=r"write model\.revision=…, or data\.revision=…"):
        load_recipe(find_recipe("llama3-8b-qlora"), ["revision=main"])

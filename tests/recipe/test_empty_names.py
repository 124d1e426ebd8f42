"""Names that are empty where a setting is wanted."""

from __future__ import annotations

import pytest

from workbench.errors import RecipeError
from workbench.recipe import read_recipe, recipes_folder


def test_a_condition_on_an_empty_name_is_refused_with_words() -> None:
    text = (
        "name: a\nmodel: {name: workbench:demo/model}\n"
        "data: {train: workbench:demo/data/train.jsonl}\n"
        "sweep:\n  method: random\n  trials: 2\n  parameters:\n"
        "    lora.rank: [4, 8]\n"
        "    lora.alpha: {min: 4, max: 64, when: {'': null}}\n"
    )
    with pytest.raises(RecipeError, match="exists when an empty name has a value"):
        read_recipe(text, folder=recipes_folder())

"""The recipe: its schema, its reader, and overrides from the command line."""

from workbench.recipe.dump import recipe_json_schema, to_yaml
from workbench.recipe.names import local_path
from workbench.recipe.reader import apply_settings, load_recipe, read_recipe, settings_of
from workbench.recipe.schema import Recipe
from workbench.recipe.shipped import (
    ShippedRecipe,
    find_recipe,
    list_recipes,
    recipes_folder,
    shipped_file,
)
from workbench.recipe.space import trial_count
from workbench.recipe.validate import no_curve_for

__all__ = [
    "Recipe",
    "ShippedRecipe",
    "apply_settings",
    "find_recipe",
    "list_recipes",
    "load_recipe",
    "local_path",
    "no_curve_for",
    "read_recipe",
    "recipe_json_schema",
    "recipes_folder",
    "settings_of",
    "shipped_file",
    "to_yaml",
    "trial_count",
]

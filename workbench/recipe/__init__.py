"""The recipe: the typed schema, the YAML reader, overrides from the command line, the search space.

The CLI, the service, the scheduler and training read recipes through the names below. `keys`,
`source`, `validate` and `names` are the steps of the reader. This package may import
`workbench.trial`, `workbench.text` and `workbench.errors`, and it is the only one that imports
yaml. It knows neither the store nor torch.
"""

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
    shipped_recipe,
)
from workbench.recipe.space import finals_count, trial_count
from workbench.recipe.validate import early_stop_problem_for

__all__ = [
    "Recipe",
    "ShippedRecipe",
    "apply_settings",
    "early_stop_problem_for",
    "finals_count",
    "find_recipe",
    "list_recipes",
    "load_recipe",
    "local_path",
    "read_recipe",
    "recipe_json_schema",
    "recipes_folder",
    "settings_of",
    "shipped_file",
    "shipped_recipe",
    "to_yaml",
    "trial_count",
]

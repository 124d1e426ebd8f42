"""The recipe: its schema, its reader, and overrides from the command line."""

from workbench.recipe.schema import Recipe

__all__ = ["Recipe"]

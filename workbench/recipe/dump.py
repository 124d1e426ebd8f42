"""Write a recipe as YAML, and make the recipe's JSON schema for editors."""

from __future__ import annotations

from typing import Any

import yaml

from workbench.recipe.keys import setting_fields
from workbench.recipe.schema import Recipe
from workbench.recipe.source import BOOL, FLOAT, INT, NULL
from workbench.recipe.validate import not_swept


class _Dumper(yaml.SafeDumper):
    """A YAML writer that quotes exactly the text that our reader would not read as text.

    PyYAML's own resolvers follow YAML 1.1; ours follow the patterns of `source`, so that
    `load_recipe` reads back every value with its type.
    """

    # A table of its own: the inherited one would be shared with all of PyYAML.
    yaml_implicit_resolvers: dict[Any, Any] = {}  # noqa: RUF012

    # An anchor in the output could not be read back, because our reader refuses them.
    def ignore_aliases(self, data: Any) -> bool:
        return True


for _tag, _pattern in (("null", NULL), ("bool", BOOL), ("int", INT), ("float", FLOAT)):
    _Dumper.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", _pattern, None)


def to_yaml(recipe: Recipe) -> str:
    """Return the recipe as YAML with every default spelled out.

    `load_recipe` reads the text back into an equal recipe.
    """
    return yaml.dump(
        recipe.model_dump(exclude_none=True),
        Dumper=_Dumper,
        sort_keys=False,
        allow_unicode=True,
        width=100,
    )


def recipe_json_schema() -> dict[str, Any]:
    """Return the JSON schema of a recipe file, with each setting's meaning as its description.

    The keys that a sweep may vary are an enum, so that an editor completes them.
    """
    schema = Recipe.model_json_schema()
    # With data.eval, more keys may vary; an editor should offer those too.
    swept = [key for key in setting_fields() if not not_swept(key, {"data": {"eval": "given"}})]
    schema["$defs"]["Sweep"]["properties"]["parameters"]["propertyNames"] = {"enum": swept}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}

"""Recipes that were damaged on purpose are read, planned, drawn from and written again, without an
engine. Each is accepted or refused with a message; no other exception occurs."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from workbench.errors import WorkbenchError
from workbench.footprint.model.known_models import named_config
from workbench.footprint.sweeps.card_outlooks import card_outlooks
from workbench.footprint.usual_cards import usual_card
from workbench.machine.cards import Card
from workbench.recipe import list_recipes, read_recipe, to_yaml
from workbench.recipe.keys import setting_fields, type_alternatives
from workbench.recipe.schema import Recipe
from workbench.recipe.shipped import recipes_folder
from workbench.recipe.source import parse_yaml
from workbench.recipe.space import trial_count
from workbench.search import initial_points, is_one_by_one, next_point
from workbench.text import safe_line

WHOLE = [
    parse_yaml(shipped.path.read_text().replace("./train.jsonl", "acme/rows"), shipped.name).data
    for shipped in list_recipes()
]
SWEPT = [whole for whole in WHOLE if "sweep" in whole]
HOSTILE = [
    *["", " ", "\0", "\x1b[31m", "\x1b]52;c;AAAA\x07", "[red]", "\u202egnp", "\u200b", "x" * 5_000],
    *[
        "{}",
        "[]",
        "null",
        "~",
        "*a",
        "&a",
        "!!python/object:os",
        "yes",
        "off",
        "12:30",
        "2026-11-25",
    ],
    *["1e-4", "1e999", "-0", "0x10", "1_000", "nan", ".inf", "-.inf", "NaN", "24GiB", "-1GiB", "."],
    *[
        "../..",
        "/etc/passwd",
        "a/b/c",
        "demo/data",
        "lora.rank",
        "train..x",
        "q_proj",
        "all-linear",
    ],
]
WORD = st.sampled_from(HOSTILE) | st.text(max_size=8)
NUMBER = (
    st.sampled_from([0, 1, -1, 2**31, 2**63, 10**30, 0.0, -0.0, 1e-300, 1e308])
    | st.integers()
    | st.floats()
)
RANGE = st.fixed_dictionaries(
    {}, optional={name: NUMBER | st.booleans() | WORD for name in ("min", "max", "log", "integer")}
)
VALUE: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | NUMBER | WORD | RANGE,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORD, inner, max_size=3),
    max_leaves=5,
)


def choices(setting: Any) -> list[str]:
    """Return the words that a setting accepts, if it accepts words of a list."""
    kinds = type_alternatives(setting.annotation)
    return [word for kind in kinds for word in get_args(kind) if isinstance(word, str)]


NUMBERS = st.integers(1, 600) | st.floats(1e-6, 1)
WORDS = st.sampled_from(
    sorted({word for setting in setting_fields().values() for word in choices(setting)})
)


def near(value: Any) -> st.SearchStrategy[Any]:
    """Draw a value that resembles the given one."""
    if isinstance(value, bool):
        return st.booleans() | st.none()
    if isinstance(value, int | float):
        return NUMBERS | st.none()
    if isinstance(value, list):
        spans = st.builds(lambda a, b: {"min": min(a, b), "max": max(a, b)}, NUMBERS, NUMBERS)
        return st.lists(NUMBERS, min_size=1, max_size=4) | spans
    return WORDS | NUMBERS


def places(data: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path of every value, including sections and list items."""
    found = [path] if path else []
    if isinstance(data, dict | list):
        for key in data if isinstance(data, dict) else range(len(data)):
            found += places(data[key], (*path, key))
    return found


@st.composite
def broken_recipes(draw: st.DrawFn) -> str:
    """Draw a shipped recipe with up to three values replaced, removed, added or shortened."""
    data = copy.deepcopy(draw(st.sampled_from(WHOLE + 2 * SWEPT)))
    for _ in range(draw(st.integers(0, 3))):
        there = places(data)
        if not there:
            break
        *way, last = draw(st.sampled_from(there))
        holder = data
        for key in way:
            holder = holder[key]
        how = draw(st.sampled_from(["nudge"] * 5 + ["replace", "remove", "add"]))
        if how == "remove":
            del holder[last]
        elif how == "add" and isinstance(holder, dict):
            holder[draw(WORD | NUMBER | st.sampled_from(sorted(setting_fields())))] = draw(VALUE)
        elif how == "nudge" and not isinstance(holder[last], dict):
            holder[last] = draw(near(holder[last]))
        else:
            holder[last] = draw(VALUE)
    text = yaml.safe_dump(data, allow_unicode=True, sort_keys=False)
    if draw(st.integers(0, 9)) == 0:
        at = draw(st.integers(0, len(text)))
        text = text[:at] + draw(WORD) + text[draw(st.integers(at, len(text))) :]
    return text


OVERRIDE = st.builds(
    "{}={}".format,
    st.sampled_from(
        ["lora.rank", "train.batch_size", "sweep", "sweep.parameters", "model", "x", ""]
    ),
    WORD | NUMBER | VALUE.map(lambda value: yaml.safe_dump(value, default_flow_style=True).strip()),
)


def is_taken_or_refused_with_words(text: str, overrides: list[str]) -> None:
    try:
        recipe = read_recipe(text, folder=recipes_folder(), overrides=overrides)
        _used(recipe)
    except WorkbenchError as refused:
        lines = refused.what.splitlines()
        assert lines
        assert all(line and line == safe_line(line, len(line)) for line in lines), lines


def _used(recipe: Recipe) -> None:
    """Use the recipe as plan, check and the engine do."""
    assert read_recipe(to_yaml(recipe), folder=Path("/nowhere")) == recipe
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe
    card = usual_card("3090")
    _planned(recipe, card)
    if is_one_by_one(recipe.sweep):
        next_point(recipe, 1, [])
    elif (trial_count(recipe.sweep) or 0) < 1_000:
        initial_points(recipe)


def _planned(recipe: Recipe, card: Card) -> None:
    config = named_config("llama-3.2-1b")
    assert config is not None
    card_outlooks(recipe, config, [card])


@settings(max_examples=200, deadline=None)
@given(text=broken_recipes(), overrides=st.lists(OVERRIDE, max_size=1))
def test_a_broken_recipe_is_taken_or_refused_with_words(text: str, overrides: list[str]) -> None:
    is_taken_or_refused_with_words(text, overrides)


@pytest.mark.slow
@settings(max_examples=5_000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(text=broken_recipes(), overrides=st.lists(OVERRIDE, max_size=1))
def test_five_thousand_broken_recipes_are_taken_or_refused_with_words(
    text: str, overrides: list[str]
) -> None:
    is_taken_or_refused_with_words(text, overrides)

"""A child process that plans a recipe while somebody changes it: the New run page's other half.

It reads questions from stdin and writes answers to stdout, one JSON object a line, until stdin
ends. It asks the same planner, reader and cards as `workbench plan`. The screen starts it by name,
so that pydantic and the planner's arithmetic stay out of the process that answers keys.

A question has `recipe` (a file, or a shipped name), or `text` (an edited recipe), or `trial` (clone
it); and `words`, settings such as `rank=8`. An answer has `ok`; then what a draft is made of, or
`error` and `hint`.
"""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from workbench.cli.recipes.measured_history import measured_history
from workbench.cli.recipes.plan import cards_here, stand_in
from workbench.errors import NotThere, UsageError, WorkbenchError
from workbench.footprint.model.config import find_config, refuse_untrainable
from workbench.footprint.model.positions import positions_warning
from workbench.footprint.model.target_names import targets_warning
from workbench.footprint.outlook import Outlook
from workbench.footprint.plan import describe_plan
from workbench.footprint.sweeps.card_outlooks import card_outlooks
from workbench.formatting import setting_text
from workbench.machine.cards import Card
from workbench.recipe import (
    Recipe,
    apply_settings,
    find_recipe,
    list_recipes,
    load_recipe,
    read_recipe,
    settings_of,
    to_yaml,
    trial_count,
)
from workbench.service import Service
from workbench.trial_edits import tuned_recipe

Question = Mapping[str, Any]
Answer = dict[str, Any]
_ADVICE = re.compile(r"\b(lower|raise|set) ([a-z_]+\.[a-z_.]+)(?::| to)? ?([\w.+-]*)")


def main() -> int:
    """Answer questions until stdin ends."""
    service = Service()
    for line in sys.stdin:
        print(json.dumps(answer_question(service, json.loads(line))), flush=True)
    return 0


def answer_question(service: Service, question: Question) -> Answer:
    """Return the answer to one question; an error of ours becomes an answer too."""
    try:
        if question.get("list"):
            return {"ok": True, "recipes": known_recipes()}
        return draft(service, question)
    except WorkbenchError as wrong:
        return {"ok": False, "error": wrong.what, "hint": wrong.hint}
    except Exception as broken:  # the screen goes on, and says what happened
        return {"ok": False, "error": f"{type(broken).__name__}: {broken}", "hint": ""}


def known_recipes() -> list[dict[str, str]]:
    """Return the recipes of this folder, then those that ship, each with its first sentence."""
    here = [
        {"name": path.name, "path": str(path), "about": "in this folder"}
        for path in sorted(Path.cwd().glob("*.yaml"))
        if _looks_like_recipe(path)
    ]
    shipped = list_recipes()
    return here + [{"name": r.name, "path": str(r.path), "about": r.about} for r in shipped]


def _looks_like_recipe(path: Path) -> bool:
    """Return whether a file has the sections that each recipe has, without reading it as one."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")[:100_000]
    except OSError:
        return False
    return path.name[0] != "." and all(re.search(rf"(?m)^{s}:", text) for s in ("model", "data"))


def draft(service: Service, question: Question) -> Answer:
    """Return the recipe with its changes, its settings, and an outlook for every card.

    Raises RecipeError for mistakes, and what the planner raises.
    """
    typed, hinted = _split(question.get("words", "")), ""
    words = [word for word in typed if not word.startswith("warm=")]
    warm = _warm([word.removeprefix("warm=") for word in typed if word.startswith("warm=")])
    if (trial := question.get("trial")) is not None:
        begun, hinted = _trial_recipe(service, int(trial))
        text = question.get("text") or to_yaml(begun)
        recipe = read_recipe(text, file="recipe.yaml", folder=Path.cwd(), overrides=words)
    elif text := question.get("text"):
        begun = read_recipe(text, file="recipe.yaml", folder=Path.cwd())
        recipe = read_recipe(text, file="recipe.yaml", folder=Path.cwd(), overrides=words)
    else:
        path = find_recipe(str(question["recipe"]))
        begun, recipe = load_recipe(path), load_recipe(path, words)
    changes = settings_of(recipe, than=begun)
    return {
        "ok": True,
        "name": recipe.name,
        "model": recipe.model.name,
        "trials": trial_count(recipe.sweep),
        "max_parallel": recipe.sweep.max_parallel if recipe.sweep else None,
        "settings": _settings(recipe),
        "changes": changes,
        "changed": sorted(changes),
        "hinted": hinted,
        "warm": warm,
        "recipe": recipe.model_dump(mode="json"),
        "text": to_yaml(recipe),
        **_outlook(service, recipe),
    }


def _split(typed: str) -> list[str]:
    try:
        return shlex.split(typed)
    except ValueError:
        raise UsageError("a quote is not closed", hint="close it, or leave it out") from None


def _warm(named: list[str]) -> dict[str, int | None]:
    """Return the arguments of a warm start from the trial named last; none where none is named."""
    if not named:
        return {}
    if named[-1] == "none":
        return {"warm_trial": None}
    if not (named[-1].isascii() and named[-1].isdecimal()):
        raise UsageError(
            f"warm={named[-1]} names no trial", hint="type warm=7, or warm=none for a fresh adapter"
        )
    return {"warm_trial": int(named[-1])}


def _trial_recipe(service: Service, trial: int) -> tuple[Recipe, str]:
    """Return a trial's recipe, and settings that follow its hint where it failed."""
    detail = service.trial(trial)
    recipe = tuned_recipe(detail.experiment, detail.trial)
    return recipe, hinted_settings(detail.trial.hint, settings_of(recipe))


def hinted_settings(hint: str, settings: Mapping[str, object]) -> str:
    """Return the first advice of a hint as settings to type; empty where it names no setting.

    `lower KEY to VALUE` and `set KEY: VALUE` name the value; `lower KEY` takes half of what it is,
    and `raise KEY` twice.
    """
    found = _ADVICE.search(hint)
    if found is None:
        return ""
    verb, key, value = found.groups()
    key = key.rstrip(".")
    now = settings.get(key)
    if value and re.fullmatch(r"[-+.\d].*|true|false|[a-z]+\d+|eager|completion|all", value):
        return f"{key}={value.rstrip('.')}"
    if isinstance(now, bool) or not isinstance(now, int | float) or not now:
        return ""
    new = now / 2 if verb == "lower" else now * 2
    return f"{key}={setting_text(int(new) if isinstance(now, int) else new)}"


def _settings(recipe: Recipe) -> list[list[str]]:
    """Return (key, value) for each setting that is not empty, in the schema's order."""
    return [
        [key, setting_text(value)]
        for key, value in settings_of(recipe).items()
        if value not in (None, {}, [])
    ]


def _outlook(service: Service, recipe: Recipe) -> Answer:
    """Return the outlook on each card and warnings, or why there is none."""
    try:
        config, source = find_config(recipe.model)
        refuse_untrainable(config, recipe.model.name, recipe.model.revision)
        cards = cards_here(service)
        known = bool(cards)
        cards = cards or [stand_in()]
        found = card_outlooks(recipe, config, cards, history=measured_history(service))
    except WorkbenchError as refused:
        missing = isinstance(refused, NotThere)
        return {"cards": [], "unplanned": refused.what, "advice": refused.hint, "missing": missing}
    swept = found[0].point
    point = apply_settings(recipe, swept)
    too_long = positions_warning(point.data.max_tokens, config)
    targets = targets_warning(point.lora, config)
    family = found[0].family.warning()
    by_kind = {one.card.plan_key: one for one in found}
    outlooks = [(card, by_kind.get(card.plan_key)) for card in cards]
    return {
        "cards": [_card(card, one, known=known) for card, one in outlooks if one is not None],
        "measures": source,
        "worst": {key: setting_text(value) for key, value in swept.items()},
        "warnings": [warning for warning in (too_long, targets, family) if warning],
    }


def _card(card: Card, one: Outlook, *, known: bool) -> Answer:
    return {
        "uuid": card.uuid if known else "",
        "name": card.name,
        "fits": one.fits,
        "peak_bytes": one.plan.predicted_bytes,
        "room_bytes": one.room_bytes,
        "buckets": dict(one.plan.buckets),
        "how": describe_plan(one.plan.to_json()),
        "attention": one.plan.attention,
        "precision": one.plan.precision,
        "suggestions": [suggestion.words for suggestion in one.suggestions],
    }


if __name__ == "__main__":
    sys.exit(main())

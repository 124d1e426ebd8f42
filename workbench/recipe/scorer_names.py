"""The names of scorers that `evaluate.scorer` takes: built-in ones, and files of the user's.

A name says everything that a board needs to know: `rubric` is better when it is higher, and
`rubric:min` when it is lower. Nothing has to be loaded to rank by it.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from pathlib import Path

from workbench.text import safe_line
from workbench.trial import LOWER_SUFFIX

BUILT_IN = ("exact_match", "f1", "rouge_l", "json")
"""The scorers that ship with the workbench; a higher value of each is better."""
OTHER_SCORES = (
    "auto",
    "loss",
    "eval_loss",
    "perplexity",
    "token_accuracy",
    "targets",
    "rows",
    "answers",
    "step",
)
"""Names that mean something else among scores, so that no file may have them."""

_NAME = re.compile(r"[a-z][a-z0-9_]{0,55}", re.ASCII)


def file_stem(name: str) -> str:
    """Return the name of the scorer's file without `.py`: `rubric` for `rubric:min`."""
    return name.removesuffix(LOWER_SUFFIX)


def name_problem(name: str) -> str:
    """Return why `name` cannot name a scorer; an empty string if it can."""
    stem = file_stem(name)
    if "/" in name or name.endswith(".py"):
        return "names a scorer without folder and ending: rubric, for scorers/rubric.py in the home"
    if not _NAME.fullmatch(stem):
        return "names a scorer: up to 56 small letters, digits and _, beginning with a letter"
    if stem in OTHER_SCORES:
        return f"cannot name a scorer {stem}: another score has this name"
    if name != stem and stem in BUILT_IN:
        return f"names {stem} with :min, but a higher {stem} is better"
    return ""


def unknown_scorer(name: str, files: Iterable[str], folder: Path) -> str:
    """Return the message about a scorer that is neither built in nor one of `files`.

    It lists the known names and the nearest of them; `folder` is where the files would be.
    """
    own = sorted(files)
    near = difflib.get_close_matches(file_stem(name), [*BUILT_IN, *own], n=1, cutoff=0.6)
    meant = f" Did you mean {near[0]}?" if near else ""
    there = f"{', '.join(own)} in" if own else "none in"
    return (
        f"evaluate.scorer: there is no scorer {safe_line(name, 60)}.{meant} "
        f"Known: {', '.join(BUILT_IN)}; of your own: {there} {safe_line(folder, 200)}"
    )

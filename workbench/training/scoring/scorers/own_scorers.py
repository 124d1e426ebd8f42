"""The user's own scorers: Python files in the home's folder `scorers`, found by their names.

A recipe gives a name and can bring no code. Nothing here runs a file; `sandbox` does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from workbench.errors import RecipeError
from workbench.home import Home, find_home
from workbench.recipe.scorer_names import BUILT_IN, file_stem, name_problem, unknown_scorer
from workbench.trial import up_is_better


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnScorer:
    """A user's own scorer, as a recipe names it."""

    name: str
    """The name in the recipe, which is the name of its score: `rubric`, or `rubric:min`."""
    path: Path
    """The Python file."""

    @property
    def higher_is_better(self) -> bool:
        """True if the recipe says so; `sandbox.run_scorer` compares it with the file."""
        return up_is_better(self.name)


def scorers_folder(root: Path) -> Path:
    """Return the folder of the user's scorers for work that is kept in the folder `root`.

    It is that of `root` itself if it has one. `workbench train` keeps its work in a folder of its
    own, and takes the scorers of the home.
    """
    own = Home(root).scorers
    return own if own.is_dir() else find_home().scorers


def find_own_scorers(folder: Path) -> list[str]:
    """Return the names of the files in `folder` that a recipe can name, sorted."""
    names = {path.stem for path in folder.glob("*.py") if path.is_file()}
    return sorted(name for name in names if not name_problem(name) and name not in BUILT_IN)


def own_scorer(name: str, folder: Path) -> OwnScorer:
    """Return the scorer that `evaluate.scorer` names; `folder` is the home's folder `scorers`.

    Raises RecipeError, with the known names and the nearest one, if there is no such file.
    """
    known = find_own_scorers(folder)
    if file_stem(name) not in known:
        raise RecipeError(
            unknown_scorer(name, known, folder),
            hint=f"put {file_stem(name)}.py into that folder, or name a known scorer "
            "(docs/scorers.md)",
        )
    return OwnScorer(name=name, path=folder / f"{file_stem(name)}.py")


def check_scorers_exist(names: Iterable[str], folder: Path) -> None:
    """Raise RecipeError for the first name that is neither built in nor a file in `folder`."""
    for name in names:
        if name not in BUILT_IN:
            own_scorer(name, folder)


def scorer_digests(names: Iterable[str], folder: Path) -> dict[str, str]:
    """Return the digests of the user's own scorers among `names`: 32 hexadecimal digits by name.

    A file that is gone has an empty digest: it costs a trial its score, and not the trial.
    """
    digests = {}
    for name in names:
        if name not in BUILT_IN:
            path = folder / f"{file_stem(name)}.py"
            body = path.read_bytes() if path.is_file() else None
            digests[name] = "" if body is None else hashlib.sha256(body).hexdigest()[:32]
    return digests

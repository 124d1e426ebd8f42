"""The adapters that the words of a command line name, to be scored."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from workbench import formatting
from workbench.cli.arguments import is_id
from workbench.cli.tables import print_note
from workbench.errors import UsageError
from workbench.service import Service
from workbench.text import safe_line
from workbench.trial import Kind

if TYPE_CHECKING:
    from workbench.adapters.adapter_folder import AdapterFolder
    from workbench.recipe import Recipe
    from workbench.store.rows import Experiment, TrialRow


@dataclass(slots=True)
class NamedAdapters:
    """The adapters that the words of a command line name."""

    adapters: list[int | str] = field(default_factory=list)
    """Ids of trials, and absolute paths of folders."""
    folders: list[AdapterFolder] = field(default_factory=list)
    source: tuple[Experiment, TrialRow | None] | None = None
    """The first experiment or trial that was named: its recipe is taken."""

    @property
    def name(self) -> str:
        """The name of the first of them, as part of the evaluation's name."""
        return self.source[0].name if self.source is not None else self.folders[0].folder.name


def find_adapters(service: Service, words: Sequence[str]) -> NamedAdapters:
    """Return the adapters that `words` name. Raises NotThere and UsageError for others."""
    from workbench.adapters.adapter_folder import read_adapter

    found = NamedAdapters()
    for word in dict.fromkeys(words):
        if is_id(word):
            detail = service.trial(int(word))
            found.source = found.source or (detail.experiment, detail.trial)
            found.adapters.append(detail.trial.id)
        elif _looks_like_folder(service, word):
            folder = Path(os.path.abspath(Path(word).expanduser()))
            found.folders.append(read_adapter(folder))
            found.adapters.append(str(folder))
        else:
            experiment = service.experiment(word)
            found.source = found.source or (experiment, None)
            found.adapters += _adapters_of(service, experiment)
    return found


def _looks_like_folder(service: Service, word: str) -> bool:
    """Return True for a path: by its form, or because no experiment has that name."""
    if "/" in word or word.startswith((".", "~")):
        return True
    if not Path(word).is_dir():
        return False
    known = {one.name for one in service.experiments()}
    if word in known:
        print_note(f"{safe_line(word)} is taken as the experiment; ./{safe_line(word)} is a folder")
    return word not in known


def _adapters_of(service: Service, experiment: Experiment) -> list[int | str]:
    """Return the adapters of an experiment, best first. UsageError where it has none."""
    _, rows = service.board(experiment.id)
    tuned = [row.trial for row in rows if row.kind != Kind.BASE and row.adapter is not None]
    scored = [row.trial for row in rows if row.kind == Kind.SCORE]
    left_out = sum(row.kind == Kind.TUNE and row.adapter is None for row in rows)
    if left_out and tuned:
        print_note(f"{formatting.plural(left_out, 'trial')} without an adapter: left out")
    found = list(dict.fromkeys([*tuned, *scored]))
    if not found:
        raise UsageError(
            f"experiment {safe_line(experiment.name)} has no adapters to score",
            hint=f"see `workbench board {experiment.id}`",
        )
    return list(found)


def check_folders(found: NamedAdapters, recipe: Recipe, *, same_base: bool) -> None:
    """Raise CheckpointError where a folder's configuration names another base than the recipe."""
    from workbench.adapters.base_names import check_base_name

    if not same_base:
        for one in found.folders:
            check_base_name(one, recipe.model.name)

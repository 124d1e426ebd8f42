"""The adapters that an evaluation scores, as a file beside the recipe of its experiment.

The scheduler writes `subjects.json` with a list of {"trial": 5} or {"folder": "/path"}. Where it
is, the experiment only scores. The preparation adds to each folder what it found there, {"digest",
"parameters", "rank", "notes"} or {"error", "hint"}, and returns the list as `subjects` in
prepared.json.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.machine.files import write_durably

SUBJECTS = "subjects.json"
ADAPTER, ROWS = "score.adapter", "score.rows"
"""Settings of a score trial: the adapter (a trial's id, a folder, or None for the base), and the
rows, `eval` or `test`."""

MODELS = "chat.models"
"""Setting of a chat: the trials whose adapters answer; None stands for the base."""
NOT_OF_RECIPE = frozenset({ADAPTER, ROWS, MODELS})
"""Settings of trials that train nothing; they are no settings of a recipe."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subjects:
    """The adapters of an evaluation, in the order in which they were named."""

    adapters: Sequence[int | str]
    """Ids of trials, and absolute paths of folders."""
    same_base: bool = False
    """The person says that folders belong to the recipe's base, whatever their configuration
    names."""


def write_subjects(experiment_folder: Path, subjects: Subjects) -> None:
    """Write the file durably into the experiment's folder."""
    listed = [{_kind(one): one} for one in subjects.adapters]
    text = json.dumps({"subjects": listed, "same_base": subjects.same_base})
    write_durably(experiment_folder / SUBJECTS, text.encode())


def read_subjects(experiment_folder: Path) -> Subjects | None:
    """Return the subjects of an experiment that only scores; None for one that trains.

    Raises ValueError, KeyError or TypeError for a file that holds anything else.
    """
    try:
        given = json.loads((experiment_folder / SUBJECTS).read_bytes())
    except FileNotFoundError:
        return None
    found: list[int | str] = []
    for one in given["subjects"]:
        found.append(int(one["trial"]) if "trial" in one else str(one["folder"]))
    return Subjects(adapters=found, same_base=bool(given["same_base"]))


def scored_adapter(settings: dict[str, Any]) -> int | str | None:
    """Return the adapter that a score trial's settings name; None for the base."""
    found = settings.get(ADAPTER)
    return found if found is None or isinstance(found, int) else str(found)


def is_test(settings: dict[str, Any]) -> bool:
    """Return True for a score trial on the test rows of its experiment."""
    return settings.get(ROWS) == "test"


def subject_of(prepared: dict[str, Any], folder: str) -> dict[str, Any]:
    """Return what the preparation found in an adapter's folder; empty where it did not look."""
    for one in prepared.get("subjects") or ():
        if one.get("folder") == folder:
            return dict(one)
    return {}


def _kind(adapter: int | str) -> str:
    return "trial" if isinstance(adapter, int) else "folder"

"""The files that an attempt needs on a box, and its assignment with the paths as they are there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from workbench.attempts.assignment import Assignment
from workbench.cluster.settings import read_json
from workbench.errors import ModelError
from workbench.fleet.boxes.agent import listed_files
from workbench.home import Home
from workbench.recipe.names import is_shipped, local_path

_MODEL_FILES = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt")


@dataclass(frozen=True, slots=True)
class Input:
    """One file of an attempt: where it lies on the head, and its path in the box's work folder."""

    source: Path
    target: str
    digest: str
    bytes: int


def find_inputs(
    home: Home, given: Assignment, sha256: Callable[[Path], str]
) -> tuple[list[Input], dict[str, Any]]:
    """Return the files that the attempt needs, and what Assignment.brought says of them.

    Reads every file that `sha256` does not know yet. Raises OSError, and ModelError for a base
    that is not whole on the head.
    """
    found = [
        _input(path, str(path.relative_to(home.root)), sha256) for path in _of_home(home, given)
    ]
    prepared = read_json(home.experiment(given.experiment) / "prepared.json")
    base, folder = _base_files(given, prepared, sha256)
    outside = [
        _input(path, f"{_outside(folder)}/{path.relative_to(folder)}", sha256)
        for folder in (source["folder"] for source in _adapters(given))
        if not _is_in(home, folder)
        for path in _files(Path(folder))
    ]
    brought = {"model": folder or None, "rows": prepared["data"]["digest"]}
    return [*found, *base, *outside], brought


def on_box(home: Home, work: Path, given: Assignment, brought: dict[str, Any]) -> Assignment:
    """Return the assignment with each path of the head's home as it is on the box."""

    def moved(source: dict[str, Any] | None) -> dict[str, Any] | None:
        if source is None or not source.get("folder"):
            return source
        folder = str(source["folder"])
        inside = Path(folder).relative_to(home.root) if _is_in(home, folder) else _outside(folder)
        return {**source, "folder": str(work / inside)}

    def there(path: str) -> str:
        return str(work / Path(path).relative_to(home.root))

    model = brought["model"]
    return replace(
        given,
        card={**given.card, "uuid": given.card["uuid"].partition(":")[2]},
        folder=there(given.folder),
        trial_folder=there(given.trial_folder),
        experiment_folder=there(given.experiment_folder),
        warm=moved(given.warm),
        score=moved(given.score),
        brought={**brought, "model": str(work / model) if model else None},
    )


def _of_home(home: Home, given: Assignment) -> Iterator[Path]:
    """Yield the files of the head's home that the attempt reads."""
    experiment = home.experiment(given.experiment)
    yield from (experiment / name for name in ("recipe.json", "prepared.json"))
    prepared = read_json(experiment / "prepared.json")
    yield from _files(home.cache / str(prepared["data"]["digest"]))
    yield from listed_files(home.trial(given.trial))
    for source in _adapters(given):
        if _is_in(home, source["folder"]):
            yield from _files(Path(source["folder"]))
    yield from _files(home.scorers)


def _base_files(
    given: Assignment, prepared: dict[str, Any], sha256: Callable[[Path], str]
) -> tuple[list[Input], str]:
    """Return the files of the base, and their folder on the box; none for a model that ships."""
    name = str(given.recipe["model"]["name"])
    if is_shipped(name):
        return [], ""
    folder = local_path(name) or _snapshot(name, str(prepared["model"]["revision"]))
    files = sorted(path for pattern in _MODEL_FILES for path in folder.glob(pattern))
    digests = {path.name: _name_in_hub(path) or sha256(path) for path in files}
    key = hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()[:32]
    found = [
        Input(path, f"bases/{key}/{path.name}", digests[path.name], path.stat().st_size)
        for path in files
    ]
    return found, f"bases/{key}"


def _name_in_hub(path: Path) -> str:
    """Return the digest by which the cache of the hub names a file of weights; empty for others.

    Reading all of a base would take a minute; the box reads what arrives.
    """
    blob = path.resolve()
    is_sha256 = blob.parent.name == "blobs" and len(blob.name) == 64
    return blob.name if is_sha256 and path.is_symlink() else ""


def _snapshot(name: str, revision: str) -> Path:
    """Return the folder of a hub model in this user's cache. Raises ModelError without one."""
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(name, "config.json", revision=revision)
    if not isinstance(config, str):
        raise ModelError(
            f"{name} is not in the cache of the hub on the head",
            hint="submit the recipe again: that downloads it",
        )
    return Path(config).parent


def _adapters(given: Assignment) -> list[dict[str, Any]]:
    return [one for one in (given.warm, given.score) if one is not None and one.get("folder")]


def _is_in(home: Home, folder: object) -> bool:
    return Path(str(folder)).is_relative_to(home.root)


def _outside(folder: object) -> str:
    """Return the path in the work folder of an adapter that is no trial's of the head's home."""
    return f"adapters/{hashlib.sha256(str(folder).encode()).hexdigest()[:32]}"


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _input(path: Path, target: str, sha256: Callable[[Path], str]) -> Input:
    return Input(path, target, sha256(path), path.stat().st_size)

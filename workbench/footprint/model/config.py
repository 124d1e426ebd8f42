"""Finds a model's config.json without network: in a folder, the hub's cache, or by a known name."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from workbench.errors import ModelError
from workbench.footprint.model.known_models import named_config
from workbench.footprint.model.loadable import refuse_unloadable
from workbench.footprint.model.shape import ModelShape
from workbench.footprint.model.weight_counts import without_counts
from workbench.recipe.names import local_path
from workbench.recipe.schema import Model
from workbench.text import safe_line
from workbench.user_config import may_run_its_code


def find_config(model: Model) -> tuple[dict[str, Any], str]:
    """Return config.json and where it was found, in words. Reads no weights and asks no network.

    Raises ModelError where it is nowhere, or cannot be read.
    """
    folder = local_path(model.name)
    if folder is not None:
        return _read(folder / "config.json"), "config.json in the model's folder"
    for snapshot in _snapshots(model.name, model.revision):
        if (snapshot / "config.json").is_file():
            return _read(snapshot / "config.json"), "config.json in the hub's cache"
    named = named_config(model.name)
    if named is not None:
        return named, "sizes known by the model's name"
    raise ModelError(
        f"the config.json of {safe_line(model.name, 120)} is not on this machine",
        hint=f"fetch it: hf download {safe_line(model.name, 120)} config.json, or give a folder "
        "that holds config.json as model.name",
    )


def refuse_untrainable(config: Mapping[str, Any], name: str, revision: str | None) -> None:
    """Raise ModelError where the model of that config.json can be neither loaded nor planned.

    `name` is the model's name or folder, at that revision. Refused is what loading refuses
    (`refuse_unloadable`), mixtures of experts, and configurations without the sizes of a decoder.
    A model whose own code the user trusts is not judged: the code may know what transformers lacks.
    """
    if not may_run_its_code(name, revision):
        refuse_unloadable(config, name)
        ModelShape.of(config)


def _snapshots(name: str, revision: str | None) -> list[Path]:
    """Return the folders in which the hub's client may keep this model.

    That is the revision asked for; without one, `main` and then every snapshot, newest first.
    """
    repo = _hub_cache() / f"models--{name.replace('/', '--')}"
    commit = revision or "main"
    with suppress(OSError, ValueError):  # it names a commit, or was never fetched
        commit = (repo / "refs" / commit).read_text().strip()
    found = [repo / "snapshots" / commit]
    if revision is None:
        found += sorted((repo / "snapshots").glob("*"), key=_age, reverse=True)
    return found


def _age(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _hub_cache() -> Path:
    """Return the hub's cache as huggingface_hub finds it, whose import takes longer than a plan."""
    named = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    if named:
        return Path(named).expanduser()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    home = os.environ.get("HF_HOME")
    return (Path(home).expanduser() if home else cache / "huggingface") / "hub"


def _read(path: Path) -> dict[str, Any]:
    shown = safe_line(path, 200)
    try:
        config = json.loads(path.read_bytes())
    except OSError as refused:
        raise ModelError(
            f"{shown} cannot be read: {safe_line(refused.strerror or refused)}",
            hint="give the folder that holds config.json and the safetensors files",
        ) from refused
    except (ValueError, RecursionError) as broken:
        raise ModelError(
            f"{shown} is not JSON: {safe_line(broken, 120)}", hint="download the file again"
        ) from broken
    if not isinstance(config, dict):
        raise ModelError(f"{shown} is no JSON object", hint="download the file again")
    return without_counts(config)

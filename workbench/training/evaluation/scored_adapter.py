"""The adapter of a score trial, as it was found before the base is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.adapters.adapter_folder import AdapterFolder, adapter_digest, read_adapter
from workbench.errors import CheckpointError, NotThere
from workbench.text import safe_line
from workbench.training.control import Emit


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredAdapter:
    """An adapter that was found unchanged, or the base alone."""

    name: str
    """Words for people: `the adapter of trial 5`, `the adapter in /path`, `the base`."""
    found: AdapterFolder | None
    """None for the base alone."""
    sha256: str | None
    """SHA-256 of the weights, where a trial saved them."""
    step: int
    """Optimizer steps after which the weights were saved; 0 where that is unknown."""
    digest: str | None = None
    """SHA-256 of weights and configuration, where the preparation read the folder."""

    @property
    def identity(self) -> str:
        """The digest that identifies the adapter's weights; empty where none is known."""
        return self.sha256 or self.digest or ""


BASE_ALONE = ScoredAdapter(name="the base", found=None, sha256=None, step=0)


def check_scored(source: dict[str, Any], emit: Emit) -> ScoredAdapter:
    """Return the adapter that an assignment's `score` names, after a look at its files.

    Comes before the base is loaded. Raises CheckpointError or NotThere, with its hint, for a folder
    that vanished or changed since the evaluation was submitted, or that cannot be scored.
    """
    trial, folder = source.get("trial"), source.get("folder")
    if folder is None:
        return BASE_ALONE
    shown = safe_line(folder, 200)
    name = f"the adapter in {shown}" if trial is None else f"the adapter of trial {trial}"
    if source.get("error"):
        raise CheckpointError(str(source["error"]), hint=str(source.get("hint") or ""))
    try:
        found = read_adapter(Path(folder))
    except NotThere as gone:
        raise NotThere(
            f"{name} is gone: {gone.what}", hint="put the folder back, and evaluate it again"
        ) from gone
    digest = source.get("digest")
    if digest is not None and adapter_digest(found.folder) != digest:
        raise CheckpointError(
            f"{name} changed after the evaluation was submitted",
            hint="evaluate it again, now as it is",
        )
    for note in source.get("notes") or ():
        emit("log", level="warning", text=str(note))
    step = int(source.get("step") or 0)
    return ScoredAdapter(
        name=name, found=found, sha256=source.get("sha256"), step=step, digest=digest
    )

"""Checkpoints: committed whole, verified byte for byte before one is resumed from.

checkpoints/step-000025/
    adapter.safetensors  optimizer.pt  scheduler.pt  rng_state.pth  trainer_state.json
        scaler.pt     of fp16
    COMMIT.json   sizes and SHA-256 of the others, and what they belong to; written last
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from workbench import fault_points
from workbench.errors import CheckpointError
from workbench.machine import staging
from workbench.recipe.schema import Recipe

COMMIT = "COMMIT.json"
WEIGHTS = "adapter.safetensors"
KEEP = 2
ASIDE = "damaged"


@dataclass(frozen=True, slots=True, kw_only=True)
class Belongs:
    """What a checkpoint was made of; it resumes only where all of it is the same."""

    recipe: str
    """Digest of the sections that training depends on."""
    data: str
    """Digest of the training rows, as tokens."""
    precision: str
    optimizer: str
    versions: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    path: Path
    step: int
    """Optimizer steps done."""
    bytes: int
    belongs: Belongs
    window: dict[str, float] = field(default_factory=dict)
    """Sums since the last metric row; see trainer.Window."""


def recipe_digest(recipe: Recipe) -> str:
    """Of model, data, LoRA and training; evaluation and sweep do not move a weight."""
    return digest(recipe.model_dump(mode="json", include={"model", "data", "lora", "train"}))


def digest(data: object) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def folder_of(checkpoints: Path, step: int) -> Path:
    return checkpoints / f"step-{step:06d}"


def commit(
    staged: Path, checkpoints: Path, *, step: int, belongs: Belongs, window: dict[str, float]
) -> Checkpoint:
    """Seal what was staged as the checkpoint of `step`; keeps the newest KEEP.

    Costs one read of the files for their SHA-256 and an fsync of each.
    """
    fault_points.at("checkpoint.filled", staged / WEIGHTS)
    files = {
        path.name: {"bytes": path.stat().st_size, "sha256": staging.sha256(path)}
        for path in sorted(staged.iterdir())
    }
    staging.sync_tree(staged)
    body = {"step": step, "files": files, "belongs": asdict(belongs), "window": window}
    text = json.dumps({**body, "sha256": digest(body)}, indent=1)
    (staged / COMMIT).write_text(text, encoding="utf-8")
    fault_points.at("checkpoint.before_rename", staged / WEIGHTS)
    staging.publish(staged, folder_of(checkpoints, step))
    fault_points.at("checkpoint.after_rename", folder_of(checkpoints, step) / WEIGHTS)
    tidy(checkpoints)
    return _read(folder_of(checkpoints, step))


def tidy(checkpoints: Path) -> None:
    """Remove all but the newest KEEP, and what deaths left half done."""
    for path in [*newest_first(checkpoints)[KEEP:], *checkpoints.glob(".step-*")]:
        shutil.rmtree(path, ignore_errors=True)


def newest_verified(
    checkpoints: Path, tell: Callable[[str], None] = lambda _: None
) -> Checkpoint | None:
    """The newest whose every byte is as it was written; damaged ones are set aside, and told.

    Reads each candidate once (about 1 GB/s). None where there is none.
    """
    for path in newest_first(checkpoints):
        try:
            return verify(path)
        except CheckpointError as damaged:
            _set_aside(path)
            tell(f"{damaged.what}; it was moved to {ASIDE}/, and the one before it is used")
    return None


def verify(path: Path) -> Checkpoint:
    """The checkpoint in `path`; CheckpointError when a file is missing, short or changed."""
    found = _read(path)
    for name, told in json.loads((path / COMMIT).read_text(encoding="utf-8"))["files"].items():
        file = path / name
        if not file.is_file() or file.stat().st_size != told["bytes"]:
            raise _damaged(path, f"{name} is missing or short")
        if staging.sha256(file) != told["sha256"]:
            raise _damaged(path, f"{name} is not what was written")
    return found


def check_belongs(found: Checkpoint, here: Belongs) -> None:
    """CheckpointError when recipe, data, precision, optimizer or a library changed since."""
    there = found.belongs
    for name, word in (("recipe", "the recipe"), ("data", "the training rows")):
        if getattr(there, name) != getattr(here, name):
            raise CheckpointError(
                f"{word} changed since the checkpoint of step {found.step}",
                hint="clone the trial: a clone starts anew with the changed settings",
            )
    for name in ("precision", "optimizer"):
        before, now = getattr(there, name), getattr(here, name)
        if before != now:
            raise CheckpointError(
                f"the checkpoint of step {found.step} was trained with {name} {before}, not {now}",
                hint=f"resume it on a card that can run {before}, or clone the trial",
            )
    for name in sorted(set(there.versions) | set(here.versions)):
        before, now = there.versions.get(name, "none"), here.versions.get(name, "none")
        if before != now:
            raise CheckpointError(
                f"{name} is {now} now and was {before} at the checkpoint of step {found.step}",
                hint=f"install {name} {before} again, or clone the trial to start anew",
            )


def _read(path: Path) -> Checkpoint:
    """What COMMIT.json says; the other files are not looked at."""
    try:
        body: dict[str, Any] = json.loads((path / COMMIT).read_text(encoding="utf-8"))
        told = body.pop("sha256")
        if told != digest(body):
            raise _damaged(path, f"{COMMIT} is not what was written")
        return Checkpoint(
            path=path,
            step=int(body["step"]),
            bytes=sum(file["bytes"] for file in body["files"].values()),
            belongs=Belongs(**body["belongs"]),
            window=body["window"],
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as broken:
        raise _damaged(path, f"{COMMIT} cannot be read") from broken


def newest_first(checkpoints: Path) -> list[Path]:
    """By number: as text, step-1000000 would come before step-999999."""
    return sorted(checkpoints.glob("step-*"), key=_step, reverse=True)


def _step(path: Path) -> int:
    number = path.name.removeprefix("step-")
    return int(number) if number.isdecimal() else -1


def _set_aside(path: Path) -> None:
    aside = path.parent / ASIDE / path.name
    aside.parent.mkdir(exist_ok=True)
    shutil.rmtree(aside, ignore_errors=True)
    path.rename(aside)


def _damaged(path: Path, how: str) -> CheckpointError:
    return CheckpointError(
        f"checkpoint {path.name} is damaged: {how}",
        hint="nothing to do: the one before it is used",
    )

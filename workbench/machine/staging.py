"""Durable folders: complete or absent, also after a power failure."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from workbench.machine.files import sync_path


def stage_folder(target: Path) -> Path:
    """Create an empty folder beside `target`, to be filled and then published.

    It lies on the same disk, so that publishing is a rename. A leftover of a killed process is
    removed first.
    """
    staging = staged_path(target)
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    return staging


def staged_path(target: Path) -> Path:
    """Return the folder beside `target` in which `stage_folder` lets it be filled."""
    return target.parent / f".{target.name}.staging"


def publish_folder(staging: Path, target: Path, *, replace: bool = True) -> None:
    """Flush every file, rename the folder to `target`, and flush the parent folder.

    With `replace` an existing `target` is removed. Without it, raises OSError if `target` exists
    and is not empty.
    """
    sync_tree(staging)
    old = target.parent / f".{target.name}.old"
    try:
        if replace and target.exists():
            shutil.rmtree(old, ignore_errors=True)
            # Renamed and removed later: rmtree takes long, and a kill in between must lose nothing.
            target.rename(old)
        staging.rename(target)
    except BaseException:
        if replace and old.exists() and not target.exists():
            old.rename(target)
        raise
    sync_path(target.parent)
    if replace:
        shutil.rmtree(old, ignore_errors=True)


@contextmanager
def whole_folder(target: Path, *, replace: bool = True) -> Iterator[Path]:
    """Provide an empty folder that becomes `target` when the block ends.

    An exception in the block removes the folder and leaves an existing `target` untouched.
    """
    staging = staged_path(target)
    try:  # ctrl-c may come in the very moment in which the folder was made
        stage_folder(target)
        yield staging
        publish_folder(staging, target, replace=replace)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def sync_tree(folder: Path) -> None:
    """Flush every file and folder below `folder`, and `folder` itself, to disk."""
    for path in [*folder.rglob("*"), folder]:
        sync_path(path)


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal; reads about 1 GB/s."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

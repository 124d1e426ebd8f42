"""Folders that are there whole or not at all, and still there after the power went."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from workbench.machine.files import sync


def stage(target: Path) -> Path:
    """A fresh empty folder beside `target`, to be filled and then published."""
    staging = target.parent / f".{target.name}.staging"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    return staging


def publish(staging: Path, target: Path, *, replace: bool = True) -> None:
    """Sync every file, rename to `target`, sync the parent. What stood there goes; without
    `replace` OSError where that is more than an empty folder."""
    sync_tree(staging)
    old = target.parent / f".{target.name}.old"
    if replace and target.exists():
        shutil.rmtree(old, ignore_errors=True)
        target.rename(old)
    staging.rename(target)
    sync(target.parent)
    if replace:
        shutil.rmtree(old, ignore_errors=True)


@contextmanager
def whole_folder(target: Path, *, replace: bool = True) -> Iterator[Path]:
    """Fill the folder given; it becomes `target` at the end, or vanishes with an exception."""
    staging = stage(target)
    try:
        yield staging
        publish(staging, target, replace=replace)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def sync_tree(folder: Path) -> None:
    for path in [*folder.rglob("*"), folder]:
        sync(path)


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

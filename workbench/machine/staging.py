"""Durable folders: complete or absent, also after a power failure."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from workbench.errors import UsageError, WorkbenchError
from workbench.machine.files import errno_of, is_full_disk, sync_path
from workbench.machine.locks import Lock
from workbench.text import safe_line


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


@contextmanager
def writing(target: Path) -> Iterator[None]:
    """Raise WorkbenchError, with `target` and a hint, for what keeps the block from writing there.

    A file elsewhere that cannot be read stays an OSError, which names it. On a full disk the name
    says nothing: a copy reports the file that it reads.
    """
    try:
        yield
    except WorkbenchError:
        raise
    except Exception as refused:
        number, full = errno_of(refused), is_full_disk(refused)
        if number is None or not (full or _concerns(refused, target.absolute())):
            raise
        raise WorkbenchError(
            f"{safe_line(target)} cannot be written: {os.strerror(number)}",
            hint="free space on that disk, or name a place on another"
            if full
            else "name a folder in which you may write",
        ) from refused


@contextmanager
def alone(target: Path) -> Iterator[None]:
    """Hold the lock of `target`, a file or folder, so that no other command stages it too.

    Its folder is created. Raises UsageError while another process holds the lock.
    """
    target = target.absolute()
    target.parent.mkdir(parents=True, exist_ok=True)
    lock = Lock(target.with_name(f".{target.name}.lock"))
    try:
        while True:
            if not lock.take():
                raise UsageError(
                    f"another command is writing {safe_line(target)}",
                    hint="wait until it has ended, or name another place",
                )
            if lock.stands():
                break
            lock.release()  # its holder removed the file after we had opened it
        yield
    finally:
        if lock.held:
            lock.path.unlink(missing_ok=True)
            lock.release()


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Provide an empty folder that becomes `target`, which does not exist, when the block ends.

    Raises UsageError where it exists or another process fills it, WorkbenchError where it cannot be
    written.
    """
    with writing(target), alone(target):
        refuse_existing(target)  # it may exist by now
        with whole_folder(target, replace=False) as staged:
            yield staged


def refuse_existing(folder: Path) -> None:
    """Raise UsageError where `folder` exists."""
    if folder.exists():
        raise UsageError(f"{safe_line(folder)} exists already", hint="name another folder")


def _concerns(refused: Exception, target: Path) -> bool:
    """Return True unless the error names a file that is neither a stage of `target` nor above."""
    if not isinstance(refused, OSError) or refused.filename is None:
        return True
    named = Path(refused.filename)
    if target.is_relative_to(named):
        return True
    inside = named.is_relative_to(target.parent) and named.relative_to(target.parent).parts[0]
    return bool(inside) and str(inside).startswith(f".{target.name}.")


def sync_tree(folder: Path) -> None:
    """Flush every file and folder below `folder`, and `folder` itself, to disk."""
    for path in [*folder.rglob("*"), folder]:
        sync_path(path)


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal; reads about 1 GB/s."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

"""The sources that a recipe names: a file or folder with its hash, or a pinned hub data set."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from workbench.errors import DataError
from workbench.recipe.names import local_path
from workbench.recipe.schema import Data
from workbench.text import safe_line
from workbench.training.dataset.files.folders import folder_files
from workbench.training.dataset.files.hub_rows import hub_rows
from workbench.training.dataset.files.lines import DataRow
from workbench.training.dataset.files.rows import read_file

TIMEOUT_S = 8.0
_COMMIT = re.compile(r"[0-9a-f]{40}\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSource:
    """A source of rows, with a digest that changes when the rows change."""

    name: str
    path: Path | None
    """The local file or folder; None for a hub data set."""
    split: str
    digest: str
    """SHA-256 of the file's bytes, or of the folder's files; or the hub data set's commit."""
    config: str | None = None
    """The hub data set's configuration; None for its only or default one."""

    @property
    def short_name(self) -> str:
        """The name of the file or folder without its path, or of the hub data set."""
        return self.path.name if self.path else self.name

    def read(self) -> Iterator[DataRow]:
        """Yield the rows in order, at each call from the start; DataError for unreadable ones."""
        if self.path is None:
            return hub_rows(self.name, self.config, self.split, self.digest)
        return _folder_rows(self.path) if self.path.is_dir() else read_file(self.path)


def _folder_rows(folder: Path) -> Iterator[DataRow]:
    files = folder_files(folder)
    for number, file in enumerate(files):
        for row in read_file(file):
            yield replace(row, share=(number + row.share) / len(files))


def find_sources(
    data: Data, index: Path, *, refresh: bool
) -> tuple[list[DataSource], DataSource | None]:
    """Return (train, eval); eval is None where held-out rows are to be split off train.

    Train has one source, or those of a mixture.

    `index` is a folder that remembers the hashes of unchanged files and the hub's commits;
    `refresh` asks the hub again. Reads a new or changed file whole, for its hash. Raises DataError
    for a file that cannot be read, an unknown data set, or a hub that does not answer.
    """
    train = []
    for name, part in zip(data.train_names, data.parts, strict=True):
        train.append(_source(name, part.split, part, index, refresh=refresh))
        _refuse_hub_settings(train[-1], part)
    if (held := find_scored(data, index, refresh=refresh)) is not None:
        return train, held
    if data.eval_split is None:
        return train, None
    [only] = train  # the schema refuses a split beside a list
    _refuse_split(
        only, "eval_split", "name the held-out file in data.eval, or leave data.eval_split out"
    )
    return train, _source(only.name, data.eval_split, data, index, refresh=refresh)


def _refuse_hub_settings(source: DataSource, part: Data) -> None:
    """Raise DataError for a local source with a setting that only a hub data set has."""
    if source.path is None:
        return
    shown = safe_line(source.path.name, 80)
    for name in ("split", "revision", "config"):
        if getattr(part, name) != Data.model_fields[name].default:
            raise DataError(
                f"data.{name}: {shown} is no hub data set, of which it would name a part",
                hint=f"leave {name} out; data.max_rows, or rows of a source in a list, takes a "
                "part of a file's rows",
            )


def find_scored(data: Data, index: Path, *, refresh: bool) -> DataSource | None:
    """Return the source that `data.eval` names, None where it names none; `data.train` is not read.

    Arguments and errors are those of `find_sources`.
    """
    if data.eval is None:
        return None
    split = data.eval_split or data.split
    source = _source(data.eval, split, data, index, refresh=refresh)
    if data.eval_split is not None:
        _refuse_split(source, "eval_split", "leave data.eval_split out, or name a hub data set")
    return source


def find_test(data: Data, index: Path, *, refresh: bool) -> DataSource | None:
    """Return the source of the test rows; None where they are split off train, or there are none.

    Arguments and errors are those of `find_sources`.
    """
    if data.test is None and data.test_split is None:
        return None
    name, split = data.test or data.train_names[0], data.test_split or data.split
    source = _source(name, split, data, index, refresh=refresh)
    if data.test_split is not None:
        _refuse_split(
            source,
            "test_split",
            "leave data.test_split out; name the test file in data.test, or set data.test_rows",
        )
    return source


def _refuse_split(source: DataSource, name: str, hint: str) -> None:
    """Raise DataError for a setting `data.NAME` beside a local source, which has no splits."""
    if source.path is not None:
        shown = safe_line(source.path.name, 80)
        raise DataError(f"data.{name}: {shown} is no hub data set and has no splits", hint=hint)


def _source(name: str, split: str, data: Data, index: Path, *, refresh: bool) -> DataSource:
    """Return a source; revision and configuration are those of `data.train`, and of no other."""
    path = local_path(name)
    if path is None:
        same = name == data.train
        commit = _pinned(name, data.revision if same else None, index, refresh=refresh)
        config = data.config if same else None
        return DataSource(name=name, path=None, split=split, digest=commit, config=config)
    try:
        digest = _path_digest(path, index)
    except OSError as refused:
        raise DataError(
            f"{safe_line(path, 200)} cannot be read: {safe_line(refused.strerror or refused)}",
            hint="check the path in data.train and data.eval, and who may read the file",
        ) from refused
    return DataSource(name=name, path=path, split=split, digest=digest)


# ── local files ──────────────────────────────────────────────────────────────────────────────


def _path_digest(path: Path, index: Path) -> str:
    """Return the SHA-256 of a file, or of the names and hashes of a folder's files."""
    if not path.is_dir():
        return _file_digest(path, index)
    files = [[file.name, _file_digest(file, index)] for file in folder_files(path)]
    return hashlib.sha256(json.dumps(files).encode()).hexdigest()


def _file_digest(path: Path, index: Path) -> str:
    """Return the SHA-256 of the file; it is not read again while size, time and inode stay."""
    about = path.stat()
    seen = [about.st_size, about.st_mtime_ns, about.st_ino, about.st_dev]
    entry = _entry(index, f"file {path.resolve()}")
    known = _load(entry)
    if known.get("seen") == seen:
        return str(known["digest"])
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    _save(entry, {"seen": seen, "digest": digest})
    return digest


def _entry(index: Path, what: str) -> Path:
    return index / f"{hashlib.sha256(os.fsencode(what)).hexdigest()[:32]}.json"


def _load(entry: Path) -> dict[str, object]:
    try:
        known = json.loads(entry.read_bytes())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _save(entry: Path, about: dict[str, object]) -> None:
    """Write an index entry without syncing it: a lost one costs one more hash, nothing else."""
    staged = entry.with_suffix(f".{os.getpid()}-{threading.get_ident()}")
    with contextlib.suppress(OSError):
        entry.parent.mkdir(parents=True, exist_ok=True)
        staged.write_text(json.dumps(about))
        staged.replace(entry)


# ── the hub ──────────────────────────────────────────────────────────────────────────────────


def _pinned(name: str, revision: str | None, index: Path, *, refresh: bool) -> str:
    """Return the commit behind a revision: the hub's answer, or without a network the last one."""
    if _COMMIT.match(revision or ""):
        return str(revision)
    from huggingface_hub import HfApi, errors

    entry = _entry(index, f"hub {name} {revision}")
    known = _load(entry).get("commit")
    if isinstance(known, str) and not refresh:
        return known
    try:
        about = HfApi().dataset_info(name, revision=revision, timeout=TIMEOUT_S)
    except Exception as refused:  # the hub's errors, OSError, and those of whichever httpx it uses
        said_no = isinstance(refused, errors.RepositoryNotFoundError | errors.RevisionNotFoundError)
        if isinstance(known, str) and not said_no:
            return known
        raise _no_data(name, refused, said_no=said_no) from refused
    _save(entry, {"commit": str(about.sha)})
    return str(about.sha)


def _no_data(name: str, refused: Exception, *, said_no: bool) -> DataError:
    shown = safe_line(name, 120)
    if said_no:
        return DataError(
            f"the hub has no data set {shown} of that revision, or it is private",
            hint="check data.train and data.revision; for a private one log in: hf auth login",
        )
    return DataError(
        f"the hub cannot be asked about {shown}: {safe_line(refused, 160)}",
        hint="check the network and HF_HUB_OFFLINE, or download the data to a file and name that",
    )

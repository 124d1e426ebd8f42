"""The files that a box keeps by their digests, and the folders of bases and rows made of them.

A file is here once, whichever folders link to it. Those that no attempt uses go, the longest unused
first, when the disk would fall below its floor.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from workbench.fleet.bases import hub_label
from workbench.machine.files import free_bytes, is_full_disk, write_durably
from workbench.machine.staging import file_sha256

KEPT = ("bases", "cache/data", "adapters")
"""Folders in the work folder whose folders stay after the attempts that needed them."""
LABEL = ".base"
"""File in a base's folder with the base's label. It is hidden, so that it does not travel."""
USED = ".inputs"
"""File in an attempt's folder with the kept folders that it uses."""
ASKED_S = 60.0
"""Seconds for which a file that was asked for is kept, whether a folder has it yet or not: a
transfer asks every few seconds."""


class NoRoom(OSError):
    """The box's disk would fall below its floor."""


class FileCache:
    """The cached files of one box, below its work folder.

    `floor_bytes` returns the bytes of the disk that stay free.
    """

    def __init__(self, work: Path, floor_bytes: Callable[[], int]) -> None:
        self._work, self._floor_bytes = work, floor_bytes
        self._blobs = work / "blobs"
        self._blobs.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.keep_asked_s = ASKED_S
        self._asked_s: dict[str, float] = {}
        """Monotonic time at which each digest was asked for last."""

    def missing(self, files: list[tuple[str, int]]) -> dict[str, int]:
        """Return the digests of which not all bytes are here, each with the bytes that are."""
        now_s = time.monotonic()
        recent = {d: at_s for d, at_s in self._asked_s.items() if at_s > now_s - self.keep_asked_s}
        self._asked_s = recent | {digest: now_s for digest, _ in files}
        return {
            digest: _size(self._partial(digest))
            for digest, _ in files
            if not self._blob(digest).exists()
        }

    def take_from_hub(self, digest: str, size: int) -> bool:
        """Take a file from this user's cache of the hub, which names weights by their digest.

        Return False where it is not there. It is read once (about 1 GB/s), and copied only where
        the cache is on another disk.
        """
        from huggingface_hub.constants import HF_HUB_CACHE

        for path in Path(HF_HUB_CACHE).glob(f"models--*/blobs/{digest}"):
            if path.stat().st_size == size and file_sha256(path) == digest:
                with suppress(OSError):
                    os.link(path, self._blob(digest))
                    return True
                self.make_room(size)
                shutil.copyfile(path, self._partial(digest))
                self._partial(digest).rename(self._blob(digest))
                return True
        return False

    def put(self, digest: str, offset: int, chunk: bytes, size: int) -> int:
        """Append a chunk of a file; return how many of its `size` bytes are here now.

        With the last chunk the digest is checked. Raises ValueError for a file that differs, and
        NoRoom.
        """
        partial = self._partial(digest)
        here = _size(partial)
        if here == offset:
            self.make_room(size - offset)
            try:
                with partial.open("ab") as file:
                    file.write(chunk)
            except OSError as refused:
                if is_full_disk(refused):  # before the floor: a quota
                    raise NoRoom(f"the box's disk is full: {refused.strerror}") from refused
                raise
            here += len(chunk)
        if here >= size:
            if file_sha256(partial) != digest:
                partial.unlink()
                raise ValueError(f"the file {digest[:12]} arrived damaged")
            partial.chmod(0o400)
            partial.rename(self._blob(digest))
        return here

    def lay(self, files: list[tuple[Path, str]], attempt: Path, labels: Mapping[str, str]) -> None:
        """Link files of the cache at their paths, for the attempt with that folder.

        `labels` has the label of each folder that is a base, for `bases`.
        """
        for target, digest in files:
            if target.exists() and target.samefile(self._blob(digest)):
                continue  # another attempt may be reading it
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            target.unlink(missing_ok=True)
            os.link(self._blob(digest), target)
        used = sorted({str(f) for target, _ in files if (f := self._kept_folder(target))})
        for folder in used:
            os.utime(folder)  # the newest use: the oldest goes when room is needed
        for folder_name, label in labels.items():
            write_durably(self._work / folder_name / LABEL, label.encode())
        attempt.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_durably(attempt / USED, json.dumps(used).encode())

    def bases(self) -> list[str]:
        """Return the labels of the bases whose weights need not be sent to this box."""
        kept = [path.read_text() for path in self._work.glob(f"bases/*/{LABEL}")]
        return sorted({*kept, *_hub_bases()})

    def make_room(self, need_bytes: int = 0) -> None:
        """Remove folders that no attempt uses, then files of no folder, until there is room.

        Raises NoRoom where that is not enough.
        """
        if self._has_room(need_bytes):
            return
        for folder in self._unused_folders():
            shutil.rmtree(folder, ignore_errors=True)
            self._remove_unlinked()
            if self._has_room(need_bytes):
                return
        self._remove_unlinked()
        if not self._has_room(need_bytes):
            raise NoRoom(f"the box's disk has no room for {need_bytes / 2**30:.1f} GiB")

    # --- inside

    def _has_room(self, need_bytes: int) -> bool:
        return free_bytes(self._work) - need_bytes >= self._floor_bytes()

    def _unused_folders(self) -> list[Path]:
        """Return the kept folders that no attempt uses, the longest unused first."""
        used = set()
        for noted in self._work.glob(f"attempts/*/{USED}"):
            used.update(json.loads(noted.read_text()))
        kept = [path for name in KEPT for path in self._work.glob(f"{name}/*")]
        unused = [path for path in kept if str(path) not in used]
        return sorted(unused, key=lambda path: path.stat().st_mtime)

    def _kept_folder(self, target: Path) -> Path | None:
        """Return the kept folder that holds the file; None for a file of a trial."""
        inside = target.relative_to(self._work)
        for name in KEPT:
            if inside.is_relative_to(name):
                return self._work / name / inside.relative_to(name).parts[0]
        return None

    def _remove_unlinked(self) -> None:
        """Remove cached files, whole or in part, that no folder links to and no transfer is at.

        Links are not counted: the cache of the hub may have one more.
        """
        linked = {path.stat().st_ino for path in self._linked_files()}
        lately_s = time.monotonic() - self.keep_asked_s
        for path in self._blobs.iterdir():
            in_transfer = self._asked_s.get(path.stem, float("-inf")) > lately_s
            if not in_transfer and path.stat().st_ino not in linked:
                path.unlink()

    def _linked_files(self) -> Iterator[Path]:
        for folder in self._work.iterdir():
            if folder != self._blobs:
                yield from (path for path in folder.rglob("*") if path.is_file())

    def _blob(self, digest: str) -> Path:
        if len(digest) != 64 or not digest.isalnum():
            raise ValueError("this is no digest")
        return self._blobs / digest

    def _partial(self, digest: str) -> Path:
        return self._blob(digest).with_suffix(".part")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _hub_bases() -> Iterator[str]:
    """Yield the labels of the models in this user's cache of the hub that have weights there."""
    from huggingface_hub.constants import HF_HUB_CACHE

    found = Path(HF_HUB_CACHE).glob("models--*/snapshots/*")
    for snapshot in found:
        if any(snapshot.glob("*.safetensors")):
            name = snapshot.parents[1].name.removeprefix("models--").replace("--", "/")
            yield hub_label(name, snapshot.name)

"""A box's files by digest: what goes when room is needed, and what the hub's cache has."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest

from workbench.fleet.boxes.file_cache import FileCache
from workbench.machine.files import free_bytes


class Kept:
    """A cache of one box, and the floor of its disk, which a test can raise."""

    def __init__(self, work: Path) -> None:
        self.work, self.floor_bytes = work, 0
        self.cache = FileCache(work, lambda: self.floor_bytes)

    def send(self, text: str) -> str:
        """Send a file; return its digest."""
        data = text.encode()
        digest = hashlib.sha256(data).hexdigest()
        for _ in self.cache.missing([(digest, len(data))]):
            self.cache.put(digest, 0, data, len(data))
        return digest

    def lay(self, attempt: int, base: str, label: str) -> None:
        target = self.work / "bases" / base / "model.safetensors"
        attempts = self.work / "attempts" / str(attempt)
        self.cache.lay(
            [(target, self.send(f"weights of {base}"))], attempts, {f"bases/{base}": label}
        )

    def end(self, attempt: int) -> None:
        shutil.rmtree(self.work / "attempts" / str(attempt))

    def blobs(self) -> int:
        return len(list((self.work / "blobs").iterdir()))


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kept:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    kept = Kept(tmp_path / "work")
    kept.cache.keep_asked_s = -1.0
    return kept


def test_bases_that_no_attempt_uses_go_when_the_disk_is_low(kept: Kept) -> None:
    kept.lay(1, "a", "org/a@1")
    kept.lay(2, "b", "org/b@1")
    kept.cache.make_room()
    assert (kept.cache.bases(), kept.blobs()) == (["org/a@1", "org/b@1"], 2)
    kept.end(1)
    kept.floor_bytes = 1 << 60
    with pytest.raises(OSError, match="no room"):
        kept.cache.make_room()
    assert (kept.cache.bases(), kept.blobs()) == (["org/b@1"], 1)


def test_the_longest_unused_goes_first(kept: Kept) -> None:
    for attempt, base in ((1, "a"), (2, "b"), (3, "a")):
        kept.lay(attempt, base, base)
        kept.end(attempt)
    assert [path.name for path in kept.cache._unused_folders()] == ["b", "a"]


def test_what_a_transfer_is_at_stays(kept: Kept) -> None:
    kept.cache.keep_asked_s = 60.0
    kept.send("the first of two files of a base that is on its way")
    kept.floor_bytes = 1 << 60
    with pytest.raises(OSError, match="no room"):
        kept.cache.make_room()
    assert kept.blobs() == 1


def test_a_file_that_would_bring_the_disk_below_its_floor_is_refused(kept: Kept) -> None:
    kept.floor_bytes = free_bytes(kept.work) - (1 << 20)
    with pytest.raises(OSError, match=r"no room for 1\.0 GiB"):
        kept.cache.put("a" * 64, 0, b"x", 1 << 30)


def test_weights_in_the_cache_of_the_hub_are_not_sent(kept: Kept, tmp_path: Path) -> None:
    digest = hashlib.sha256(b"weights").hexdigest()
    model = tmp_path / "hub" / "models--org--m"
    snapshot = model / "snapshots" / "c0ffee"
    for folder in (model / "blobs", snapshot):
        folder.mkdir(parents=True)
    (model / "blobs" / digest).write_bytes(b"weights")
    (snapshot / "model.safetensors").symlink_to(f"../../blobs/{digest}")
    assert kept.cache.missing([(digest, 7)]) == {digest: 0}
    assert kept.cache.bases() == ["org/m@c0ffee"]
    assert kept.cache.take_from_hub(digest, 7)
    assert kept.cache.missing([(digest, 7)]) == {}
    assert (kept.work / "blobs" / digest).samefile(model / "blobs" / digest)
    assert not kept.cache.take_from_hub("0" * 64, 7)


def test_a_base_that_another_attempt_reads_is_not_touched(kept: Kept) -> None:
    kept.lay(1, "a", "org/a@1")
    weights = kept.work / "bases" / "a" / "model.safetensors"
    before = weights.stat()
    kept.lay(2, "a", "org/a@1")
    assert weights.stat().st_ctime_ns == before.st_ctime_ns  # a new link would change it

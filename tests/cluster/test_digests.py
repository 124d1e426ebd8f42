"""Digests of files that are read once, and how many are remembered."""

from __future__ import annotations

from pathlib import Path

import pytest

from workbench.fleet.boxes.digests import DigestCache


def test_only_so_many_digests_are_remembered(tmp_path: Path) -> None:
    cache = DigestCache(kept=2)
    files = [tmp_path / name for name in "abc"]
    for file in files:
        file.write_text(file.name)
        cache.sha256(file)
    assert [cache.knows(file) for file in files] == [False, True, True]


def test_a_file_that_cannot_be_read_leaves_nothing_behind(tmp_path: Path) -> None:
    cache = DigestCache()
    with pytest.raises(OSError, match="directory"):
        cache.sha256(tmp_path)
    assert not cache._reading

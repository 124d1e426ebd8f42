"""A disk that fills up under everything at once, and has room again: nothing is lost.

The home lies on a small file system of its own, which only root can mount.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.waiting import wait_for
from tests.support.whole import LIMIT_S, whole_engine

pytestmark = pytest.mark.fault
SIZE = 512 << 20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", f"size={SIZE},mode=700", "tmpfs", str(folder)]
    mounted = subprocess.run(words, check=False, capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"NOT TESTED, a full disk: no file system can be mounted: {mounted.stderr}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """To the last byte."""
    path = folder / "somebody-elses"
    with path.open("wb", buffering=0) as file:
        for size in (1 << 20, 4096, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue
    assert shutil.disk_usage(folder).free < 4096
    return path


def test_a_full_disk_is_said_and_when_there_is_room_again_everything_goes_on(
    small_disk: Path,
) -> None:
    with whole_engine(
        small_disk, config='guards = {disk_floor = "64MiB", ballast = "8MiB"}\n'
    ) as it:
        trials = set(it.two_running())
        with it.unharmed(told=r"trial \d+: .*disk.*goes on from step \d+"):
            wait_for(it.home.ballast.exists, "there is a ballast", LIMIT_S)
            filling = fill(small_disk)
            wait_for(lambda: not it.home.ballast.exists(), "the ballast is given up", LIMIT_S)
            wait_for(lambda: not it.live(), "both trials ended for it", LIMIT_S)
            waiting = {t.waiting for t in it.tuned()}
            assert all("free some" in reason for reason in waiting), waiting
            filling.unlink()
            assert set(it.two_running()) == trials

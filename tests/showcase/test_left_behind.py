"""The made-up home is gone after the screen, however the screen ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.support.waiting import wait_for
from workbench.cli.machine.showcase import remove_left_behind
from workbench.home import Home
from workbench.machine.locks import Lock, lock_holder

SCREEN = """
import time
from workbench.cli.machine.showcase import showcase_home
with showcase_home():
    time.sleep(60)
"""


def test_a_screen_that_is_killed_leaves_no_home_behind(tmp_path: Path) -> None:
    screen = subprocess.Popen(
        [sys.executable, "-c", SCREEN],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        start_new_session=True,
        stderr=subprocess.DEVNULL,
    )

    def engine() -> int | None:
        found = next(tmp_path.glob("workbench-demo-*"), None)
        return lock_holder(Home(found / "home").keeper_lock) if found else None

    wait_for(engine, "the scripted engine has begun")
    os.killpg(screen.pid, signal.SIGHUP)  # as the kernel does where the line drops
    screen.wait()
    wait_for(lambda: not list(tmp_path.iterdir()), "the home is removed")


def test_homes_of_engines_that_were_killed_are_removed_at_the_next_start(tmp_path: Path) -> None:
    for name in ("dead", "playing", "young"):
        (tmp_path / f"workbench-demo-{name}" / "home").mkdir(parents=True)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "workbench-demo-link").symlink_to(elsewhere)
    lock = Lock(Home(tmp_path / "workbench-demo-playing" / "home").keeper_lock)
    assert lock.take()
    for name in ("dead", "playing"):
        os.utime(tmp_path / f"workbench-demo-{name}", (1, 1))
    remove_left_behind(tmp_path)
    lock.release()
    left = {path.name.removeprefix("workbench-demo-") for path in tmp_path.iterdir()}
    assert left == {"playing", "young", "link", "elsewhere"}

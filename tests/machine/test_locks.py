"""Locks exclude other processes, and a GPU's lock excludes other users too."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import pytest

from workbench.engine import CardWatch
from workbench.home import Home
from workbench.machine.cards import Card
from workbench.machine.locks import SHARED_FOLDERS, Lock, lock_holder, shared_folder
from workbench.machine.sampler import CardReading, MachineReading, write_reading
from workbench.store import Store

NOBODY = 65534
root_only = pytest.mark.skipif(os.getuid() != 0, reason="becoming another user takes root")


@pytest.fixture
def shared() -> Iterator[Path]:
    """A sticky folder in which all users can create files, like /run/lock."""
    with tempfile.TemporaryDirectory(prefix="workbench-locks-", dir="/tmp") as name:
        os.chmod(name, 0o1777)
        yield Path(name)


@contextmanager
def another_user() -> Iterator[None]:
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_lock_is_held_once_and_names_its_holder(shared: Path, tmp_path: Path) -> None:
    for folder in (shared, tmp_path):
        first, second = Lock(folder / "card.lock"), Lock(folder / "card.lock")
        assert lock_holder(first.path) is None
        assert first.take()
        assert first.take(), "held already"
        assert not second.take()
        assert lock_holder(first.path) == os.getpid()
        first.release()
        assert second.take()
        second.release()


@root_only
def test_two_users_exclude_one_another_in_either_order(shared: Path) -> None:
    path = shared / "card.lock"
    ours = Lock(path)
    assert ours.take()
    with another_user():
        assert not Lock(path).take()
        assert lock_holder(path) == os.getpid()
    ours.release()
    with another_user():
        theirs = Lock(path)
        assert theirs.take()
    assert not ours.take()
    assert lock_holder(path) == os.getpid()
    theirs.release()
    assert ours.take()


@root_only
def test_the_first_users_umask_does_not_lock_the_second_out(shared: Path) -> None:
    former = os.umask(0o077)
    first = Lock(shared / "card.lock")
    try:
        assert first.take()
    finally:
        os.umask(former)
    first.release()
    with another_user():
        lock = Lock(shared / "card.lock")
        assert lock.take()
        lock.release()


@root_only
def test_a_file_that_others_may_not_open_counts_as_held(shared: Path) -> None:
    (shared / "card.lock").touch(mode=0o600)
    with another_user():
        assert not Lock(shared / "card.lock").take()
        assert lock_holder(shared / "card.lock") == 0


def test_a_link_is_not_followed_and_its_target_stays_as_it_is(shared: Path, tmp_path: Path) -> None:
    thesis = tmp_path / "thesis.tex"
    thesis.write_text("long work")
    (shared / "soft.lock").symlink_to(thesis)
    assert not Lock(shared / "soft.lock").take()
    assert lock_holder(shared / "soft.lock") == 0
    assert thesis.read_text() == "long work"


def test_a_hard_link_a_fifo_and_a_long_file_are_not_written(shared: Path) -> None:
    (shared / "original").write_text("kept")
    os.link(shared / "original", shared / "hard.lock")
    os.mkfifo(shared / "fifo.lock")
    (shared / "long.lock").write_text("x" * 100)
    for name in ("hard", "fifo", "long"):
        assert not Lock(shared / f"{name}.lock").take(), name
    assert (shared / "original").read_text() == "kept"
    assert (shared / "long.lock").read_text() == "x" * 100


def test_a_gpus_lock_lies_where_all_users_find_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    folders = {Home(tmp_path / home).card_lock("GPU-1", "cuda").parent for home in "ab"}
    assert folders == {shared_folder()}
    assert folders < set(SHARED_FOLDERS)
    cores = {Home(tmp_path / home).card_lock("cpu-0", "cpu") for home in "ab"}
    assert len(cores) == 2


def test_only_a_sticky_folder_for_all_is_shared(tmp_path: Path, shared: Path) -> None:
    tmp_path.chmod(0o777)
    assert shared_folder((tmp_path / "none", tmp_path)) is None
    assert shared_folder((tmp_path, shared)) == shared
    assert stat.S_IMODE(shared.stat().st_mode) == 0o1777


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_the_engine_warns_once_where_other_users_cannot_see_its_locks(
    tmp_path: Path, kind: Literal["cpu", "cuda"]
) -> None:
    home = Home(tmp_path / "home").make()
    store = Store(home.database)
    watch = CardWatch(home, store, shared=None)
    card = Card(uuid="it-1", kind=kind, name="X", total_bytes=1 << 30, capability=None)
    for at_utc in (1.0, 2.0):
        reading = CardReading(card=card, free_bytes=1 << 30, used_bytes=0)
        write_reading(home.sample, MachineReading(at_utc=at_utc, cards=(reading,)))
        watch()
    noted = [event.text for event in store.events() if event.kind == "cards"]
    assert len(noted) == (kind == "cuda")
    assert all("two users can start on one card" in text for text in noted)

"""Backups: daily, whole or absent, bounded in number, nobody else's to read."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from workbench.home import Home
from workbench.store import Reader, Store, connection
from workbench.store.recovery.backup import KEEP, Daily, back_up, list_backups
from workbench.store.schema import migrations

DAY_S = 86_400.0


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home").make()


@pytest.fixture
def store(home: Home) -> Iterator[Store]:
    store = Store(home.database)
    store.add_experiment({"name": "kept"}, "loss")
    yield store
    store.close()


class Clock:
    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def test_a_backup_is_a_database_of_one_moment_with_what_only_the_log_had(
    home: Home, store: Store
) -> None:
    made = back_up(home.database, home.backups)
    store.add_experiment({"name": "later"}, "loss")
    copy = Reader(sqlite3.connect(f"{made.as_uri()}?mode=ro", uri=True))
    copy.db.row_factory = sqlite3.Row
    assert [one.name for one in copy.experiments()] == ["kept"]
    copy.close()


def test_it_is_nobody_elses_whatever_the_umask(home: Home, store: Store) -> None:
    before = os.umask(0)
    try:
        made = back_up(home.database, home.backups)
    finally:
        os.umask(before)
    assert made.stat().st_mode & 0o777 == 0o600
    assert home.backups.stat().st_mode & 0o777 == 0o700


def test_the_newest_few_stay(home: Home, store: Store) -> None:
    made = [back_up(home.database, home.backups) for _ in range(KEEP + 2)]
    assert list_backups(home.backups) == made[::-1][:KEEP]
    assert sorted(home.backups.iterdir()) == sorted(made[-KEEP:])


def test_what_a_killed_one_left_goes_with_the_next(home: Home, store: Store) -> None:
    home.backups.mkdir()
    for tail in ("", "-journal"):
        (home.backups / f".000007-2026-01-01.db.partial{tail}").write_bytes(b"half")
    made = back_up(home.database, home.backups)
    assert [*home.backups.iterdir()] == [made]


def test_one_that_fails_leaves_nothing(home: Home, store: Store) -> None:
    store.close()
    home.database.write_bytes(b"garbage" * 999)
    with pytest.raises(sqlite3.DatabaseError):
        back_up(home.database, home.backups)
    assert [*home.backups.iterdir()] == []


def test_one_a_day_is_made_beside_the_loop(home: Home, store: Store) -> None:
    wall, monotonic = Clock(1e9), Clock(50.0)
    daily = Daily(home.database, home.backups, wall=wall, monotonic=monotonic)
    for hours in (0, 1, 23, 24, 25, 49):
        monotonic.now = 50.0 + hours * 3_600
        assert daily.look() == ""
        daily.wait(60)
    assert len(list_backups(home.backups)) == 3
    assert daily.look() == ""


@pytest.mark.parametrize(("age_s", "made"), [(DAY_S + 1, 2), (DAY_S / 2, 1), (-9 * DAY_S, 2)])
def test_a_restart_makes_one_when_the_newest_is_old_or_from_the_future(
    home: Home, store: Store, age_s: float, made: int
) -> None:
    newest = back_up(home.database, home.backups)
    wall = Clock(newest.stat().st_mtime + age_s)
    daily = Daily(home.database, home.backups, wall=wall)
    daily.look()
    daily.wait(60)
    assert len(list_backups(home.backups)) == made


def test_what_went_wrong_is_told_once(home: Home, store: Store) -> None:
    home.backups.write_text("a file is in the way")
    daily = Daily(home.database, home.backups)
    daily.look()
    daily.wait(60)
    assert "no backup today" in daily.look()
    assert daily.look() == ""


def test_a_backup_is_made_before_a_migration(
    home: Home, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.close()
    today = connection.SCHEMA_VERSION
    for module in (connection, migrations):
        monkeypatch.setattr(module, "SCHEMA_VERSION", today + 1)
    step = "create table later (id integer primary key);"
    monkeypatch.setattr(migrations, "MIGRATIONS", (*migrations.MIGRATIONS, step))
    Store(home.database).close()
    [made] = list_backups(home.backups)
    copy = sqlite3.connect(made)
    assert copy.execute("pragma user_version").fetchone()[0] == today
    copy.close()
    Store(home.database).close()
    assert list_backups(home.backups) == [made]

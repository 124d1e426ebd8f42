"""A database of an older schema becomes one of today's, with every row and reference kept."""

import sqlite3
from pathlib import Path

import pytest

from workbench.errors import StoreError
from workbench.home import Home
from workbench.service import Service
from workbench.store import Reader, Store
from workbench.store.recovery import journal
from workbench.store.recovery.backup import list_backups
from workbench.store.recovery.repair import repair_database
from workbench.store.schema.migrations import MIGRATIONS
from workbench.trial import Kind, State

ROWS = """
insert into experiments (id, name, state, recipe, rank_by, base_trial, created_utc)
    values (1, 'old', 'ready', '{}', 'loss', 1, 1.0);
insert into trials (id, experiment, number, kind, state, settings, created_utc, changed_utc)
    values (1, 1, 0, 'base', 'done', '{}', 1.0, 2.0);
insert into trials (id, experiment, number, kind, state, settings, rank, warm_trial, created_utc,
    changed_utc) values (2, 1, 1, 'tune', 'paused', '{"lora.rank": 8}', -1.5, 1, 1.0, 2.0);
insert into attempts (id, trial, card, plan, predicted_bytes, started_utc)
    values (1, 2, 'cpu-0', '{}', 1, 1.0);
insert into metrics values (2, 'loss', 1, 0.5);
insert into cards (uuid, kind, name, total_bytes, seen_utc) values ('cpu-0', 'cpu', 'CPU', 1, 1.0);
insert into facts values ('era', 'an era'), ('journal', '3');
"""


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A database that a build of schema version 1 wrote."""
    database = sqlite3.connect(tmp_path / "workbench.db")
    database.executescript(f"{MIGRATIONS[0]}; {ROWS}; pragma user_version = 1;")
    database.close()
    return tmp_path / "workbench.db"


def test_every_row_is_kept_and_every_reference_holds(old: Path) -> None:
    store = Store(old)
    trial = store.trial(2)
    assert (trial.state, trial.kind, trial.rank) == (State.PAUSED, Kind.TUNE, -1.5)
    assert (trial.settings, trial.warm_trial, trial.finals_of) == ({"lora.rank": 8}, 1, None)
    assert trial.card == "cpu-0"
    assert store.db.execute("pragma foreign_key_check").fetchall() == []
    assert store.db.execute("pragma foreign_keys").fetchone()[0] == 1
    references = "select sql from sqlite_master where sql like '%trials_2%'"
    assert store.db.execute(references).fetchall() == []


def test_the_tables_of_both_ways_are_equal(old: Path, tmp_path: Path) -> None:
    migrated, new = Store(old), Store(tmp_path / "new.db", journal=False)
    query = "select type, name, sql from sqlite_master order by 1, 2"
    assert [tuple(row) for row in migrated.db.execute(query)] == [
        tuple(row) for row in new.db.execute(query)
    ]


def test_score_trials_and_trials_of_finals_can_be_added(old: Path) -> None:
    store = Store(old)
    assert store.trial(store.add_trial(1, 2, Kind.SCORE, {})).kind is Kind.SCORE
    assert store.trial(store.add_trial(1, 3, Kind.TUNE, {}, finals_of=2)).finals_of == 2
    with pytest.raises(sqlite3.IntegrityError):
        store.add_trial(1, 4, Kind.TUNE, {}, finals_of=99)
    with pytest.raises(sqlite3.IntegrityError):
        store.db.execute("update trials set kind = 'other'")


def test_the_old_database_is_backed_up_once(old: Path) -> None:
    Store(old).close()
    Store(old).close()
    [made] = list_backups(old.parent / "backups")
    copy = sqlite3.connect(made)
    assert copy.execute("pragma user_version").fetchone()[0] == 1
    assert copy.execute("select count(*) from trials").fetchone()[0] == 2
    copy.close()


def test_a_migration_that_fails_leaves_the_old_database(
    old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from workbench.store.schema import migrations

    broken = f"{MIGRATIONS[1]}; insert into missing values (1)"
    monkeypatch.setattr(migrations, "MIGRATIONS", (MIGRATIONS[0], broken))
    with pytest.raises(StoreError, match="no such table"):
        Store(old)
    monkeypatch.undo()
    assert Store(old).trial(2).settings == {"lora.rank": 8}


def test_changes_of_the_new_table_reach_the_journal(old: Path) -> None:
    store = Store(old)
    trial = store.add_trial(1, 2, Kind.TUNE, {}, finals_of=2)
    store.to_front(2)
    store.close()
    rows = {
        id: row
        for table, id, row in journal.committed_rows(journal.journal_of(old), None)
        if table == "trials"
    }
    assert rows[trial]["finals_of"] == 2
    assert rows[2]["rank"] == -1.0


def test_a_repair_takes_from_a_backup_of_the_old_version(old: Path) -> None:
    Store(old).close()
    old.unlink()
    report = repair_database(Home(old.parent))
    assert report.backup
    assert not report.lost
    store = Store(old)
    assert store.trial(2).settings == {"lora.rank": 8}
    assert [card.uuid for card in store.cards()] == ["cpu-0"]


def test_a_front_end_that_was_open_meanwhile_reads_the_new_tables(old: Path) -> None:
    service = Service(Home(old.parent))
    assert service.trial(2).trial.finals_of is None
    store = Store(old)
    id = store.add_trial(1, 2, Kind.TUNE, {}, finals_of=2)
    assert service.trial(id).trial.finals_of == 2
    service.close()
    store.close()


def test_a_database_of_version_2_is_read_as_it_is_and_migrated_by_the_engine(
    tmp_path: Path,
) -> None:
    path = tmp_path / "workbench.db"
    database = sqlite3.connect(path)
    database.executescript(f"{MIGRATIONS[0]}; {MIGRATIONS[1]}; {ROWS}; pragma user_version = 2;")
    database.close()
    reader = Reader.open(path)
    assert (reader.trial(2).card, reader.trial(2).ends_utc) == ("cpu-0", None)
    assert not reader.migrated
    store = Store(path)
    assert reader.migrated
    store.touch_attempt(1, ends_utc=9.0)
    assert (store.trial(2).ends_utc, store.attempts(2)[0].ends_utc) == (9.0, 9.0)

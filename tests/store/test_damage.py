"""Engine and front ends on a database they cannot use: what is wrong, the mend, an exit code."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from workbench.cli import main
from workbench.errors import DatabaseDamaged, EngineError
from workbench.home import Home
from workbench.service import Service
from workbench.store import Store
from workbench.store.reader import Reader
from workbench.store.recovery.damage import look_through

COMMANDS = (["ls"], ["board"], ["show", "1"], ["engine", "status"], ["logs", "1"], ["pause", "1"])

UNPRIVILEGED = """
import ctypes, json, sys
from pathlib import Path
from workbench.cli import main
from workbench.errors import StoreError
from workbench.store import Store
# root without its capabilities: permissions count
libc, none = ctypes.CDLL(None), (ctypes.c_uint32 * 6)()
assert libc.capset((ctypes.c_uint32 * 2)(0x20080522, 0), none) == 0
try:
    Store(Path(sys.argv[1]))
except StoreError as refused:
    print(json.dumps([refused.what, refused.hint, main(["engine", "status"])]))
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    home = Home(tmp_path / "home").make()
    monkeypatch.setenv("WORKBENCH_HOME", str(home.root))
    home.stopped.touch()
    store = Store(home.database)
    with store.writing():
        for n in range(300):
            store.add_experiment({"name": f"one-{n}"}, "loss")
    store.close()
    return home


def cut(home: Home) -> None:
    with home.database.open("rb+") as file:
        file.truncate(home.database.stat().st_size // 2)


def garbage(home: Home) -> None:
    home.database.write_bytes(b"no database, by far" * 1000)


def empty(home: Home) -> None:
    home.database.write_bytes(b"")


def gone(home: Home) -> None:
    home.database.unlink()


def scribbled(home: Home) -> None:
    with home.database.open("rb+") as file:
        file.seek(4096)
        file.write(os.urandom(home.database.stat().st_size - 4096))


def newer(home: Home) -> None:
    connection = sqlite3.connect(home.database)
    connection.execute("pragma user_version = 99")
    connection.close()


@pytest.mark.parametrize("harm", [cut, garbage, empty, gone, scribbled, newer])
def test_every_command_tells_it_with_the_mend_and_no_traceback(
    home: Home, harm: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    harm(home)
    for command in COMMANDS:
        code = main(command)
        said = capfd.readouterr()
        assert code == 1, command
        assert "error: " in said.err
        assert "Traceback" not in said.err
        assert "unexpected" not in said.err
        assert ("upgrade" if harm is newer else "workbench repair") in said.err


@pytest.mark.parametrize("harm", [garbage, scribbled])
def test_the_engine_ends_and_says_why_and_is_not_started_again(home: Home, harm: Any) -> None:
    harm(home)
    home.stopped.unlink()
    done = subprocess.run(
        [sys.executable, "-m", "workbench.engine"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr  # what the keeper takes for: leave it
    engine = Service(home).engine()
    assert engine.state == "stopped"
    assert "is damaged" in engine.detail
    with pytest.raises(EngineError, match="is damaged") as refused:
        Service(home).wait_for_engine(running=True, timeout_s=5)
    assert "workbench repair" in refused.value.hint


def test_one_cut_short_under_somebody_who_reads_is_told(home: Home) -> None:
    reader = Reader.open(home.database)
    writer = Store(home.database)
    writer.add_experiment({"name": "the last"}, "loss")
    assert writer.db.execute("pragma wal_checkpoint(truncate)").fetchone()[0] == 0
    os.truncate(home.database, home.database.stat().st_size - 4096)
    with pytest.raises(DatabaseDamaged, match="cut short"):
        Reader.open(home.database)
    writer.close()
    reader.close()


def test_waiting_for_an_engine_that_ended_by_itself_starts_no_other(home: Home) -> None:
    with home.database.open("rb+") as file:  # where only the engine looks
        file.seek(-4096, os.SEEK_END)
        file.write(os.urandom(4096))
    service = Service(home)
    service.start_engine()
    with pytest.raises(EngineError, match=r"does not start: .* is damaged"):
        service.wait_for_engine(running=True, timeout_s=60)
    keepers = (home.logs / "keeper.log").read_text().count(" INFO keeper ")
    assert keepers == 1


def test_a_read_only_database_is_told(home: Home) -> None:
    home.database.chmod(0o400)
    done = subprocess.run(
        [sys.executable, "-c", UNPRIVILEGED, str(home.database)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout, done.stderr
    what, hint, code = json.loads(done.stdout.splitlines()[-1])
    assert "read-only" in what
    assert "chmod" in hint
    assert code == 0  # reading goes on


def test_looking_through_a_huge_one_ends_in_time(home: Home, monkeypatch: Any) -> None:
    monkeypatch.setattr("workbench.store.recovery.damage.CHECK_EVERY", 10)
    connection = sqlite3.connect(home.database)
    look_through(connection, home.database, limit_s=-1.0)
    assert connection.execute("select count(*) from experiments").fetchone() == (300,)
    connection.close()

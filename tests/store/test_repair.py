"""The database rebuilt from the folders: equal to what it was, everything paused."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.support.tick_contexts import Bench, cpu_card, make_bench, recipe
from workbench.errors import DatabaseDamaged, EngineError, NotThere, StoreError
from workbench.home import Home
from workbench.machine.locks import Lock
from workbench.recipe import Recipe
from workbench.scheduler.recover import requeue_all
from workbench.store import Reader, Store, card_table
from workbench.store.board import rank_adapters
from workbench.store.recovery import journal
from workbench.store.recovery.backup import back_up
from workbench.store.recovery.repair import RepairReport, differences_from_repair, repair_database
from workbench.store.requests import drop_request
from workbench.trial import FINAL, LEGAL, State

SWEPT = {"sweep": {"parameters": {"train.learning_rate": [0.1, 0.2, 0.666], "lora.rank": [8, 16]}}}


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = make_bench(tmp_path, [cpu_card(0), cpu_card(1)])
    yield bench
    bench.context.fleet.close()
    bench.store.close()


def make_busy(bench: Bench) -> Bench:
    """Some trials done, one failed, some paused, some running, some queued; requests answered."""
    bench.submit(recipe(**SWEPT))
    bench.submit(recipe(name="other"))
    bench.ticks(12)
    waiting = [trial.id for trial in bench.trials() if trial.state is State.QUEUED]
    drop_request(bench.context.home.requests, "pause", {"trial": waiting[-1]})
    bench.ticks(4)
    assert {trial.state for trial in bench.trials()} >= {State.DONE, State.PAUSED, State.RUNNING}
    return bench


@pytest.fixture
def busy(bench: Bench) -> Bench:
    return make_busy(bench)


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """By a loop that was killed."""
    bench = make_busy(make_bench(tmp_path_factory.mktemp("left"), [cpu_card(0), cpu_card(1)]))
    bench.context.fleet.close()
    bench.store.close()
    return bench.context.home


@pytest.fixture
def home(left: Home, tmp_path: Path) -> Home:
    shutil.copytree(left.root, tmp_path / "home")
    return Home(tmp_path / "home")


def tables(home: Home) -> dict[str, list[Any]]:
    reader = Reader.open(home.database)
    names = ("experiments", "trials", "attempts", "metrics", "scores", "adapters", "moves")
    found = {name: [dict(r) for r in reader.db.execute(f"select * from {name}")] for name in names}
    reader.close()
    return found


def lose_wal(home: Home) -> None:
    """Leave the database as its last checkpoint made it: a WAL goes with the last connection."""
    Path(f"{home.database}-wal").unlink(missing_ok=True)
    Path(f"{home.database}-shm").unlink(missing_ok=True)


def test_what_a_repair_would_make_equals_what_there_is_after_every_tick(bench: Bench) -> None:
    bench.submit(recipe(**SWEPT))
    for _ in range(24):
        bench.ticks()
        assert differences_from_repair(bench.context.home) == []
    assert any(trial.state is State.FAILED for trial in bench.trials())


def test_a_difference_is_told(busy: Bench) -> None:
    with busy.store.writing():
        busy.store.db.execute("update metrics set value = 9 where trial = 2 and step = 1")
        busy.store.db.execute("delete from scores where trial = 1")
    told = differences_from_repair(busy.context.home)
    assert any(line.startswith("metrics: ") and "9" in line for line in told)
    assert any(line.startswith("scores: only in the rebuilt") for line in told)


def test_everything_comes_back_and_is_paused(home: Home) -> None:
    before = tables(home)
    home.database.unlink()
    found = repair_database(home)
    after = tables(home)
    for name in ("metrics", "scores", "adapters"):
        assert after[name] == before[name], name
    assert [t["id"] for t in after["trials"]] == [t["id"] for t in before["trials"]]
    for was, now in zip(before["trials"], after["trials"], strict=True):
        final = was["state"] in FINAL
        assert now["state"] == (was["state"] if final else State.PAUSED)
        assert now["wanted"] == (was["wanted"] if final else "pause")
        assert now["settings"] == was["settings"]
        assert now["checkpoint_step"] == was["checkpoint_step"]
    assert all(attempt["outcome"] for attempt in after["attempts"])
    assert all(
        (State(m["before"]), State(m["after"]), m["made_by"]) in LEGAL for m in after["moves"]
    )
    assert found.lost == []
    assert len(found.paused) == sum(t["state"] not in FINAL for t in before["trials"])
    assert found.counts["trials"] == len(before["trials"])


def test_after_a_repair_trials_go_on_to_their_end(home: Home, tmp_path: Path) -> None:
    home.database.unlink()
    repair_database(home)
    again = make_bench(tmp_path, [cpu_card(0), cpu_card(1)])
    again.ticks(5)
    assert not any(trial.state.live for trial in again.trials())
    assert differences_from_repair(home) == []
    for trial in again.trials():
        if not trial.state.final:
            drop_request(home.requests, "resume", {"trial": trial.id})
    again.ticks(80)
    states = [trial.state for trial in again.trials()]
    assert states.count(State.FAILED) == 2
    assert set(states) == {State.DONE, State.FAILED}
    assert differences_from_repair(home) == []
    again.context.fleet.close()
    again.store.close()


def test_after_a_repair_halving_ends_whom_it_would_have_ended(tmp_path: Path) -> None:
    """Earlier arrivals at each rung are remembered: without them the next arrival continues."""
    falling = {"train.learning_rate": [0.09, 0.08, 0.07, 0.06, 0.05, 0.04]}
    wanted = recipe(
        sweep={"parameters": falling, "early_stop": {"method": "asha", "from_step": 2}},
        evaluate={"answer_pattern": "####", "every": 2},
        train={"max_steps": 12, "save_every": 3, "log_every": 1},
    )
    told = []
    for name in ("sound", "repaired"):
        bench = make_bench(tmp_path / name, [cpu_card(0)])
        bench.submit(wanted)
        bench.until(State.PRUNED, 4)
        if name == "repaired":
            bench.context.fleet.close()
            bench.store.close()
            home = bench.context.home
            home.database.unlink()
            for trial in repair_database(home).paused:
                drop_request(home.requests, "resume", {"trial": trial})
            bench = make_bench(tmp_path / name, [cpu_card(0)])
        bench.ticks(80)
        told.append([(trial.state, trial.reason) for trial in bench.trials()])
        bench.context.fleet.close()
        bench.store.close()
    assert told[0] == told[1]
    assert told[0][-1][0] is State.PRUNED
    assert told[0][-1][1].endswith("is not among the best 2 of 6")


def test_an_attempt_that_ended_while_nobody_looked_is_taken_in_later(
    busy: Bench, tmp_path: Path
) -> None:
    [attempt, *_] = busy.store.live_attempts()
    file = busy.context.home.attempt(attempt.id) / "events.jsonl"
    with file.open("a") as lines:
        lines.write('{"n": 99, "t": 5.0, "kind": "end", "outcome": "done", "step": 6}\n')
    busy.store.close()
    busy.context.home.database.unlink()
    found = repair_database(busy.context.home)
    assert found.pending == [attempt.trial]
    again = make_bench(tmp_path, [cpu_card(0)])
    again.ticks(1)
    assert again.store.trial(attempt.trial).state is State.DONE
    again.store.close()


def salvageable(bench: Bench, wanted: Recipe) -> None:
    """Submitted, with the files that a preparation leaves in its folder."""
    id = bench.submit(wanted)
    folder = bench.context.home.experiment(id)
    folder.mkdir(parents=True)
    (folder / "recipe.json").write_text(wanted.model_dump_json())
    (folder / "prepared.json").write_text(json.dumps(bench.store.experiment(id).prepared))


@pytest.mark.parametrize("kept", ["nothing", "a backup"])
def test_without_database_and_journal_the_folders_tell_what_they_know(
    bench: Bench, tmp_path: Path, kept: str
) -> None:
    home = bench.context.home
    salvageable(bench, recipe(**SWEPT))
    bench.ticks(9)
    if kept == "a backup":
        back_up(home.database, home.backups)
    salvageable(bench, recipe(sweep={**SWEPT["sweep"], "method": "tpe", "trials": 3}))
    bench.ticks(20)
    before = tables(home)
    bench.context.fleet.close()
    bench.store.close()
    for path in home.root.glob("workbench.db*"):
        path.unlink()
    journal.journal_of(home.database).unlink()
    with pytest.raises(DatabaseDamaged, match="is gone"):
        Store(home.database)
    found = repair_database(home)
    after = tables(home)
    for name in ("metrics", "scores", "adapters"):
        assert after[name] == before[name], name
    begun = {row["trial"] for row in before["attempts"]}
    same = ("id", "experiment", "number", "kind", "settings", "checkpoint_step")
    for was in before["trials"]:
        now = next((row for row in after["trials"] if row["id"] == was["id"]), None)
        if was["id"] in begun:
            assert now is not None
            assert {key: now[key] for key in same} == {key: was[key] for key in same}
            assert now["state"] == (was["state"] if was["state"] in FINAL else State.PAUSED)
    for was, now in zip(before["experiments"], after["experiments"], strict=True):
        for key in ("id", "name", "state", "recipe", "prepared", "resolved", "rank_by"):
            assert now[key] == was[key], key
    assert found.held == [2]
    assert "moves, answers, priorities" in found.lost[0]
    again = make_bench(tmp_path, [cpu_card(0), cpu_card(1)])
    for trial in found.paused:
        drop_request(home.requests, "resume", {"trial": trial})
    drop_request(home.requests, "release", {"experiment": 2})
    again.ticks(80)
    assert {trial.state for trial in again.trials()} <= {State.DONE, State.FAILED}
    assert len(again.store.trials(2)) == 3
    assert differences_from_repair(home) == []
    again.context.fleet.close()
    again.store.close()


def test_finals_stay_finals_where_only_the_folders_are_left(bench: Bench) -> None:
    home = bench.context.home
    salvageable(bench, recipe(sweep={**SWEPT["sweep"], "finals": {"top": 1, "seeds": 2}}))
    while bench.store.experiment(1).ended_utc is None:
        bench.ticks()
    before = {row["id"]: row["finals_of"] for row in tables(home)["trials"]}
    assert sum(finalist is not None for finalist in before.values()) == 2
    bench.store.close()
    for path in home.root.glob("workbench.db*"):
        path.unlink()
    journal.journal_of(home.database).unlink()
    repair_database(home)
    assert {row["id"]: row["finals_of"] for row in tables(home)["trials"]} == before


def test_an_experiment_that_was_being_prepared_is_held(busy: Bench) -> None:
    id = busy.store.add_experiment(recipe(name="raw").model_dump(mode="json"), "loss")
    busy.store.close()
    busy.context.home.database.unlink()
    assert repair_database(busy.context.home).held == [id]
    reader = Reader.open(busy.context.home.database)
    assert reader.experiment(id).held
    reader.close()


def test_a_home_may_be_moved(home: Home, tmp_path: Path) -> None:
    new = tmp_path / "elsewhere"
    new.mkdir()
    home.root.rename(new / "home")
    moved = make_bench(new, [cpu_card(0), cpu_card(1)])
    requeue_all(moved.context, "the engine was restarted")  # as an engine does at its start
    for trial in moved.trials():
        if trial.state is State.PAUSED:
            drop_request(moved.context.home.requests, "resume", {"trial": trial.id})
    moved.ticks(80)
    assert {trial.state for trial in moved.trials()} == {State.DONE, State.FAILED}
    for row in rank_adapters(moved.store, moved.store.experiment(1), 0.0):
        if row.adapter is not None:
            assert Path(row.adapter) == moved.context.home.trial(row.trial) / "adapter"
    assert not home.root.exists()
    assert differences_from_repair(moved.context.home) == []
    moved.context.fleet.close()
    moved.store.close()


def test_answers_are_remembered_so_that_nothing_is_done_twice(home: Home, tmp_path: Path) -> None:
    reader = Reader.open(home.database)
    known = [row["id"] for row in reader.db.execute("select id from requests")]
    reader.close()
    home.database.unlink()
    repair_database(home)
    again = Store(home.database)
    assert known
    assert all(again.answered(id) for id in known)
    again.close()


@pytest.mark.parametrize("harm", ["cut", "garbage", "empty", "gone", "wal"])
def test_a_damaged_database_is_refused_and_mended(busy: Bench, harm: str) -> None:
    home = busy.context.home
    before = tables(home)
    reader = sqlite3.connect(home.database)  # keeps the WAL when the store goes
    reader.execute("begin")
    reader.execute("select * from facts").fetchall()
    busy.store.close()
    copy = home.root / "copy"
    shutil.copy(home.database, copy)
    reader.close()
    home.database.unlink()
    lose_wal(home)
    body = copy.read_bytes()
    copy.unlink()
    if harm != "gone":
        home.database.write_bytes(
            {
                "cut": body[: len(body) // 2],
                "garbage": os.urandom(9_000),
                "empty": b"",
                "wal": body,
            }[harm]
        )
    with pytest.raises(DatabaseDamaged) as refused:
        Store(home.database)
    assert "workbench repair" in refused.value.hint
    found = repair_database(home)
    assert found.wrong
    assert (home.root / found.aside).exists()
    assert tables(home)["metrics"] == before["metrics"]
    assert repair_database(home).sound


def test_a_front_end_sees_that_the_wal_was_removed(busy: Bench) -> None:
    home = busy.context.home
    busy.store.db.execute("pragma wal_checkpoint")
    body = home.database.read_bytes()
    busy.store.add_experiment({"name": "in the log only"}, "loss")
    busy.store.close()
    lose_wal(home)
    home.database.write_bytes(body)
    with pytest.raises(DatabaseDamaged, match="lost what was committed"):
        Reader.open(home.database)


def test_a_sound_database_is_left_alone(home: Home) -> None:
    before = home.database.read_bytes()
    assert repair_database(home).sound
    assert home.database.read_bytes() == before
    assert not repair_database(home, anyway=True).sound


def test_a_newer_database_is_none_of_its_business(home: Home) -> None:
    connection = sqlite3.connect(home.database)
    connection.execute("pragma user_version = 99")
    connection.close()
    with pytest.raises(StoreError, match="newer"):
        repair_database(home)


def test_an_engine_on_the_home_is_in_the_way(home: Home) -> None:
    lock = Lock(home.loop_lock)
    lock.take()
    with pytest.raises(EngineError, match="runs an engine") as refused:
        repair_database(home)
    assert "engine stop" in refused.value.hint
    lock.release()


def test_where_nothing_was_nothing_is_repaired(tmp_path: Path) -> None:
    with pytest.raises(NotThere):
        repair_database(Home(tmp_path / "nothing"))


class Killed(BaseException):
    pass


@pytest.mark.parametrize("at", range(1, 12))
def test_killed_at_any_moment_it_is_run_again(
    home: Home, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    before = tables(home)
    home.database.write_bytes(b"garbage" * 1000)
    moments = iter(range(1, 1000))
    real = os.rename, os.fsync

    def dying(function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            if next(moments) == at:
                raise Killed
            return function(*args, **kwargs)

        return call

    with monkeypatch.context() as killed:
        killed.setattr(os, "rename", dying(real[0]))
        killed.setattr(os, "fsync", dying(real[1]))
        with suppress(Killed):
            repair_database(home)
    repair_database(home)
    assert tables(home)["metrics"] == before["metrics"]
    assert len(tables(home)["trials"]) == len(before["trials"])
    assert list(home.root.glob("workbench.db.damaged-*"))


def test_damaged_lines_of_the_journal_are_told_and_the_rest_comes_back(home: Home) -> None:
    path = journal.journal_of(home.database)
    lines = path.read_bytes().splitlines(keepends=True)
    lines[3] = b"\x00" * 40 + b"\n"
    path.write_bytes(b"".join(lines) + b'{"c": 99999, "ro')
    home.database.unlink()
    found = repair_database(home)
    assert any("1 lines of journal.jsonl" in line for line in found.lost)
    assert found.counts["trials"] > 5


def test_a_backup_fills_what_the_journal_lost(busy: Bench) -> None:
    home = busy.context.home
    card_table.set_quarantine(busy.store, "cpu-1", "lost trials 1 and 2")
    back_up(home.database, home.backups)
    busy.store.close()
    lines = journal.journal_of(home.database).read_bytes().splitlines(keepends=True)
    journal.journal_of(home.database).write_bytes(lines[0] + b"".join(lines[-4:]))
    home.database.unlink()
    found = repair_database(home)
    assert found.backup
    reader = Reader.open(home.database)
    assert len(reader.trials()) == found.counts["trials"] == 8
    assert {card.uuid: card.quarantined for card in reader.cards()}["cpu-1"]
    reader.close()


def test_another_databases_backup_is_left_alone(home: Home, tmp_path: Path) -> None:
    other = make_bench(tmp_path / "other", [cpu_card(0)])
    for n in range(9):
        other.submit(recipe(name=f"foreign-{n}"))
    back_up(other.context.home.database, home.backups)
    other.store.close()
    home.database.unlink()
    assert repair_database(home).backup == ""


# --- the journal itself ---


def test_what_was_rolled_back_does_not_count(busy: Bench) -> None:
    store = busy.store
    with pytest.raises(ZeroDivisionError), store.writing():
        store.note("x", "y")
        store.add_experiment({"name": "never"}, "loss")
        store._journal.prepare()  # type: ignore[union-attr]
        raise ZeroDivisionError
    assert differences_from_repair(busy.context.home) == []
    store.set_desired_state(2, busy.store.trial(2).desired_state)
    store.add_experiment({"name": "ever"}, "loss")
    assert differences_from_repair(busy.context.home) == []
    store.close()
    busy.context.home.database.unlink()
    repair_database(busy.context.home)
    reader = Reader.open(busy.context.home.database)
    assert [e.name for e in reader.experiments()] == ["ever", "other", "tiny"]
    reader.close()


def test_a_commit_that_was_cut_off_before_the_database_does_not_count(busy: Bench) -> None:
    home = busy.context.home
    path = journal.journal_of(home.database)
    with path.open("a") as file:
        row = {"id": 77, "name": "ghost"}
        file.write(json.dumps({"c": 10**6, "rows": [["experiments", 77, row]]}) + "\n")
    busy.store.close()
    again = Store(home.database)
    again.add_experiment({"name": "next"}, "loss")
    assert differences_from_repair(home) == []
    again.close()
    assert RepairReport().lost == []


def test_a_journal_that_is_gone_is_written_anew(home: Home) -> None:
    journal.journal_of(home.database).unlink()
    Store(home.database).close()
    assert differences_from_repair(home) == []


def test_a_full_disk_leaves_the_journal_as_it_was(
    busy: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = busy.context.home
    path = journal.journal_of(home.database)
    before = path.stat().st_size
    real = os.write

    def full(handle: int, body: Any) -> int:
        real(handle, bytes(body)[:10])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as filled:
        filled.setattr(os, "write", full)
        with pytest.raises(sqlite3.OperationalError, match="full") as refused:
            busy.store.add_experiment({"name": "too much"}, "loss")
    assert refused.value.sqlite_errorname == "SQLITE_FULL"
    assert path.stat().st_size == before
    busy.store.add_experiment({"name": "fits"}, "loss")
    assert differences_from_repair(home) == []

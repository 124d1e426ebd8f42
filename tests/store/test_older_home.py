"""A home that an earlier build left: today's code reads it, repairs it and resumes its trials."""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path

import pytest

import workbench
from tests.support.waiting import wait_for
from workbench.cli import main
from workbench.cli.export.merge import chosen_adapter
from workbench.home import Home
from workbench.store import Store
from workbench.store.recovery.repair import differences_from_repair, repair_database
from workbench.trial import State

ARCHIVES = sorted((Path(__file__).parent / "homes").glob("*.tar.gz"))
STATES = {1: State.DONE, 2: State.DONE, 3: State.PAUSED, 4: State.STOPPED}


@pytest.fixture(params=ARCHIVES, ids=lambda path: path.name.removesuffix(".tar.gz"))
def home(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """The home in a folder that it was not made in."""
    folder = tmp_path / "home"
    with tarfile.open(request.param) as archive:
        archive.extractall(folder, filter="data")
    folder.chmod(0o700)
    monkeypatch.setenv("WORKBENCH_HOME", str(folder))
    return Home(folder)


def test_it_is_read_without_an_engine(home: Home) -> None:
    with workbench.Workbench(home.root) as bench:
        assert [one.name for one in bench.experiments()] == ["before-long", "before"]
        assert {id: bench.trial(id).trial.state for id in STATES} == STATES
        assert bench.trial(3).trial.checkpoint_step == 55
        stopped, paused, base = bench.board("before-long")
        assert (stopped.trial, paused.trial, base.trial) == (4, 3, 1)
        assert stopped.adapter == str(home.root / "trials/4/adapter")
        assert bench.series(4, "loss")
        assert bench.engine().state == "stopped"


@pytest.mark.parametrize("command", [["ls"], ["show", "3"], ["board", "before"], ["logs", "2"]])
def test_the_commands_show_it(
    home: Home, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command) == 0
    assert capsys.readouterr().out


def test_its_trials_are_exported_with_the_prepared_rows_of_this_home(
    home: Home, tmp_path: Path
) -> None:
    script = tmp_path / "script"
    assert main(["export-recipe", "4", "--trl", "-o", str(script)]) == 0
    assert (script / "rows.jsonl").stat().st_size


def test_rows_that_no_version_prepares_any_more_have_a_way_on(
    home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(home.cache)
    assert main(["export-recipe", "4", "--trl", "-o", str(tmp_path / "script")]) == 3
    assert "`workbench reproduce 4` trains it again" in capsys.readouterr().err


def test_a_merge_finds_the_held_out_rows_wherever_its_home_is(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = chosen_adapter("4").own.rows
    moved = Home(tmp_path / "moved")
    home.root.rename(moved.root)
    monkeypatch.setenv("WORKBENCH_HOME", str(moved.root))
    after = chosen_adapter("4").own.rows
    assert before is not None
    assert after == moved.root / before.relative_to(home.root)
    assert after.is_file()


def test_the_writer_opens_it_and_finds_what_a_repair_would_make(home: Home) -> None:
    store = Store(home.database)
    assert {trial.id: trial.state for trial in store.trials()} == STATES
    store.note("test", "a row of today's")
    store.close()
    assert differences_from_repair(home) == []


def test_a_lost_database_comes_back_from_its_journal(home: Home) -> None:
    lose_database(home)
    report = repair_database(home)
    assert not report.lost
    assert not report.salvaged
    assert report.paused == [3]
    with workbench.Workbench(home.root) as bench:
        assert {id: bench.trial(id).trial.state for id in STATES} == STATES
        assert bench.board("before")[0].score is not None


def test_a_lost_database_comes_back_from_the_folders_alone(home: Home) -> None:
    lose_database(home)
    (home.root / "journal.jsonl").unlink()
    report = repair_database(home)
    assert report.salvaged
    with workbench.Workbench(home.root) as bench:
        assert {id: bench.trial(id).trial.state for id in STATES} == STATES


def lose_database(home: Home) -> None:
    for path in home.root.glob("workbench.db*"):
        path.unlink()


@pytest.mark.fault
def test_its_paused_trial_resumes_from_its_checkpoint_and_ends(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    from workbench.training.libraries import versions

    [commit] = (home.trial(3) / "checkpoints").glob("*/COMMIT.json")
    belongs = json.loads(commit.read_text())["belongs"]
    if belongs["versions"] != versions():
        pytest.skip(f"made with {belongs['versions']}: resuming is refused by design")
    monkeypatch.setenv("WORKBENCH_CARDS", "cpu:4GiB,cpu:4GiB")
    with workbench.Workbench(home.root) as bench:
        try:
            bench.start_engine(timeout_s=120)
            wait_for(lambda: bench.trial(3).trial.state is not State.PAUSED, "it is resumed", 60)
            bench.wait("before-long", timeout_s=300)
            detail = bench.trial(3)
            assert detail.trial.state is State.DONE
            assert [attempt.from_step for attempt in detail.attempts] == [0, 55]
            assert detail.trial.step == 200
            assert bench.board("before-long")[0].score is not None
        finally:
            bench.stop_engine()
            shutil.rmtree(home.root / "logs", ignore_errors=True)

"""A person removes a folder of the home: what it held is done again, and nothing stands still."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.tick_contexts import Bench, recipe
from workbench.fleet.trial_fence import Superseded, TrialFence, allow_attempt, call_off
from workbench.home import Home
from workbench.keeper import Keeper
from workbench.machine.locks import Lock
from workbench.notification import main as notify
from workbench.scheduler.recover import requeue_all
from workbench.trial import State

FOLDERS = ["trials", "attempts", "experiments", "cache", "logs"]
FOLDERS += ["requests", "locks", "backups", "evaluations", "scorers"]
MakeBench = Callable[..., Bench]


def make_running(bench_of: MakeBench) -> Bench:
    """A bench whose two cards train, in the fourth of six steps, with every folder there."""
    bench = bench_of()
    bench.submit(recipe(sweep={"parameters": {"train.learning_rate": [0.01, 0.05]}}))
    bench.ticks(5)
    assert len([trial for trial in bench.trials() if trial.state.live]) == 2
    for name in FOLDERS:
        (bench.context.home.root / name).mkdir(exist_ok=True)
    return bench


@pytest.mark.parametrize("name", FOLDERS)
def test_every_trial_ends_where_a_folder_is_removed_while_it_runs(
    name: str, bench_of: MakeBench
) -> None:
    bench = make_running(bench_of)
    shutil.rmtree(bench.context.home.root / name)
    bench.ticks(40)
    assert {trial.state for trial in bench.trials()} == {State.DONE}
    assert not [card for card in bench.store.cards() if card.quarantined]


@pytest.mark.parametrize("name", FOLDERS)
def test_every_trial_ends_where_a_folder_is_removed_while_the_engine_is_stopped(
    name: str, bench_of: MakeBench
) -> None:
    bench = make_running(bench_of)
    bench.context.fleet.close()
    shutil.rmtree(bench.context.home.root / name)
    requeue_all(bench.context, "the engine was restarted")
    bench.ticks(40)
    assert {trial.state for trial in bench.trials()} == {State.DONE}


def test_what_was_prepared_is_written_again_for_the_next_attempt(bench_of: MakeBench) -> None:
    bench = make_running(bench_of)
    (experiment,) = bench.store.experiments()
    folder = bench.context.home.experiment(experiment.id)
    shutil.rmtree(folder)
    requeue_all(bench.context, "the engine was restarted")
    bench.ticks(5)
    assert json.loads((folder / "prepared.json").read_bytes()) == experiment.prepared
    assert json.loads((folder / "recipe.json").read_bytes()) == experiment.recipe


def test_an_attempt_whose_folder_is_removed_is_named_as_the_reason(bench_of: MakeBench) -> None:
    bench = make_running(bench_of)
    attempt = bench.store.live_attempts()[0]
    shutil.rmtree(bench.context.home.attempt(attempt.id))
    bench.ticks(3)
    ended = bench.store.attempt(attempt.id)
    assert ended.outcome == "cut"
    assert ended.reason == f"the folder of attempt {attempt.id} was removed while it ran"


def test_an_attempt_that_is_called_off_after_its_trials_folder_was_removed_trains_nothing(
    tmp_path: Path,
) -> None:
    trial = tmp_path / "trials" / "1"
    allow_attempt(trial, 7)
    shutil.rmtree(trial)
    call_off(trial)
    with pytest.raises(Superseded):
        TrialFence(trial, 7).check()


def test_a_notification_is_sent_where_the_folder_of_logs_was_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Home(tmp_path / "home").make()
    home.logs.rmdir()
    said = tmp_path / "said.json"
    said.write_text('{"state": "refused", "text": "experiment tiny was refused"}')
    with said.open() as body:
        monkeypatch.setattr("sys.stdin", body)
        assert notify([str(home.root), "10", "true"]) == 0
    assert (home.logs / "notify.log").exists()


def test_the_keeper_starts_its_children_where_the_folder_of_logs_was_removed(
    tmp_path: Path,
) -> None:
    home = Home(tmp_path / "home").make()
    lock = Lock(home.keeper_lock)
    assert lock.take()
    home.logs.rmdir()
    assert Keeper(home, lock)._spawn("loop", ["true"], {}).wait() == 0
    assert (home.logs / "loop.log").exists()

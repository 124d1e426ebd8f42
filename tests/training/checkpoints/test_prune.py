"""Pruning removes older checkpoints; each trial's newest that verifies always stays."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

from workbench.training.checkpoints import checkpoint
from workbench.training.checkpoints.checkpoint import Provenance
from workbench.training.checkpoints.prune import prune_checkpoints, removable_checkpoints

BELONGS = Provenance(recipe="r", data="d", precision="fp32", optimizer="adamw", versions={})
SIZE = 64 << 10
ALL = 1 << 40


def commit(trials: Path, trial: int, *steps: int) -> Path:
    folder = trials / str(trial) / "checkpoints"
    for step in steps:
        staged = folder / f".step-{step:06d}.new"
        staged.mkdir(parents=True)
        (staged / checkpoint.WEIGHTS).write_bytes(bytes([step % 256]) * SIZE)
        checkpoint.commit(staged, folder, step=step, belongs=BELONGS, window={})
    return folder


def evaluate(folder: Path, step: int, loss: float) -> None:
    found = checkpoint.read_unverified(folder, step)
    assert found is not None
    checkpoint.record_held_out(found, loss)


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def flip(path: Path) -> None:
    body = bytearray((path / checkpoint.WEIGHTS).read_bytes())
    body[100] ^= 1
    (path / checkpoint.WEIGHTS).write_bytes(body)


def test_the_newest_checkpoint_of_each_trial_stays(tmp_path: Path) -> None:
    folders = [commit(tmp_path, trial, 10, 20) for trial in (1, 2)]
    done = prune_checkpoints(tmp_path, [1, 2], ALL)
    assert [left(folder) for folder in folders] == [["step-000020"]] * 2
    assert (done.removed, done.trials) == (2, [1, 2])
    assert done.bytes >= 2 * SIZE


def test_the_best_checkpoint_stays_beside_the_newest(tmp_path: Path) -> None:
    folder = commit(tmp_path, 1, 10)
    evaluate(folder, 10, 0.5)
    commit(tmp_path, 1, 20, 30)
    evaluate(folder, 20, 0.75)
    assert prune_checkpoints(tmp_path, [1], ALL).removed == 1
    assert left(folder) == ["step-000010", "step-000030"]


def test_with_the_best_damaged_the_next_best_stays(tmp_path: Path) -> None:
    folder = commit(tmp_path, 1, 10)
    evaluate(folder, 10, 0.5)
    commit(tmp_path, 1, 20, 30)
    evaluate(folder, 20, 0.75)
    flip(folder / "step-000010")
    prune_checkpoints(tmp_path, [1], ALL)
    assert left(folder) == ["step-000020", "step-000030"]


def test_only_the_needed_bytes_are_removed_and_in_the_given_order(tmp_path: Path) -> None:
    folders = {trial: commit(tmp_path, trial, 10, 20) for trial in (1, 2, 3)}
    prune_checkpoints(tmp_path, [3, 1, 2], SIZE)
    assert [len(left(folders[trial])) for trial in (1, 2, 3)] == [2, 2, 1]


def test_the_only_checkpoint_stays(tmp_path: Path) -> None:
    folder = commit(tmp_path, 1, 10)
    assert prune_checkpoints(tmp_path, [1], ALL).removed == 0
    assert left(folder) == ["step-000010"]


def test_with_the_newest_damaged_the_one_before_it_stays(tmp_path: Path) -> None:
    folder = commit(tmp_path, 1, 10, 20)
    flip(folder / "step-000020")
    assert prune_checkpoints(tmp_path, [1], ALL).removed == 0
    assert checkpoint.newest_verified(folder) is not None


def test_where_none_verifies_all_stay(tmp_path: Path) -> None:
    folder = commit(tmp_path, 1, 10, 20)
    for path in folder.iterdir():
        flip(path)
    assert prune_checkpoints(tmp_path, [1], ALL).removed == 0
    assert len(left(folder)) == 2


def test_damaged_checkpoints_are_removed_first(tmp_path: Path) -> None:
    folder = commit(tmp_path, 1, 10, 20)
    aside = folder / checkpoint.ASIDE / "step-000015"
    shutil.copytree(folder / "step-000010", aside)
    assert [path.name for path in removable_checkpoints(folder)] == ["step-000015", "step-000010"]
    prune_checkpoints(tmp_path, [1], SIZE)
    assert not aside.exists()
    assert (folder / "step-000010").exists()


def test_steps_are_numbers(tmp_path: Path) -> None:
    folder = commit(tmp_path, 1, 999_999, 1_000_000)
    prune_checkpoints(tmp_path, [1], ALL)
    assert left(folder) == ["step-1000000"]


def test_missing_and_strange_trials_are_skipped(tmp_path: Path) -> None:
    (tmp_path / "5").mkdir()
    (tmp_path / "6").write_text("no folder")
    folder = commit(tmp_path, 7, 10, 20)
    assert prune_checkpoints(tmp_path, [4, 5, 6, 7], ALL).removed == 1
    assert left(folder) == ["step-000020"]


def test_the_pruning_process_prints_its_result(tmp_path: Path) -> None:
    commit(tmp_path, 1, 10, 20)
    done = subprocess.run(
        [sys.executable, "-m", "workbench.training.checkpoints.prune", str(tmp_path), str(ALL)],
        input="[1]",
        capture_output=True,
        check=True,
        text=True,
        timeout=60,
    )
    said = json.loads(done.stdout)
    assert (said["removed"], said["trials"]) == (1, [1])

"""A checkpoint is whole or absent, and training never resumes from a damaged one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from workbench.errors import CheckpointError
from workbench.machine import staging
from workbench.training.checkpoints import checkpoint
from workbench.training.checkpoints.checkpoint import Checkpoint, Provenance

BELONGS = Provenance(
    recipe="r", data="d", precision="fp32", optimizer="adamw_torch", versions={"torch": "2"}
)


def staged(folder: Path, step: int) -> Path:
    made = staging.stage_folder(checkpoint.folder_of(folder, step))
    (made / checkpoint.WEIGHTS).write_bytes(b"w" * 1000)
    (made / "optimizer.pt").write_bytes(bytes([step]) * 500)
    return made


def commit(folder: Path, step: int) -> Checkpoint:
    return checkpoint.commit(
        staged(folder, step), folder, step=step, belongs=BELONGS, window={"nats": 0.1}
    )


def flip(path: Path) -> None:
    body = bytearray(path.read_bytes())
    body[len(body) // 2] ^= 1
    path.write_bytes(bytes(body))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def test_a_committed_checkpoint_is_read_back(tmp_path: Path) -> None:
    made = commit(tmp_path, 25)
    assert checkpoint.newest_verified(tmp_path) == made
    assert (made.step, made.bytes, made.window) == (25, 1500, {"nats": 0.1})


def test_without_a_checkpoint_the_newest_is_none(tmp_path: Path) -> None:
    assert checkpoint.newest_verified(tmp_path / "checkpoints") is None


@pytest.mark.parametrize("name", [checkpoint.WEIGHTS, "optimizer.pt", checkpoint.COMMIT])
@pytest.mark.parametrize("damage", [flip, cut, Path.unlink])
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_used(
    damage: Callable[[Path], None], name: str, tmp_path: Path
) -> None:
    commit(tmp_path, 25)
    newest = commit(tmp_path, 50)
    damage(newest.path / name)
    found = checkpoint.newest_verified(tmp_path)
    assert found is not None
    assert found.step == 25
    assert (tmp_path / checkpoint.ASIDE / "step-000050").is_dir()


def test_death_before_the_rename_leaves_the_one_before(tmp_path: Path) -> None:
    before = commit(tmp_path, 25)
    staged(tmp_path, 50)
    assert checkpoint.newest_verified(tmp_path) == before


def test_a_staged_folder_of_a_dead_process_is_no_obstacle(tmp_path: Path) -> None:
    staged(tmp_path, 20)
    staged(tmp_path, 25)
    assert commit(tmp_path, 25).step == 25
    assert [path.name for path in tmp_path.iterdir()] == ["step-000025"]


def test_the_same_step_may_be_committed_again(tmp_path: Path) -> None:
    commit(tmp_path, 25)
    again = commit(tmp_path, 25)
    assert checkpoint.newest_verified(tmp_path) == again


def test_the_two_newest_are_kept(tmp_path: Path) -> None:
    for step in (9, 99, 100, 101):
        commit(tmp_path, step)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000100", "step-000101"]


@pytest.mark.parametrize(
    ("changed", "word"),
    [
        ({"recipe": "x"}, "recipe"),
        ({"data": "x"}, "rows"),
        ({"optimizer": "sgd"}, "optimizer"),
        ({"versions": {"torch": "3"}}, "torch is 3 now and was 2"),
    ],
)
def test_a_checkpoint_of_other_provenance_is_refused(
    changed: dict[str, object], word: str, tmp_path: Path
) -> None:
    found = commit(tmp_path, 25)
    with pytest.raises(CheckpointError, match=word) as refused:
        checkpoint.check_provenance(found, replace(BELONGS, **changed))  # type: ignore[arg-type]
    assert refused.value.hint


def test_a_folder_is_whole_or_not_there(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), staging.whole_folder(tmp_path / "adapter") as folder:
        (folder / "half").write_text("")
        raise RuntimeError
    assert not list(tmp_path.iterdir())

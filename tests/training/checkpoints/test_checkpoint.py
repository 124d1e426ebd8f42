"""A checkpoint is whole or absent, and training never resumes from a damaged one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from workbench.errors import CheckpointError
from workbench.machine import staging
from workbench.recipe import Recipe
from workbench.recipe.schema import LLAMA_PROJECTIONS
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


def commit(folder: Path, step: int, held_out: float | None = None) -> Checkpoint:
    return checkpoint.commit(
        staged(folder, step),
        folder,
        step=step,
        belongs=BELONGS,
        window={"nats": 0.1},
        held_out=held_out,
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


def test_the_best_is_kept_beside_the_two_newest_until_a_better_one_comes(tmp_path: Path) -> None:
    for step, loss in ((5, 1.5), (10, 1.2), (15, 1.4), (20, 1.3), (21, None)):
        commit(tmp_path, step, loss)
    assert [path.name for path in checkpoint.newest_first(tmp_path)] == [
        "step-000021", "step-000020", "step-000010",
    ]  # fmt: skip
    for step, loss in ((25, 1.1), (26, None)):
        commit(tmp_path, step, loss)
    assert [path.name for path in checkpoint.newest_first(tmp_path)] == [
        "step-000026", "step-000025",
    ]  # fmt: skip


def test_of_equal_losses_the_earlier_step_is_the_best(tmp_path: Path) -> None:
    commit(tmp_path, 99, 1.25)
    commit(tmp_path, 100, 1.25)
    found = checkpoint.best_verified(tmp_path)
    assert found is not None
    assert (found.step, found.held_out) == (99, 1.25)


@pytest.mark.parametrize("name", [checkpoint.WEIGHTS, checkpoint.COMMIT])
@pytest.mark.parametrize("damage", [flip, cut, Path.unlink])
def test_behind_a_damaged_best_comes_the_next_best(
    damage: Callable[[Path], None], name: str, tmp_path: Path
) -> None:
    best = commit(tmp_path, 25, 1.0)
    commit(tmp_path, 50, 2.0)
    damage(best.path / name)
    found = checkpoint.best_verified(tmp_path)
    assert found is not None
    assert found.step == 50


@pytest.mark.parametrize(("damage", "used"), [(flip, 25), (cut, 50)])
def test_the_best_is_read_for_its_weights_alone(
    damage: Callable[[Path], None], used: int, tmp_path: Path
) -> None:
    best = commit(tmp_path, 25, 1.0)
    commit(tmp_path, 50, 2.0)
    damage(best.path / "optimizer.pt")
    found = checkpoint.best_verified(tmp_path)
    assert found is not None
    assert found.step == used


def test_a_loss_that_is_recorded_later_is_read_back(tmp_path: Path) -> None:
    made = commit(tmp_path, 25)
    assert checkpoint.best_verified(tmp_path) is None
    checkpoint.record_held_out(made, 0.1 + 0.2)
    assert checkpoint.best_verified(tmp_path) == replace(made, held_out=0.1 + 0.2)


def test_what_is_kept_and_tested_belongs_to_no_checkpoint() -> None:
    """Checkpoints of versions without these settings can be resumed: the digest is theirs."""
    data = {"train": "workbench:demo/data/train.jsonl"}
    recipe = {
        "name": "test",
        "model": {"name": "workbench:demo/model"},
        "data": data,
        "lora": {"targets": list(LLAMA_PROJECTIONS)},  # the default then, and written out
    }
    known = "73bb094b94f2eeef35b75b783992279a6cc17225d1fe7fd2e4b9eae5ce8dc7ab"
    assert checkpoint.recipe_digest(Recipe.model_validate(recipe)) == known
    changed = {**recipe, "data": {**data, "test_rows": 4}, "train": {"keep": "best"}}
    assert checkpoint.recipe_digest(Recipe.model_validate(changed)) == known


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


def test_a_checkpoint_goes_on_with_another_cuda_build(tmp_path: Path) -> None:
    found = commit(tmp_path, 25)
    version = BELONGS.versions["torch"]
    checkpoint.check_provenance(found, replace(BELONGS, versions={"torch": f"{version}+cu126"}))


def test_a_folder_is_whole_or_not_there(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), staging.whole_folder(tmp_path / "adapter") as folder:
        (folder / "half").write_text("")
        raise RuntimeError
    assert not list(tmp_path.iterdir())

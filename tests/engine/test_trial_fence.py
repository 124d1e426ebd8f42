"""The fence of a trial: only its live attempt passes, and only one at a time."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.tick_contexts import recipe
from workbench.attempts.assignment import Assignment
from workbench.fleet.trial_fence import Superseded, TrialFence, allow_attempt, call_off
from workbench.machine.cards import Card
from workbench.training.worker import Worker


def test_only_the_live_attempt_passes(tmp_path: Path) -> None:
    allow_attempt(tmp_path / "trial", 3)
    TrialFence(tmp_path / "trial", 3).check()
    with pytest.raises(Superseded, match="attempt 2 was replaced by 3"):
        TrialFence(tmp_path / "trial", 2).check()


def test_after_it_was_called_off_no_attempt_passes(tmp_path: Path) -> None:
    allow_attempt(tmp_path, 3)
    call_off(tmp_path)
    with pytest.raises(Superseded):
        TrialFence(tmp_path, 3).check()


def test_a_trial_that_no_scheduler_placed_has_no_fence(tmp_path: Path) -> None:
    TrialFence(tmp_path, 1).check()


def test_the_next_attempt_waits_for_the_end_of_the_one_before(tmp_path: Path) -> None:
    allow_attempt(tmp_path, 1)
    former = TrialFence(tmp_path, 1)
    assert former.take()
    allow_attempt(tmp_path, 2)
    later = TrialFence(tmp_path, 2)
    assert not later.take()
    former.release()
    assert later.take()


def test_an_attempt_that_was_replaced_does_not_take_the_lock_again(tmp_path: Path) -> None:
    fence = TrialFence(tmp_path, 1)
    allow_attempt(tmp_path, 2)
    with pytest.raises(Superseded):
        fence.take()


def test_a_worker_ends_a_replaced_attempt_without_writing_anything(tmp_path: Path) -> None:
    card = Card(uuid="cpu-0", kind="cpu", name="CPU", total_bytes=1 << 30)
    given = Assignment(
        attempt=1,
        trial=1,
        experiment=1,
        kind="tune",
        recipe=recipe().model_dump(mode="json"),
        card=card.to_json(),
        plan={},
        folder=str(tmp_path / "attempt"),
        trial_folder=str(tmp_path / "trial"),
        experiment_folder=str(tmp_path),
    )
    allow_attempt(tmp_path / "trial", 2)
    worker = Worker(card.to_json(), 1, str(tmp_path))
    try:
        worker.start(given.to_json())
        report = worker.wait(lambda told: told["phase"] == "idle", timeout_s=120)
    finally:
        worker.close()
        assert worker.join(60)
    assert report["phase"] == "idle"
    assert report["last_attempt"] == 1
    assert not (tmp_path / "attempt").exists()
    assert [path.name for path in (tmp_path / "trial").iterdir()] == ["live-attempt"]

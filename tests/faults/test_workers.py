"""Workers killed, hanging, and finding their checkpoints damaged."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest

from tests.support.waiting import wait_for
from tests.support.whole import LIMIT_S, Whole, whose
from workbench.fleet.trial_fence import LIVE, LOCK
from workbench.machine.processes import identify_process
from workbench.training.checkpoints import checkpoint
from workbench.trial import State

pytestmark = pytest.mark.fault

WENT_AWAY = (
    r"trial \d+: the worker of cpu-\d went away: its process ended: .+; goes on from step \d+"
)


@pytest.mark.parametrize(
    "point",
    [
        "worker.step",
        pytest.param("checkpoint.copied", marks=pytest.mark.slow),
        pytest.param("checkpoint.filled", marks=pytest.mark.slow),
        "checkpoint.before_rename",
        pytest.param("checkpoint.after_rename", marks=pytest.mark.slow),
    ],
)
def test_a_worker_killed_while_it_trains_is_replaced_and_its_neighbour_untouched(
    point: str, whole: Whole
) -> None:
    whole.two_running()
    before = whole.live()
    with whole.unharmed(told=WENT_AWAY):
        whole.arm(f"{point}=kill")
        victim = whose(whole.fired(), before)
        whole.until_later_attempts([victim])
    (neighbour,) = (attempt for attempt in before if attempt.id != victim.id)
    assert neighbour.id in {attempt.id for attempt in whole.live()}
    resumed = whole.service.trial(victim.trial).attempts[-1]
    assert (resumed.generation or 0) > (victim.generation or 0)


@pytest.mark.parametrize(
    "how", [State.PAUSED, pytest.param(State.STOPPED, marks=pytest.mark.slow)], ids=str
)
def test_a_halt_while_a_checkpoint_is_written_waits_for_it(how: State, whole: Whole) -> None:
    whole.two_running()
    before = whole.live()
    with whole.unharmed():
        whole.arm("checkpoint.before_rename=hold")
        victim = whose(whole.fired(), before)
        checkpoints = whole.home.trial(victim.trial) / "checkpoints"
        held = {path.name for path in checkpoints.glob("step-*")}
        act = whole.service.pause if how is State.PAUSED else whole.service.stop
        whole.obeyed(act(victim.trial))
        assert whole.state(victim.trial) is not how
        assert {path.name for path in checkpoints.glob("step-*")} == held
        whole.armed.with_suffix(".fired").unlink()
        whole.until_state(victim.trial, how)
    committed = whole.service.trial(victim.trial).attempts[-1].checkpoint_step or 0
    newest, older = map(checkpoint.verify, checkpoint.newest_first(checkpoints)[:2])
    assert newest.step == committed
    assert older.path.name not in held
    assert list(checkpoints.glob(".*")) == []


def test_a_worker_killed_while_it_loads_is_replaced(whole: Whole) -> None:
    whole.two_running()
    victim = whole.live()[0]
    with whole.unharmed(told=WENT_AWAY):
        whole.arm("worker.loading=kill")
        whole.kill(victim.pid or 0)
        assert whole.fired() != victim.pid
        whole.until_later_attempts([victim])
    assert whole.service.trial(victim.trial).trial.attempts >= 3


@pytest.mark.parametrize(
    "point",
    [
        pytest.param("worker.evaluating", marks=pytest.mark.slow),
        pytest.param("results.after_rename", marks=pytest.mark.slow),
        pytest.param("adapter.linked", marks=pytest.mark.slow),
        "adapter.before_rename",
        pytest.param("adapter.after_rename", marks=pytest.mark.slow),
    ],
)
def test_a_worker_killed_while_it_ends_a_trial_leaves_one_whole_adapter(
    point: str, whole: Whole
) -> None:
    whole.two_running()
    victim = whole.live()[0]
    with whole.unharmed(told=WENT_AWAY):
        whole.arm(f"{point}=kill")
        whole.obeyed(whole.service.stop(victim.trial))
        assert whole.fired() == victim.pid
        whole.until_state(victim.trial, State.STOPPED)
    experiment = whole.service.trial(victim.trial).experiment.id
    (row,) = (r for r in whole.service.board(experiment)[1] if r.trial == victim.trial)
    assert row.score is not None
    assert row.adapter is not None
    assert row.score_low is not None
    assert list((whole.home.trial(victim.trial) / "results").glob(".*")) == []
    assert {p.name for p in Path(row.adapter).parent.iterdir()} == {
        "adapter",
        "checkpoints",
        "results",
        LIVE,
        LOCK,
    }


@pytest.mark.parametrize(
    "damage", ["a file cut short", pytest.param("a bit flipped", marks=pytest.mark.slow)]
)
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_it_used(
    damage: str, whole: Whole
) -> None:
    whole.two_running()
    trial = whole.live()[0].trial
    checkpoints = whole.home.trial(trial) / "checkpoints"
    wait_for(lambda: len(list(checkpoints.glob("step-*"))) == 2, "there are two", LIMIT_S)
    with whole.unharmed(told=r"checkpoint step-\d+ is damaged: .+ the one before it", intervals=2):
        whole.obeyed(whole.service.pause(trial))
        whole.until_state(trial, State.PAUSED)
        older, newest = sorted(checkpoints.glob("step-*"))
        weights = newest / checkpoint.WEIGHTS
        if damage == "a bit flipped":
            body = bytearray(weights.read_bytes())
            body[len(body) // 2] ^= 1
            weights.write_bytes(body)
        else:
            os.truncate(weights, weights.stat().st_size // 2)
        whole.obeyed(whole.service.resume(trial))
        whole.until_both_commit()
    assert (checkpoints / checkpoint.ASIDE / newest.name).is_dir()
    assert int(older.name[5:]) < int(newest.name[5:])


def test_a_checkpoint_cut_as_it_was_written_is_not_resumed_from(whole: Whole) -> None:
    whole.two_running()
    with whole.unharmed(told=r"checkpoint step-\d+ is damaged", intervals=2):
        before = whole.live()
        whole.arm("checkpoint.after_rename=truncate_and_kill")  # else it may write a whole one
        victim = whose(whole.fired(), before)
        whole.until_later_attempts([victim])


@pytest.mark.begins_early
def test_workers_that_hang_are_asked_and_then_replaced_whether_they_answer_or_not(
    whole: Whole,
) -> None:
    """One stands still in a step and answers; the other is frozen whole."""
    whole.two_running()
    before = whole.live()
    with whole.unharmed(told=r"made no progress on cpu-\d for .+ asked for a checkpoint"):
        whole.arm("worker.step=hang")
        still = whose(whole.fired(), before)
        (frozen,) = (attempt for attempt in before if attempt.id != still.id)
        os.kill(frozen.pid or 0, signal.SIGSTOP)
        whole.until_later_attempts([still, frozen])
    reasons = {a.id: a.reason for t in whole.tuned() for a in whole.service.trial(t.id).attempts}
    assert "made no progress" in reasons[still.id]
    assert "did not answer" in reasons[frozen.id]


@pytest.mark.begins_early
def test_a_killed_worker_is_replaced_by_the_spare_which_is_replaced_too(whole: Whole) -> None:
    whole.two_running()
    log = whole.home.logs / "loop.log"

    def spares() -> list[int]:
        """Return the pids of all spares that were ready so far."""
        return [int(pid) for pid in re.findall(r"stands ready: process (\d+)", log.read_text())]

    def ready() -> list[int]:
        """Return the pid of the spare that stands ready, and not those that became workers."""
        workers = {attempt.pid for attempt in whole.live()}
        return [pid for pid in spares() if pid not in workers and identify_process(pid)]

    (spare,) = wait_for(ready, "a spare stands ready", LIMIT_S)
    victim = whole.live()[0]
    with whole.unharmed(told=WENT_AWAY):
        whole.kill(victim.pid or 0)
        whole.until_later_attempts([victim])
    assert whole.service.trial(victim.trial).attempts[-1].pid == spare
    wait_for(lambda: spares()[-1] != spare, "another spare stands ready", LIMIT_S)

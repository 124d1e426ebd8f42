"""Faults of a real card: out of memory, and a broken context.

    python -m pytest -m "fault and gpu" tests/faults/test_gpu.py

on a machine with a CUDA card; two minutes.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.waiting import wait_for
from tests.support.whole import LIMIT_S, Whole, short_recipe, whole_engine
from workbench.trial import State

torch = pytest.importorskip("torch")
pytestmark = [
    pytest.mark.fault,
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA card"),
]


@pytest.fixture
def card(tmp_path: Path) -> Iterator[Whole]:
    with whole_engine(tmp_path, WORKBENCH_CARDS="") as made:
        yield made


def one_running(whole: Whole) -> int:
    whole.obeyed(whole.service.submit(short_recipe()))
    (trial,) = wait_for(whole.tuned, "it is queued", LIMIT_S)
    wait_for(lambda: any(a.checkpoint_step for a in whole.live()), "it commits", LIMIT_S)
    return trial.id


def test_a_broken_context_ends_the_worker_and_the_trial_goes_on_in_a_new_one(card: Whole) -> None:
    trial = one_running(card)
    before = card.live()
    with card.unharmed(told=r"trial \d+: the worker of GPU-.+ went away: .*context broke"):
        card.arm("worker.step=cuda_illegal_access")
        broken = card.fired()
        card.until_later_attempts(before)
        wait_for(lambda: _memory_of(broken) == 0, "its memory is back", LIMIT_S)
    assert broken not in {a.pid for a in card.live()}
    assert card.state(trial) is State.RUNNING


def test_out_of_memory_takes_its_fallback_steps_and_nothing_is_lost(card: Whole) -> None:
    trial = one_running(card)
    with card.unharmed(told=r"trial \d+.*out of memory"):
        before = card.steps()
        card.arm("worker.step=cuda_out_of_memory")
        card.fired()
        card.until_further({trial: before[trial] + 64})
    assert card.state(trial) is State.RUNNING


def _memory_of(pid: int) -> int:
    """Bytes that NVML still counts for that process."""
    query = ["nvidia-smi", "--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits"]
    rows = subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()
    return sum(int(row.split(",")[1]) << 20 for row in rows if int(row.split(",")[0]) == pid)

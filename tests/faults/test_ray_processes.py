"""Each of Ray's own processes ends, in either way: training continues, nobody is blamed."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest

from tests.support.waiting import wait_for
from tests.support.whole import LIMIT_S, Whole
from workbench.machine.processes import find_marked, identify_process

pytestmark = pytest.mark.fault

slow = [pytest.mark.slow]
quick: list[pytest.MarkDecorator] = []
ENDS = [
    ("raylet", "KILL", slow),
    ("raylet", "TERM", slow),
    ("head", "KILL", slow),
    ("head", "TERM", slow),
    ("gcs_server", "KILL", slow),
    ("gcs_server", "TERM", slow),
    ("DashboardAgent", "KILL", slow),
    ("DashboardAgent", "TERM", slow),
    ("RuntimeEnvAgent", "KILL", quick),
    ("RuntimeEnvAgent", "TERM", slow),
    ("monitor.py", "KILL", slow),
    ("monitor.py", "TERM", slow),
    ("dashboard.py", "KILL", slow),
    ("dashboard.py", "TERM", slow),
]
NEEDLESS = {"monitor.py", "dashboard.py"}
"""Processes that Ray starts and the workbench does not need: training may go on without them."""

IGNORED = {("RuntimeEnvAgent", "TERM")}
"""Signals that leave Ray's process running (seen with Ray 2.60), and training with it."""

PROGRAMS = {
    "raylet": "/raylet/raylet",
    "gcs_server": "/gcs/gcs_server",
    "monitor.py": "/monitor.py",
    "dashboard.py": "/dashboard.py",
}


def find_process(whole: Whole, who: str) -> int:
    return whole.pid("head") if who == "head" else whole.process(PROGRAMS.get(who, who))


@pytest.mark.parametrize(
    ("who", "how"), [pytest.param(who, how, marks=marks) for who, how, marks in ENDS]
)
def test_when_one_of_rays_processes_ends_training_continues(
    who: str, how: str, whole: Whole
) -> None:
    whole.two_running()
    live, steps = whole.live(), whole.steps()
    unit, losses = whole.runtime()["unit"], whole.losses()
    unneeded = who in NEEDLESS or (who, how) in IGNORED
    with whole.unharmed(told="" if unneeded else r"the engine was restarted: .*Ray"):
        pid = find_process(whole, who)
        assert pid
        os.kill(pid, signal.Signals[f"SIG{how}"])
        if (who, how) not in IGNORED:
            wait_for(lambda: identify_process(pid) is None, f"{who} ends", LIMIT_S)
        if unneeded:
            whole.until_further({trial: step + 16 for trial, step in steps.items()})
        else:
            whole.until_later_attempts(live)
            assert find_marked(str(unit)) == []
    assert not any(card.quarantined for card in whole.service.snapshot().cards)
    assert whole.losses() == losses


def test_when_rays_session_folder_is_removed_head_and_loop_start_again(whole: Whole) -> None:
    """A cleaner of temp folders does so; here it comes before any worker has ended."""
    whole.two_running()
    live, losses = whole.live(), whole.losses()
    with whole.unharmed(told=r"the engine was restarted: Ray's session folder lost"):
        shutil.rmtree(Path(str(whole.runtime()["temp"])), ignore_errors=True)
        whole.until_later_attempts(live)
    assert not any(card.quarantined for card in whole.service.snapshot().cards)
    assert whole.losses() == losses

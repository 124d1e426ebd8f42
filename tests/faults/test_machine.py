"""Processes of the engine are killed, the machine reboots, its clock is set: training continues."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.sound import no_orphans
from tests.support.waiting import wait_for
from tests.support.whole import LIMIT_S, Whole, short_recipe, whole_engine, workbench
from workbench.home import private_temp
from workbench.machine.processes import (
    LOOPBACK,
    find_home_processes,
    find_listeners,
    find_marked,
    identify_process,
)
from workbench.trial import State

pytestmark = pytest.mark.fault

CUT = r"trial \d+: the engine was restarted; goes on from step \d+"


def test_two_trials_run_at_the_same_time_each_on_a_card_of_its_own(whole: Whole) -> None:
    with whole.unharmed():
        whole.two_running()
    assert {a.card for a in whole.live()} == {"cpu-0", "cpu-1"}
    assert len({a.pid for a in whole.live()}) == 2


def test_home_and_database_are_nobody_elses(whole: Whole) -> None:
    assert whole.home.root.stat().st_mode & 0o777 == 0o700
    assert whole.home.database.stat().st_mode & 0o777 == 0o600
    assert whole.home.token.stat().st_mode & 0o777 == 0o600


def test_ray_listens_on_loopback_only(whole: Whole) -> None:
    whole.two_running()  # by then everything that listens has come up, workers too
    found = find_listeners(find_marked(str(whole.runtime()["unit"])))
    assert found
    assert {address for address, _ in found} <= LOOPBACK


def test_a_second_keeper_on_the_same_home_does_nothing(whole: Whole) -> None:
    whole.two_running()
    loop = whole.pid("loop")
    env = {**os.environ, "WORKBENCH_HOME": str(whole.home.root)}
    subprocess.run([sys.executable, "-m", "workbench.keeper"], env=env, check=True, timeout=120)
    assert whole.pid("loop") == loop
    assert identify_process(loop) is not None


def test_a_second_engine_on_the_same_home_says_who_holds_it(whole: Whole) -> None:
    whole.two_running()
    with whole.unharmed():
        done = subprocess.run(
            [sys.executable, "-m", "workbench.engine"],
            env={
                **os.environ,
                "WORKBENCH_HOME": str(whole.home.root),
                "WORKBENCH_RAY": "127.0.0.1:1",
            },
            check=False,
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert done.returncode == 1
    assert f"process {whole.pid('loop')} runs an engine" in done.stderr
    assert "workbench engine stop" in done.stderr


def test_a_hang_up_of_the_terminal_changes_nothing(whole: Whole) -> None:
    before = whole.two_running()
    keeper = whole.keeper()
    with whole.unharmed():
        os.kill(keeper, signal.SIGHUP)
        whole.until_further(before)
    assert whole.keeper() == keeper


def test_after_a_killed_keeper_the_next_command_restarts_the_engine(whole: Whole) -> None:
    whole.two_running()
    before, loop = whole.live(), whole.pid("loop")
    with whole.unharmed(told=CUT):
        whole.kill(whole.keeper())
        wait_for(lambda: identify_process(loop) is None, "its loop ends with it")
        assert whole.service.engine().state == "down"
        assert whole.service.ensure_engine()
        whole.until_later_attempts(before)


def test_a_stop_after_a_killed_keeper_ends_what_it_left_behind(whole: Whole) -> None:
    whole.two_running()
    before, loop = whole.live(), whole.pid("loop")
    with whole.unharmed(told=CUT):
        whole.kill(whole.keeper())
        wait_for(lambda: identify_process(loop) is None, "its loop ends with it")
        refused = workbench(whole.home, "repair", "--anyway")
        assert refused.returncode != 0
        assert "workbench engine stop" in refused.stderr
        stopped = workbench(whole.home, "engine", "stop")
        assert stopped.returncode == 0, stopped.stderr
        assert "raylet" in stopped.stderr  # it says what it found
        assert find_home_processes(whole.home.root, {}) == []
        assert whole.service.engine().state == "stopped"
        whole.start()
        whole.until_later_attempts(before)


def test_a_stop_while_the_keeper_is_frozen_ends_everything(whole: Whole) -> None:
    whole.two_running()
    with whole.unharmed():
        os.kill(whole.keeper(), signal.SIGSTOP)
        stopped = workbench(whole.home, "engine", "stop")
        assert stopped.returncode == 0, stopped.stderr
        assert find_home_processes(whole.home.root, {}) == []
        assert whole.service.engine().state == "stopped"


def test_after_a_reboot_everything_resumes(whole: Whole) -> None:
    whole.two_running()
    before = whole.live()
    with whole.unharmed(told=r"the engine was restarted: its keeper was gone .+ goes on from its"):
        whole.end_everything()
        no_orphans(whole.home)
        temp = Path(str(whole.runtime()["temp"]))
        assert temp.parent == private_temp()
        shutil.rmtree(temp, ignore_errors=True)
        whole.start()
        whole.until_later_attempts(before)


@pytest.mark.slow
def test_a_loop_that_hangs_is_restarted_with_its_head(whole: Whole) -> None:
    whole.two_running()
    before = whole.live()
    with whole.unharmed(told=r"restarted: the loop did not tick for 30 s; what ran goes on"):
        whole.arm("ingest.after_commit=hang")
        assert whole.fired() == whole.pid("loop")
        whole.until_later_attempts(before)


@pytest.mark.slow
@pytest.mark.parametrize("days", [1, -1])
def test_a_clock_that_jumps_by_a_day_ends_nothing(days: int, whole: Whole, clock: Path) -> None:
    whole.two_running()
    live = {a.id for a in whole.live()}
    keeper, loop = whole.keeper(), whole.pid("loop")
    with whole.unharmed():
        clock.write_text(str(days * 86_400))
        try:
            whole.until_further({t: step + 16 for t, step in whole.steps().items()})
            assert {a.id for a in whole.live()} == live
            whole.obeyed(whole.service.pause(whole.live()[0].trial))
            wait_for(lambda: len(whole.live()) == 1, "it pauses", LIMIT_S)
        finally:
            clock.unlink()
        whole.two_running()
    assert (whole.keeper(), whole.pid("loop")) == (keeper, loop)


def test_a_stopped_engine_checkpoints_and_stays_stopped_until_it_is_started(whole: Whole) -> None:
    whole.two_running()
    trials = {a.trial for a in whole.live()}
    unit = str(whole.runtime()["unit"])
    with whole.unharmed():
        request = whole.service.stop_engine()
        whole.service.wait_for_engine(running=False, timeout_s=LIMIT_S)
        answer = whole.service.answer(request)
        assert answer is not None
        assert answer.ok
    assert find_marked(unit) == []
    assert {whole.state(t) for t in trials} == {State.QUEUED}
    assert {whole.service.trial(t).attempts[-1].outcome for t in trials} == {"yielded"}
    assert whole.service.engine().state == "stopped"
    assert not whole.service.ensure_engine()
    steps = {t: whole.service.trial(t).trial.checkpoint_step or 0 for t in trials}
    with whole.unharmed():
        whole.two_running()
    assert all(a.from_step >= steps[a.trial] for a in whole.live() if a.trial in steps)


def test_two_homes_beside_each_other_train_on_a_card_each(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Each has engine, head and card of its own, and the end of one leaves the other alone."""
    one_card = {"WORKBENCH_CARDS": "cpu:4GiB"}
    with (
        whole_engine(tmp_path, **one_card) as first,
        whole_engine(tmp_path_factory.mktemp("second"), **one_card) as second,
    ):
        for home in (first, second):
            home.obeyed(home.service.submit(short_recipe()))
        for home in (first, second):
            commits = lambda it=home: [a for a in it.live() if a.checkpoint_step]  # noqa: E731
            wait_for(commits, "its trial commits", LIMIT_S)
        assert first.runtime()["port"] != second.runtime()["port"]
        with second.unharmed():
            before = second.live()
            stopped = workbench(first.home, "engine", "stop")
            assert stopped.returncode == 0, stopped.stderr
            assert find_home_processes(first.home.root, {}) == []
            second.until_further(second.steps())
            assert [a.id for a in second.live()] == [a.id for a in before]


def test_killed_just_before_it_had_stopped_the_engine_stops_all_the_same(whole: Whole) -> None:
    whole.two_running()
    with whole.unharmed():
        whole.arm("engine.before_stopped=kill")
        whole.service.stop_engine()
        whole.fired()
        whole.service.wait_for_engine(running=False, timeout_s=LIMIT_S)
    assert whole.service.engine().state == "stopped"

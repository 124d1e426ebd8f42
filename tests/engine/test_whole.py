"""The whole engine with real processes, real Ray and the real trainer, killed in every part.

One engine and one experiment serve the module: two long trials on two CPU cards, which must survive
everything that is done to them, in the order of the tests.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.waiting import wait_for
from workbench.home import Home, private_temp
from workbench.locks import holder
from workbench.processes import LOOPBACK, end_unit, identify, listeners, marked
from workbench.recipe import Recipe, find_recipe, load_recipe
from workbench.service import Service
from workbench.store.rows import Attempt, TrialRow
from workbench.trial import LEGAL, State

LIMIT_S = 240.0
LONG = ["train.max_steps=5000", "train.epochs=1000", "train.save_every=8", "train.log_every=1"]


@dataclass
class Whole:
    """An engine on a home of its own, and what to do to it."""

    home: Home
    service: Service

    def runtime(self) -> dict[str, object]:
        return dict(json.loads(self.home.runtime.read_text()))

    def pid(self, who: str) -> int:
        """0 while it is being started."""
        named = self.runtime().get(who)
        return int(named["pid"]) if isinstance(named, dict) else 0

    def tuned(self) -> list[TrialRow]:
        return [t for t in self.service.snapshot().trials if t.kind == "tune"]

    def live(self) -> list[Attempt]:
        reader = self.service.reader()
        return reader.live_attempts() if reader else []

    def until_both_commit(self) -> dict[int, int]:
        """Both trials run and have committed a checkpoint in this very attempt; trial → step."""

        def committed() -> dict[int, int]:
            fresh = {a.trial: a.checkpoint_step or 0 for a in self.live()}
            return fresh if len(fresh) == 2 and all(fresh.values()) else {}

        return wait_for(committed, "both trials commit a checkpoint", LIMIT_S)


def short_recipe(sweep: str) -> Recipe:
    overrides = [
        "data.eval_rows=8",
        "train.batch_size=1",
        "evaluate.answer_pattern=null",
        "evaluate.every=null",
        f"sweep={sweep}",
        *LONG,
    ]
    return load_recipe(find_recipe("demo"), overrides)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whole]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORKBENCH_CARDS", "cpu:4GiB,cpu:4GiB")
        home = Home(tmp_path_factory.mktemp("whole") / "home").make()
        made = Whole(home, Service(home))
        made.service.start_engine()
        request = made.service.submit(
            short_recipe("{parameters: {train.learning_rate: [0.001, 0.002]}}")
        )
        assert made.service.wait_for_answer(request, LIMIT_S).ok
        yield made
        _end_everything(made)


def _end_everything(whole: Whole) -> None:
    keeper = holder(whole.home.keeper_lock)
    if keeper:
        os.kill(keeper, signal.SIGKILL)
        wait_for(lambda: identify(keeper) is None, "the keeper ends")
    for unit in ("unit", "sampler_unit"):
        if whole.home.runtime.exists() and unit in whole.runtime():
            assert end_unit(str(whole.runtime()[unit])) == []


def test_two_trials_run_at_the_same_time_each_on_a_card_of_its_own(whole: Whole) -> None:
    whole.until_both_commit()
    assert {a.card for a in whole.live()} == {"cpu-0", "cpu-1"}
    assert len({a.pid for a in whole.live()}) == 2


def test_home_and_database_are_nobody_elses(whole: Whole) -> None:
    assert whole.home.root.stat().st_mode & 0o777 == 0o700
    assert whole.home.database.stat().st_mode & 0o777 == 0o600
    assert whole.home.token.stat().st_mode & 0o777 == 0o600


def test_ray_listens_on_loopback_only(whole: Whole) -> None:
    found = listeners(marked(str(whole.runtime()["unit"])))
    assert found
    assert {address for address, _ in found} <= LOOPBACK


def test_a_second_keeper_on_the_same_home_does_nothing(whole: Whole) -> None:
    loop = whole.pid("loop")
    env = {**os.environ, "WORKBENCH_HOME": str(whole.home.root)}
    subprocess.run([sys.executable, "-m", "workbench.keeper"], env=env, check=True, timeout=30)
    assert whole.pid("loop") == loop
    assert identify(loop) is not None


def test_a_second_loop_on_the_same_home_says_who_holds_it(whole: Whole) -> None:
    env = {**os.environ, "WORKBENCH_HOME": str(whole.home.root), "WORKBENCH_RAY": "127.0.0.1:1"}
    done = subprocess.run(
        [sys.executable, "-m", "workbench.engine"],
        env=env,
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert f"process {whole.pid('loop')} runs an engine" in done.stderr


def test_a_hang_up_of_the_terminal_changes_nothing(whole: Whole) -> None:
    keeper = holder(whole.home.keeper_lock)
    assert keeper
    os.kill(keeper, signal.SIGHUP)
    before = whole.until_both_commit()
    wait_for(lambda: all(t.step > before[t.id] for t in whole.tuned()), "training goes on", LIMIT_S)
    assert holder(whole.home.keeper_lock) == keeper


def test_a_killed_worker_is_replaced_and_its_neighbour_untouched(whole: Whole) -> None:
    before = whole.until_both_commit()
    victim, neighbour = sorted(whole.live(), key=lambda a: a.card)
    assert victim.pid
    os.kill(victim.pid, signal.SIGKILL)
    wait_for(
        lambda: [a for a in whole.live() if a.trial == victim.trial and a.id > victim.id],
        "a new attempt",
        LIMIT_S,
    )
    whole.until_both_commit()
    detail = whole.service.trial(victim.trial)
    resumed = detail.attempts[-1]
    assert resumed.from_step >= before[victim.trial]
    assert resumed.generation == (victim.generation or 0) + 1
    assert any(m.by == "rescue" and "went away" in m.why for m in detail.moves)
    assert neighbour.id in {a.id for a in whole.live()}


@pytest.mark.parametrize("who", ["loop", "head"])
def test_a_killed_loop_or_head_is_back_by_itself(whole: Whole, who: str) -> None:
    before = whole.until_both_commit()
    counts = {t.id: t.attempts for t in whole.tuned()}
    old = whole.pid(who)
    os.kill(old, signal.SIGKILL)
    wait_for(lambda: whole.pid(who) not in (0, old), f"a new {who}")
    _resumed(whole, before, counts)


def test_after_a_killed_keeper_the_next_command_puts_things_right(whole: Whole) -> None:
    before = whole.until_both_commit()
    counts = {t.id: t.attempts for t in whole.tuned()}
    keeper, loop = holder(whole.home.keeper_lock), whole.pid("loop")
    assert keeper
    os.kill(keeper, signal.SIGKILL)
    wait_for(lambda: identify(loop) is None, "its loop ends with it")
    assert whole.service.engine().state == "down"
    assert whole.service.ensure_engine()
    wait_for(lambda: holder(whole.home.keeper_lock), "a new keeper")
    _resumed(whole, before, counts)
    assert len(_loops(whole)) == 1


def test_after_a_reboot_everything_resumes(whole: Whole) -> None:
    before = whole.until_both_commit()
    counts = {t.id: t.attempts for t in whole.tuned()}
    _end_everything(whole)
    temp = Path(str(whole.runtime()["temp"]))
    assert temp.parent == private_temp()
    shutil.rmtree(temp, ignore_errors=True)
    whole.service.ensure_engine()
    _resumed(whole, before, counts)


def test_engine_stop_checkpoints_and_is_remembered(whole: Whole) -> None:
    whole.until_both_commit()
    unit = str(whole.runtime()["unit"])
    request = whole.service.stop_engine()
    whole.service.wait_for_engine(running=False, timeout_s=LIMIT_S)
    answer = whole.service.answer(request)
    assert answer is not None
    assert answer.ok
    assert marked(unit) == []
    assert {t.state for t in whole.tuned()} == {State.QUEUED}
    assert {a.outcome for t in whole.tuned() for a in whole.service.trial(t.id).attempts[-1:]} == {
        "yielded"
    }
    assert whole.service.engine().state == "stopped"
    assert not whole.service.ensure_engine()
    assert whole.service.engine().state == "stopped"


def test_started_again_it_goes_on_and_a_stop_keeps_the_adapter(whole: Whole) -> None:
    steps = {t.id: t.checkpoint_step or 0 for t in whole.tuned()}
    whole.service.start_engine()
    whole.until_both_commit()
    requests = [whole.service.stop(trial) for trial in steps]
    assert all(whole.service.wait_for_answer(r, LIMIT_S).ok for r in requests)
    wait_for(lambda: all(t.state is State.STOPPED for t in whole.tuned()), "both stop", LIMIT_S)
    _, rows = whole.service.board(1)
    for row in rows[:2]:
        assert row.score is not None
        assert row.adapter is not None
        assert (Path(row.adapter) / "adapter_model.safetensors").stat().st_size > 0


def test_nothing_was_lost_and_nothing_done_twice(whole: Whole) -> None:
    for trial in whole.tuned():
        detail = whole.service.trial(trial.id)
        assert all((m.before, m.after, m.by) in LEGAL for m in detail.moves)
        ends = [m for m in detail.moves if State(m.after).final]
        assert len(ends) == 1
        reader = whole.service.reader()
        assert reader is not None
        steps = [
            row[0]
            for row in reader.db.execute(
                "select step from metrics where trial = ? and name = 'loss' order by step",
                (trial.id,),
            )
        ]
        assert steps == list(range(1, len(steps) + 1))


def _resumed(whole: Whole, before: dict[int, int], counts: dict[int, int]) -> None:
    """Both trials are in a later attempt that began no earlier than their last checkpoint."""
    wait_for(
        lambda: {t.id for t in whole.tuned() if t.attempts > counts[t.id]} == set(counts),
        "new attempts",
        LIMIT_S,
    )
    whole.until_both_commit()
    for attempt in whole.live():
        assert attempt.from_step >= before[attempt.trial]
    assert {t.id: t.attempts for t in whole.tuned()} == {t: n + 1 for t, n in counts.items()}


def _loops(whole: Whole) -> list[int]:
    found = []
    for pid in marked(str(whole.runtime()["unit"])):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if b"workbench.engine" in words:
            found.append(pid)
    return found

"""The guards of a home's machine, on a real store and an inline fleet; cards of our choosing."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from tests.support.tick_contexts import Bench, cpu_card, gpu_card, recipe
from workbench.fleet import Phase
from workbench.machine import xid
from workbench.scheduler.guards import card_guards, start_gap
from workbench.scheduler.guards.energy import drawn_wh
from workbench.scheduler.recover import requeue_all
from workbench.store import card_table
from workbench.store.board import rank_adapters
from workbench.store.requests import drop_request
from workbench.store.rows import CardRow
from workbench.trial import State

MakeBench = Callable[..., Bench]
LONG = {"train": {"max_steps": 900, "save_every": 2, "learning_rate": 0.1}}
GRID = {"parameters": {"train.learning_rate": [0.01, 0.05, 0.1, 0.2]}}


def change(bench: Bench, uuid: str, **values: Any) -> None:
    """Set what the next sample reports of a card."""
    bench.seen = [{**card, **values} if card["uuid"] == uuid else card for card in bench.seen]


def card(bench: Bench, uuid: str) -> CardRow:
    return next(row for row in bench.store.cards() if row.uuid == uuid)


def told(bench: Bench, kind: str) -> list[str]:
    return [event.text for event in bench.store.events() if event.kind == kind]


def scored(bench: Bench) -> None:
    """Run one trial to its end, and with it the base of all."""
    bench.submit(recipe())
    bench.until(State.DONE, 2)
    bench.ticks(5)


def running(bench: Bench) -> list[str]:
    return sorted(attempt.card for attempt in bench.store.live_attempts())


class TestStaggeredStart:
    def test_gpus_begin_one_after_another(self, bench_of: MakeBench) -> None:
        bench = bench_of(gpu_card(0), gpu_card(1), gpu_card(2))
        scored(bench)
        bench.submit(recipe(sweep=GRID, **LONG))
        begun = []
        for _ in range(4):
            bench.ticks(1)
            begun.append(len(running(bench)))
        assert begun == [1, 2, 3, 3]

    def test_who_waits_says_so(self, bench_of: MakeBench) -> None:
        bench = bench_of(gpu_card(0), gpu_card(1))
        bench.submit(recipe(sweep=GRID, **LONG))
        bench.ticks(1)
        waiting = [trial.waiting for trial in bench.trials() if trial.state is State.QUEUED]
        assert all("starts 0.5 s after the one before it" in why for why in waiting)

    def test_the_users_own_gap_holds_for_cpu_cards_too(self, bench_of: MakeBench) -> None:
        bench = bench_of()
        scored(bench)
        bench.configure("start_gap_s = 30")
        bench.submit(recipe(sweep=GRID, **LONG))
        while not running(bench):
            bench.ticks(1)
        bench.ticks(29)
        assert len(running(bench)) == 1
        bench.ticks(1)
        assert len(running(bench)) == 2

    def test_a_card_does_not_wait_for_itself(self, bench_of: MakeBench) -> None:
        bench = bench_of(gpu_card(0))
        bench.configure("start_gap_s = 3600")
        bench.submit(recipe(sweep=GRID))
        bench.until(State.DONE, 5)

    def test_a_clock_that_was_set_back_holds_nothing_up(self, bench_of: MakeBench) -> None:
        bench = bench_of(gpu_card(0), gpu_card(1))
        scored(bench)
        bench.submit(recipe(sweep=GRID, **LONG))
        bench.ticks(1)
        bench.now -= 86_400
        bench.ticks(1)
        assert len(running(bench)) == 2

    def test_the_gap_outlives_a_restart(self, bench_of: MakeBench) -> None:
        bench = bench_of(gpu_card(0), gpu_card(1))
        scored(bench)
        bench.configure("start_gap_s = 30")
        bench.submit(recipe(sweep=GRID, **LONG))
        bench.ticks(1)
        first = running(bench)
        bench.context.fleet.close()
        requeue_all(bench.context, "the engine was restarted")
        bench.ticks(2)
        assert running(bench) == first

    @pytest.mark.parametrize(
        ("watts", "at_once"),
        [((30, 30), 1), ((300, 30), 2), ((30, 300), 2), ((None, 30), 1)],
        ids=["both at rest", "the first draws", "the second draws", "the first tells nothing"],
    )
    def test_only_cards_that_come_from_rest_begin_one_after_another(
        self, bench_of: MakeBench, watts: tuple[float | None, float], at_once: int
    ) -> None:
        draws = [gpu_card(n, power_w=drawn, power_limit_w=350) for n, drawn in enumerate(watts)]
        bench = bench_of(*draws)
        bench.submit(recipe(sweep=GRID, **LONG))
        bench.ticks(1)
        assert len(running(bench)) == at_once

    def test_a_worker_goes_to_its_next_trial_whatever_another_card_begins(
        self, bench_of: MakeBench
    ) -> None:
        at_rest = {"power_w": 30.0, "power_limit_w": 350.0}
        bench = bench_of(gpu_card(0, **at_rest), gpu_card(1, **at_rest))
        bench.configure("start_gap_s = 12")
        card_table.set_drained(bench.store, "GPU-1", True)
        bench.submit(recipe(sweep={"parameters": {"train.seed": list(range(8))}}))
        bench.ticks(14)
        card_table.set_drained(bench.store, "GPU-1", False)
        bench.ticks(20)
        attempts = [one for trial in bench.trials() for one in bench.store.attempts(trial.id)]
        begun_utc = min(one.started_utc for one in attempts if one.card == "GPU-1")
        times = [(one.started_utc, one.ended_utc) for one in attempts if one.card == "GPU-0"]
        gaps = [b - (e or 0) for (_, e), (b, _) in pairwise(sorted(times)) if b > begun_utc]
        assert len(gaps) >= 2
        assert max(gaps) <= 1

    @pytest.mark.parametrize(
        ("phase", "rests"), [(Phase.IDLE, False), (Phase.BUSY, False), (Phase.STARTING, True)]
    )
    def test_a_worker_whose_trial_just_ended_goes_on_before_it_says_so(
        self, bench_of: MakeBench, phase: Phase, rests: bool
    ) -> None:
        bench = bench_of(gpu_card(0, power_w=30.0, power_limit_w=350.0))
        scored(bench)
        ended = bench.store.attempts(1)[-1]  # the base, after the trial that answered it
        bench.now = float(ended.ended_utc or 0) + 0.1
        report = bench.context.reports["GPU-0"]
        bench.context.reports["GPU-0"] = replace(report, phase=phase, attempt=ended.id)
        assert start_gap.is_at_rest(bench.context, card(bench, "GPU-0")) is rests


class TestHeat:
    def test_a_warm_card_gets_no_new_trial_and_says_why(self, bench_of: MakeBench) -> None:
        bench = bench_of(gpu_card(0, temperature_c=85))
        bench.submit(recipe())
        bench.ticks(2)
        assert running(bench) == []
        why = "cools: at 85 °C, takes trials again at 76 °C"
        assert card(bench, "GPU-0").guard == why
        assert why in bench.store.trial(2).waiting

    def test_a_warm_card_keeps_its_trial(self, bench_of: MakeBench) -> None:
        bench = bench_of(gpu_card(0))
        bench.submit(recipe(**LONG))
        bench.until(State.RUNNING, 2)
        change(bench, "GPU-0", temperature_c=89)
        bench.ticks(5)
        assert bench.store.trial(2).state is State.RUNNING

    def test_a_hot_cards_trial_goes_on_elsewhere_from_its_checkpoint(
        self, bench_of: MakeBench
    ) -> None:
        bench = bench_of(gpu_card(0, 12), gpu_card(1, 24))
        bench.submit(recipe(**LONG))
        bench.until(State.RUNNING, 2)
        bench.ticks(4)
        hot = bench.store.trial(2).card
        assert hot is not None
        change(bench, hot, temperature_c=91)
        bench.ticks(4)
        trial = bench.store.trial(2)
        assert trial.state is State.RUNNING
        assert trial.card != hot
        first, second = bench.store.attempts(2)
        assert first.outcome == "yielded"
        assert second.from_step == first.last_step > 0
        assert any("the card was too hot" in move.why for move in bench.store.moves(2))
        assert any("91 °C: trial 2 pauses" in text for text in told(bench, "guard"))

    def test_it_cools_before_it_takes_trials_again(self, bench_of: MakeBench) -> None:
        bench = bench_of(gpu_card(0))
        bench.submit(recipe(**LONG))
        bench.until(State.RUNNING, 2)
        for degrees, state in ((91, "queued"), (84, "queued"), (77, "queued"), (75, "running")):
            change(bench, "GPU-0", temperature_c=degrees)
            bench.ticks(3)
            assert bench.store.trial(2).state == state
        assert any("has cooled" in text for text in told(bench, "guard"))

    def test_it_stays_off_while_nobody_knows_how_hot_it_is(self, bench_of: MakeBench) -> None:
        bench = bench_of(gpu_card(0, temperature_c=95))
        bench.submit(recipe())
        bench.ticks(1)
        change(bench, "GPU-0", temperature_c=None, problem="Unknown Error")
        bench.ticks(1)
        assert card(bench, "GPU-0").heat == "hot"

    def test_a_card_that_tells_no_temperature_is_not_held_back(self, bench_of: MakeBench) -> None:
        bench = bench_of(gpu_card(0, temperature_c=None))
        bench.submit(recipe())
        bench.until(State.DONE, 2)

    def test_the_limits_are_the_users(self, bench_of: MakeBench) -> None:
        bench = bench_of(gpu_card(0, temperature_c=72))
        bench.configure("no_start_above_c = 70\npause_above_c = 75")
        bench.submit(recipe())
        bench.ticks(2)
        assert running(bench) == []
        bench.configure("no_start_above_c = 84")
        bench.until(State.DONE, 2)
        assert card(bench, "GPU-0").guard == ""


class TestConfiguration:
    def test_a_bad_file_is_told_and_the_defaults_hold(self, bench_of: MakeBench) -> None:
        bench = bench_of(gpu_card(0, temperature_c=85))
        bench.configure("no_start_above_c = hot")
        bench.submit(recipe())
        bench.ticks(3)
        assert running(bench) == []
        problem = bench.store.fact(card_guards.CONFIG_PROBLEM) or ""
        assert "config.toml:2" in problem
        assert told(bench, "config") == [problem]
        bench.configure('no_start_above_c = 89\ncooled_by_c = 2\nballast = "0"')
        bench.ticks(1)
        assert bench.store.fact(card_guards.CONFIG_PROBLEM) == ""
        bench.until(State.DONE, 2)

    def test_front_ends_find_what_holds(self, bench_of: MakeBench) -> None:
        bench = bench_of()
        bench.configure("pause_above_c = 88")
        bench.ticks(1)
        assert json.loads(bench.store.fact(card_guards.GUARDS) or "")["pause_above_c"] == 88


def user(
    pid: int, gib: float | None, name: str = "python", *, draws: bool = False
) -> dict[str, Any]:
    size = None if gib is None else int(gib * (1 << 30))
    return {"pid": pid, "bytes": size, "name": name, "draws": draws}


class TestOtherPeoplesPrograms:
    def test_a_card_in_use_is_left_alone_until_it_is_free(self, bench_of: MakeBench) -> None:
        bench = bench_of(gpu_card(0, processes=[user(1, 5.25, "blender")]))
        bench.submit(recipe())
        bench.ticks(2)
        assert card(bench, "GPU-0").guard == "in use by pid 1 (blender, 5.2 GiB)"
        assert "in use by pid 1 (blender" in bench.store.trial(2).waiting
        change(bench, "GPU-0", processes=[])
        bench.until(State.DONE, 2)
        assert [text.split(" ", 2)[2] for text in told(bench, "guard")] == [
            "is left alone: in use by pid 1 (blender, 5.2 GiB)",
            "is free again",
        ]

    @pytest.mark.parametrize(
        "harmless",
        [user(1, 0.5, "Xorg", draws=True), user(1, 0.05, "mpv")],
        ids=["a desktop", "a small one"],
    )
    def test_a_desktop_and_small_things_are_no_hindrance(
        self, bench_of: MakeBench, harmless: dict[str, Any]
    ) -> None:
        bench = bench_of(gpu_card(0, processes=[harmless]))
        bench.submit(recipe())
        bench.until(State.DONE, 2)

    def test_one_whose_bytes_nobody_knows_counts(self, bench_of: MakeBench) -> None:
        bench = bench_of(gpu_card(0, processes=[user(7, None, "")]))
        bench.ticks(1)
        assert card(bench, "GPU-0").guard == "in use by pid 7"

    def test_who_shares_takes_what_they_leave(self, bench_of: MakeBench) -> None:
        bench = bench_of(gpu_card(0, processes=[user(1, 5)], free_bytes=19 << 30))
        bench.configure("share = true")
        bench.submit(recipe())
        bench.until(State.DONE, 2)

    def test_a_trial_that_runs_already_goes_on(self, bench_of: MakeBench) -> None:
        bench = bench_of(gpu_card(0))
        bench.submit(recipe(sweep=GRID, **LONG))
        bench.until(State.RUNNING, 2)
        change(bench, "GPU-0", processes=[user(1, 5)])
        bench.ticks(5)
        assert bench.store.trial(2).state is State.RUNNING

    def test_our_idle_worker_leaves_the_card_to_them(self, bench_of: MakeBench) -> None:
        bench = bench_of(gpu_card(0))
        scored(bench)
        assert "GPU-0" in bench.context.fleet.observe()
        change(bench, "GPU-0", processes=[user(1, 5)])
        bench.ticks(2)
        assert bench.context.fleet.observe() == {}
        assert card(bench, "GPU-0").quarantined == ""

    def test_our_own_processes_are_nobody_elses(self, bench_of: MakeBench) -> None:
        bench = bench_of(gpu_card(0))
        bench.submit(recipe())
        bench.until(State.RUNNING, 2)
        change(bench, "GPU-0", processes=[user(os.getpid(), 5)])
        bench.ticks(1)
        assert card(bench, "GPU-0").processes == []

    def test_in_a_container_our_worker_is_known_although_its_pid_is_not(
        self, bench_of: MakeBench
    ) -> None:
        bench = bench_of(gpu_card(0))
        bench.submit(recipe())
        bench.until(State.RUNNING, 2)
        change(bench, "GPU-0", processes=[user(999_999, 9, ""), user(888_888, 1, "")])
        bench.ticks(1)
        assert [one["pid"] for one in card(bench, "GPU-0").processes] == [888_888]


class TestEnergy:
    def run(
        self, bench: Bench, trial: int, state: State = State.DONE, watts: float = 360.0
    ) -> None:
        """Tick, a second each, while the card counts."""
        for _ in range(100):
            if bench.store.trial(trial).state is state:
                return
            [seen] = bench.seen
            change(bench, seen["uuid"], energy_j=seen["energy_j"] + watts)
            bench.ticks(1)
        raise AssertionError(bench.store.trial(trial))

    def wh(self, bench: Bench, trial: int) -> list[float | None]:
        return [attempt.energy_wh for attempt in bench.store.attempts(trial)]

    def test_it_is_the_counters_difference_while_the_trial_ran(self, bench_of: MakeBench) -> None:
        bench = bench_of(gpu_card(0, energy_j=5e6))
        bench.submit(recipe())
        self.run(bench, 2)
        [attempt] = bench.store.attempts(2)
        assert attempt.ended_utc is not None
        seconds = attempt.ended_utc - attempt.started_utc
        assert seconds > 3
        assert attempt.energy_wh == pytest.approx(0.1 * seconds)

    def test_the_board_sums_over_attempts(self, bench_of: MakeBench) -> None:
        bench = bench_of(gpu_card(0, energy_j=0.0))
        id = bench.submit(recipe(**LONG))
        self.run(bench, 2, State.RUNNING)
        drop_request(bench.context.home.requests, "pause", {"trial": 2})
        self.run(bench, 2, State.PAUSED)
        drop_request(bench.context.home.requests, "resume", {"trial": 2})
        self.run(bench, 2, State.RUNNING)
        drop_request(bench.context.home.requests, "stop", {"trial": 2})
        self.run(bench, 2, State.STOPPED)
        first, second = self.wh(bench, 2)
        assert first
        assert second
        [row, _base] = rank_adapters(bench.store, bench.store.experiment(id), bench.now)
        assert row.energy_wh == pytest.approx(first + second)
        [of_base] = self.wh(bench, 1)
        assert card(bench, "GPU-0").energy_wh == pytest.approx(first + second + (of_base or 0))

    def test_the_time_between_two_engines_is_billed_to_nobody(self, bench_of: MakeBench) -> None:
        bench = bench_of(gpu_card(0, energy_j=0.0))
        bench.submit(recipe(**LONG))
        self.run(bench, 2, State.RUNNING)
        before = self.wh(bench, 2)[0] or 0.0
        bench.context.fleet.close()
        bench.context.metered.clear()  # it was this loop's
        bench.now += 10_000
        requeue_all(bench.context, "the engine was restarted")
        change(bench, "GPU-0", energy_j=bench.seen[0]["energy_j"] + 1e6)
        bench.ticks(1)
        assert self.wh(bench, 2)[0] == pytest.approx(before)

    def test_on_cpu_cards_it_is_absent(self, bench_of: MakeBench) -> None:
        bench = bench_of(cpu_card(0))
        id = bench.submit(recipe())
        bench.until(State.DONE, 2)
        assert self.wh(bench, 2) == [None]
        rows = rank_adapters(bench.store, bench.store.experiment(id), bench.now)
        assert [row.energy_wh for row in rows] == [None, None]

    def row(self, bench: Bench, at_utc: float, **values: Any) -> CardRow:
        return replace(card(bench, "GPU-0"), seen_utc=at_utc, **values)

    def test_without_a_counter_power_is_summed_up(self, bench_of: MakeBench) -> None:
        bench = bench_of(gpu_card(0))
        before = self.row(bench, 100.0, power_w=100.0)
        assert drawn_wh(before, self.row(bench, 110.0, power_w=260.0)) == pytest.approx(0.5)
        assert drawn_wh(before, self.row(bench, 500.0, power_w=260.0)) is None

    def test_a_counter_that_began_anew_or_jumped_is_not_believed(self, bench_of: MakeBench) -> None:
        bench = bench_of(gpu_card(0))
        before = self.row(bench, 100.0, power_w=180.0, energy_j=9e6)
        for counted in (50.0, 9e12):
            now = self.row(bench, 110.0, power_w=180.0, energy_j=counted)
            assert drawn_wh(before, now) == pytest.approx(0.5)

    def test_a_counter_tells_of_a_time_in_which_the_driver_said_nothing(
        self, bench_of: MakeBench
    ) -> None:
        bench = bench_of(gpu_card(0, energy_j=0.0))
        bench.submit(recipe(**LONG))
        bench.until(State.RUNNING, 2)
        before = self.wh(bench, 2)[0] or 0.0
        change(bench, "GPU-0", problem="Unknown Error", power_w=None)
        bench.ticks(100)
        change(bench, "GPU-0", problem="", energy_j=3_600.0)
        bench.ticks(1)
        assert self.wh(bench, 2)[0] == pytest.approx(before + 1.0)

    def test_a_clock_that_was_set_back_bills_nothing_and_goes_on(self, bench_of: MakeBench) -> None:
        bench = bench_of(gpu_card(0))
        before = self.row(bench, 100.0, energy_j=0.0)
        assert drawn_wh(before, self.row(bench, 50.0, energy_j=360.0)) is None

    def test_a_card_that_draws_nothing_drew_nothing(self, bench_of: MakeBench) -> None:
        bench = bench_of(gpu_card(0))
        before = self.row(bench, 100.0, energy_j=5.0)
        assert drawn_wh(before, self.row(bench, 102.0, energy_j=5.0)) == 0.0


class TestFailingCards:
    def two(self, bench_of: MakeBench) -> Bench:
        """Trial 2 runs on GPU-1 and has a checkpoint; GPU-0 is free."""
        bench = bench_of(gpu_card(0, 24), gpu_card(1, 12))
        bench.submit(recipe(**LONG))
        bench.until(State.DONE, 1)
        bench.ticks(6)
        assert bench.store.trial(2).card == "GPU-1"
        assert bench.store.trial(2).checkpoint_step
        return bench

    @pytest.mark.parametrize(
        ("happens", "says"),
        [
            ({"xids": "[[1.5, 79]]"}, "Xid 79, the card has fallen off the bus; check its power"),
            ({"xids": "[[1.5, 48]]"}, "Xid 48, memory error"),
            ({"xids": "[[1.5, 777]]"}, "Xid 777; see dmesg"),
            ({"ecc_errors": 2}, "2 memory errors that could not be corrected"),
            ({"lost": 1, "problem": "GPU is lost"}, "it was lost while it ran trial 2"),
        ],
        ids=["fallen off", "bad memory", "unknown", "ECC", "gone"],
    )
    def test_a_card_that_fails_is_quarantined_and_its_trial_moved(
        self, bench_of: MakeBench, happens: dict[str, Any], says: str
    ) -> None:
        bench = self.two(bench_of)
        done = bench.store.trial(2).checkpoint_step
        change(bench, "GPU-1", **happens)
        bench.ticks(5)
        trial = bench.store.trial(2)
        assert (trial.card, trial.state) == ("GPU-0", State.RUNNING)
        last = bench.store.attempts(2)[-1]
        assert last.from_step >= (done or 0) > 0
        why = card(bench, "GPU-1").quarantined
        assert why.startswith(says)
        assert "workbench undrain GPU-1 --quarantine" in why
        assert any(says in text for text in told(bench, "quarantined"))

    def test_it_stays_out_of_use_until_a_person_releases_it(self, bench_of: MakeBench) -> None:
        bench = self.two(bench_of)
        change(bench, "GPU-1", xids="[[1.5, 79]]", lost=1, problem="GPU is lost")
        bench.ticks(3)
        change(bench, "GPU-1", lost=0, problem="")
        bench.ticks(3)
        assert card(bench, "GPU-1").quarantined
        assert told(bench, "card-back") == ["card GPU-1 is back; it is still quarantined"]
        drop_request(bench.context.home.requests, "undrain", {"card": "GPU-1", "quarantine": True})
        bench.ticks(3)
        assert card(bench, "GPU-1").quarantined == ""  # its old errors are known, and no new ones

    def test_one_that_goes_while_idle_comes_back_by_itself(self, bench_of: MakeBench) -> None:
        bench = bench_of(gpu_card(0))
        bench.ticks(1)
        change(bench, "GPU-0", lost=1, problem="gone from the bus")
        bench.submit(recipe())
        bench.ticks(2)
        assert "gone from the bus" in bench.store.trial(2).waiting
        change(bench, "GPU-0", lost=0, problem="")
        bench.until(State.DONE, 2)
        assert told(bench, "card-back") == ["card GPU-0 is back"]

    def test_a_driver_that_does_not_answer_moves_no_trial(self, bench_of: MakeBench) -> None:
        bench = self.two(bench_of)
        for uuid in ("GPU-0", "GPU-1"):
            change(bench, uuid, problem="Unknown Error")
        bench.ticks(5)
        assert bench.store.trial(2).card == "GPU-1"
        assert bench.store.trial(2).attempts == 1

    def test_the_reason_is_not_lost_behind_a_later_one(self, bench_of: MakeBench) -> None:
        bench = self.two(bench_of)
        bench.context.fleet.end("GPU-1", "died once")
        bench.ticks(1)
        bench.until(State.RUNNING, 2)
        on = bench.store.trial(2).card or ""
        change(bench, on, xids="[[1.5, 79]]")
        bench.ticks(3)
        assert card(bench, on).quarantined.startswith("Xid 79")

    def test_errors_from_before_we_watched_are_the_cards_too(self, bench_of: MakeBench) -> None:
        bench = bench_of(gpu_card(0, ecc_errors=1))
        assert "1 memory errors" in card(bench, "GPU-0").quarantined

    def test_a_count_that_began_anew_is_no_error(self, bench_of: MakeBench) -> None:
        bench = bench_of(gpu_card(0, ecc_errors=5))
        card_table.set_quarantine(bench.store, "GPU-0", "")
        change(bench, "GPU-0", ecc_errors=0)
        bench.ticks(1)
        assert card(bench, "GPU-0").quarantined == ""
        change(bench, "GPU-0", ecc_errors=1)
        bench.ticks(1)
        assert card(bench, "GPU-0").quarantined


class TestPoisonedContexts:
    def still(self, bench: Bench, seconds: float) -> None:
        """The worker answers, and its training does not move."""
        observe = bench.context.fleet.observe
        bench.context.fleet.observe = lambda: {  # type: ignore[method-assign]
            uuid: replace(report, data={"still_s": seconds}) for uuid, report in observe().items()
        }
        bench.ticks(1)
        bench.context.fleet.observe = observe  # type: ignore[method-assign]

    def broken(self, bench_of: MakeBench, code: int) -> Bench:
        bench = bench_of(gpu_card(0))
        bench.submit(recipe(**LONG))
        bench.until(State.RUNNING, 2)
        bench.ticks(3)
        change(bench, "GPU-0", xids=json.dumps([[bench.now + 0.5, code]]))
        bench.ticks(1)
        return bench

    def test_a_worker_that_stands_still_since_its_error_is_replaced(
        self, bench_of: MakeBench
    ) -> None:
        bench = self.broken(bench_of, 31)
        assert bench.store.trial(2).attempts == 1
        bench.now += 70
        self.still(bench, 71.6)
        [attempt] = bench.store.attempts(2)
        assert attempt.outcome == "lost"
        assert "Xid 31, GPU memory page fault on GPU-0, and no progress" in attempt.reason
        bench.until(State.RUNNING, 2)
        assert card(bench, "GPU-0").quarantined == ""
        assert card(bench, "GPU-0").generation == 2

    @pytest.mark.parametrize(("code", "still_s"), [(31, 40.0), (45, 71.6), (63, 71.6)])
    def test_one_that_went_on_or_that_nothing_broke_is_let_be(
        self, bench_of: MakeBench, code: int, still_s: float
    ) -> None:
        bench = self.broken(bench_of, code)
        bench.now += 70
        self.still(bench, still_s)
        assert bench.store.trial(2).attempts == 1
        assert told(bench, "xid")[0].startswith(f"card GPU-0: Xid {code}, ")

    def test_an_error_before_the_worker_came_is_not_its_own(self, bench_of: MakeBench) -> None:
        bench = bench_of(gpu_card(0, xids="[[900.0, 31]]"))
        bench.submit(recipe(**LONG))
        bench.until(State.RUNNING, 2)
        bench.now += 200
        self.still(bench, 190.0)
        assert bench.store.trial(2).attempts == 1


def test_every_code_is_somebodys_fault_and_has_words() -> None:
    for code in range(1, 200):
        assert xid.describe(code).startswith(f"Xid {code}")
        assert xid.repair_hint(code)
        if xid.breaks_context(code):
            assert xid.blamed_part(code) is xid.Fault.PROGRAM

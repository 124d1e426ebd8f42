"""The cost of a large home, counted in work and not in time; benchmarks/scale.py has the times."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.tick_contexts import Bench, cpu_card, gpu_card, make_bench, recipe
from workbench.scheduler import reconcile
from workbench.store import results, trial_queue
from workbench.store.board import rank_adapters
from workbench.trial import Kind


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = make_bench(tmp_path, [{**cpu_card(0), "problem": "is gone for a walk"}])
    yield bench
    bench.context.fleet.close()
    bench.store.close()


def statements(bench: Bench, work: Callable[[], object]) -> int:
    """The number of statements that SQLite was given."""
    seen: list[str] = []
    bench.store.db.set_trace_callback(seen.append)
    try:
        work()
    finally:
        bench.store.db.set_trace_callback(None)
    return len(seen)


def steps(bench: Bench, work: Callable[[], object]) -> int:
    """The number of SQLite's own steps, in tens: in the end, rows looked at."""
    count = [0]

    def one() -> int:
        count[0] += 1
        return 0

    bench.store.db.set_progress_handler(one, 10)
    try:
        work()
    finally:
        bench.store.db.set_progress_handler(None, 0)
    return count[0]


def queue_up(bench: Bench, trials: int) -> None:
    values = [round(1e-4 + n * 1e-6, 7) for n in range(trials)]
    bench.submit(recipe(sweep={"parameters": {"train.learning_rate": values}}))


def test_a_tick_asks_no_more_of_a_longer_queue(bench: Bench) -> None:
    queue_up(bench, 40)
    bench.ticks(3)
    short = statements(bench, bench.ticks)
    queue_up(bench, 400)
    queue_up(bench, 400)
    bench.ticks(6)
    long = statements(bench, bench.ticks)
    assert long <= short + 60  # of each experiment the first sixteen are looked at


def test_a_listing_is_three_questions_however_many_trials(bench: Bench) -> None:
    queue_up(bench, 3)
    few = statements(bench, bench.trials) + statements(bench, bench.store.experiments)
    queue_up(bench, 300)
    many = statements(bench, bench.trials) + statements(bench, bench.store.experiments)
    assert many == few == 3


def test_what_did_not_change_is_not_made_again(bench: Bench) -> None:
    queue_up(bench, 20)
    before = bench.trials()
    trial_queue.explain_trial(bench.store, 5, "something new")
    after = bench.trials()
    same = [a is b for a, b in zip(before, after, strict=True)]
    assert same.count(False) == 1
    assert after[4].waiting == "something new"


def test_a_board_costs_the_same_after_many_more_steps(bench: Bench) -> None:
    queue_up(bench, 2)

    def log(first: int, last: int) -> None:
        with bench.store.writing():
            for step in range(first, last):
                results.put_metrics(bench.store, 2, step, {"tokens_per_s": 100.0 + step % 2})

    log(1, 400)
    experiment = bench.store.experiment(1)
    few = steps(bench, lambda: rank_adapters(bench.store, experiment, 0.0))
    log(400, 8_000)
    many = steps(bench, lambda: rank_adapters(bench.store, experiment, 0.0))
    assert many == pytest.approx(few, abs=5)  # each query rounds to a ten of steps
    assert rank_adapters(bench.store, experiment, 0.0)[0].tokens_per_s == pytest.approx(100.5)


def test_adding_a_trial_writes_a_line_and_a_metric_writes_none(bench: Bench) -> None:
    journal = bench.context.home.root / "journal.jsonl"
    queue_up(bench, 2)
    before = journal.stat().st_size
    attempt = bench.store.add_attempt(2, "cpu-9", {}, 1, 0)
    placed = journal.stat().st_size
    with bench.store.writing():
        results.put_metrics(bench.store, 2, 1, {"loss": 1.0})
        bench.store.touch_attempt(attempt, last_step=1, loss=1.0, phase="training")
    trial_queue.explain_all(bench.store, "whatever")
    assert journal.stat().st_size == placed > before
    bench.store.add_trial(1, 99, Kind.TUNE, {})
    assert journal.stat().st_size > placed


def boxes_of(folder: Path, count: int) -> Bench:
    """A bench with GPUs of so many boxes, as a cluster's head sees them."""
    cards = [{**gpu_card(0), "uuid": f"box-{number:02}:GPU-0"} for number in range(count)]
    return make_bench(folder, cards)


def test_what_all_cards_wrote_is_taken_in_by_one_commit(tmp_path: Path) -> None:
    commits = []
    for count in (2, 16):
        bench = boxes_of(tmp_path / str(count), count)
        queue_up(bench, 2 * count)
        bench.ticks(2)
        assert len(bench.store.live_attempts()) == count
        seen: list[str] = []
        bench.store.db.set_trace_callback(seen.append)
        reconcile(bench.context)
        bench.store.db.set_trace_callback(None)
        commits.append(seen.count("commit"))
        bench.context.fleet.close()
        bench.store.close()
    assert commits[0] == commits[1]


def test_cards_of_one_kind_share_a_plan_and_a_short_reason(tmp_path: Path) -> None:
    bench = boxes_of(tmp_path, 40)
    bench.seen = [{**card, "problem": "is away"} for card in bench.seen]
    bench.context.refresh()
    queue_up(bench, 3)
    bench.ticks(1)
    waiting = bench.store.trial(1).waiting
    assert waiting.count("is away") == 16
    assert waiting.endswith("; and 24 more cards")
    assert len(bench.context.plans) == 2  # of the base and of one trial
    bench.context.fleet.close()
    bench.store.close()

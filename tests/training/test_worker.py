"""A worker takes attempts, refuses others, and holds the lock of its card."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.waiting import wait_for
from tests.training.trials import CARD, Bench, events_of, plan, recipe
from workbench.errors import EngineError
from workbench.machine.cards import Card
from workbench.training.worker import Worker, lock_path

LIMIT_S = 120.0
MakeWorker = Callable[..., Worker]


@pytest.fixture
def make_worker(tmp_path: Path) -> Iterator[MakeWorker]:
    made = []

    def make(**changed: float) -> Worker:
        made.append(Worker(CARD.to_json(), 1, str(tmp_path), **changed))
        return made[-1]

    yield make
    for worker in made:
        worker.close()
        assert worker.join(LIMIT_S)


def idle(report: dict[str, object]) -> bool:
    return report["phase"] == "idle"


def test_attempts_run_one_after_another_and_the_base_stays(
    make_worker: MakeWorker, tmp_path: Path
) -> None:
    bench, worker = Bench(tmp_path, recipe(train__max_steps=2)), make_worker()
    first, second = bench.assignment(), bench.assignment()
    assert worker.start(first.to_json()) == {"ok": True}
    report = worker.wait(idle, LIMIT_S)
    assert (report["attempt"], report["last_attempt"]) == (None, first.attempt)
    assert report["base"].endswith("demo/model")
    worker.start(second.to_json())
    worker.wait(idle, LIMIT_S)
    phases = [event.data for event in events_of(Path(second.folder)) if event.kind == "phase"]
    assert ("loading", "resident") in [(one["name"], one["detail"]) for one in phases]
    assert events_of(Path(first.folder))[-1].data["outcome"] == "done"


def test_starting_twice_runs_once(make_worker: MakeWorker, tmp_path: Path) -> None:
    bench, worker = Bench(tmp_path, recipe(train__max_steps=1)), make_worker()
    assignment = bench.assignment()
    answers = [worker.start(assignment.to_json()) for _ in range(2)]
    worker.wait(idle, LIMIT_S)
    answers.append(worker.start(assignment.to_json()))
    worker.wait(idle, LIMIT_S)
    kinds = [event.kind for event in events_of(Path(assignment.folder))]
    assert answers == [{"ok": True}] * 3
    assert kinds.count("started") == kinds.count("end") == 1


def test_an_older_attempt_and_a_second_one_are_refused(
    make_worker: MakeWorker, tmp_path: Path
) -> None:
    bench, worker = Bench(tmp_path, recipe(train__max_steps=1)), make_worker()
    older, running, newer = (bench.assignment() for _ in range(3))
    worker.start(running.to_json())
    refused = worker.start(older.to_json())
    busy = worker.start(newer.to_json())
    assert not refused["ok"]
    assert "older" in refused["reason"]
    assert not busy["ok"]
    assert "busy with attempt 2" in busy["reason"]


def test_an_attempt_whose_folder_is_removed_ends_and_the_next_one_runs(
    make_worker: MakeWorker, tmp_path: Path
) -> None:
    bench, worker = Bench(tmp_path, recipe(train__epochs=1000)), make_worker()
    removed, following = bench.assignment(), bench.assignment()
    worker.start(removed.to_json())
    checkpoints = Path(removed.trial_folder) / "checkpoints"
    wait_for(lambda: any(checkpoints.glob("step-*")), "a checkpoint is committed", LIMIT_S)
    shutil.rmtree(removed.folder)
    assert idle(worker.wait(idle, LIMIT_S))
    assert not (Path(removed.folder) / "events.jsonl").exists()
    worker.start(following.to_json())
    worker.halt(following.attempt, "yield")
    worker.wait(idle, LIMIT_S)
    assert events_of(Path(following.folder))[-1].data["outcome"] == "yielded"


def test_a_halt_ends_the_attempt_it_names_and_no_other(
    make_worker: MakeWorker, tmp_path: Path
) -> None:
    bench, worker = Bench(tmp_path, recipe(train__epochs=50)), make_worker()
    assignment = bench.assignment()
    worker.start(assignment.to_json())
    worker.halt(assignment.attempt + 1, "yield")
    worker.halt(assignment.attempt, "yield")
    worker.wait(idle, LIMIT_S)
    assert events_of(Path(assignment.folder))[-1].data["outcome"] == "yielded"


def test_a_report_before_anything_is_loaded(make_worker: MakeWorker) -> None:
    report = make_worker().report()
    assert (report["phase"], report["attempt"], report["pid"]) == ("idle", None, os.getpid())
    assert report["rss_bytes"] > 0


def test_a_card_has_one_worker_at_a_time(make_worker: MakeWorker, tmp_path: Path) -> None:
    worker = make_worker()
    with pytest.raises(EngineError, match=str(os.getpid())):
        make_worker()
    worker.close()
    assert worker.join(LIMIT_S)
    make_worker()


def test_a_worker_releases_its_base_after_a_long_idle_time(
    make_worker: MakeWorker, tmp_path: Path
) -> None:
    bench, worker = Bench(tmp_path, recipe(train__max_steps=1)), make_worker(idle_s=0.01)
    worker.start(bench.assignment().to_json())
    worker.wait(lambda report: idle(report) and report["last_attempt"] == 1, LIMIT_S)
    assert worker.wait(lambda report: report["base"] is None, LIMIT_S)["base"] is None


def test_a_failed_attempt_leaves_a_worker_that_goes_on(
    make_worker: MakeWorker, tmp_path: Path
) -> None:
    worker = make_worker()
    broken = Bench(tmp_path, recipe(), plan=plan(attention="no_such_kernel"))
    failed = broken.assignment()
    worker.start(failed.to_json())
    worker.wait(idle, LIMIT_S)
    broken.recipe, broken.plan = recipe(train__max_steps=1), plan()
    good = broken.assignment()
    worker.start(good.to_json())
    worker.wait(idle, LIMIT_S)
    ends = [events_of(Path(given.folder))[-1].data["outcome"] for given in (failed, good)]
    assert ends == ["failed", "done"]


def test_making_a_worker_loads_no_heavy_library() -> None:
    code = "import sys, workbench.training.worker; print('torch' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "False"


@pytest.mark.slow
def test_a_spare_imports_most_of_what_is_slow_and_nothing_that_asks_for_cards() -> None:
    code = (
        "import sys; from workbench.training.worker import Worker; "
        "print([Worker.import_ahead({}), *(n in sys.modules for n in "
        "('torch._dynamo', 'transformers.generation', 'bitsandbytes', 'peft'))])"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "['', True, True, False, False]"


def test_no_function_is_compiled_while_the_libraries_are_imported() -> None:
    import torch

    from workbench.training.libraries import without_compiler

    compiles = torch.compile
    with without_compiler():
        assert torch.compile(idle) is idle
        assert torch.compile(dynamic=False)(idle) is idle
    assert torch.compile is compiles


@pytest.mark.slow
def test_a_trial_in_four_bits_never_needs_torchs_compiler(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from workbench.training import libraries; "
        "libraries.import_libraries(threads=1); "
        "from tests.training.trials import Bench, plan, recipe; "
        "optimizer = 'paged_adamw_8bit'; "
        "settings = {'model__quantization': 'nf4', 'train__optimizer': optimizer}; "
        "settings |= {'train__max_steps': 2}; "
        "bench = Bench(Path(sys.argv[1]), recipe(**settings), plan=plan(optimizer=optimizer)); "
        "print(bench.run().end['outcome'], 'torch._inductor.compile_fx' in sys.modules)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    told = subprocess.run(command, capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "done False"


def test_a_gpu_has_one_lock_for_all_homes(tmp_path: Path) -> None:
    card = Card(uuid="GPU-0", kind="cuda", name="a card", total_bytes=1)
    paths = {lock_path(card, tmp_path / home) for home in ("a", "b")}
    assert len(paths) == 1
    mode = paths.pop().parent.stat().st_mode
    assert mode & stat.S_ISVTX or not mode & 0o077, "sticky for all users, or ours alone"

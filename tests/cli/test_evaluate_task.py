"""`workbench evaluate --task`: what is refused before anything is queued."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from tests.cli.conftest import Workbench
from tests.support.tick_contexts import Bench, recipe
from workbench.trial import State

INSTALLED = importlib.util.find_spec("lm_eval") is not None


@pytest.fixture
def done(bench: Bench) -> Bench:
    bench.submit(recipe())
    bench.until(State.DONE, 2)
    return bench


@pytest.mark.parametrize("options", [[], ["--data", "rows.jsonl", "--task", "sums.yaml"]])
def test_it_takes_either_rows_or_a_task(workbench: Workbench, options: list[str]) -> None:
    told = workbench("evaluate", "2", *options)
    assert told.code == 2
    assert "evaluate takes either --data or --task" in told.err


@pytest.mark.usefixtures("done")
def test_options_of_rows_do_not_go_with_a_task(workbench: Workbench) -> None:
    told = workbench("evaluate", "2", "--task", "sums.yaml", "--rows", "5")
    assert told.code == 2
    assert "--rows, --columns and --answer-pattern go with --data" in told.err


@pytest.mark.usefixtures("done")
def test_a_task_that_the_harness_refuses_is_refused(workbench: Workbench, tmp_path: Path) -> None:
    task = tmp_path / "sums.yaml"
    task.write_text("task: sums\nprocess_docs: !function mine.run\n")
    told = workbench("evaluate", "2", "--task", task)
    assert told.code == 2
    assert ("!function runs code" if INSTALLED else "[eval]") in told.err
    assert not workbench("ls", "--json").data[1:]

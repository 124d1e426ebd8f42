from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.tick_contexts import Bench, cpu_card, make_bench, recipe
from workbench.cli import main
from workbench.home import Home
from workbench.service import Service
from workbench.trial import State

Answer = Callable[..., Any]
SWEEP = {"parameters": {"train.learning_rate": [0.01, 0.1]}}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path / "home"))
    return Home(tmp_path / "home")


@pytest.fixture
def bench(home: Home, tmp_path: Path) -> Iterator[Bench]:
    """Experiment 1: the base (trial 1), and trials 2 and 3, done, with an adapter's files."""
    bench = make_bench(tmp_path, [cpu_card(0), cpu_card(1)])
    bench.submit(recipe(sweep=SWEEP))
    for trial in (2, 3):
        bench.until(State.DONE, trial)
        fill_adapter(home, trial)
    bench.until(State.DONE, 1)
    yield bench
    bench.context.fleet.close()
    bench.store.close()


def fill_adapter(home: Home, trial: int) -> None:
    """Put files of an adapter's names where the store has its adapter."""
    folder = home.trial(trial) / "adapter"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_model.safetensors").write_bytes(b"x" * 4096)
    (folder / "adapter_config.json").write_text("{}")
    (home.trial(trial) / "checkpoints" / "6").mkdir(parents=True, exist_ok=True)
    (home.trial(trial) / "checkpoints" / "6" / "optimizer.pt").write_bytes(b"o" * 8192)


@pytest.fixture
def service(home: Home, bench: Bench) -> Iterator[Service]:
    service = Service(home)
    yield service
    service.close()


@pytest.fixture
def answer(home: Home, capsys: pytest.CaptureFixture[str]) -> Answer:
    """Runs one command and returns its JSON; fails unless it exits with `code`."""

    def run(*argv: str, code: int = 0) -> Any:
        capsys.readouterr()
        assert main([*argv, "--json"]) == code
        out, err = capsys.readouterr()
        return json.loads(out) if out else err

    return run

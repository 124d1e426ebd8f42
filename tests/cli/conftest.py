from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.cli.engines import Engine
from tests.support.tick_contexts import Bench, cpu_card, make_bench
from tests.tui.filled import engine_running
from workbench.cli import main
from workbench.home import Home


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        return json.loads(self.out)


Workbench = Callable[..., Said]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "80")
    return Home(tmp_path / "home")


@pytest.fixture
def copied(finished: Home, home: Home) -> None:
    """Fill the test's home with a copy of `finished`, which a test module makes once."""
    shutil.copytree(finished.root, home.root)


@pytest.fixture
def workbench(home: Home, capsys: pytest.CaptureFixture[str]) -> Workbench:
    """Runs one command in this process."""

    def run(*argv: str | Path) -> Said:
        code = main([str(word) for word in argv])
        out, err = capsys.readouterr()
        return Said(code, out, err)

    return run


@pytest.fixture
def engine(home: Home) -> Iterator[Engine]:
    running = Engine(home)
    running.begin()
    yield running
    running.close()


@pytest.fixture
def bench(home: Home, tmp_path: Path) -> Iterator[Bench]:
    """A store the test fills itself, under an engine that lives and stands still."""
    bench = make_bench(tmp_path, [cpu_card(0), cpu_card(1)])
    with engine_running(home):
        yield bench
        bench.context.fleet.close()
        bench.store.close()

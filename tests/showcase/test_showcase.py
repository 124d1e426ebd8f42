"""The scripted engine of `--demo-tui`: it plays through the real scheduler, and obeys keys."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from workbench.errors import EngineError
from workbench.home import Home
from workbench.service import Service
from workbench.showcase.clock import CLOCK
from workbench.showcase.play import Showcase
from workbench.trial import State

SHORT_S = 700.0
"""History in which the first trials end and others train."""


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Showcase, Service]]:
    home = Home(tmp_path_factory.mktemp("showcase") / "home")
    made = Showcase(home)
    made.fill(SHORT_S)
    service = Service(home)
    yield made, service
    service.close()
    made.close()


def test_history_has_trials_that_train_and_failed(played: tuple[Showcase, Service]) -> None:
    trials = played[1].snapshot().trials
    live = [row for row in trials if row.state is State.RUNNING]
    assert live
    assert all(row.step > 0 and row.loss is not None and row.tokens_per_s for row in live)
    failed = next(row for row in trials if row.state is State.FAILED)
    assert failed.reason == "the loss became NaN"
    assert failed.hint == "lower train.learning_rate"


def test_the_scripted_engine_carries_out_requests(played: tuple[Showcase, Service]) -> None:
    showcase, service = played
    live = next(row for row in service.snapshot().trials if row.state is State.RUNNING)
    service.pause(live.id)
    showcase.advance(4)
    after = next(row for row in service.snapshot().trials if row.id == live.id)
    assert after.state is State.PAUSED


def test_another_sweep_begins_once_nothing_waits(played: tuple[Showcase, Service]) -> None:
    showcase, service = played
    names = {one.name for one in service.snapshot().experiments}
    for row in service.snapshot().trials:
        if row.state is State.QUEUED:
            service.stop(row.id, kill=True)
    showcase.advance(2)
    found = service.snapshot()
    [added] = [one for one in found.experiments if one.name not in names]
    assert any(row.experiment == added.id and row.state is State.QUEUED for row in found.trials)
    showcase.advance(1)
    assert len(service.snapshot().experiments) == len(names) + 1  # one at a time


def test_a_home_with_an_engine_is_left_alone(played: tuple[Showcase, Service]) -> None:
    with pytest.raises(EngineError, match="an engine runs on"):
        Showcase(played[1].home)


def test_losses_are_the_same_each_time(tmp_path: Path) -> None:
    curves = []
    for name in ("one", "other"):
        made = Showcase(Home(tmp_path / name))
        made.fill(120.0)
        CLOCK.behind_s = 0.0
        made.close()
        service = Service(Home(tmp_path / name))
        live = next(row.id for row in service.snapshot().trials if row.state is State.RUNNING)
        curves.append([point.low for point in service.series(live, "loss", 500)][:20])
    assert curves[0] == curves[1]
    assert len(curves[0]) == 20

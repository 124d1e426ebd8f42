import os
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.register_assert_rewrite("tests.support.sound")

from tests.cli.conftest import engine, home, workbench  # noqa: E402, F401  # fixtures
from tests.support.whole import Whole, whole_engine  # noqa: E402

CLOCK = Path(__file__).parent / "clock"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run tests first that need no shared engine, whose trials train on and take both cores; then
    long ones, so that of two processes none has to wait long for the other at the end.
    """

    def order(item: pytest.Item) -> tuple[bool, bool]:
        shares = "whole" in getattr(item, "fixturenames", ())
        return shares, item.get_closest_marker("begins_early") is None

    items.sort(key=order)


@pytest.fixture(scope="package")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whole]:
    """One engine for all tests here that one process runs. Its Python processes read a clock that
    a test can set.
    """
    folder = tmp_path_factory.mktemp("whole")
    env = {
        "PYTHONPATH": os.pathsep.join([str(CLOCK), os.environ.get("PYTHONPATH", "")]),
        "FAULTS_CLOCK": str(folder / "clock"),
        "WORKBENCH_SILENT_S": "30",
        "WORKBENCH_STILL_S": "60",  # an import takes half of it on a busy machine
    }
    with whole_engine(folder, "[workers]\nspare = true\n", **env) as made:
        yield made


@pytest.fixture
def clock(whole: Whole) -> Path:
    """The seconds in this file are added to what every process of the engine takes for the time."""
    return whole.armed.with_name("clock")

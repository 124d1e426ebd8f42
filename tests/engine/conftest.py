from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.tick_contexts import Bench, cpu_card, make_bench


@pytest.fixture
def bench_of(tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    """Makes a bench with the given cards (two CPU cards when none are named)."""
    made = []

    def make(*cards: dict[str, Any]) -> Bench:
        bench = make_bench(tmp_path, list(cards) or [cpu_card(0), cpu_card(1)])
        made.append(bench)
        return bench

    yield make
    for bench in made:
        bench.context.fleet.close()
        bench.store.close()

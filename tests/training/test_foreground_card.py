"""The card of a foreground trial: the one with most free bytes that nobody owns, or the named."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from workbench.errors import NotThere
from workbench.home import Home
from workbench.machine.locks import Lock
from workbench.machine.nvml import GpuFacts
from workbench.training.foreground_card import ForegroundCard, choose_card

GIB = 1 << 30
BIG, SMALL = (f"GPU-{size}-{os.getpid()}" for size in ("big", "small"))


class Machine:
    """A driver with a big card that is nearly full and a small one that is free."""

    def gpus(self) -> list[GpuFacts]:
        return [
            GpuFacts(
                uuid=uuid,
                name="x",
                total_bytes=total * GIB,
                capability=(8, 6),
                free_bytes=free * GIB,
            )
            for uuid, total, free in ((BIG, 80, 2), (SMALL, 16, 15))
        ]

    def version(self) -> str:
        return "1"


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    """A home of its own; a GPU's lock lies in a folder of the whole machine, and is removed."""
    made = Home(tmp_path / "home")
    yield made
    for uuid in (BIG, SMALL):
        made.card_lock(uuid, "cuda").unlink(missing_ok=True)


@pytest.fixture
def held(home: Home) -> Iterator[Lock]:
    """The free card's lock, in the hands of an engine's worker."""
    lock = Lock(home.card_lock(SMALL, "cuda"))
    assert lock.take()
    yield lock
    lock.release()


def chosen(home: Home, named: str | None = None) -> ForegroundCard:
    found = choose_card({}, home, named, Machine())
    if found.lock is not None:
        found.lock.release()
    return found


def test_the_card_with_most_free_bytes_is_chosen_and_locked(home: Home) -> None:
    found = choose_card({}, home, None, Machine())
    assert (found.card.uuid, found.free_bytes, found.holder) == (SMALL, 15 * GIB, None)
    assert found.lock is not None
    assert not Lock(home.card_lock(SMALL, "cuda")).take()
    found.lock.release()


def test_a_card_that_an_engine_owns_is_left_to_it(home: Home, held: Lock) -> None:
    assert chosen(home).card.uuid == BIG


def test_a_named_card_is_shared_even_where_an_engine_owns_it(home: Home, held: Lock) -> None:
    found = chosen(home, "GPU-s")
    assert (found.card.uuid, found.holder, found.lock) == (SMALL, os.getpid(), None)


def test_where_every_card_is_owned_the_freest_is_shared(home: Home, held: Lock) -> None:
    other = Lock(home.card_lock(BIG, "cuda"))
    assert other.take()
    found = chosen(home)
    other.release()
    assert (found.card.uuid, found.holder) == (SMALL, os.getpid())


def test_an_unknown_name_lists_the_cards_there_are(home: Home) -> None:
    with pytest.raises(NotThere) as refused:
        chosen(home, "GPU-x")
    assert BIG in refused.value.hint


def test_cpu_cards_are_chosen_without_a_lock(tmp_path: Path) -> None:
    found = choose_card({"WORKBENCH_CARDS": "cpu:1GiB,cpu:4GiB"}, Home(tmp_path / "home"))
    assert (found.card.uuid, found.free_bytes, found.lock) == ("cpu-1", None, None)
    assert not (tmp_path / "home").exists()

"""No other user can read the home, whatever the umask is, and no name leads outside it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.tick_contexts import Bench, cpu_card, make_bench, recipe
from workbench.errors import NotThere
from workbench.home import Home
from workbench.recipe.shipped import shipped_file
from workbench.scheduler import process_requests
from workbench.store import Store
from workbench.store.recovery.backup import back_up
from workbench.store.requests import BadRequest, drop_request, scan_requests
from workbench.trial import State

NAMES = (
    "../../outside",
    "/outside",
    "..",
    ".",
    "~/outside",
    "a\nb",
    "\u2025\uff0f\u2025\uff0foutside",  # dots and slashes that only look so
    "\u2024\u2024\u2215outside",
    "n" * 80,
    "con\u202etxt",
    "$(touch outside)",
)


@pytest.fixture
def wide_open() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = make_bench(tmp_path / "around", [cpu_card(0)])
    yield bench
    bench.context.fleet.close()
    bench.store.close()


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_home_and_everything_in_it_are_nobody_elses(wide_open: None, bench: Bench) -> None:
    home = bench.context.home
    bench.submit(recipe())
    bench.until(State.DONE, 2)
    drop_request(home.requests, "stop", {"trial": 2})
    back_up(home.database, home.backups)
    assert mode(home.root) == 0o700
    for path in home.root.rglob("*"):
        assert mode(path) & 0o077 == 0, path


def test_a_database_is_nobody_elses_by_itself(wide_open: None, tmp_path: Path) -> None:
    store = Store(tmp_path / "workbench.db")
    store.note("x", "y")
    assert {path.name: mode(path) for path in tmp_path.iterdir()} == dict.fromkeys(
        ("workbench.db", "workbench.db-wal", "workbench.db-shm", "journal.jsonl"), 0o600
    )
    store.close()


def test_a_database_that_was_copied_is_closed_to_others(tmp_path: Path) -> None:
    Store(tmp_path / "workbench.db").close()
    (tmp_path / "workbench.db").chmod(0o644)
    store = Store(tmp_path / "workbench.db")
    store.note("x", "y")
    assert mode(tmp_path / "workbench.db") == mode(tmp_path / "workbench.db-wal") == 0o600
    store.close()


@pytest.mark.parametrize(
    "name", ["../../outside", "/outside", "a\0b\nc", "MIG-GPU-1/2/0", "n" * 300]
)
@pytest.mark.parametrize("kind", ["cuda", "cpu"])
def test_a_cards_name_leads_nowhere(tmp_path: Path, name: str, kind: str) -> None:
    home = Home(tmp_path / "home")
    lock = home.card_lock(name, kind)
    assert lock.parent == home.card_lock("GPU-1", kind).parent
    (tmp_path / lock.name).touch()


@pytest.mark.parametrize("name", NAMES)
def test_an_experiments_name_leads_nowhere(bench: Bench, tmp_path: Path, name: str) -> None:
    home = bench.context.home
    wanted = recipe(name="x").model_dump(mode="json") | {"name": name}
    drop_request(home.requests, "submit", {"recipe": wanted})
    process_requests(bench.context)
    assert [path.name for path in (home.root / "experiments").iterdir()] == ["1"]
    assert [path.name for path in tmp_path.iterdir()] == ["around"]
    assert [path.name for path in (tmp_path / "around").iterdir()] == ["home"]
    [kept] = bench.store.experiments()
    assert kept.name.isprintable()


@pytest.mark.parametrize("name", ["", "n" * 81, "n" * 300])
def test_a_name_without_end_or_without_anything_is_refused(bench: Bench, name: str) -> None:
    wanted = recipe(name="x").model_dump(mode="json") | {"name": name}
    id = drop_request(bench.context.home.requests, "submit", {"recipe": wanted})
    process_requests(bench.context)
    answer = bench.store.answer(id)
    assert answer is not None
    assert not answer.ok
    assert bench.store.experiments() == []


@pytest.mark.parametrize(
    "name", ["../recipe/schema.py", "/etc/passwd", "demo/../../x", "a\0b", "demo/data/\u2025"]
)
def test_a_shipped_name_stays_in_the_package(name: str) -> None:
    with pytest.raises(NotThere):
        shipped_file(f"workbench:{name}")


@pytest.mark.parametrize("id", ["../../evil", "/evil", "a\0b", "a\nb", "a" * 300, "\uff0f", ""])
def test_a_requests_id_leads_nowhere(tmp_path: Path, id: str) -> None:
    home = Home(tmp_path / "home").make()
    body = json.dumps({"id": id, "verb": "stop", "args": {}, "sent_utc": 1})
    (home.requests / "one.json").write_text(body)
    [(_, found)] = scan_requests(home.requests)
    assert isinstance(found, BadRequest)

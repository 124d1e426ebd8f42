"""The home is damaged, moved or changed: it is reported and repaired, and training continues."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.waiting import wait_for
from tests.support.whole import LIMIT_S, Whole, short_recipe, whole_engine, workbench
from workbench.home import Home
from workbench.service import Service
from workbench.trial import State

pytestmark = pytest.mark.fault


def cut_short(database: Path) -> None:
    """Once its log is in it: cut while that tells all, it would only be older."""
    code = (
        "import sqlite3, sys; print(sqlite3.connect(sys.argv[1]).execute(sys.argv[2]).fetchone())"
    )
    words = [sys.executable, "-c", code, str(database), "pragma wal_checkpoint(truncate)"]
    assert subprocess.check_output(words, text=True).startswith("(0,")
    os.truncate(database, database.stat().st_size // 2)


def without_its_log(database: Path) -> None:
    for ending in ("-wal", "-shm"):
        database.with_name(database.name + ending).unlink(missing_ok=True)


def gone(database: Path) -> None:
    without_its_log(database)
    database.unlink()


def remove_in_use(folder: Path) -> None:
    """Remove a folder as a person does: once more if a worker wrote into it meanwhile."""

    def removed() -> bool:
        shutil.rmtree(folder, ignore_errors=True)
        return not folder.exists()

    wait_for(removed, f"{folder} is removed")


@pytest.mark.parametrize(
    "harm",
    [
        cut_short,
        pytest.param(without_its_log, marks=pytest.mark.slow),
        pytest.param(gone, marks=pytest.mark.slow),
    ],
)
def test_a_damaged_database_is_refused_repaired_and_used_again(
    harm: Callable[[Path], None], whole: Whole
) -> None:
    whole.two_running()
    before = whole.live()
    with whole.unharmed():
        with closing(sqlite3.connect(whole.home.database, isolation_level=None)) as reading:
            reading.execute("begin")
            reading.execute("select * from facts").fetchall()
            whole.obeyed(whole.service.pause(before[0].trial))  # stays in the log: somebody reads
            whole.end_everything()
        harm(whole.home.database)
        for words in ("ls", "engine start"):
            refused = workbench(whole.home, *words.split())
            assert refused.returncode == 1
            assert "workbench repair" in refused.stderr
        repaired = workbench(whole.home, "repair")
        assert repaired.returncode == 0, repaired.stderr
        whole.start()
        assert {whole.state(a.trial) for a in before} == {State.PAUSED}
        whole.two_running()
        whole.until_later_attempts(before)


def test_a_home_that_was_moved_goes_on_from_its_checkpoints(whole: Whole) -> None:
    whole.two_running()
    before, old = whole.live(), whole.home.root
    with whole.unharmed():
        whole.end_everything()
        whole.home = Home(old.with_name("moved"))
        old.rename(whole.home.root)
        whole.service = Service(whole.home)
        whole.start()
        whole.until_later_attempts(before)
        assert all(a.from_step for a in whole.live())
    assert not old.exists()


def test_a_changed_data_file_is_refused_with_a_hint(whole: Whole, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    lines = [f'{{"question": "What is {n} and 1?", "answer": "{n + 1}"}}\n' for n in range(64)]
    rows.write_text("".join(lines))
    whole.two_running()
    for attempt in whole.live():
        whole.obeyed(whole.service.pause(attempt.trial))
        whole.until_state(attempt.trial, State.PAUSED)
    recipe = short_recipe(f"data.train={rows}", "data.eval=null")
    with whole.unharmed():
        request = whole.service.submit(recipe)
        whole.obeyed(request)
        answer = whole.service.answer(request)
        assert answer is not None
        wait_for(lambda: [a for a in whole.live() if a.checkpoint_step], "it commits", LIMIT_S)
        (trial,) = {a.trial for a in whole.live()}
        whole.obeyed(whole.service.pause(trial))
        whole.until_state(trial, State.PAUSED)
        rows.write_text("".join([*lines[:-1], lines[0]]))
        whole.obeyed(whole.service.resume(trial))
        whole.until_state(trial, State.FAILED)
        row = whole.service.trial(trial).trial
        assert "the rows changed in" in row.reason
        assert "submit the recipe again" in row.hint
        whole.two_running()


def test_folders_removed_by_hand_cost_their_own_work_and_no_more(tmp_path: Path) -> None:
    """`repair` cannot make what was removed of the folders that are left: a home of its own."""
    with whole_engine(tmp_path, "[workers]\nspare = true\n") as it:
        it.two_running()
        first, second = it.live()
        home = it.home
        experiments = home.root / "experiments"
        mine = (home.trial(first.trial), home.attempt(first.id))
        for folder in (*mine, experiments, home.cache, home.logs):
            remove_in_use(folder)
        it.until_later_attempts([first])
        assert [one.id for one in it.live() if one.trial == second.trial] == [second.id]
        remove_in_use(home.requests)
        for words in (["ls"], ["show", str(first.trial)], ["logs", str(first.trial)], ["board"]):
            said = workbench(home, *words)
            assert said.returncode == 0, said.stderr
        it.obeyed(it.service.pause(first.trial))

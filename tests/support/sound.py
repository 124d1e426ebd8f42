"""The nine promises that hold for a home after any fault of its engine."""

from __future__ import annotations

import json
import math
import re
import sqlite3
import subprocess
import time
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

from workbench.attempts.events import Event, read_events
from workbench.home import Home
from workbench.machine.locks import lock_holder
from workbench.machine.processes import find_marked, identify_process
from workbench.scheduler.tick_context import assignment_file
from workbench.store.reader import Reader
from workbench.store.recovery.repair import differences_from_repair
from workbench.trial import LEGAL, State

SECRET = "hf_NobodyMayEverWriteThisDown1234567"
"""Value of HF_TOKEN in the environment of everything that tests and soak start."""


def sound(home: Home, *, told: str = "", since: int = 0, intervals: int = 1) -> None:
    """Check all nine promises; AssertionError names the one that is broken.

    `told` is a pattern that one event after `since` must match. `intervals` of checkpoints may
    have been lost by each attempt: two where a test damaged one.
    """
    reader = Reader.open(home.database)
    try:
        with reader.one_view():
            _no_submitted_trial_is_missing(reader, home)
            _one_live_attempt_for_each_trial_and_card(reader, home)
            _only_legal_moves_and_one_final_state(reader)
            _every_adapter_verifies_and_is_finite(reader, home)
            _no_more_work_lost_than_an_interval(reader, home, intervals)
            _people_are_told(reader, told, since)
            _database_is_sound(reader)
    finally:
        reader.close()
    _equals_what_repair_makes(home)
    no_orphans(home)
    _no_secret_in_any_file(home)


def newest_event(home: Home) -> int:
    """Return the id of the newest event, 0 where there is none."""
    reader = Reader.open(home.database)
    try:
        return int(reader.db.execute("select coalesce(max(id), 0) from events").fetchone()[0])
    finally:
        reader.close()


def _rows(reader: Reader, text: str, *values: Any) -> list[sqlite3.Row]:
    return reader.db.execute(text, values).fetchall()


# 1
def _no_submitted_trial_is_missing(reader: Reader, home: Home) -> None:
    for row in _rows(reader, "select data from requests where verb = 'submit' and ok"):
        made = json.loads(row["data"])["experiment"]
        assert reader.experiment(made).id == made
    for experiment in reader.experiments():
        if experiment.state != "ready":
            continue
        swept = (experiment.recipe.get("sweep") or {}).get("parameters", {})
        least = math.prod(len(values) for values in swept.values() if isinstance(values, list))
        numbers = [t.number for t in reader.trials(experiment.id) if t.kind == "tune"]
        assert numbers == list(range(1, len(numbers) + 1)), experiment.name
        assert len(numbers) >= least, experiment.name
        for trial in reader.trials(experiment.id):
            assert home.trial(trial.id).is_dir()


# 2
def _one_live_attempt_for_each_trial_and_card(reader: Reader, home: Home) -> None:
    for key in ("trial", "card"):
        many = f"select {key} from attempts where outcome is null group by 1 having count(*) > 1"
        assert _rows(reader, many) == []
    live = {row[0] for row in _rows(reader, "select trial from attempts where outcome is null")}
    assert live == {t.id for t in reader.trials() if t.state.live}
    for ids in _attempts(reader).values():
        for former, later in pairwise(ids):  # by the files' own times: no clock that was set
            wrote, began = home.attempt(former) / "events.jsonl", assignment_file(home, later)
            assert not wrote.exists() or wrote.stat().st_mtime_ns <= began.stat().st_mtime_ns, (
                f"attempt {former} still wrote when attempt {later} was placed"
            )


def _attempts(reader: Reader) -> dict[int, list[int]]:
    """trial → its attempts, oldest first."""
    found = defaultdict(list)
    for row in _rows(reader, "select id, trial from attempts order by id"):
        found[row["trial"]].append(row["id"])
    return found


def event_lines(home: Home, attempt: int) -> list[Event]:
    """Return every whole line that an attempt wrote, whether or not the loop has read it."""
    path, offset, found = home.attempt(attempt) / "events.jsonl", 0, []
    while True:
        lines, after = read_events(path, offset)
        found += [line for line in lines if isinstance(line, Event)]
        if after == offset:
            return found
        offset = after


# 3
def _only_legal_moves_and_one_final_state(reader: Reader) -> None:
    for trial in reader.trials():
        moves = reader.moves(trial.id)
        assert all((m.before, m.after, m.by) in LEGAL for m in moves), trial.id
        places = [State.QUEUED, *(State(m.after) for m in moves)]
        assert [State(m.before) for m in moves] == places[:-1], trial.id
        assert places[-1] is trial.state, trial.id
        assert not any(place.final for place in places[:-1]), trial.id


# 4
def _every_adapter_verifies_and_is_finite(reader: Reader, home: Home) -> None:
    from safetensors.torch import load_file  # seconds, with torch

    from workbench.adapters.adapter_folder import WEIGHTS
    from workbench.machine import staging

    rows = {row["trial"]: row for row in _rows(reader, "select * from adapters")}
    for row in rows.values():
        weights = home.root / row["path"] / WEIGHTS  # relative, so that a home can be moved
        assert weights.stat().st_size == row["bytes"]
        assert staging.file_sha256(weights) == row["sha256"]
        assert all(tensor.isfinite().all() for tensor in load_file(weights).values())
    finished = (State.DONE, State.PRUNED)
    for trial in reader.trials():
        assert trial.state not in finished or trial.kind != "tune" or trial.id in rows, trial.id
        assert not list(home.trial(trial.id).glob(".adapter.*")) or trial.state.live


# 5
def _no_more_work_lost_than_an_interval(reader: Reader, home: Home, intervals: int) -> None:
    """Compare what workers wrote: the first step of each attempt follows closely on the last step
    of the one before.

    Steps after the last one at which a checkpoint was due may be lost beside the intervals: they
    were trained while it was being written.
    """
    recipes = {e.id: e.recipe for e in reader.experiments()}
    trials = {t.id: t for t in reader.trials()}
    for trial, ids in _attempts(reader).items():
        train = recipes[trials[trial].experiment]["train"]
        steps = [_steps(home, id) for id in ids]
        reached = 0
        for taken in filter(None, steps):
            due = max(0, reached - 1) // train["save_every"] * train["save_every"]
            lost = due - (taken[0] - train["log_every"])
            assert lost <= intervals * train["save_every"], f"trial {trial} lost {lost} steps"
            reached = taken[-1]


def _steps(home: Home, attempt: int) -> list[int]:
    return [
        int(e.data["step"])
        for e in event_lines(home, attempt)
        if e.kind == "metric" and "loss" in e.data["values"]
    ]


# 6
def no_orphans(home: Home) -> None:
    """Wait up to 30 s until every process of this home belongs to its keeper, and each card's lock
    to one that does.
    """
    until = time.monotonic() + 30
    while (left := _strangers(home)) and time.monotonic() < until:
        time.sleep(0.05)
    assert not left, left


def _strangers(home: Home) -> dict[int, str]:
    """pid → what it runs, or which lock it holds."""
    ours = _belonging(home)
    found = {
        pid: _command(pid) for pid in of_home(home) - ours if identify_process(pid) is not None
    }
    for lock in home.root.glob("locks/card-*.lock"):
        if (pid := lock_holder(lock)) is not None and pid not in ours:
            found[pid] = f"holds {lock.name}"
    return found


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def of_home(home: Home) -> set[int]:
    """Return the pid of every process that was started for this home, by whomever."""
    wanted, found = f"WORKBENCH_HOME={home.root}".encode(), set()
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and wanted in (entry / "environ").read_bytes().split(b"\0"):
                found.add(int(entry.name))
        except OSError:
            continue
    return found


def _belonging(home: Home) -> set[int]:
    keeper = lock_holder(home.keeper_lock)
    try:
        told = json.loads(home.runtime.read_text())
    except (OSError, ValueError):
        told = {}
    units = [told.get("unit"), f"sampler-{keeper}"] if keeper else []
    return {pid for unit in units for pid in find_marked(str(unit))} | (
        {keeper} if keeper else set()
    )


# 7
def _people_are_told(reader: Reader, told: str, since: int) -> None:
    """Check that losses name trial, reason and next step, and failures reason and hint."""
    for row in _rows(reader, "select text from events where kind = 'lost'"):
        assert re.search(r"^trial \d+: .+; (goes on from step \d+|again|.+ ended .+)", row["text"])
    for trial in reader.trials():
        assert trial.state is not State.FAILED or (trial.reason and trial.hint), trial.id
    said = [row["text"] for row in _rows(reader, "select text from events where id > ?", since)]
    assert not told or any(re.search(told, text) for text in said), "\n".join([told, *said[-40:]])


# 8
def _database_is_sound(reader: Reader) -> None:
    assert [row[0] for row in _rows(reader, "pragma integrity_check")] == ["ok"]
    assert _rows(reader, "pragma foreign_key_check") == []


def _equals_what_repair_makes(home: Home) -> None:
    assert differences_from_repair(home) == []


# 9
def _no_secret_in_any_file(home: Home) -> None:
    """Search every file of the home for the secret, in a process of its own.

    To open and close a database's files in this process would release the POSIX locks of its
    readers, and the next engine would cut the log while they read it.
    """
    places = [home.root]
    if home.runtime.exists():
        told = json.loads(home.runtime.read_text()).get("temp")
        places += [Path(told)] if told and Path(told).exists() else []
    words = ["grep", "-rlsF", "--devices=skip", SECRET, *map(str, places)]
    found = subprocess.run(words, capture_output=True, text=True, check=False)
    assert found.stdout == ""

"""Rows read from the folders alone, for a home that lost both its database and its journal.

`experiments/<id>/` has the recipe and what preparing found; `attempts/<id>/assignment.json` says
which trial of which experiment ran on which card with which settings, and its event file how that
ended. Trials that never began, moves, priorities, answers and rungs are nowhere else and stay lost.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from workbench.adapters.subjects import ADAPTER, MODELS, ROWS
from workbench.attempts.assignment import Assignment
from workbench.attempts.events import SHORT_OF_MEMORY, Event, FailureCause, Outcome, read_events
from workbench.home import Home
from workbench.recipe import Recipe, settings_of
from workbench.recipe.space import in_condition_order, is_one_by_one, parameter_exists
from workbench.text import safe_line, safe_text
from workbench.trial import DesiredState, Kind, State

Rows = dict[str, dict[Any, dict[str, Any]]]
RESOLVED = ("model.precision", "train.optimizer", "evaluate.batch_size")
"""Settings that are decided once for all trials of an experiment."""
GOES_ON = (*SHORT_OF_MEMORY, FailureCause.DISK_FULL)
"""Causes of a failed attempt after which its trial waits for another attempt."""


def salvage_rows(home: Home, rows: Rows) -> list[str]:
    """Add to `rows` (table → id → row) what they lack; return in words what could not be read.

    Experiments that were still preparing, and attempts that had not ended, are brought up to date.
    Reads every event file once.
    """
    lost: list[str] = []
    for id, folder in _numbered(home.root / "experiments"):
        old = rows.setdefault("experiments", {}).get(id)
        if old is None or old["state"] == "preparing":
            try:
                rows["experiments"][id] = {**(old or {}), **_experiment(id, folder)}
            except (OSError, ValueError, KeyError, TypeError) as broken:
                lost.append(f"experiment {id}: {safe_line(broken, 200)}")
    _make_names_unique(rows["experiments"])
    for id, _ in _numbered(home.root / "attempts"):
        try:
            _attempt(home, id, rows)
        except (OSError, ValueError, KeyError, TypeError) as broken:
            lost.append(f"attempt {id}: {safe_line(broken, 200)}")
    known = rows.get("trials", {})
    if unknown := [str(id) for id, _ in _numbered(home.root / "trials") if id not in known]:
        lost.append(f"trials that had not begun: {safe_line(', '.join(unknown), 200)}")
    return lost


def _numbered(folder: Path) -> Iterator[tuple[int, Path]]:
    found = folder.iterdir() if folder.is_dir() else ()
    yield from sorted((int(path.name), path) for path in found if path.name.isdecimal())


def _experiment(id: int, folder: Path) -> dict[str, Any]:
    file = folder / "recipe.json"
    recipe = Recipe.model_validate_json(file.read_bytes())
    sweep, prepared = recipe.sweep, _prepared(folder)
    asks = is_one_by_one(sweep)
    ready = prepared is not None and bool(prepared.get("ok"))
    refused = prepared is not None and not ready
    return {
        "id": id,
        "name": safe_line(recipe.name, 80),
        "state": "ready" if ready else "refused" if refused else "preparing",
        "recipe": json.dumps(recipe.model_dump(mode="json")),
        "rank_by": recipe.rank_by,
        "prepared": json.dumps(prepared) if ready else None,
        "resolved": "{}",
        "reason": safe_text((prepared or {}).get("error") or "") if refused else "",
        "mend": safe_text((prepared or {}).get("hint") or (prepared or {}).get("mend") or "")
        if refused
        else "",
        "max_parallel": sweep.max_parallel if sweep else None,
        "most_trials": sweep.trials if sweep and asks else None,
        "searching": int(ready and asks),
        "created_utc": file.stat().st_mtime,
    }


def _prepared(folder: Path) -> dict[str, Any] | None:
    try:
        return dict(json.loads((folder / "prepared.json").read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def _make_names_unique(experiments: dict[Any, dict[str, Any]]) -> None:
    taken: set[str] = set()
    for _, row in sorted(experiments.items()):
        name, number = row["name"], 1
        while row["name"] in taken or row["name"].isdecimal():
            number += 1
            row["name"] = f"{name}-{number}"
        taken.add(row["name"])


def _attempt(home: Home, id: int, rows: Rows) -> None:
    """Add the attempt's row, and its trial's row as this attempt left it."""
    attempts, trials = rows.setdefault("attempts", {}), rows.setdefault("trials", {})
    if (attempts.get(id) or {}).get("outcome"):
        return
    file = home.attempt(id) / "assignment.json"
    given = Assignment.from_json(json.loads(file.read_bytes()))
    began = file.stat().st_mtime
    size, last = _last(home.attempt(id) / "events.jsonl")
    end = last.data if last and last.kind == "end" else {"outcome": Outcome.CUT}
    ended = last.at_utc if last else began
    attempts[id] = {
        "from_step": attempts.get(id, {}).get("from_step", 0),
        "id": id,
        "trial": given.trial,
        "card": safe_line(given.card["uuid"], 80),
        "plan": json.dumps(given.plan),
        "predicted_bytes": int(given.plan["predicted_bytes"]),
        "started_utc": began,
        "ended_utc": ended,
        "outcome": Outcome(end["outcome"]),
        "reason": safe_text(end.get("reason") or ""),
        "offset": size,
    }
    experiment = rows["experiments"][given.experiment]
    old = trials.get(given.trial)
    if old is not None and State(old["state"]).final:
        return
    (old or {}).pop("checkpoint_step", None)  # the event files have the newest
    trials[given.trial] = {
        "number": _number(given, trials),
        "settings": json.dumps(_settings(given, experiment)),
        "created_utc": began,
        "wanted": DesiredState.RUN,
        **(old or {}),
        "id": given.trial,
        "experiment": given.experiment,
        "kind": given.kind,
        "finals_of": given.finals_of,
        "state": _state(end, experiment, home.trial(given.trial)),
        "reason": safe_text(end.get("reason") or ""),
        "mend": safe_text(end.get("hint") or end.get("mend") or ""),
        "changed_utc": ended,
    }
    if given.kind == Kind.BASE:
        experiment["base_trial"] = given.trial


def _last(events: Path) -> tuple[int, Event | None]:
    """Return the bytes of whole lines in an event file, and the last event in them."""
    offset, last = 0, None
    while True:
        found, behind = read_events(events, offset)
        if behind == offset:
            return offset, last
        offset = behind
        last = next((one for one in reversed(found) if isinstance(one, Event)), last)


def _state(end: dict[str, Any], experiment: dict[str, Any], trial: Path) -> State:
    """Return the state in which the last attempt left its trial; QUEUED where it is to go on."""
    sweep = json.loads(experiment["recipe"])["sweep"] or {}
    match end["outcome"]:
        case Outcome.DONE:
            return State.DONE
        case Outcome.STOPPED:
            return State.PRUNED if sweep.get("early_stop") else State.STOPPED
        case Outcome.DIVERGED if (trial / "adapter").is_dir():
            return State.PRUNED
        case Outcome.DIVERGED | Outcome.FAILED if end.get("cause") not in GOES_ON:
            return State.FAILED
    return State.QUEUED


def _number(given: Assignment, trials: dict[Any, dict[str, Any]]) -> int:
    if given.kind == Kind.BASE:
        return 0
    beside = (row["number"] for row in trials.values() if row["experiment"] == given.experiment)
    return 1 + max(beside, default=0)


def _settings(given: Assignment, experiment: dict[str, Any]) -> dict[str, Any]:
    """Return the trial's settings: what its sweep set, and what else differs from the recipe."""
    recipe = Recipe.model_validate_json(experiment["recipe"])
    mine = Recipe.model_validate_json(json.dumps(given.recipe))
    here = settings_of(mine)
    resolved = {key: here[key] for key in RESOLVED}
    experiment["resolved"] = json.dumps({**resolved, **json.loads(experiment["resolved"])})
    found = _what_is_scored(given)
    if recipe.sweep is not None and given.kind == Kind.TUNE:
        for key, parameter in in_condition_order(recipe.sweep.parameters).items():
            if parameter_exists(parameter, found):
                found[key] = here[key]
    differs = settings_of(mine, recipe)
    return found | {key: value for key, value in differs.items() if key not in resolved}


def _what_is_scored(given: Assignment) -> dict[str, Any]:
    """Return the settings of a trial that trains nothing: its adapters, and the rows it scores."""
    if given.score is not None:
        trial = given.score.get("trial")
        adapter = given.score.get("folder") if trial is None else trial
        return {ADAPTER: adapter, ROWS: given.score.get("rows")}
    if given.chat is not None:
        return {MODELS: [None if one is None else one.get("trial") for one in given.chat]}
    return {}

"""Database rows decoded into the frozen row types of `store.rows`."""

from __future__ import annotations

import json
import sqlite3
from typing import Any

from workbench.store.rows import AttemptRow, CardRow, Experiment, TrialRow
from workbench.trial import DesiredState, Kind, State

_KINDS, _STATES, _DESIRED = (
    {one.value: one for one in each} for each in (Kind, State, DesiredState)
)
"""Enum members by value. Ten thousand trials are read for one screen, and a dictionary look-up
costs a fifth of an enum's call."""


def experiment_from_row(row: sqlite3.Row, counts: dict[str, int], killed: int = 0) -> Experiment:
    """Return the experiment in a row of `experiments`.

    `counts` are its tuned trials by state, `killed` those of the stopped ones that were killed.
    """
    return Experiment(
        id=row["id"],
        name=row["name"],
        state=row["state"],
        recipe=json.loads(row["recipe"]),
        rank_by=row["rank_by"],
        prepared=json.loads(row["prepared"]) if row["prepared"] else None,
        resolved=json.loads(row["resolved"]),
        base_trial=row["base_trial"],
        reason=row["reason"],
        hint=row["mend"],
        priority=row["priority"],
        held=bool(row["held"]),
        max_parallel=row["max_parallel"],
        most_trials=row["most_trials"],
        searching=bool(row["searching"]),
        warm_trial=row["warm_trial"],
        ended_utc=row["ended_utc"],
        created_utc=row["created_utc"],
        counts=counts,
        killed=killed,
    )


def trial_from_row(data: dict[str, Any]) -> TrialRow:
    """Return the trial in a row of `reader.TRIALS`; `data` is used up. About 10 µs."""
    data["kind"] = _KINDS[data["kind"]]
    data["state"] = _STATES[data["state"]]
    # These three columns keep older names; see schema/version_1.sql.
    data["desired_state"] = _DESIRED[data.pop("wanted")]
    data["desired_card"] = data.pop("wanted_card")
    data["hint"] = data.pop("mend")
    data["settings"] = json.loads(data["settings"])
    data["phase"] = data["phase"] or ""
    return TrialRow(**data)


def attempt_from_row(row: sqlite3.Row) -> AttemptRow:
    """Return the attempt in a row of `attempts`."""
    return AttemptRow(**{**dict(row), "plan": json.loads(row["plan"])})


def card_from_row(row: sqlite3.Row) -> CardRow:
    """Return the card in a row of `cards` joined with the trial that holds it."""
    data = dict(row)
    del data["forgiven"]  # only attempt_history.lost_in_a_row needs it
    for name in ("processes", "xids"):
        data[name] = json.loads(data[name])
    for flag in ("present", "drained", "lost"):
        data[flag] = bool(data[flag])
    if data["xid_watch"] is not None:
        data["xid_watch"] = bool(data["xid_watch"])
    return CardRow(**data)

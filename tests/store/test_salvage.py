"""Trials whose rows come back from their assignments alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.tick_contexts import PREPARED, cpu_card, recipe
from workbench.attempts.assignment import Assignment
from workbench.home import Home
from workbench.store.recovery.salvage import Rows, salvage_rows


def salvaged_trial(home: Home, kind: str, **given: Any) -> dict[str, Any]:
    """Return the row of trial 7 as its only attempt's folder gives it."""
    experiment, attempt = home.experiment(1), home.attempt(3)
    for folder in (experiment, attempt):
        folder.mkdir(parents=True)
    wanted = recipe()
    (experiment / "recipe.json").write_text(wanted.model_dump_json())
    (experiment / "prepared.json").write_text(json.dumps(PREPARED))
    assignment = Assignment(
        attempt=3,
        trial=7,
        experiment=1,
        kind=kind,
        recipe=wanted.model_dump(mode="json"),
        card=cpu_card(0),
        plan={"predicted_bytes": 1},
        folder=str(attempt),
        trial_folder=str(home.trial(7)),
        experiment_folder=str(experiment),
        **given,
    )
    (attempt / "assignment.json").write_text(json.dumps(assignment.to_json()))
    rows: Rows = {}
    assert salvage_rows(home, rows) == []
    return rows["trials"][7]


@pytest.mark.parametrize(
    ("source", "adapter"),
    [
        ({"trial": 5, "folder": "/home/trials/5/adapter"}, 5),
        ({"trial": None, "folder": "/elsewhere"}, "/elsewhere"),
        ({"trial": None, "folder": None}, None),
    ],
)
def test_a_score_trial_knows_what_it_scores(
    source: dict[str, Any], adapter: object, tmp_path: Path
) -> None:
    row = salvaged_trial(Home(tmp_path), "score", score={**source, "rows": "test"})
    assert row["kind"] == "score"
    assert json.loads(row["settings"]) == {"score.adapter": adapter, "score.rows": "test"}


def test_a_trial_of_finals_knows_its_finalist(tmp_path: Path) -> None:
    assert salvaged_trial(Home(tmp_path), "tune", finals_of=5)["finals_of"] == 5

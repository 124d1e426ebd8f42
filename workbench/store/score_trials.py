"""Score trials: the adapters that they score, and the scores that are known already."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from workbench.adapters.subjects import SUBJECTS, is_test, scored_adapter
from workbench.errors import UsageError
from workbench.store.reader import Reader
from workbench.store.rows import TrialRow
from workbench.text import safe_line
from workbench.trial import UNTRAINED


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedAdapter:
    """The adapter that a tuned trial left."""

    folder: Path
    sha256: str
    """Of its weights."""
    step: int
    """Optimizer steps after which the weights were saved."""


def check_it_trains(trial: TrialRow) -> None:
    """Raise UsageError for a trial that trains no adapter."""
    if trial.kind in UNTRAINED:
        raise UsageError(
            f"trial {trial.id} {UNTRAINED[trial.kind]}: there is nothing to train in it",
            hint="choose a trial that trains an adapter; see `workbench ls`",
        )


def check_it_is_no_evaluation(folder: Path, name: str) -> None:
    """Raise UsageError where the experiment in that folder only scores adapters."""
    if (folder / SUBJECTS).exists():
        raise UsageError(
            f"experiment {safe_line(name)} is an evaluation: it trains nothing",
            hint="`workbench evaluate` scores other adapters, in an experiment of its own",
        )


def saved_adapter(reader: Reader, trial: int) -> SavedAdapter | None:
    """Return the adapter that a trial left; None where it left none."""
    row = reader.db.execute(
        """select path, sha256, (select max(step) from scores s where s.trial = d.trial) as step
           from adapters d where trial = ?""",
        (trial,),
    ).fetchone()
    if row is None:
        return None
    step = int(row["step"] or 0)
    return SavedAdapter(folder=reader.root / row["path"], sha256=str(row["sha256"]), step=step)


def trials_with_results(reader: Reader, adapter: int) -> list[int]:
    """Return finished trials whose scores with results by row are those of that trial's adapter.

    They are the trial itself and score trials of it; newest last. Whether they were scored on the
    same rows is for the caller to compare.
    """
    rows = reader.db.execute(
        """select t.id, t.kind, t.settings from trials t
           where exists (select 1 from row_results r where r.trial = t.id and r.scored)
           and (t.id = :adapter or t.kind = 'score' and t.state = 'done'
                and json_extract(t.settings, '$."score.adapter"') = :adapter)
           order by t.id""",
        {"adapter": adapter},
    )
    return [row["id"] for row in rows if not is_test(json.loads(row["settings"]))]


def trials_of_folder(reader: Reader, folder: str) -> list[int]:
    """Return finished score trials of an adapter's folder with results by row; newest last."""
    rows = reader.db.execute(
        """select t.id from trials t where t.kind = 'score' and t.state = 'done'
           and json_extract(t.settings, '$."score.adapter"') = ?
           and exists (select 1 from row_results r where r.trial = t.id and r.scored)
           order by t.id""",
        (folder,),
    )
    return [row["id"] for row in rows]


def find_test_trials(reader: Reader, experiment: int) -> dict[int | None, int]:
    """Return the newest score trial on the test rows for each adapter of an experiment.

    By the tuned trial's id; None stands for the base.
    """
    rows = reader.db.execute(
        "select id, settings from trials where experiment = ? and kind = 'score' order by id",
        (experiment,),
    )
    found: dict[int | None, int] = {}
    for row in rows:
        settings = json.loads(row["settings"])
        adapter = scored_adapter(settings)
        if is_test(settings) and not isinstance(adapter, str):
            found[adapter] = row["id"]
    return found


def scores_by_name(reader: Reader, trials: Sequence[int]) -> dict[int, dict[str, float | None]]:
    """Return the scores of these trials by name."""
    rows = reader.db.execute(
        "select trial, name, value from scores where trial in (select value from json_each(?))",
        (json.dumps(list(trials)),),
    )
    found: dict[int, dict[str, float | None]] = {}
    for row in rows:
        found.setdefault(row["trial"], {})[row["name"]] = row["value"]
    return found

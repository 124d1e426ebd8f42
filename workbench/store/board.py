"""The board: an experiment's adapters, ranked by its score.

`judging.judged_rows` adds intervals, ties and the verdict.
"""

from __future__ import annotations

import dataclasses
import json
import math
import sqlite3
from pathlib import Path

from workbench.adapters.subjects import ADAPTER, is_test
from workbench.store.board_rows import BoardRow
from workbench.store.reader import Reader
from workbench.store.rows import Experiment
from workbench.store.score_trials import find_test_trials, scores_by_name
from workbench.trial import Kind, State, up_is_better

_COSTS = """
       (select max(peak_bytes) from attempts a where a.trial = t.id) as peak_bytes,
       (select avg(value) from
         (select value from metrics m where m.trial = t.id and m.name = 'tokens_per_s'
          order by step desc limit 200)) as tokens_per_s  -- not of millions of steps
"""
"""Columns of a trial `t`: its highest peak, and its mean rate."""
_ROWS = f"""
select t.id as trial, t.number, t.kind, t.state, t.settings, t.reason, t.created_utc,
       d.path as adapter, d.bytes as adapter_bytes,
       (select count(*) from attempts a where a.trial = t.id) as attempts,
       (select card from attempts a where a.trial = t.id order by a.id desc limit 1) as card,
       (select plan from attempts a where a.trial = t.id order by a.id desc limit 1) as plan,
       (select predicted_bytes from attempts a where a.trial = t.id order by a.id desc limit 1)
         as predicted_bytes,
       (select sum(coalesce(ended_utc, :now) - started_utc) from attempts a where a.trial = t.id)
         as wall_s,
       (select sum(energy_wh) from attempts a where a.trial = t.id) as energy_wh,
       {_COSTS}
from trials t left join adapters d on d.trial =
  case when t.kind = 'score' then json_extract(t.settings, '$."score.adapter"') else t.id end
where t.experiment = :experiment and t.kind in ('tune', 'score') and t.finals_of is null
      or t.id = :base
"""
_COSTS_OF_ONE = f"select {_COSTS} from trials t where t.id = ?"


def rank_adapters(reader: Reader, experiment: Experiment, now: float) -> list[BoardRow]:
    """Return the board's rows, best first; `now` ends the wall time of what still runs.

    Of equal scores the one with the lower held-out loss comes first. Trials without a score come
    behind those with one, and the base comes last, without a rank.
    """
    rank_by = experiment.rank_by
    scores: dict[int, dict[str, float | None]] = {}
    steps: dict[int, int] = {}
    for row in reader.db.execute(
        """select s.trial, s.name, s.value, s.step from scores s join trials t on t.id = s.trial
           where t.experiment = ? or t.id = ?""",
        (experiment.id, experiment.base_trial),
    ):
        scores.setdefault(row["trial"], {})[row["name"]] = row["value"]
        if row["name"] == rank_by:
            steps[row["trial"]] = row["step"]
    base = experiment.base_trial
    _add_test_scores(reader, experiment, scores)
    found = reader.db.execute(_ROWS, {"experiment": experiment.id, "base": base, "now": now})
    hidden = reader.hidden.trials
    rows = [
        row
        for row in found
        if not _scores_test_rows(row) and hidden.get(row["trial"]) != row["created_utc"]
    ]
    base_score = scores.get(base, {}).get(rank_by) if base is not None else None
    sign = 1.0 if up_is_better(rank_by) else -1.0

    def order(row: sqlite3.Row) -> tuple[bool, bool, float, float, int]:
        own = scores.get(row["trial"], {})
        score, loss = own.get(rank_by), own.get("loss")
        return (
            row["kind"] == "base",
            score is None,
            -sign * (score or 0.0),
            math.inf if loss is None else loss,
            row["number"],
        )

    return [
        dataclasses.replace(
            _row(row, place, scores.get(row["trial"], {}), rank_by, base_score, sign, reader.root),
            score_step=steps.get(row["trial"]),
        )
        for place, row in enumerate(sorted(rows, key=order), start=1)
    ]


def read_costs(reader: Reader, trial: int) -> dict[str, float | None]:
    """Return `peak_bytes` and `tokens_per_s` of a trial as the board shows them."""
    return dict(reader.db.execute(_COSTS_OF_ONE, (trial,)).fetchone())


def _add_test_scores(
    reader: Reader, experiment: Experiment, scores: dict[int, dict[str, float | None]]
) -> None:
    """Add the scores on the test rows to those of the adapters, with the prefix `test_`."""
    tests = find_test_trials(reader, experiment.id)
    known = scores_by_name(reader, list(tests.values()))
    for adapter, trial in tests.items():
        tested = experiment.base_trial if adapter is None else adapter
        if tested is not None:
            mine = {f"test_{name}": value for name, value in known.get(trial, {}).items()}
            scores.setdefault(tested, {}).update(mine)


def _scores_test_rows(row: sqlite3.Row) -> bool:
    """Return True for work that scores an adapter of this board on the test rows.

    Its score is shown in the adapter's own row and must not be ranked with scores on other rows.
    """
    return bool(row["kind"] == Kind.SCORE) and is_test(json.loads(row["settings"]))


def _adapter_path(stored: str | None, settings: dict[str, object], root: Path) -> str | None:
    """Return the folder of the adapter that a trial left or scored; None without one."""
    if stored is not None:
        return str(root / stored)
    folder = settings.get(ADAPTER)
    return folder if isinstance(folder, str) else None


def _row(
    row: sqlite3.Row,
    place: int,
    scores: dict[str, float | None],
    rank_by: str,
    base_score: float | None,
    sign: float,
    root: Path,
) -> BoardRow:
    """Return a row of the board; `sign` is 1 where a higher score is better, and -1 elsewhere."""
    score = scores.get(rank_by)
    ranked = row["kind"] != "base"
    gain = (
        None if not ranked or score is None or base_score is None else sign * (score - base_score)
    )
    plan = json.loads(row["plan"]) if row["plan"] else {}
    settings = json.loads(row["settings"])
    return BoardRow(
        rank=place if ranked and score is not None else None,
        trial=row["trial"],
        number=row["number"],
        kind=row["kind"],
        state=State(row["state"]),
        score=score,
        base_score=base_score,
        gain=gain,
        scores=scores,
        settings=settings,
        adapter=_adapter_path(row["adapter"], settings, root),
        adapter_bytes=row["adapter_bytes"],
        card=row["card"],
        attempts=row["attempts"],
        tokens_per_s=row["tokens_per_s"],
        peak_bytes=row["peak_bytes"],
        predicted_bytes=row["predicted_bytes"],
        wall_s=row["wall_s"],
        energy_wh=row["energy_wh"],
        precision=plan.get("precision"),
        reason=row["reason"],
    )

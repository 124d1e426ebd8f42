"""Results of single held-out rows in the database: packed arrays, for the verdict.

`packed` holds the arrays one behind another, little-endian and compressed: target tokens as int32,
then each array that `columns` names, as float64. Texts of questions and answers are not in the
database; see `store.answers`.

numpy and `workbench.verdict` are imported by `read_row_results` alone: the loop and lists of
trials need neither.
"""

from __future__ import annotations

import json
import math
import sys
import zlib
from array import array
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from workbench.attempts.results_file import ResultsHead
from workbench.store.reader import Reader
from workbench.store.writer import Store

if TYPE_CHECKING:
    import sqlite3

    from workbench.verdict.types import RowResults

_LEVEL = 6
"""zlib's; see docs/notes/2026-11-28-row-results.md."""


def put_row_results(store: Store, trial: int, attempt: int, head: ResultsHead) -> None:
    """Store the results of one trial on one evaluation set after one step.

    Results that are the trial's scores replace its earlier ones of the same evaluation set.
    Those of a checkpoint that was only compared never replace scores of the same step.
    """
    with store.writing():
        if head.scored:
            store.db.execute(
                "delete from row_results where trial = ? and evaluation = ? and scored",
                (trial, head.evaluation),
            )
        store.db.execute(
            """insert into row_results
               (trial, evaluation, step, tokens, attempt, scored, rows, columns, packed)
               values (?, ?, ?, ?, ?, ?, ?, ?, ?)
               on conflict (trial, evaluation, step) do update set
               tokens = excluded.tokens, attempt = excluded.attempt, scored = excluded.scored,
               rows = excluded.rows, columns = excluded.columns, packed = excluded.packed
               where excluded.scored or not scored""",
            (
                trial,
                head.evaluation,
                head.step,
                head.tokens,
                attempt,
                int(head.scored),
                len(head.targets),
                json.dumps({"sums": list(head.sums), "means": list(head.means)}),
                pack_arrays(head),
            ),
        )


def forget_row_results(store: Store, trial: int) -> None:
    """Delete a trial's results of single rows, whose files have been removed."""
    with store.writing():
        store.db.execute("delete from row_results where trial = ?", (trial,))


def pack_arrays(head: ResultsHead) -> bytes:
    """Return the arrays of a results file as the table's `packed` has them."""
    packed = array("i", head.targets)
    columns: list[Sequence[float | None]] = [*head.sums.values(), *head.means.values()]
    numbers = array("d", (math.nan if v is None else v for column in columns for v in column))
    if sys.byteorder == "big":
        packed.byteswap()
        numbers.byteswap()
    return zlib.compress(packed.tobytes() + numbers.tobytes(), _LEVEL)


def read_row_results(
    reader: Reader,
    trial_ids: Iterable[int],
    evaluation: str | None = None,
    *,
    all_steps: bool = False,
) -> list[RowResults]:
    """Return the results of single rows of these trials, by trial, evaluation set and step.

    By default only those of each trial's scores; with `all_steps` also those of checkpoints that
    were compared while it trained, which hold losses only. `evaluation` limits them to one set.
    Trials without results give none.
    """
    rows = reader.db.execute(
        """select trial, evaluation, step, tokens, rows, columns, packed from row_results
           where trial in (select value from json_each(:trials))
           and (:evaluation is null or evaluation = :evaluation) and (scored or :all_steps)
           order by trial, evaluation, step""",
        {
            "trials": json.dumps(sorted(set(trial_ids))),
            "evaluation": evaluation,
            "all_steps": all_steps,
        },
    )
    return [_unpacked(row) for row in rows]


def _unpacked(row: sqlite3.Row) -> RowResults:
    import numpy as np  # 0.1 s, which lists of trials need not wait for

    from workbench.verdict.types import RowResults

    count, names, data = row["rows"], json.loads(row["columns"]), zlib.decompress(row["packed"])
    targets = np.frombuffer(data, "<i4", count)
    numbers = np.frombuffer(data, "<f8", offset=targets.nbytes).astype(np.float64)
    columns = iter(list(numbers.reshape(-1, count)))
    return RowResults(
        trial=row["trial"],
        evaluation=row["evaluation"],
        tokens=row["tokens"],
        step=row["step"],
        targets=targets.astype(np.int64),
        sums={name: next(columns) for name in names["sums"]},
        means={name: next(columns) for name in names["means"]},
    )

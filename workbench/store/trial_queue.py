"""The queue: what the scheduler asks before it places trials, and why each trial still waits."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import TYPE_CHECKING

from workbench.store.decode import experiment_from_row
from workbench.store.reader import TRIALS, Reader
from workbench.store.rows import Experiment, TrialRow

if TYPE_CHECKING:
    from workbench.store.writer import Store


def preparing_experiments(reader: Reader) -> list[Experiment]:
    """Return experiments that were submitted and are not ready yet, oldest first.

    They have no trials, and so no counts.
    """
    rows = reader.db.execute("select * from experiments where state = 'preparing' order by id")
    return [experiment_from_row(row, {}) for row in rows]


def first_queued(
    reader: Reader, limit: int, *, of_each: int, without: Collection[int] = ()
) -> list[TrialRow]:
    """Return the first `of_each` queued trials of every experiment but those in `without`.

    Higher priority comes first. At most `limit` are returned, and where that cuts, every
    experiment's first trial is taken before any second one, so that no experiment hides another.
    Held experiments, and trials that end without another attempt, are left out.
    """
    rows = reader.db.execute(
        f"""{TRIALS} where t.id in (
              select id from (
                select q.id, e.priority, row_number()
                       over (partition by q.experiment order by coalesce(q.rank, q.id)) as place
                from trials q join experiments e on e.id = q.experiment
                where q.state = 'queued' and not e.held
                  and (q.pruned = '' or q.checkpoint_step is not null)
                  and e.id not in (select value from json_each(:without)))
              where place <= :of_each order by priority desc, place, id limit :limit)
            order by e.priority desc, coalesce(t.rank, t.id)""",
        {"limit": limit, "of_each": of_each, "without": json.dumps(list(without))},
    )
    return reader.cached_trials(rows)


def held_experiments(reader: Reader) -> set[int]:
    """Return the ids of experiments that a person holds: none of their trials is placed."""
    return {row[0] for row in reader.db.execute("select id from experiments where held")}


def running_counts(reader: Reader) -> dict[int, int]:
    """Return how many cards each experiment has now; experiments without one are left out."""
    rows = reader.db.execute(
        """select t.experiment, count(*) from attempts a join trials t on t.id = a.trial
           where a.outcome is null group by 1"""
    )
    return {row[0]: row[1] for row in rows}


def unwilling_trials(reader: Reader) -> list[TrialRow]:
    """Return queued trials that are to be paused, stopped or killed, or that were ended early."""
    rows = reader.db.execute(
        f"{TRIALS} where t.state = 'queued' and (t.wanted <> 'run' or t.pruned <> '')"
    )
    return reader.cached_trials(rows)


def killed_trials(reader: Reader, since_utc: float) -> list[tuple[int, int | None]]:
    """Return (id, checkpoint step) of killed trials that may have files.

    They are those with a checkpoint, and those that were killed after `since_utc`.
    """
    rows = reader.db.execute(
        """select id, checkpoint_step from trials where state = 'stopped' and wanted = 'kill'
           and (checkpoint_step is not null or changed_utc > ?)""",
        (since_utc,),
    )
    return [(row[0], row[1]) for row in rows]


def needless_bases(reader: Reader) -> list[TrialRow]:
    """Return queued base trials that no experiment can compare anything with any more.

    Some trial of theirs was killed, none can still move or be added by a sweep, and none left an
    adapter.
    """
    rows = reader.db.execute(
        f"""{TRIALS} where t.kind = 'base' and t.state = 'queued'
            and exists (select 1 from trials u join experiments x on x.id = u.experiment
                        where x.base_trial = t.id and u.kind in ('tune', 'score')
                        and u.wanted = 'kill')
            and not exists (
              select 1 from experiments x where x.base_trial = t.id and (
                x.searching or exists (
                  select 1 from trials u where u.experiment = x.id and u.kind in ('tune', 'score')
                  and (u.state in ('queued', 'starting', 'running', 'paused')
                    or u.kind = 'score' and u.state = 'done'
                    or exists (select 1 from adapters d where d.trial = u.id)))))"""
    )
    return reader.cached_trials(rows)


# --- reasons to wait ---
# Each statement changes only rows whose reason differs: a tick that changes nothing must not
# commit, or every open screen would read everything again.


def explain_trial(store: Store, trial: int, reason: str) -> None:
    """Set the reason why one trial is still queued."""
    with store.writing():
        store.db.execute(
            "update trials set waiting = :reason where id = :id and waiting <> :reason",
            {"reason": reason, "id": trial},
        )


def explain_experiment(store: Store, experiment: int, reason: str) -> None:
    """Set one reason for all queued trials of an experiment."""
    with store.writing():
        store.db.execute(
            """update trials set waiting = :reason
               where experiment = :id and state = 'queued' and waiting <> :reason""",
            {"reason": reason, "id": experiment},
        )


def explain_all(store: Store, reason: str) -> None:
    """Set one reason for every queued trial."""
    with store.writing():
        store.db.execute(
            "update trials set waiting = :reason where state = 'queued' and waiting <> :reason",
            {"reason": reason},
        )


def explain_others(
    store: Store, explained: Collection[int], experiments: Collection[int], reason: str
) -> None:
    """Set the reason of all queued trials but `explained` ones and those of `experiments`."""
    with store.writing():
        store.db.execute(
            """update trials set waiting = :reason where state = 'queued' and waiting <> :reason
               and id not in (select value from json_each(:explained))
               and experiment not in (select value from json_each(:experiments))""",
            {
                "reason": reason,
                "explained": json.dumps([*explained]),
                "experiments": json.dumps([*experiments]),
            },
        )

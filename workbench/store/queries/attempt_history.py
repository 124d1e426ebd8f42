"""Past attempts: what they say about cards and memory, and whose checkpoints may go first."""

from __future__ import annotations

import json
from itertools import takewhile
from typing import Any

from workbench.store.reader import Reader
from workbench.trial import DOWN_IS_BETTER, LOWER_SUFFIX

# Only attempts that came to their end on a GPU have a peak worth learning from.
_MEASURED = """from attempts a join cards c on c.uuid = a.card
join trials t on t.id = a.trial join experiments e on e.id = t.experiment
where a.outcome in ('done', 'stopped') and a.peak_bytes > 0 and c.kind = 'cuda'
and t.kind = 'tune'"""


def lost_in_a_row(reader: Reader, uuid: str) -> list[int]:
    """Return the trials whose attempts this card lost in a row.

    The row begins where an attempt last ended properly on it, or a person released it. Attempts
    that were cut because the engine went away count neither for nor against the card.
    """
    rows = reader.db.execute(
        """select trial from attempts where card = :card and outcome = 'lost'
           and id > (select forgiven from cards where uuid = :card)
           and id > (select coalesce(max(id), 0) from attempts
                     where card = :card and outcome not in ('lost', 'cut'))""",
        {"card": uuid},
    )
    return [row[0] for row in rows]


def last_end(reader: Reader, uuid: str) -> float | None:
    """Return the UTC time at which an attempt last ended on the card; None where none has."""
    row = reader.db.execute(
        "select max(ended_utc) from attempts where card = ?", (uuid,)
    ).fetchone()
    return None if row[0] is None else float(row[0])


def filled_by_others(reader: Reader, uuid: str, limit: int) -> tuple[int, float]:
    """Return how many of the card's newest attempts ended because other programs held its memory.

    At most `limit` are counted. With it comes the UTC time at which the newest of them ended, 0
    without one.
    """
    rows = reader.db.execute(
        """select cause, ended_utc from attempts where card = ? and ended_utc is not null
           order by ended_utc desc limit ?""",
        (uuid, limit),
    ).fetchall()
    filled = list(takewhile(lambda row: row["cause"] == "card_memory", rows))
    return len(filled), float(filled[0]["ended_utc"]) if filled else 0.0


def newest_on_card(reader: Reader, uuid: str) -> tuple[int, dict[str, Any], int | None] | None:
    """Return trial and plan of the card's newest attempt, and its process while it is live.

    None where the card has had no attempt.
    """
    row = reader.db.execute(
        """select trial, plan, iif(outcome is null, pid, null) as pid from attempts
           where card = ? order by id desc limit 1""",
        (uuid,),
    ).fetchone()
    return (row["trial"], json.loads(row["plan"]), row["pid"]) if row else None


def out_of_memory_plans(reader: Reader, experiment: int) -> list[tuple[str, dict[str, Any], str]]:
    """Return (card UUID, plan, stage) of its attempts that ran out of memory, oldest first."""
    rows = reader.db.execute(
        """select a.card, a.plan, a.stage from attempts a join trials t on t.id = a.trial
           where a.cause = 'out_of_memory' and t.experiment = ? order by a.id""",
        (experiment,),
    )
    return [(row["card"], json.loads(row["plan"]), row["stage"]) for row in rows]


def newest_measured(reader: Reader) -> int:
    """Return the id of the newest attempt with a measured peak on a GPU; 0 before the first.

    Costs little, so that `measured_peaks` need not be asked while nothing changed.
    """
    row = reader.db.execute(f"select a.id {_MEASURED} order by a.id desc limit 1").fetchone()
    return int(row[0]) if row else 0


def measured_peaks(
    reader: Reader, limit: int = 256
) -> list[tuple[str, dict[str, Any], int, dict[str, Any]]]:
    """Return (card UUID, plan, peak bytes, the model's config) of finished attempts on GPUs.

    Newest first. Attempts of experiments whose model's config is unknown are left out.
    """
    rows = reader.db.execute(
        f"""select a.card, a.plan, a.peak_bytes,
                   json_extract(e.prepared, '$.model.config') as config
            {_MEASURED} order by a.id desc limit ?""",
        (limit,),
    )
    return [
        (row["card"], json.loads(row["plan"]), row["peak_bytes"], json.loads(row["config"]))
        for row in rows
        if row["config"]
    ]


def prune_order(reader: Reader, limit: int) -> list[int]:
    """Return at most `limit` trials with a checkpoint, in the order in which older checkpoints go.

    Ended trials come first, the worst of their experiment before better ones, then by age;
    running trials come last.
    """
    rows = reader.db.execute(
        """select t.id, t.state in ('starting', 'running') as live,
                  t.state in ('done', 'stopped', 'pruned', 'failed') as ended,
                  percent_rank() over (partition by t.experiment order by s.value is not null,
                    case when e.rank_by in (select value from json_each(:down))
                        or substr(e.rank_by, -length(:suffix)) = :suffix
                      then -s.value else s.value end) as place
           from trials t join experiments e on e.id = t.experiment
           left join scores s on s.trial = t.id and s.name = e.rank_by
           where t.checkpoint_step is not null
           order by live, ended desc, place, t.changed_utc, t.id limit :limit""",
        {
            "down": json.dumps(sorted(DOWN_IS_BETTER)),
            "suffix": LOWER_SUFFIX,
            "limit": limit,
        },
    )
    return [row["id"] for row in rows]

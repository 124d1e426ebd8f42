"""Reading the store: any number of processes, with or without a living writer."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from workbench.errors import NotThere, StoreError
from workbench.store.damage import check_length, in_words, passes
from workbench.store.journal import check_stand, gone, journal_of, stands_at, was_there
from workbench.store.rows import (
    Answer,
    Attempt,
    CardRow,
    EventRow,
    Experiment,
    MoveRow,
    Point,
    Queued,
    Sample,
    TrialRow,
)
from workbench.trial import UP_IS_BETTER, DesiredState, Kind, State

SCHEMA_VERSION = 1
BAND_STEPS = 1_024
"""Steps in one row of metric_bands."""


def open_readonly(path: Path) -> sqlite3.Connection:
    """A connection that cannot write; StoreError when it is no database of ours, or damaged."""
    told = stands_at(journal_of(path))
    if not path.exists():
        if was_there(path):
            raise gone(path)
        raise NotThere(
            f"there is no workbench at {path.parent}", hint="run `workbench demo`, or `workbench`"
        )
    connection = sqlite3.connect(
        f"{path.as_uri()}?mode=ro", uri=True, timeout=5, isolation_level=None
    )
    return _ours(connection, path, told)


def _ours(connection: sqlite3.Connection, path: Path, told: int) -> sqlite3.Connection:
    """`told`: where its journal stood before it was opened; see store.journal."""
    connection.row_factory = sqlite3.Row
    try:
        version = connection.execute("pragma user_version").fetchone()[0]
        if version > SCHEMA_VERSION:
            raise StoreError(
                f"{path} was written by a newer workbench (schema {version}, this one knows "
                f"{SCHEMA_VERSION})",
                hint="upgrade this workbench",
            )
        check_length(connection, path)
        check_stand(connection, path, told)
    except sqlite3.Error as broken:
        connection.close()
        if passes(broken):
            raise
        raise in_words(broken, path) from broken
    except StoreError:
        connection.close()
        raise
    return connection


_TRIALS = """
select t.*, e.name as experiment_name,
       a.card, a.phase, coalesce(a.last_step, 0) as step, a.total_steps, a.loss, a.tokens_per_s,
       a.peak_bytes, a.started_utc,
       (select count(*) from attempts where trial = t.id) as attempts,
       s.value as score
from trials t
join experiments e on e.id = t.experiment
left join attempts a on a.id = (select max(id) from attempts where trial = t.id)
left join scores s on s.trial = t.id and s.name = e.rank_by
"""

_MEASURED = """from attempts a join cards c on c.uuid = a.card
join trials t on t.id = a.trial join experiments e on e.id = t.experiment
where a.outcome in ('done', 'stopped') and a.peak_bytes > 0 and c.kind = 'cuda'
and t.kind = 'tune'"""


class Reader:
    """Every question the front ends and the scheduler ask of the tables."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.db = connection
        self._known: dict[int, tuple[tuple[Any, ...], TrialRow]] = {}
        """Trials as they were read last: most are as they were, and making one costs 10 µs."""

    @classmethod
    def open(cls, path: Path) -> Self:
        return cls(open_readonly(path))

    def close(self) -> None:
        self.db.close()

    @property
    def root(self) -> Path:
        """The folder of the database: the home."""
        return Path(self.db.execute("pragma database_list").fetchone()["file"]).parent

    def data_version(self) -> int:
        """Changes when another connection has committed. 0.1 ms."""
        return int(self.db.execute("pragma data_version").fetchone()[0])

    @contextmanager
    def one_view(self) -> Iterator[None]:
        """All reads inside see the same moment."""
        self.db.execute("begin")
        try:
            yield
        finally:
            self.db.execute("rollback")

    # --- experiments and trials ---

    def experiments(self) -> list[Experiment]:
        """Newest first."""
        counts: dict[int, dict[str, int]] = {}
        for row in self.db.execute(
            "select experiment, state, count(*) as n from trials where kind = 'tune' group by 1, 2"
        ):
            counts.setdefault(row["experiment"], {})[row["state"]] = row["n"]
        rows = self.db.execute("select * from experiments order by id desc")
        return [_experiment(row, counts.get(row["id"], {})) for row in rows]

    def experiment(self, key: int | str) -> Experiment:
        """By id or by name; NotThere names what there is."""
        word = str(key).encode(errors="replace").decode()  # no name is all digits
        id = int(word) if word.isascii() and word.isdecimal() and len(word) < 19 else -1
        row = self.db.execute(
            "select * from experiments where name = ? or id = ?",
            (word, id if str(id) == word else -1),
        ).fetchone()
        if row is None:
            newest = self.db.execute("select name from experiments order by id desc limit 8")
            names = ", ".join(one["name"] for one in newest) or "none yet"
            raise NotThere(f"there is no experiment {word}", hint=f"there are: {names}")
        counts = self.db.execute(
            """select state, count(*) from trials where experiment = ? and kind = 'tune'
               group by 1""",
            (row["id"],),
        )
        return _experiment(row, dict(counts.fetchall()))

    def trials(
        self, experiment: int | None = None, states: frozenset[State] | None = None
    ) -> list[TrialRow]:
        """In the order they were made."""
        where, args = ["1"], list[Any]()
        if experiment is not None:
            where.append("t.experiment = ?")
            args.append(experiment)
        if states is not None:
            where.append(f"t.state in ({','.join('?' * len(states))})")
            args.extend(states)
        rows = self.db.execute(f"{_TRIALS} where {' and '.join(where)} order by t.id", args)
        return self._trials(rows)

    def queued(self) -> list[Queued]:
        """In the order they were made; a tenth of the time that whole trials take to read."""
        query = "select id, experiment, rank from trials where state = ? order by id"
        return [Queued(*row) for row in self.db.execute(query, (State.QUEUED,))]

    def any_trials(self, states: frozenset[State]) -> bool:
        marks = ",".join("?" * len(states))
        query = f"select exists (select 1 from trials where state in ({marks}))"
        return bool(self.db.execute(query, [*states]).fetchone()[0])

    def trial(self, id: int) -> TrialRow:
        known = id if 0 < id < 1 << 63 else 0  # what SQLite can hold
        row = self.db.execute(f"{_TRIALS} where t.id = ?", (known,)).fetchone()
        if row is None:
            last = self.db.execute("select max(id) from trials").fetchone()[0]
            raise NotThere(
                f"there is no trial {id}",
                hint=f"trials go from 1 to {last}; see `workbench ls`"
                if last
                else "none was made yet; start one with `workbench run RECIPE`",
            )
        return _trial(dict(row))

    def _trials(self, cursor: sqlite3.Cursor) -> list[TrialRow]:
        names = [column[0] for column in cursor.description]
        cursor.row_factory = None
        return [self._same_or_new(row, names) for row in cursor]

    def _same_or_new(self, row: tuple[Any, ...], names: list[str]) -> TrialRow:
        known = self._known.get(row[0])
        if known is None or known[0] != row:
            known = (row, _trial(dict(zip(names, row, strict=True))))
            self._known[row[0]] = known
        return known[1]

    def attempts(self, trial: int) -> list[Attempt]:
        rows = self.db.execute("select * from attempts where trial = ? order by id", (trial,))
        return [_attempt(row) for row in rows]

    def live_attempts(self) -> list[Attempt]:
        rows = self.db.execute("select * from attempts where outcome is null order by id")
        return [_attempt(row) for row in rows]

    def attempt(self, id: int) -> Attempt:
        return _attempt(self.db.execute("select * from attempts where id = ?", (id,)).fetchone())

    def lost_in_a_row(self, card: str) -> list[int]:
        """Trials whose attempts this card lost since it last ended one properly, or was released.

        What went with the engine is neither its fault nor its merit.
        """
        rows = self.db.execute(
            """select trial from attempts where card = :card and outcome = 'lost'
               and id > (select forgiven from cards where uuid = :card)
               and id > (select coalesce(max(id), 0) from attempts
                         where card = :card and outcome not in ('lost', 'cut'))""",
            {"card": card},
        )
        return [row[0] for row in rows]

    def out_of_memory(self, experiment: int) -> list[tuple[str, dict[str, Any], str]]:
        """(card, plan, stage) of each attempt of the experiment that ran out of memory."""
        rows = self.db.execute(
            """select a.card, a.plan, a.stage from attempts a join trials t on t.id = a.trial
               where a.cause = 'out_of_memory' and t.experiment = ? order by a.id""",
            (experiment,),
        )
        return [(row["card"], json.loads(row["plan"]), row["stage"]) for row in rows]

    def last_starts(self) -> dict[str, float]:
        """When each card last began an attempt, as far as the newest 64 tell."""
        rows = self.db.execute("select card, started_utc from attempts order by id desc limit 64")
        return {row[0]: row[1] for row in reversed(rows.fetchall())}

    def thin_order(self, limit: int) -> list[int]:
        """Trials that have a checkpoint, in the order in which they give older ones: those that
        have ended first, of them the worst of their experiment, then the oldest; running ones
        last."""
        rows = self.db.execute(
            """select t.id, t.state in ('starting', 'running') as live,
                      t.state in ('done', 'stopped', 'pruned', 'failed') as ended,
                      percent_rank() over (partition by t.experiment order by s.value is not null,
                        case when e.rank_by in (select value from json_each(?))
                          then s.value else -s.value end) as place
               from trials t join experiments e on e.id = t.experiment
               left join scores s on s.trial = t.id and s.name = e.rank_by
               where t.checkpoint_step is not null
               order by live, ended desc, place, t.changed_utc, t.id limit ?""",
            (json.dumps(sorted(UP_IS_BETTER)), limit),
        )
        return [row["id"] for row in rows]

    def newest_measured(self) -> int:
        """The newest attempt on a GPU that finished with a peak; 0 before the first."""
        row = self.db.execute(
            f"select a.id {_MEASURED} order by a.id desc limit 1",
        ).fetchone()
        return int(row[0]) if row else 0

    def measured(self, limit: int = 256) -> list[tuple[str, dict[str, Any], int, dict[str, Any]]]:
        """(card, plan, peak bytes, the model's config) of those, newest first."""
        rows = self.db.execute(
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

    def preparing(self) -> list[Experiment]:
        """Submitted and not ready yet, oldest first."""
        rows = self.db.execute("select * from experiments where state = 'preparing' order by id")
        return [_experiment(row, {}) for row in rows]

    def queue(self, limit: int, *, of_each: int, without: Collection[int] = ()) -> list[TrialRow]:
        """The first `of_each` queued trials of every experiment but those in `without`: higher
        priority first, then every experiment's first before anyone's second."""
        rows = self.db.execute(
            f"""{_TRIALS} where t.id in (
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
        return self._trials(rows)

    def card_seconds(self, since_utc: float, now: float) -> dict[int, float]:
        """Seconds that each experiment has held cards since then, over all cards."""
        rows = self.db.execute(
            """select t.experiment,
                      sum(max(0, coalesce(a.ended_utc, :now) - max(a.started_utc, :since)))
               from attempts a join trials t on t.id = a.trial
               where a.ended_utc is null or a.ended_utc > :since group by 1""",
            {"since": since_utc, "now": now},
        )
        return {row[0]: float(row[1]) for row in rows}

    def trial_seconds(self) -> dict[int, float]:
        """How long trials of each experiment took, as far as the newest 512 attempts tell."""
        rows = self.db.execute(
            """select t.experiment, avg(a.ended_utc - a.started_utc)
               from attempts a join trials t on t.id = a.trial
               where a.outcome in ('done', 'stopped') and t.kind = 'tune'
               and a.id > (select max(id) from attempts) - 512 group by 1"""
        )
        return {row[0]: float(row[1]) for row in rows}

    def held(self) -> set[int]:
        """Experiments of which nothing is placed until a person lets them go on."""
        return {row[0] for row in self.db.execute("select id from experiments where held")}

    def just_ended(self) -> list[int]:
        """Experiments that have nothing to do any more, which nobody was told yet."""
        rows = self.db.execute(
            """select id from experiments e where ended_utc is null and (state = 'refused'
                 or state = 'ready' and not searching and not exists (
                   select 1 from trials t where (t.experiment = e.id or t.id = e.base_trial)
                   and t.state in ('queued', 'starting', 'running', 'paused')))
               order by id"""
        )
        return [row[0] for row in rows]

    def adapter_sha256(self, trial: int) -> str | None:
        """Of its adapter's weights; None when it left none."""
        row = self.db.execute("select sha256 from adapters where trial = ?", (trial,)).fetchone()
        return None if row is None else str(row[0])

    def going(self, experiment: int) -> tuple[int, int]:
        """Tuned trials of it that hold a card, and that are queued."""
        rows = self.db.execute(
            """select state, count(*) from trials where experiment = ? and kind = 'tune'
               and state in ('queued', 'starting', 'running') group by 1""",
            (experiment,),
        )
        counts = {row[0]: int(row[1]) for row in rows}
        queued = counts.pop("queued", 0)
        return sum(counts.values()), queued

    def spent(self, experiment: int, now: float) -> tuple[float | None, float]:
        """When its first attempt began, and card-seconds of all; its base is not counted."""
        row = self.db.execute(
            """select min(a.started_utc), sum(coalesce(a.ended_utc, :now) - a.started_utc)
               from attempts a join trials t on t.id = a.trial
               where t.experiment = :experiment and t.kind = 'tune'""",
            {"experiment": experiment, "now": now},
        ).fetchone()
        return row[0], float(row[1] or 0.0)

    def unfinished(self, experiment: int) -> bool:
        """True while one of its trials may still move."""
        row = self.db.execute(
            """select 1 from trials where experiment = ? and kind = 'tune'
               and state in ('queued', 'starting', 'running', 'paused') limit 1""",
            (experiment,),
        ).fetchone()
        return row is not None

    def searching(self) -> list[Experiment]:
        """Those whose sweep may still ask for trials, the oldest first."""
        rows = self.db.execute(
            "select * from experiments where searching and state = 'ready' order by id"
        )
        return [_experiment(row, {}) for row in rows]

    def unwilling(self) -> list[TrialRow]:
        """Queued trials that are not to run on: somebody wants them paused, stopped or killed, or
        they are to end early."""
        rows = self.db.execute(
            f"{_TRIALS} where t.state = 'queued' and (t.wanted <> 'run' or t.pruned <> '')"
        )
        return self._trials(rows)

    def running_by_experiment(self) -> dict[int, int]:
        rows = self.db.execute(
            """select t.experiment, count(*) from attempts a join trials t on t.id = a.trial
               where a.outcome is null group by 1"""
        )
        return {row[0]: row[1] for row in rows}

    def moves(self, trial: int) -> list[MoveRow]:
        rows = self.db.execute("select * from moves where trial = ? order by id", (trial,))
        return [
            MoveRow(
                trial=r["trial"],
                before=r["before"],
                after=r["after"],
                by=r["made_by"],
                why=r["why"],
                at_utc=r["at_utc"],
            )
            for r in rows
        ]

    def samples(self, trial: int) -> list[Sample]:
        rows = self.db.execute("select * from samples where trial = ? order by n", (trial,))
        return [
            Sample(
                question=r["question"],
                expected=r["expected"],
                answer=r["answer"],
                correct=None if r["correct"] is None else bool(r["correct"]),
            )
            for r in rows
        ]

    # --- metrics ---

    def metric_names(self, trial: int) -> list[str]:
        rows = self.db.execute("select distinct name from metric_bands where trial = ?", (trial,))
        return sorted(row[0] for row in rows)

    def series(self, trial: int, name: str, points: int = 200) -> list[Point]:
        """At most `points` columns over all steps: each its lowest and highest value.

        Reads at most points × 1,024 metric rows, or the bands when there are more steps than that.
        """
        one = "from metrics where trial = :trial and name = :name)"
        first, last = self.db.execute(  # both at once would read every row
            f"select (select min(step) {one}, (select max(step) {one}",
            {"trial": trial, "name": name},
        ).fetchone()
        if first is None:
            return []
        width = (last - first) // points + 1
        if width >= BAND_STEPS:
            query = f"""select min(band) * {BAND_STEPS} as step, min(low) as low, max(high) as high
                from metric_bands where trial = :trial and name = :name
                group by (band * {BAND_STEPS} - :first) / :width order by 1"""
        else:
            query = """select min(step) as step, min(value) as low, max(value) as high
                from metrics where trial = :trial and name = :name
                group by (step - :first) / :width order by 1"""
        rows = self.db.execute(
            query, {"trial": trial, "name": name, "first": first, "width": width}
        )
        return [
            Point(step=r["step"], low=r["low"], high=r["high"])
            for r in rows
            if r["low"] is not None
        ]

    # --- cards, events, answers ---

    def cards(self) -> list[CardRow]:
        rows = self.db.execute(
            """select c.*, a.trial from cards c
               left join attempts a on a.card = c.uuid and a.outcome is null
               order by c.present desc, c.kind desc, c.uuid"""
        )
        return [_card(row) for row in rows]

    def events(
        self, *, trial: int | None = None, after: int = 0, limit: int = 200
    ) -> list[EventRow]:
        """The newest `limit`, oldest of them first."""
        where, args = "id > ?", [after]
        if trial is not None:
            where, args = f"{where} and trial = ?", [after, trial]
        rows = self.db.execute(
            f"select * from events where {where} order by id desc limit ?", (*args, limit)
        ).fetchall()
        return [EventRow(**dict(row)) for row in reversed(rows)]

    def answer(self, request: str) -> Answer | None:
        row = self.db.execute("select * from requests where id = ?", (request,)).fetchone()
        if row is None:
            return None
        return Answer(
            ok=bool(row["ok"]),
            text=row["answer"],
            hint=row["mend"],
            data=json.loads(row["data"]),
        )

    def fact(self, key: str) -> str | None:
        row = self.db.execute("select value from facts where key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])


def _experiment(row: sqlite3.Row, counts: dict[str, int]) -> Experiment:
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
    )


_KINDS, _STATES, _DESIRED = (
    {one.value: one for one in each} for each in (Kind, State, DesiredState)
)
"""Ten thousand trials are read for one screen: a look-up costs a fifth of an enum's call."""


def _trial(data: dict[str, Any]) -> TrialRow:
    data["kind"] = _KINDS[data["kind"]]
    data["state"] = _STATES[data["state"]]
    data["desired_state"] = _DESIRED[data.pop("wanted")]
    data["desired_card"] = data.pop("wanted_card")
    data["hint"] = data.pop("mend")
    data["settings"] = json.loads(data["settings"])
    data["phase"] = data["phase"] or ""
    return TrialRow(**data)


def _attempt(row: sqlite3.Row) -> Attempt:
    return Attempt(**{**dict(row), "plan": json.loads(row["plan"])})


def _card(row: sqlite3.Row) -> CardRow:
    data = dict(row)
    del data["forgiven"]  # for the scheduler alone
    for name in ("processes", "xids"):
        data[name] = json.loads(data[name])
    for flag in ("present", "drained", "lost"):
        data[flag] = bool(data[flag])
    if data["xid_watch"] is not None:
        data["xid_watch"] = bool(data["xid_watch"])
    return CardRow(**data)

"""The store: one writer, readers beside it, and what both survive."""

import resource
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.tick_contexts import recipe
from workbench.attempts.events import EventWriter, read_events
from workbench.errors import EngineError, NotThere, StoreError
from workbench.store import Reader, Store, card_table, results
from workbench.store.connection import SCHEMA_VERSION
from workbench.store.ingest import ingest_events
from workbench.store.queries.metrics import BAND_STEPS, read_series
from workbench.store.requests import BadRequest, Request, drop_request, scan_requests
from workbench.trial import Kind, State

HUGE_TIME = f'{{"id": "a", "verb": "stop", "args": {{}}, "sent_utc": 1{"0" * 400}}}'
NO_TIME = '{"id": "a", "verb": "stop", "args": {}, "sent_utc": NaN}'


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(tmp_path / "workbench.db", clock=lambda: 100.0)
    card_table.record_cards(
        made, [{"uuid": "cpu-0", "kind": "cpu", "name": "CPU", "total_bytes": 1}]
    )
    wanted = recipe()
    made.add_experiment(wanted.model_dump(mode="json"), wanted.rank_by)
    made.add_trial(1, 1, Kind.TUNE, {"lora.rank": 8})
    return made


def test_the_database_is_durable_and_versioned(store: Store) -> None:
    assert store.db.execute("pragma journal_mode").fetchone()[0] == "wal"
    assert store.db.execute("pragma foreign_keys").fetchone()[0] == 1
    assert store.db.execute("pragma synchronous").fetchone()[0] == 2
    assert store.db.execute("pragma user_version").fetchone()[0] == SCHEMA_VERSION


def test_opening_it_again_keeps_everything(store: Store, tmp_path: Path) -> None:
    store.close()
    again = Store(tmp_path / "workbench.db")
    assert again.trial(1).settings == {"lora.rank": 8}


def test_a_newer_schema_is_refused(store: Store, tmp_path: Path) -> None:
    store.db.execute("pragma user_version = 99")
    store.close()
    with pytest.raises(StoreError, match="newer workbench"):
        Reader.open(tmp_path / "workbench.db")


def test_what_is_no_database_is_refused_with_a_mend(tmp_path: Path) -> None:
    (tmp_path / "workbench.db").write_bytes(b"garbage" * 1000)
    with pytest.raises(StoreError) as refused:
        Reader.open(tmp_path / "workbench.db")
    assert refused.value.hint


def test_a_reader_cannot_write(store: Store, tmp_path: Path) -> None:
    reader = Reader.open(tmp_path / "workbench.db")
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        reader.db.execute("delete from trials")


def test_a_reader_sees_that_something_changed(store: Store, tmp_path: Path) -> None:
    reader = Reader.open(tmp_path / "workbench.db")
    before = reader.data_version()
    assert reader.data_version() == before
    store.note("x", "y")
    assert reader.data_version() != before


def test_a_commit_that_raises_leaves_nothing(store: Store) -> None:
    with pytest.raises(ZeroDivisionError), store.writing():
        store.note("x", "half done")
        raise ZeroDivisionError
    assert store.events() == []


@pytest.mark.parametrize(("step", "checkpoint"), [(8, 8), (0, None)])
def test_an_attempt_shows_the_step_it_really_resumed_from(
    store: Store, tmp_path: Path, step: int, checkpoint: int | None
) -> None:
    results.put_checkpoint(store, 1, store.add_attempt(1, "cpu-0", {}, 1, 0), 11)
    store.end_attempt(1, "lost", "the worker went away")
    resumed = store.attempt(store.add_attempt(1, "cpu-0", {}, 1, 11))
    writer = EventWriter(tmp_path / "events.jsonl")
    writer.write("phase", name="loading", detail="", from_step=step)
    writer.close()
    ingest_events(store, resumed, tmp_path / "events.jsonl")
    attempt = store.attempt(resumed.id)
    assert (attempt.from_step, attempt.last_step) == (step, step)
    assert store.trial(1).checkpoint_step == checkpoint


def test_a_name_that_is_taken_gets_a_number(store: Store) -> None:
    wanted = recipe()
    second = store.add_experiment(wanted.model_dump(mode="json"), wanted.rank_by)
    assert store.experiment(second).name == "tiny-2"
    assert store.experiment("tiny-2").id == second


def test_a_trial_that_is_not_there_says_which_are(store: Store) -> None:
    with pytest.raises(NotThere) as refused:
        store.trial(7)
    assert "1 to 1" in refused.value.hint


def test_a_later_attempts_value_wins(store: Store) -> None:
    results.put_metrics(store, 1, 5, {"loss": 9.0})
    results.put_metrics(store, 1, 5, {"loss": 1.0})
    assert [(p.step, p.low, p.high) for p in read_series(store, 1, "loss")] == [(5, 1.0, 1.0)]
    band = store.db.execute("select low, high from metric_bands").fetchone()
    assert tuple(band) == (1.0, 1.0)


def test_a_series_is_bounded_and_keeps_its_extremes(store: Store) -> None:
    with store.writing():
        for step in range(1, 5_001):
            results.put_metrics(store, 1, step, {"loss": -7.0 if step == 2_345 else 1.0})
    points = read_series(store, 1, "loss", points=100)
    assert len(points) <= 100
    assert min(p.low for p in points) == -7.0
    assert points[0].step == 1


def test_a_series_of_very_many_steps_is_read_from_bands(store: Store) -> None:
    with store.writing():
        store.db.execute(
            """with recursive n(i) as (select 0 union all select i + 1 from n where i < 299999)
               insert into metrics select 1, 'loss', i, i % 10 from n"""
        )
        store.db.execute(
            "insert into metric_bands select trial, name, step / ?, min(value), max(value)"
            " from metrics group by 3",
            (BAND_STEPS,),
        )
    points = read_series(store, 1, "loss", points=100)
    assert 90 <= len(points) <= 100
    assert {(p.low, p.high) for p in points} == {(0.0, 9.0)}


def test_nan_is_kept_as_a_gap(store: Store) -> None:
    results.put_metrics(store, 1, 1, {"loss": float("nan")})
    results.put_metrics(store, 1, 2, {"loss": 2.0})
    assert [p.step for p in read_series(store, 1, "loss")] == [2]


def test_rows_and_offset_of_an_event_file_are_one_commit(store: Store, tmp_path: Path) -> None:
    attempt = store.add_attempt(1, "cpu-0", {}, 0, 0)
    file = tmp_path / "events.jsonl"
    writer = EventWriter(file)
    writer.write("metric", step=1, values={"loss": 2.0})
    ingest_events(store, store.attempt(attempt), file)
    writer.write("metric", step=2, values={"loss": 1.0})
    ingest_events(store, store.attempt(attempt), file)
    assert [p.step for p in read_series(store, 1, "loss")] == [1, 2]
    assert store.attempt(attempt).offset == file.stat().st_size
    assert ingest_events(store, store.attempt(attempt), file) is None
    writer.close()


def test_a_checkpoint_between_two_metrics_counts_as_a_step(store: Store, tmp_path: Path) -> None:
    attempt = store.add_attempt(1, "cpu-0", {}, 0, 0)
    writer = EventWriter(tmp_path / "events.jsonl")
    writer.write("metric", step=115, values={"loss": 2.0})
    writer.write("checkpoint", step=117)
    writer.close()
    ingest_events(store, store.attempt(attempt), tmp_path / "events.jsonl")
    assert store.trial(1).step == store.trial(1).checkpoint_step == 117


def test_half_a_line_waits_for_its_other_half(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    file.write_bytes(b'{"n": 1, "t": 1.0, "kind": "log", "text": "a"}\n{"n": 2, "t"')
    events, offset = read_events(file, 0)
    assert len(events) == 1
    assert read_events(file, offset) == ([], offset)


def test_a_writer_after_a_crash_goes_on_behind_the_torn_line(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    file.write_bytes(b'{"n": 1, "t": 1.0, "kind": "log", "text": "a"}\n{"n": 2, "t"')
    writer = EventWriter(file)
    writer.write("log", text="b")
    writer.close()
    kinds = [getattr(event, "kind", "bad") for event in read_events(file, 0)[0]]
    assert kinds == ["log", "bad", "log"]


def test_threads_that_share_a_writer_number_their_lines_one_after_another(tmp_path: Path) -> None:
    writer = EventWriter(tmp_path / "events.jsonl")
    with ThreadPoolExecutor(4) as threads:
        for _ in range(400):
            threads.submit(writer.write, "log", text="a", level="info")
    writer.close()
    events, _ = read_events(tmp_path / "events.jsonl", 0)
    assert [getattr(event, "n", 0) for event in events] == list(range(1, 401))


def test_hostile_text_is_inert_in_the_rows(store: Store, tmp_path: Path) -> None:
    attempt = store.add_attempt(1, "cpu-0", {}, 0, 0)
    writer = EventWriter(tmp_path / "events.jsonl")
    hostile = "\x1b]52;c;aGk=\x07\x1b[31mred\u202e \u200bx\x9b1m"
    writer.write("log", text=hostile, level="nonsense")
    writer.write("sample", question=hostile, expected=hostile, answer=hostile, right=True)
    ingest_events(store, store.attempt(attempt), tmp_path / "events.jsonl")
    writer.close()
    assert store.events()[-1].text == "red x"
    assert store.samples(1)[0].answer == "red x"


def test_a_move_leaves_a_row_of_history(store: Store) -> None:
    store.move(1, State.QUEUED, State.STARTING, by="place", why="fits cpu-0")
    [row] = store.moves(1)
    assert (row.before, row.after, row.by, row.why) == ("queued", "starting", "place", "fits cpu-0")
    assert row.at_utc == 100.0


def test_a_request_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "one.json").mkdir()  # in the way of the last rename, as a disk may be full before
    with pytest.raises(EngineError, match="could not be written"):
        drop_request(tmp_path, "pause", {"trial": 1}, id="one")
    assert [path.name for path in tmp_path.iterdir()] == ["one.json"]


def test_a_request_is_one_whole_file(tmp_path: Path) -> None:
    id = drop_request(tmp_path, "stop", {"trial": 7})
    (tmp_path / ".half.tmp").write_text("{")
    [(path, found)] = scan_requests(tmp_path)
    assert path.name == f"{id}.json"
    assert isinstance(found, Request)
    assert found.args == {"trial": 7}


@pytest.mark.parametrize(
    "body", [HUGE_TIME, NO_TIME, "", "[]", "{}", '{"id": "../x"}', "[" * 100_000, "null"]
)
def test_what_is_no_request_is_known_as_such(tmp_path: Path, body: str) -> None:
    (tmp_path / "a.json").write_text(body)
    [(_, found)] = scan_requests(tmp_path)
    assert isinstance(found, BadRequest)


@pytest.mark.parametrize(
    "line",
    [
        '{"n": Infinity, "t": 1, "kind": "log", "text": "x"}',
        '{"n": 1, "t": NaN, "kind": "log", "text": "x"}',
        '{"n": 1, "t": 1, "kind": "metric", "step": 1, "values": [1]}',
        '{"n": 1, "t": 1, "kind": "metric", "step": 1, "values": {"loss": {}}}',
        '{"n": 1, "t": 1, "kind": "started", "pid": "many"}',
        '{"n": 1, "t": 1, "kind": "started", "pid": {"a": 1}}',
        '{"n": 1, "t": 1, "kind": "sample", "question": "q", "right": "perhaps"}',
        '{"n": 1, "t": 1, "kind": "checkpoint", "step": 1e400}',
    ],
)
def test_an_event_of_odd_values_is_set_aside(store: Store, tmp_path: Path, line: str) -> None:
    attempt = store.attempt(store.add_attempt(1, "cpu-0", {}, 0, 0))
    (tmp_path / "events.jsonl").write_text(line + "\n")
    ingest_events(store, attempt, tmp_path / "events.jsonl")
    assert store.events()[-1].kind == "bad-line"
    assert store.attempt(attempt.id).offset == len(line) + 1


def test_an_infinite_score_is_kept_as_none(store: Store, tmp_path: Path) -> None:
    attempt = store.attempt(store.add_attempt(1, "cpu-0", {}, 0, 0))
    writer = EventWriter(tmp_path / "events.jsonl")
    writer.write("score", values={"loss": float("inf")}, step=1)
    writer.write("metric", values={"loss": float("inf")}, step=1)
    writer.close()
    ingest_events(store, attempt, tmp_path / "events.jsonl")
    kept = store.db.execute("select value from scores").fetchone()[0]
    assert kept is None
    assert store.attempt(attempt.id).loss is None


def test_a_commit_that_fails_leaves_no_transaction_open(store: Store) -> None:
    pages = store.db.execute("pragma page_count").fetchone()[0]
    store.db.execute(f"pragma max_page_count = {pages}")
    with pytest.raises(sqlite3.OperationalError, match="full"), store.writing():
        for _ in range(100):
            store.note("log", "x" * 4_000)
    assert not store.db.in_transaction


def test_a_line_that_met_a_full_disk_does_not_spoil_the_next(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    writer = EventWriter(tmp_path / "events.jsonl")
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(OSError, match="large"):
            writer.write("log", text="x" * 200)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    writer.write("end", outcome="done")
    writer.close()
    found, _ = read_events(tmp_path / "events.jsonl", 0)
    assert [getattr(event, "kind", "bad") for event in found] == ["bad", "end"]


@pytest.mark.parametrize("key", [10**30, "10" * 20, "٣", "1 or 1", "\ud800"])
def test_an_experiment_by_an_odd_key_is_not_there(store: Store, key: int | str) -> None:
    with pytest.raises(NotThere):
        store.experiment(key)


def test_a_trial_with_a_number_no_table_can_hold_is_not_there(store: Store) -> None:
    with pytest.raises(NotThere):
        store.trial(10**30)


def test_an_experiment_is_found_by_name_and_by_number(store: Store) -> None:
    assert store.experiment("tiny") == store.experiment(1) == store.experiment("1")
    assert store.experiment(1).counts == {"queued": 1}


def test_a_band_holds_its_extremes_whatever_came_first_and_was_replaced(store: Store) -> None:
    for step, value in ((1, None), (2, 3.0), (3, float("nan")), (4, -1.0), (5, 9.0)):
        results.put_metrics(store, 1, step, {"loss": value})
    results.put_metrics(store, 1, 5, {"loss": 4.0})
    band = store.db.execute("select low, high from metric_bands").fetchall()
    assert [tuple(row) for row in band] == [(-1.0, 4.0)]


@pytest.mark.parametrize(
    ("name", "kept"),
    [("a\x1b[31mb", "ab"), ("\u202eabc", "abc"), ("\x00", "experiment"), ("a\nb", "a b")],
)
def test_a_hostile_name_is_made_harmless_where_it_enters(
    store: Store, name: str, kept: str
) -> None:
    id = store.add_experiment({"name": name}, "loss")
    assert store.experiment(id).name == kept


def test_a_reader_that_nobody_closed_leaves_no_connection_open(tmp_path: Path) -> None:
    """Python 3.13 warns of connections that were not closed."""
    Store(tmp_path / "workbench.db").close()
    reader = Reader.open(tmp_path / "workbench.db")
    connection = reader.db
    del reader
    with pytest.raises(sqlite3.ProgrammingError, match="closed database"):
        connection.execute("select 1")


def test_a_trials_log_without_debug_holds_its_progress_and_no_other_facts(store: Store) -> None:
    experiment = store.add_experiment({"name": "e"}, "loss")
    trial = store.add_trial(experiment, 1, Kind.TUNE, {})
    for kind, level in (("log", "debug"), ("progress", "debug"), ("checkpoint", "debug")):
        store.note(kind, kind, level=level, trial=trial)
    store.note("log", "a warning", level="warning", trial=trial)
    of_trial = [event.text for event in store.events(trial=trial, debug=False)]
    assert of_trial == ["progress", "a warning"]
    assert "progress" not in [event.text for event in store.events(debug=False)]

"""Adapters are listed and marked, removed to a trash and brought back, and nothing is lost."""

from __future__ import annotations

import io
import signal
import sys

import pytest

from tests.library.conftest import Answer, fill_adapter
from tests.support.forked import run_forked
from tests.support.tick_contexts import Bench, recipe
from workbench.cli import main
from workbench.errors import NotThere
from workbench.fleet.trial_fence import LOCK
from workbench.home import Home
from workbench.library.marks import change_marks
from workbench.library.removal import ATTEMPT_LOCK
from workbench.machine.locks import Lock
from workbench.service import Service
from workbench.store.requests import drop_request
from workbench.trial import State


def files_of(home: Home) -> dict[str, bytes]:
    """Every file of trials, attempts and experiments by its path below the home."""
    return {
        path.relative_to(home.root).as_posix(): path.read_bytes()
        for name in ("trials", "attempts", "experiments")
        for path in (home.root / name).rglob("*")
        if path.is_file()
    }


def test_adapters_show_base_data_scores_tags_and_note(bench: Bench, answer: Answer) -> None:
    answer("tag", "3", "best", "v1")
    answer("note", "3", "ship", "it")
    (one,) = answer("adapters", "--tag", "best", "--tag", "v1")
    assert (one["trial"], one["experiment"], one["base"]) == (3, "tiny", "/m")
    assert (one["data_digest"], one["note"]) == ("d", "ship it")
    assert one["score"] == one["scores"]["exact_match"]
    assert [row["trial"] for row in answer("adapters")] == [3, 2]


def test_a_tag_that_no_adapter_has_is_named(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["adapters", "tiny", "--tag", "bset"]) == 0
    assert "no adapter of tiny has the tag bset" in capsys.readouterr().err


def test_a_tag_can_be_dropped_and_a_note_removed(bench: Bench, answer: Answer) -> None:
    answer("tag", "2", "old", "keep")
    answer("note", "2", "words")
    assert answer("tag", "2", "--drop", "old")["tags"] == ["keep"]
    assert answer("note", "2", "")["note"] == ""


def test_a_dropped_tag_that_the_trial_has_not_is_named(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tag", "2", "keep", "--drop", "olf"]) == 0
    assert "trial 2 has no tag olf" in capsys.readouterr().err


@pytest.mark.parametrize("word", ["", "two words", "a/b", "\x1b[31m", "x" * 41])
def test_a_word_that_is_no_tag_is_refused(bench: Bench, answer: Answer, word: str) -> None:
    assert "\x1b" not in answer("tag", "2", word, code=2)


def test_marks_never_pass_to_another_trial_of_the_same_number(
    bench: Bench, home: Home, service: Service, answer: Answer
) -> None:
    change_marks(home, 2, service.trial(2).trial.created_utc - 1.0, add=["old"])
    assert answer("tag", "2")["tags"] == []


def test_a_removed_trial_is_in_no_list_and_comes_back_whole(
    bench: Bench, home: Home, service: Service, answer: Answer
) -> None:
    before, ranked = files_of(home), [row.trial for row in service.board("tiny")[1]]
    (gone,) = answer("rm", "3", "--yes")
    assert 3 not in [row.trial for row in service.board("tiny")[1]]
    assert 3 not in [trial.id for trial in service.trials(1)]
    assert service.experiment("tiny").counts == {"done": 1}
    assert not home.trial(3).exists()
    with pytest.raises(NotThere, match="removed"):
        service.trial(3)
    assert [one["entry"] for one in answer("trash", "ls")] == [gone["entry"]]
    answer("trash", "restore", "3")
    assert (files_of(home), answer("trash", "ls")) == (before, [])
    assert [row.trial for row in service.board("tiny")[1]] == ranked


def test_a_removed_experiment_comes_back_whole(
    bench: Bench, home: Home, service: Service, answer: Answer
) -> None:
    before = files_of(home)
    answer("rm", "tiny", "--yes")
    assert service.experiments() == []
    assert service.snapshot().trials == []
    assert files_of(home) == {}
    answer("trash", "restore", "tiny")
    assert [one.name for one in service.experiments()] == ["tiny"]
    assert files_of(home) == before


def test_a_restored_trial_names_its_experiment_where_that_is_in_the_trash(
    bench: Bench, answer: Answer, capsys: pytest.CaptureFixture[str]
) -> None:
    answer("rm", "3", "--yes")
    answer("rm", "tiny", "--yes")
    capsys.readouterr()
    assert main(["trash", "restore", "3"]) == 0
    assert "workbench trash restore experiment-1" in capsys.readouterr().err
    assert main(["trash", "restore", "tiny"]) == 0
    assert "still in the trash" not in capsys.readouterr().err


def test_an_emptied_trash_keeps_the_trial_out_of_lists(
    bench: Bench, home: Home, service: Service, answer: Answer
) -> None:
    answer("rm", "3", "--yes")
    assert answer("trash", "empty", "--yes")[0]["entry"] == "trial-3"
    assert not list((home.root / "trash").iterdir())
    assert [trial.id for trial in service.trials(1)] == [1, 2]
    assert "nothing" in answer("trash", "restore", "3", code=3)


def test_the_base_that_others_are_compared_with_is_not_removed(
    bench: Bench, answer: Answer
) -> None:
    assert "scores the base" in answer("rm", "1", "--yes", code=2)


def test_the_base_of_another_experiment_outlives_the_one_that_scored_it(
    bench: Bench, home: Home, service: Service, answer: Answer
) -> None:
    second = bench.submit(recipe(name="second"))
    assert service.experiment(second).base_trial == 1
    bench.until(State.DONE, 4)
    answer("rm", "tiny", "--yes")
    assert home.trial(1).exists()
    assert [row.trial for row in service.board("second")[1]] == [4, 1]


def test_work_that_has_not_ended_is_not_removed(bench: Bench, answer: Answer) -> None:
    bench.submit(recipe(name="second"))
    assert "end it first" in answer("rm", "4", "--yes", code=2)
    assert "end it first" in answer("rm", "second", "--yes", code=2)


def test_a_trial_whose_worker_still_writes_is_not_removed(
    bench: Bench, home: Home, answer: Answer
) -> None:
    assert ATTEMPT_LOCK == LOCK
    lock = Lock(home.trial(3) / LOCK)
    assert lock.take()
    try:
        assert "still writing" in answer("rm", "3", "--yes", code=2)
    finally:
        lock.release()


@pytest.mark.parametrize(("typed", "left"), [("3\n", False), ("2\n", True), ("", True)])
def test_rm_asks_for_the_name(
    bench: Bench, home: Home, monkeypatch: pytest.MonkeyPatch, typed: str, left: bool
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
    assert (main(["rm", "3"]) == 0) is not left
    assert home.trial(3).exists() is left


def test_what_lies_in_the_place_of_a_removed_trial_is_not_overwritten(
    bench: Bench, home: Home, answer: Answer
) -> None:
    answer("rm", "3", "--yes")
    fill_adapter(home, 3)
    assert "exists again" in answer("trash", "restore", "3", code=2)
    assert [one["entry"] for one in answer("trash", "ls")] == ["trial-3"]


def test_an_archived_experiment_is_listed_only_when_asked_for(
    bench: Bench, service: Service, answer: Answer
) -> None:
    answer("archive", "tiny")
    assert answer("ls") == []
    assert service.snapshot().experiments == []
    assert [one["name"] for one in answer("ls", "--all")] == ["tiny"]
    assert [one["name"] for one in answer("ls", "tiny")] == ["tiny"]
    answer("archive", "tiny", "--undo")
    assert [one["name"] for one in answer("ls")] == ["tiny"]


def test_du_counts_every_byte_once(bench: Bench, answer: Answer) -> None:
    used = answer("du")
    (one,) = used["experiments"]
    assert one["bytes"]["checkpoints"] == 2 * 8192
    assert one["bytes"]["adapters"] == 2 * (4096 + 4096)  # a block for each small file
    assert used["total_bytes"] == one["total_bytes"] + sum(used["shared"].values())


def test_prune_shows_first_and_moves_only_checkpoints_and_unused_rows(
    bench: Bench, home: Home, answer: Answer
) -> None:
    for name in ("d", "unused"):
        (home.cache / name).mkdir()
        (home.cache / name / "train.arrow").write_bytes(b"r" * 4096)
    before = files_of(home)
    wanted = {"trials/2/checkpoints", "trials/3/checkpoints", "cache/data/unused"}
    shown = answer("prune", "--dry-run")
    assert {one["folder"] for one in shown["folders"]} == wanted
    assert files_of(home) == before
    record = answer("prune", "--yes")
    assert set(record["folders"]) == wanted
    assert (home.trial(2) / "adapter").exists()
    answer("trash", "restore", record["entry"])
    assert files_of(home) == before


def test_a_pruned_checkpoint_is_shown_where_it_is(
    bench: Bench, answer: Answer, capsys: pytest.CaptureFixture[str]
) -> None:
    def shown() -> str:
        assert main(["show", "2"]) == 0
        (line,) = [one for one in capsys.readouterr().out.splitlines() if "  checkpoint" in one]
        return line.removeprefix("  checkpoint").strip()

    assert shown() == "step 4"
    record = answer("prune", "--yes")
    assert shown() == f"step 4, in the trash as {record['entry']}"
    answer("trash", "empty", "--yes")
    assert shown() == "none left; the last one was of step 4"


def test_a_pruned_trial_is_extended_from_its_adapter(bench: Bench, answer: Answer) -> None:
    answer("prune", "--yes")
    answer("trash", "empty", "--yes")
    request = drop_request(bench.context.home.requests, "extend", {"trial": 2, "steps": 4})
    bench.ticks()
    given = bench.store.answer(request)
    assert given is not None
    assert given.ok, given.text
    assert bench.store.trial(4).warm_trial == 2
    bench.until(State.DONE, 4)


def test_a_second_prune_says_that_nothing_is_left_and_prints_no_table(
    bench: Bench, answer: Answer, capsys: pytest.CaptureFixture[str]
) -> None:
    answer("prune", "--yes")
    assert main(["prune", "--yes"]) == 3
    out, err = capsys.readouterr()
    assert out == ""
    assert "there is nothing to prune" in err


def test_checkpoints_of_a_trial_without_an_adapter_are_kept(
    bench: Bench, home: Home, answer: Answer
) -> None:
    (home.trial(3) / "adapter" / "adapter_model.safetensors").unlink()
    assert [one["folder"] for one in answer("prune", "-n")["folders"]] == ["trials/2/checkpoints"]


KILLED = [
    (["rm", "tiny", "--yes"], "trash.after_record"),
    (["rm", "tiny", "--yes"], "trash.between_moves"),
    (["trash", "restore", "tiny"], "trash.restoring"),
    (["trash", "empty", "--yes"], "trash.emptying"),
]


@pytest.mark.parametrize(("command", "point"), KILLED)
def test_a_kill_leaves_the_old_state_or_the_new(
    bench: Bench, home: Home, answer: Answer, command: list[str], point: str
) -> None:
    before = files_of(home)
    if command[0] == "trash":
        answer("rm", "tiny", "--yes")
    _killed_at(point, home, command)
    known = [one["name"] for one in answer("ls")]
    assert known == (["tiny"] if command[1] == "restore" else [])
    answer("rm", "1", "--yes", code=3 if not known else 2)  # any command on the library may follow
    if command[1] == "empty":
        answer("trash", "empty", "--yes")
        assert not list((home.root / "trash").iterdir())
        return
    if not known:
        answer("trash", "restore", "tiny")
    else:
        answer("trash", "empty", "--yes")
    assert files_of(home) == before


def _killed_at(point: str, home: Home, command: list[str]) -> None:
    env = {"WORKBENCH_HOME": str(home.root), "WORKBENCH_FAULT": f"{point}=kill"}
    ended = run_forked(lambda: main(command), env)
    assert ended.code == -signal.SIGKILL, ended.out

"""Commands that steer what runs: each prints at once what will happen, and when."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

from tests.cli.conftest import Workbench
from tests.cli.engines import Engine, finished_home, recipe_file
from tests.support.waiting import wait_for
from workbench.home import Home
from workbench.machine.locks import lock_holder
from workbench.service import Service
from workbench.store.requests import scan_requests
from workbench.trial import Kind

LONG = str(10**9)
SWEEP = "{parameters: {lora.rank: [4, 8]}}"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return finished_home(tmp_path_factory.mktemp("finished"))


@pytest.fixture
def ended(copied: None, engine: Engine, workbench: Workbench) -> Workbench:
    """Trial 2 of experiment `tiny` has ended and left an adapter."""
    return workbench


@pytest.fixture
def busy(engine: Engine, workbench: Workbench, tmp_path: Path) -> Workbench:
    """Trials 2 and 3 of `tiny` go on for as long as the test likes."""
    assert workbench("run", recipe_file(tmp_path, max_steps=LONG, sweep=SWEEP)).code == 0
    service = Service(engine.home)
    wait_for(lambda: {2, 3} <= {trial.id for trial in service.snapshot().trials}, "both are queued")
    return workbench


def editor(folder: Path, monkeypatch: pytest.MonkeyPatch, *steps: str) -> None:
    """An $EDITOR that runs one sed script each time it is opened."""
    script = folder / "editor"
    lines = "\n".join(f'{n}) sed -i "{sed}" "$1";;' for n, sed in enumerate(steps))
    script.write_text(
        f"#!/bin/sh\nn=$(cat {folder}/n 2>/dev/null || echo 0)\ncase $n in\n{lines}\nesac\n"
        f"echo $((n + 1)) > {folder}/n\n"
    )
    script.chmod(0o700)
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.setenv("EDITOR", str(script))


def test_a_clone_says_what_it_is_and_when_it_starts(ended: Workbench) -> None:
    said = ended("clone", "2", "-s", "train.learning_rate=0.3", "-s", "train.seed=7")
    assert said.code == 0
    assert said.out.startswith("trial 3 is trial 2 again, with train.learning_rate=0.3")
    assert "starts as soon as" in said.out or "waits for its turn" in said.out


def test_a_trial_that_only_scores_is_not_cloned(ended: Workbench, tmp_path: Path) -> None:
    rows = tmp_path / "held.jsonl"
    rows.write_text('{"prompt": "1+2", "completion": "#### 3"}\n')
    assert ended("evaluate", "2", "--data", str(rows), "--watch").code == 0
    kinds = {trial.kind: trial.id for trial in Service().snapshot().trials}
    said = ended("clone", str(kinds[Kind.SCORE]))
    assert said.code == 2
    assert f"trial {kinds[Kind.SCORE]} scores an adapter: there is nothing to train" in said.err


def test_a_clone_of_another_kind_is_an_experiment_to_follow(ended: Workbench) -> None:
    said = ended("clone", "2", "-s", "data.max_tokens=32")
    assert said.code == 0
    assert "into a new experiment, tiny-2" in said.out
    assert "workbench watch 2" in said.err
    assert ended("clone", "2", "-s", "data.max_tokens=48", "--json").data["experiment"] == 3


def test_a_clone_that_starts_warm(ended: Workbench) -> None:
    said = ended("clone", "2", "-s", "train.seed=7", "--warm-start", "2", "--json")
    assert said.data["trial"] == 3
    assert "weights start from the adapter of trial 2" in said.data["answer"]
    assert "same numbers" not in ended("clone", "2", "--warm-start", "2").out
    assert "same numbers" in ended("clone", "2").out
    assert "warm start" in ended("show", "3").out
    refused = ended("clone", "2", "-s", "lora.rank=64", "--warm-start", "2")
    assert refused.code == 2
    assert "-s lora.rank=16" in refused.err
    assert ended("clone", "3", "-s", "lora.rank=64", "--warm-start", "none").code == 0
    assert ended("clone", "3", "-s", "lora.rank=32", "--warm-start", "null").code == 0


@pytest.mark.parametrize("editor", ["/no/such/editor", "false"])
def test_an_editor_that_fails_leaves_nothing_behind(
    ended: Workbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, editor: str
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.setenv("EDITOR", editor)
    assert ended("clone", "2", "--edit").code == 2
    assert not list(tmp_path.glob("workbench-clone-*"))


def test_what_was_typed_in_an_editor_that_failed_is_kept(
    ended: Workbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    editor(tmp_path, monkeypatch, "s/seed: 42/seed: 43/")
    with (tmp_path / "editor").open("a") as script:
        script.write("exit 3\n")
    said = ended("clone", "2", "--edit")
    [kept] = tmp_path.glob("workbench-clone-*.yaml")
    assert str(kept) in said.err
    assert "seed: 43" in kept.read_text()


MISTAKES = [
    (("clone", "2", "-s", "lora.rnak=8"), "Did you mean lora.rank?"),
    (("clone", "2", "-s", "lora.rank"), "write it as key=value"),
    (("clone", "2", "-s", "sweep.method=random"), "sweep"),
    (("clone", "2", "--warm-start", "seven"), "takes a trial's id"),
    (("extend", "2", "--epochs", "lots"), "lots is not a number"),
    (("extend", "2"), "say how much longer"),
    (("extend", "2", "--epochs", "1", "--steps", "9"), "exclude each other"),
    (("extend", "2", "--epochs", "0"), "--epochs +1"),
    (("extend", "2", "--epochs", "nan"), "--epochs +1"),
    (("parallel", "tiny", "x"), "a number, or none"),
    (("add", "tiny"), "neither a trial's settings nor a number of trials was given"),
    (("priority", "tiny", "99999"), "from -1000 to 1000"),
    (("parallel", "tiny", "0"), "from 1"),
    (("order", "2", "sideways"), "is done already"),
]
"""Commands that are refused and change nothing, and what is said."""


def test_a_mistake_is_told_with_its_mend(ended: Workbench) -> None:
    for argv, says in MISTAKES:
        said = ended(*argv)
        assert (said.code, said.out) == (2, ""), argv
        assert says in said.err, argv


def test_what_was_edited_is_cloned(
    ended: Workbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    editor(tmp_path, monkeypatch, "s/seed: 42/seed: 43/")
    said = ended("clone", "2", "--edit", "-s", "train.learning_rate=0.5")
    assert said.code == 0, said.err
    assert "train.learning_rate=0.5 train.seed=43" in said.out


def test_a_slip_in_the_editor_loses_nothing(
    ended: Workbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("\n"))
    editor(tmp_path, monkeypatch, "s/seed: 42/sead: 43/", "s/sead/seed/")
    said = ended("clone", "2", "--edit")
    assert said.code == 0
    assert "train.sead is not a setting. Did you mean train.seed?" in said.err
    assert "train.seed=43" in said.out


def test_an_edit_given_up_is_kept(
    ended: Workbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    editor(tmp_path, monkeypatch, "s/seed: 42/seed: many/")
    said = ended("clone", "2", "--edit")
    assert said.code == 2
    [kept] = tmp_path.glob("workbench-clone-*.yaml")
    assert str(kept) in said.err
    assert "seed: many" in kept.read_text()


def test_an_edit_that_changes_nothing_clones_nothing(
    ended: Workbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    editor(tmp_path, monkeypatch, "")
    assert "nothing was changed" in ended("clone", "2", "--edit").err
    monkeypatch.setenv("EDITOR", "/no/such/editor")
    assert "cannot be run" in ended("clone", "2", "--edit").err


def test_an_ended_trial_is_extended(ended: Workbench) -> None:
    said = ended("extend", "2", "--epochs", "+1")
    assert said.code == 0
    assert "trains on from the adapter of trial 2 with train.epochs=1.0" in said.out
    assert "optimizer and schedule begin again" in said.out
    assert ended("extend", "2", "--steps", "+50", "--json").data["trial"] == 4


def test_trials_are_added(busy: Workbench) -> None:
    said = busy("add", "tiny", "-s", "train.learning_rate=1e-4")
    assert "trial 4 was added to tiny, with train.learning_rate=0.0001" in said.out
    assert "all points of its grid" in busy("add", "tiny", "--trials", "2").err


def test_the_queue_is_steered(busy: Workbench) -> None:
    assert "has priority -5 (was 0)" in busy("priority", "tiny", "-5").out
    assert "runs 1 at once at most" in busy("parallel", "tiny", "1").out
    for word in ("none", "null"):
        assert "all cards" in busy("parallel", "tiny", word).out
    assert "is held" in busy("hold", "tiny").out
    assert "ready, held" in busy("ls").out
    assert "goes on" in busy("release", "tiny").out
    busy("hold")
    assert "the queue is held" in busy("engine", "status").out
    assert "goes on" in busy("release").out


def test_cards_are_drained(busy: Workbench, home: Home) -> None:
    said = busy("drain", "cpu-0", "--now")
    assert "takes no more trials" in said.out
    assert "drained" in busy("cards").out
    said = busy("undrain", "cpu-0", "--quarantine", "--json")
    assert said.data == {"answer": "card cpu-0 takes trials again", "card": "cpu-0"}
    assert busy("drain", "GPU-0").code == 3


def test_a_trial_may_go_anywhere_again(busy: Workbench) -> None:
    busy("pause", "2")
    assert busy("move", "2", "any").code == 0
    assert busy("move", "2", "GPU-nowhere").code == 3


def test_nothing_is_dropped_twice(busy: Workbench, home: Home) -> None:
    busy("hold", "tiny")
    assert [path for path, _ in scan_requests(home.requests)] == []
    assert not list(Path(os.environ["WORKBENCH_HOME"]).glob("requests/bad/*"))


@pytest.mark.parametrize(
    "words", [("hold", "nope"), ("priority", "nope", "3"), ("move", "7", "cpu-0")]
)
def test_a_name_that_is_not_there_starts_no_engine(
    words: tuple[str, ...], home: Home, workbench: Workbench
) -> None:
    said = workbench(*words)
    assert said.code == 3
    assert "starting the engine" not in said.err
    assert lock_holder(home.keeper_lock) is None

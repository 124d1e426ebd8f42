"""Commands that ask the engine: each waits for the answer of the one writer."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

from tests.cli.conftest import Workbench
from tests.cli.engines import Engine, recipe_file
from tests.support.tick_contexts import Bench, recipe
from tests.support.waiting import wait_for
from tests.tui.filled import engine_stopping
from workbench.chat.client import ChatSession
from workbench.errors import EngineError
from workbench.home import Home
from workbench.service import Service
from workbench.store.requests import scan_requests
from workbench.trial import State

LONG = str(10**9)


def _long_run(workbench: Workbench, folder: Path, sweep: str = "null") -> None:
    """Trial 2 trains for as long as the test likes."""
    assert workbench("run", recipe_file(folder, max_steps=LONG, sweep=sweep)).code == 0
    wait_for(lambda: workbench("show", "2").code == 0, "its trials are made", 20)


def test_run_prints_name_trials_and_what_comes_next(
    engine: Engine, workbench: Workbench, tmp_path: Path
) -> None:
    sweep = "{parameters: {lora.rank: [4, 8], train.seed: [1, 2, 3]}}"
    said = workbench("run", recipe_file(tmp_path, sweep=sweep))
    assert said.code == 0
    assert said.out.splitlines()[0] == "experiment tiny: 6 trials"
    assert "you may close this terminal" in said.out


def test_run_json_names_the_experiment(
    engine: Engine, workbench: Workbench, tmp_path: Path
) -> None:
    said = workbench("run", recipe_file(tmp_path), "-s", "lora.rank=2", "--json")
    words = "experiment tiny is being prepared"
    found = {"answer": words, "experiment": 1, "name": "tiny", "trials": 1, "finals": 0}
    assert said.data == found
    again = workbench("run", recipe_file(tmp_path), "--json")
    assert again.data["name"] == "tiny-2"
    assert "tiny is the name of an earlier experiment" in again.err


def test_stop_prints_what_will_happen(engine: Engine, workbench: Workbench, tmp_path: Path) -> None:
    _long_run(workbench, tmp_path)
    assert workbench("pause", "2").code == 0
    said = workbench("stop", "2")
    assert said.code == 0
    assert said.out.startswith("trial 2 (")


def test_stopping_what_has_ended_is_refused_with_the_engines_exit_code(
    engine: Engine, workbench: Workbench, tmp_path: Path
) -> None:
    workbench("run", recipe_file(tmp_path), "--watch")
    said = workbench("stop", "2", "2")
    assert (said.code, said.out) == (2, "")
    assert said.err.count("error: trial 2 is done already") == 1


def test_kill_asks_for_the_id_of_every_trial_that_there_is(
    engine: Engine, workbench: Workbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _long_run(workbench, tmp_path)
    workbench("pause", "2")
    monkeypatch.setattr("sys.stdin", io.StringIO("3\n"))
    wrong = workbench("kill", "2")
    assert (wrong.code, wrong.out) == (1, "")
    assert "what was typed is not 2; nothing was killed" in wrong.err
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    nobody = workbench("kill", "2")
    assert nobody.code == 2
    assert "workbench kill --yes 2" in nobody.err
    monkeypatch.setattr("sys.stdin", io.StringIO("2\n"))
    right = workbench("kill", "77", "2")
    assert right.code == 3
    assert "nothing is scored or kept" in right.out
    assert "there is no trial 77" in right.err


def test_kill_does_not_ask_about_what_has_ended(
    engine: Engine, workbench: Workbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workbench("run", recipe_file(tmp_path), "--watch")
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    said = workbench("kill", "2", "tiny")
    assert (said.code, said.out) == (2, "")
    assert "trial 2 is done already" in said.err
    assert "all trials of tiny have ended already" in said.err
    assert "nothing of it is scored or kept" not in said.err


def test_without_a_terminal_kill_names_the_command_for_all_of_its_trials(
    engine: Engine, workbench: Workbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _long_run(workbench, tmp_path)
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert "workbench kill --yes 2 tiny" in workbench("kill", "2", "tiny").err


def test_kill_yes_does_not_ask(engine: Engine, workbench: Workbench, tmp_path: Path) -> None:
    _long_run(workbench, tmp_path)
    assert workbench("kill", "--yes", "2").code == 0


def test_what_several_trials_were_told_is_printed_for_programs(
    engine: Engine, workbench: Workbench, tmp_path: Path
) -> None:
    _long_run(workbench, tmp_path, sweep="{parameters: {train.seed: [1, 2]}}")
    assert [one["trial"] for one in workbench("pause", "3", "2", "--json").data] == [3, 2]
    assert [one["trial"] for one in workbench("resume", "2", "--json").data] == [2]
    (killed,) = workbench("kill", "--yes", "2", "--json").data
    assert "nothing is scored or kept" in killed["answer"]
    refused = workbench("stop", "2", "--json")
    assert refused.code == 2
    assert "is killed already" in refused.err


def test_resume_of_a_paused_trial_is_answered(
    engine: Engine, workbench: Workbench, tmp_path: Path
) -> None:
    _long_run(workbench, tmp_path)
    workbench("pause", "2")
    said = workbench("resume", "2")
    assert said.code == 0
    assert "goes on" in said.out


def test_an_unknown_trial_does_not_keep_the_others_from_being_killed(
    engine: Engine, workbench: Workbench, tmp_path: Path
) -> None:
    _long_run(workbench, tmp_path)
    said = workbench("kill", "--yes", "2", "77")
    assert said.code == 3
    assert "trial 2" in said.out
    assert "there is no trial 77" in said.err


def _stopped_with_work(bench: Bench, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that a person has stopped while a trial waits."""
    bench.submit(recipe())
    bench.ticks(3)
    monkeypatch.setattr("workbench.engine_status.lock_holder", lambda _: None)
    home.stopped.touch()


def test_run_restarts_no_stopped_queue_without_being_asked(
    bench: Bench,
    home: Home,
    workbench: Workbench,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _stopped_with_work(bench, home, monkeypatch)
    said = workbench("run", recipe_file(tmp_path))
    assert said.code == 1
    assert "would continue if it is started" in said.err
    assert "add --start; once the engine runs, `pause` and `kill` keep trials from it" in said.err
    assert home.stopped.exists()
    assert scan_requests(home.requests) == []


def test_run_restarts_no_preparation_without_being_asked(
    bench: Bench,
    home: Home,
    workbench: Workbench,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench.store.add_experiment(recipe().model_dump(mode="json"), "loss")
    monkeypatch.setattr("workbench.engine_status.lock_holder", lambda _: None)
    home.stopped.touch()
    said = workbench("run", recipe_file(tmp_path))
    assert said.code == 1
    assert "and 1 experiment would continue if it is started" in said.err
    assert home.stopped.exists()


def test_nothing_is_asked_of_an_engine_that_a_person_stopped(
    bench: Bench, home: Home, workbench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    _stopped_with_work(bench, home, monkeypatch)
    said = workbench("stop", "1")
    assert said.code == 1
    assert "the engine is stopped" in said.err
    assert "workbench engine start" in said.err
    assert scan_requests(home.requests) == []


@pytest.mark.parametrize("argv", [("chat", "1", "-p", "x"), ("compare", "1", "2", "--prompts")])
def test_no_card_is_asked_of_an_engine_that_a_person_stopped(
    argv: tuple[str, ...],
    bench: Bench,
    home: Home,
    workbench: Workbench,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _stopped_with_work(bench, home, monkeypatch)
    (tmp_path / "prompts.txt").write_text("1 + 2?\n")
    prompts = [tmp_path / "prompts.txt"] if argv[-1] == "--prompts" else []
    said = workbench(*argv, *prompts)
    assert (said.code, said.out) == (1, "")
    assert "the engine is stopped" in said.err
    assert "workbench engine start" in said.err
    assert scan_requests(home.requests) == []


def test_a_chat_is_not_requested_of_a_stopped_engine(
    bench: Bench, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    _stopped_with_work(bench, home, monkeypatch)
    with pytest.raises(EngineError, match="is stopped, and a chat needs") as refused:
        ChatSession.open(Service(home), [1])
    assert "E on the screen" in refused.value.hint
    assert scan_requests(home.requests) == []


def test_nothing_is_asked_of_an_engine_whose_loop_has_ended(
    home: Home, workbench: Workbench, tmp_path: Path
) -> None:
    running = Engine(home)
    running.begin()
    _long_run(workbench, tmp_path)
    running.close()
    with engine_stopping(home):
        said = workbench("stop", "2")
        submitted = workbench("run", recipe_file(tmp_path))
        assert workbench("engine", "status").out.startswith(f"engine stopping (pid {os.getpid()})")
    assert "would continue if it is started" in submitted.err
    assert said.code == 1
    assert "the engine is stopping" in said.err
    assert "workbench engine start" in said.err
    assert scan_requests(home.requests) == []


def test_a_stop_of_an_engine_whose_loop_has_ended_waits_for_its_keeper_alone(
    home: Home, workbench: Workbench
) -> None:
    service = Service(home.make())
    with engine_stopping(home):
        assert not service.ensure_engine()
        assert service.stop_engine() == ""
        with pytest.raises(EngineError, match="did not stop within"):
            service.wait_for_engine(running=False, timeout_s=0.1)
    service.wait_for_engine(running=False, timeout_s=0.1)
    assert scan_requests(home.requests) == []


def test_a_start_goes_on_where_the_engine_ended_before_it_was_looked_at(home: Home) -> None:
    class Started(Service):
        """A Service that only notes a start."""

        def start_engine(self) -> None:
            (self.home.root / "started").touch()

    home.make().stopped.touch()
    with pytest.raises(EngineError, match="did not start within"):
        Started(home).wait_for_engine(running=True, timeout_s=0.1)
    assert (home.root / "started").exists()


def test_reading_says_that_a_stopped_engine_lets_work_wait(
    home: Home, workbench: Workbench, tmp_path: Path
) -> None:
    running = Engine(home)
    running.begin()
    _long_run(workbench, tmp_path)
    workbench("pause", "2")
    workbench("run", recipe_file(tmp_path, name="waits"))
    workbench("pause", "3")
    running.close()
    home.stopped.touch()
    said = workbench("ls")
    assert said.code == 0
    assert "paused" in said.out


def test_engine_stop_waits_until_it_has_gone(
    engine: Engine, home: Home, workbench: Workbench
) -> None:
    assert workbench("engine", "status", "--json").data["state"] == "running"
    said = workbench("engine", "stop", "--json")
    assert said.code == 0
    assert said.data["state"] == "stopped"
    assert "the engine stops; nothing is running" in said.err
    assert "workbench engine start" in workbench("engine", "status").out


def test_engine_stop_of_a_dead_engine_keeps_it_down(home: Home, workbench: Workbench) -> None:
    said = workbench("engine", "stop")
    assert said.code == 0
    assert home.stopped.exists()
    assert scan_requests(home.requests) == []


def test_a_request_is_dropped_as_one_file(bench: Bench, home: Home) -> None:
    from workbench.service import Service

    bench.submit(recipe())
    bench.until(State.RUNNING, 2)
    Service(home).stop(2)
    ((path, request),) = scan_requests(home.requests)
    assert path.suffix == ".json"
    assert getattr(request, "args", None) == {"trial": 2}

"""`workbench stop`, `kill`, `pause`, `resume`; and what every command does about the engine."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import Annotated

import typer

from workbench import formatting
from workbench.cli.errors import tell_error
from workbench.cli.tables import as_json, print_answer, print_note
from workbench.errors import EngineError, NotThere, UsageError, WorkbenchError
from workbench.service import Service, refusal_error
from workbench.store.rows import RequestAnswer
from workbench.trial import State

ANSWER_S = 60.0
"""Seconds that a command waits for the engine's answer."""
UNFINISHED = frozenset({State.QUEUED, State.STARTING, State.RUNNING})

Trials = Annotated[list[int], typer.Argument(help="Ids of trials, as `ls` shows them.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def stop_command(trials: Trials, as_data: Json = False) -> None:
    """End trials early; what they have learned is scored and kept."""
    _each(trials, lambda service, trial: service.stop(trial), as_data)


def kill_command(
    trials: Trials,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for the id.")] = False,
    as_data: Json = False,
) -> None:
    """End trials at once and keep nothing; asks for the id."""
    if not yes:
        _confirm(trials)
    _each(trials, lambda service, trial: service.stop(trial, kill=True), as_data)


def pause_command(trials: Trials, as_data: Json = False) -> None:
    """Checkpoint trials and take them off their cards."""
    _each(trials, lambda service, trial: service.pause(trial), as_data)


def resume_command(trials: Trials, as_data: Json = False) -> None:
    """Let paused trials continue from their checkpoints."""
    _each(trials, lambda service, trial: service.resume(trial), as_data)


def _confirm(trials: Iterable[int]) -> None:
    service = Service()
    for trial in dict.fromkeys(trials):
        row = service.trial(trial).trial
        progress = formatting.steps(row.step, row.total_steps)
        print_note(f"{formatting.trial_name(row)} ({row.state}, step {progress}):")
        print_note("nothing of it is scored or kept")
        sys.stderr.write(f"type {trial} to kill it: ")
        sys.stderr.flush()
        typed = sys.stdin.readline()
        if not typed:
            raise UsageError(
                "kill needs the trial's id, typed", hint=f"workbench kill --yes {trial}"
            )
        if typed.strip() != str(trial):
            raise WorkbenchError(f"the id typed is not {trial}; nothing was killed")


def _each(trials: Iterable[int], send: Callable[[Service, int], str], as_data: bool) -> None:
    """Send every request, then print every answer; exit with the first refusal's exit code.

    An unknown id is reported like a refusal: it does not keep the others from being carried out.
    """
    service = Service()
    known: list[int] = []
    errors: list[WorkbenchError] = []
    for trial in dict.fromkeys(trials):
        try:
            service.trial(trial)
            known.append(trial)
        except NotThere as unknown:
            errors.append(unknown)
    if known:
        need_engine(service)
    answers = []
    for request in [send(service, trial) for trial in known]:
        try:
            answer = wait_for_answer(service, request)
            answers.append({"answer": answer.text, **answer.data})
            if not as_data:
                print_answer(answer.text)
        except EngineError:
            raise
        except WorkbenchError as refused:
            errors.append(refused)
    for error in errors:
        tell_error(error)
    if as_data:
        as_json(answers)
    raise typer.Exit(errors[0].exit_code if errors else 0)


# --- the engine ---


def revive_engine(service: Service) -> None:
    """Start a dead engine that has work waiting, and report an engine in trouble on stderr.

    Commands that only read call this first. It raises nothing: what can be read is shown in every
    state of the engine.
    """
    if not service.home.database.exists():
        return
    engine = service.engine()
    try:
        if engine.state in ("down", "stopped") and not _work_waits(service):
            return
        if engine.state == "down":
            print_note("the engine was not running and work waits: starting it")
            service.start_engine()
        elif engine.state == "stopped":
            print_note("the engine is stopped; `workbench engine start` continues training")
        elif engine.detail:
            print_note(f"engine: {engine.detail}")
    except (WorkbenchError, OSError) as refused:
        print_note(f"the engine cannot be started: {refused}")


def _work_waits(service: Service) -> bool:
    return (
        service.any_trials(UNFINISHED)
        or any(one.state == "preparing" for one in service.experiments())
        or any(service.home.requests.glob("[!.]*.json"))
    )


def need_engine(service: Service) -> None:
    """Start the engine if it is down. Raises EngineError where a person stopped it.

    Commands that change something call this first.
    """
    state = service.engine().state
    if state == "stopped":
        raise EngineError(
            "the engine is stopped, so the request would not be carried out",
            hint="run `workbench engine start`, then this command again",
        )
    if state == "down":
        print_note("starting the engine (takes some seconds)")
        service.start_engine()


def wait_for_answer(service: Service, request: str, timeout_s: float = ANSWER_S) -> RequestAnswer:
    """Wait for the engine's answer to a request and return it.

    Raises a refusal as WorkbenchError with the exit code that the engine chose, and EngineError
    where the engine has ended or has not answered within `timeout_s`. The request stays queued.
    """
    answer = service.wait_for_answer(request, timeout_s)
    if not answer.ok:
        raise refusal_error(answer)
    return answer

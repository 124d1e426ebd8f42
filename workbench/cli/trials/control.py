"""Asking the engine: stop, kill, pause, resume; and waking it when it should run."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable
from typing import Annotated

import typer

from workbench import formatting
from workbench.cli.errors import tell_error
from workbench.cli.tables import as_json, out, tell
from workbench.errors import EngineError, UsageError, WorkbenchError
from workbench.service import Service
from workbench.store.rows import Answer
from workbench.trial import State

ANSWER_S = 60.0
GRACE_S = 8.0
"""A keeper has so long to take its lock before it counts as dead."""
UNFINISHED = frozenset({State.QUEUED, State.STARTING, State.RUNNING})

Trials = Annotated[list[int], typer.Argument(help="Ids, as `ls` shows them.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def stop(trials: Trials, as_data: Json = False) -> None:
    """End trials early; what they learned is scored and kept."""
    _each(trials, lambda service, trial: service.stop(trial), as_data)


def kill(
    trials: Trials,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for the id.")] = False,
    as_data: Json = False,
) -> None:
    """End trials at once and keep nothing; asks for the id."""
    if not yes:
        _confirm(trials)
    _each(trials, lambda service, trial: service.stop(trial, kill=True), as_data)


def pause(trials: Trials, as_data: Json = False) -> None:
    """Checkpoint trials and take them off their cards."""
    _each(trials, lambda service, trial: service.pause(trial), as_data)


def resume(trials: Trials, as_data: Json = False) -> None:
    """Let paused trials go on from their checkpoints."""
    _each(trials, lambda service, trial: service.resume(trial), as_data)


def _confirm(trials: Iterable[int]) -> None:
    service = Service()
    for trial in dict.fromkeys(trials):
        row = service.trial(trial).trial
        progress = formatting.steps(row.step, row.total_steps)
        tell(
            f"{formatting.who(row)} ({row.state}, step {progress}): nothing of it is scored or kept"
        )
        sys.stderr.write(f"type {trial} to kill it: ")
        sys.stderr.flush()
        typed = sys.stdin.readline()
        if not typed:
            raise UsageError(
                "kill wants the trial's id typed", hint=f"workbench kill --yes {trial}"
            )
        if typed.strip() != str(trial):
            raise WorkbenchError(f"that was not {trial}; nothing was killed")


def _each(trials: Iterable[int], send: Callable[[Service, int], str], as_data: bool) -> None:
    """Send all, then print every answer; the first refusal's exit code."""
    service = Service()
    wanted = list(dict.fromkeys(trials))
    for trial in wanted:
        service.trial(trial)
    need_engine(service)
    code, answers = 0, []
    for request in [send(service, trial) for trial in wanted]:
        try:
            answer = answered(service, request)
            answers.append({"answer": answer.text, **answer.data})
            if not as_data:
                out(answer.text)
        except EngineError:
            raise
        except WorkbenchError as refused:
            tell_error(refused)
            code = code or refused.exit_code
    if as_data:
        as_json(answers)
    raise typer.Exit(code)


# --- the engine, as commands need it ---


def revive(service: Service) -> None:
    """For commands that read: start a dead engine if work waits for it, say what is wrong.

    Never fails: what can be read is shown whatever state the engine is in.
    """
    if not service.home.database.exists():
        return
    engine = service.engine()
    try:
        if engine.state in ("down", "stopped") and not _work_waits(service):
            return
        if engine.state == "down":
            tell("the engine was not running and work waits: starting it")
            service.start_engine()
        elif engine.state == "stopped":
            tell("the engine is stopped; `workbench engine start` lets training go on")
        elif engine.detail:
            tell(f"engine: {engine.detail}")
    except (WorkbenchError, OSError) as refused:
        tell(f"the engine cannot be started: {refused}")


def _work_waits(service: Service) -> bool:
    return (
        service.any_trials(UNFINISHED)
        or any(one.state == "preparing" for one in service.experiments())
        or any(service.home.requests.glob("[!.]*.json"))
    )


def need_engine(service: Service) -> None:
    """For commands that want something done: EngineError when a person stopped the engine."""
    state = service.engine().state
    if state == "stopped":
        raise EngineError(
            "the engine is stopped, so nobody would carry this out",
            hint="`workbench engine start`, then the same again",
        )
    if state == "down":
        tell("starting the engine (some seconds)")
        service.start_engine()


def answered(service: Service, request: str, timeout_s: float = ANSWER_S) -> Answer:
    """Wait for the answer; a refusal is raised with the exit code the engine gave it."""
    answer = _wait(service, request, timeout_s)
    if not answer.ok:
        refused = WorkbenchError(answer.text, hint=answer.hint)
        refused.exit_code = int(answer.data.get("exit_code", 1))
        raise refused
    return answer


def _wait(service: Service, request: str, timeout_s: float) -> Answer:
    began = time.monotonic()
    while True:
        answer = service.answer(request)
        if answer is not None:
            return answer
        waited = time.monotonic() - began
        gone = service.engine().state in ("down", "stopped")
        if gone and waited > GRACE_S:
            raise EngineError(
                "the engine ended before it answered; the request waits for it",
                hint=f"see {service.home.logs}/keeper.log, or run `workbench doctor`",
            )
        if waited > timeout_s:
            raise EngineError(
                f"the engine has not answered within {timeout_s:.0f} s; the request waits for it",
                hint=f"see `workbench engine status` and the logs in {service.home.logs}",
            )
        time.sleep(0.05)

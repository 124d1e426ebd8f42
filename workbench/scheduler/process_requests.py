"""Requests: write down the desired state and the answer in one commit, then remove the file."""

from __future__ import annotations

from typing import Any

from workbench import fault_points
from workbench.errors import UsageError, WorkbenchError
from workbench.scheduler.handlers import (
    Handler,
    cards,
    chat,
    creation,
    engine,
    evaluation,
    experiments,
    finals,
    queue,
    trials,
)
from workbench.scheduler.tick_context import TickContext
from workbench.store import Blocked
from workbench.store.requests import BadRequest, Request, scan_requests
from workbench.store.rows import RequestAnswer
from workbench.text import safe_line


def process_requests(context: TickContext) -> None:
    """Carry out every waiting request exactly once.

    The answer is in the same commit, so a request that comes twice, or is met again after a
    kill, is recognised. A request that cannot be read is moved to requests/bad and reported.
    """
    for path, request in scan_requests(context.home.requests):
        if isinstance(request, BadRequest):
            _set_aside(context, request)
            continue
        if not context.store.answered(request.id):
            _carry_out(context, request)
            fault_points.at("process_requests.after_commit")
        # Removed after the commit: a kill in between makes the next tick find the answer and only
        # remove the file.
        path.unlink(missing_ok=True)


def _carry_out(context: TickContext, request: Request) -> None:
    """Carry out a request, and record its answer or its refusal in the same commit."""
    try:
        with context.store.writing():
            answer = _handler(request)(context, request.args)
            context.store.record_answer(request, answer)
            fault_points.at("process_requests.before_commit")
    except Blocked:  # the disk's or a lock's fault, not the request's
        raise
    except Exception as refused:
        what = refused.what if isinstance(refused, WorkbenchError) else _words(refused)
        hint = refused.hint if isinstance(refused, WorkbenchError) else ""
        with context.store.writing():
            answer = RequestAnswer(ok=False, text=what, hint=hint, data=_exit(refused))
            context.store.record_answer(request, answer)
            context.store.note("refused", f"{request.verb}: {safe_line(what)}", level="warning")


def _words(refused: Exception) -> str:
    return f"{type(refused).__name__}: {safe_line(refused)}"


def _exit(refused: Exception) -> dict[str, Any]:
    return {"exit_code": refused.exit_code if isinstance(refused, WorkbenchError) else 1}


def _set_aside(context: TickContext, bad: BadRequest) -> None:
    folder = context.home.requests / "bad"
    try:
        folder.mkdir(exist_ok=True)
        bad.path.rename(folder / bad.path.name)
    except OSError:  # gone meanwhile, or not ours to move
        return
    context.store.note(
        "refused",
        f"a request that could not be read was moved to requests/bad: {safe_line(bad.error)}",
        level="warning",
    )


def _handler(request: Request) -> Handler:
    """Return the handler of the request; UsageError where this version knows none."""
    if request.verb not in HANDLERS:
        raise UsageError(
            f"the engine does not know {safe_line(request.verb, 40)}",
            hint="restart it after an upgrade: workbench engine stop, then start",
        )
    return HANDLERS[request.verb]


HANDLERS: dict[str, Handler] = {
    "submit": creation.submit_recipe,
    "clone": creation.clone_trial,
    "extend": creation.extend_trial,
    "add": creation.add_trials,
    "evaluate": evaluation.evaluate_adapters,
    "finals": finals.run_finals,
    "chat": chat.open_chat,
    "stop": trials.stop_trial,
    "kill": trials.kill_trial,
    "pause": trials.pause_trial,
    "resume": trials.resume_trial,
    "stop-experiment": experiments.stop_experiment,
    "kill-experiment": experiments.kill_experiment,
    "pause-experiment": experiments.pause_experiment,
    "resume-experiment": experiments.resume_experiment,
    "order": trials.reorder_trial,
    "move": trials.move_trial,
    "priority": queue.set_priority,
    "max-parallel": queue.set_max_parallel,
    "hold": queue.hold_queue,
    "release": queue.release_queue,
    "drain": cards.drain_card,
    "undrain": cards.undrain_card,
    "engine-stop": engine.stop_engine,
    "engine-start": engine.start_engine,
}
"""Name of a request → its handler. The names are part of the request format."""

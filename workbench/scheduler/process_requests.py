"""Write down what people want, and answer them: one commit a request, then its file goes."""

from __future__ import annotations

from typing import Any

from workbench import fault_points
from workbench.errors import UsageError, WorkbenchError
from workbench.scheduler.handlers import Verb, cards, creation, engine, queue, trials
from workbench.scheduler.tick_context import TickContext
from workbench.store import Blocked
from workbench.store.requests import BadRequest, Request, scan
from workbench.store.rows import Answer
from workbench.text import safe_line


def process_requests(context: TickContext) -> None:
    """Exactly once, however often a request comes and wherever we are killed."""
    for path, request in scan(context.home.requests):
        if isinstance(request, BadRequest):
            _set_aside(context, request)
            continue
        if not context.store.answered(request.id):
            _carry_out(context, request)
            fault_points.at("process_requests.after_commit")
        path.unlink(missing_ok=True)


def _carry_out(context: TickContext, request: Request) -> None:
    try:
        with context.store.writing():
            answer = _verb(request)(context, request.args)
            context.store.record_answer(request, answer)
            fault_points.at("process_requests.before_commit")
    except Blocked:  # the disk's or a lock's fault, not the request's
        raise
    except Exception as refused:
        what = refused.what if isinstance(refused, WorkbenchError) else _words(refused)
        hint = refused.hint if isinstance(refused, WorkbenchError) else ""
        with context.store.writing():
            answer = Answer(ok=False, text=what, hint=hint, data=_exit(refused))
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


def _verb(request: Request) -> Verb:
    if request.verb not in VERBS:
        raise UsageError(
            f"the engine does not know {safe_line(request.verb, 40)}",
            hint="restart it after an upgrade: workbench engine stop, then start",
        )
    return VERBS[request.verb]


VERBS: dict[str, Verb] = {
    "submit": creation.submit,
    "clone": creation.clone,
    "extend": creation.extend,
    "add": creation.add,
    "stop": trials.stop,
    "kill": trials.kill,
    "pause": trials.pause,
    "resume": trials.resume,
    "order": trials.order,
    "move": trials.move,
    "priority": queue.priority,
    "max-parallel": queue.max_parallel,
    "hold": queue.hold,
    "release": queue.release,
    "drain": cards.drain,
    "undrain": cards.undrain,
    "engine-stop": engine.stop,
    "engine-start": engine.start,
}

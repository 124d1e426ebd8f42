"""Write down what people want, and answer them: one commit a request, then its file goes."""

from __future__ import annotations

from typing import Any

from workbench import faults
from workbench.errors import UsageError, WorkbenchError
from workbench.scheduler.desk import Desk
from workbench.scheduler.verbs import Verb, cards, engine, making, queue, trials
from workbench.store import Blocked
from workbench.store.requests import BadRequest, Request, scan
from workbench.store.rows import Answer
from workbench.text import safe_line


def obey(desk: Desk) -> None:
    """Exactly once, however often a request comes and wherever we are killed."""
    for path, request in scan(desk.home.requests):
        if isinstance(request, BadRequest):
            _set_aside(desk, request)
            continue
        if not desk.store.answered(request.id):
            _carry_out(desk, request)
            faults.at("obey.after_commit")
        path.unlink(missing_ok=True)


def _carry_out(desk: Desk, request: Request) -> None:
    try:
        with desk.store.writing():
            answer = _verb(request)(desk, request.args)
            desk.store.record_answer(request, answer)
            faults.at("obey.before_commit")
    except Blocked:  # the disk's or a lock's fault, not the request's
        raise
    except Exception as refused:
        what = refused.what if isinstance(refused, WorkbenchError) else _words(refused)
        mend = refused.mend if isinstance(refused, WorkbenchError) else ""
        with desk.store.writing():
            answer = Answer(ok=False, text=what, mend=mend, data=_exit(refused))
            desk.store.record_answer(request, answer)
            desk.store.note("refused", f"{request.verb}: {safe_line(what)}", level="warning")


def _words(refused: Exception) -> str:
    return f"{type(refused).__name__}: {safe_line(refused)}"


def _exit(refused: Exception) -> dict[str, Any]:
    return {"exit_code": refused.exit_code if isinstance(refused, WorkbenchError) else 1}


def _set_aside(desk: Desk, bad: BadRequest) -> None:
    folder = desk.home.requests / "bad"
    try:
        folder.mkdir(exist_ok=True)
        bad.path.rename(folder / bad.path.name)
    except OSError:  # gone meanwhile, or not ours to move
        return
    desk.store.note(
        "refused",
        f"a request that could not be read was moved to requests/bad: {safe_line(bad.error)}",
        level="warning",
    )


def _verb(request: Request) -> Verb:
    if request.verb not in VERBS:
        raise UsageError(
            f"the engine does not know {safe_line(request.verb, 40)}",
            mend="restart it after an upgrade: workbench engine stop, then start",
        )
    return VERBS[request.verb]


VERBS: dict[str, Verb] = {
    "submit": making.submit,
    "clone": making.clone,
    "extend": making.extend,
    "add": making.add,
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

"""Write down what people want, and answer them: one commit a request, then its file goes."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from pydantic import ValidationError

from workbench import faults
from workbench.errors import NotThere, UsageError, WorkbenchError
from workbench.files import fresh_folder, sync, write_durably
from workbench.recipe import Recipe
from workbench.scheduler.desk import STOPPING, Desk
from workbench.store import Blocked
from workbench.store.requests import BadRequest, Request, scan
from workbench.store.rows import Answer, TrialRow
from workbench.text import safe_line
from workbench.trial import State, Wanted


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


def _verb(request: Request) -> Callable[[Desk, dict[str, Any]], Answer]:
    if request.verb not in VERBS:
        raise UsageError(
            f"the engine does not know {safe_line(request.verb, 40)}",
            mend="restart it after an upgrade: workbench engine stop, then start",
        )
    return VERBS[request.verb]


def _done(text: str, **data: Any) -> Answer:
    return Answer(ok=True, text=text, mend="", data=data)


def _submit(desk: Desk, args: dict[str, Any]) -> Answer:
    try:
        recipe = Recipe.model_validate_json(json.dumps(args["recipe"]))
    except ValidationError as wrong:
        raise UsageError(f"the recipe is not valid: {wrong.errors()[0]['msg']}") from wrong
    id = desk.store.add_experiment(recipe.model_dump(mode="json"), recipe.rank_by)
    name = desk.store.experiment(id).name
    folder = fresh_folder(desk.home.experiment(id))
    write_durably(folder / "recipe.json", recipe.model_dump_json(indent=2).encode())
    sync(folder.parent)  # else the row may outlive the folder when the power goes
    desk.store.note("submitted", f"experiment {name} was submitted", experiment=id)
    return _done(f"experiment {name} is being prepared", experiment=id, name=name)


def _live(desk: Desk, args: dict[str, Any]) -> TrialRow:
    trial = desk.store.trial(int(args["trial"]))
    if trial.state.final:
        raise UsageError(
            f"trial {trial.id} is {trial.state} already",
            mend="its adapter stands on the board" if trial.score is not None else "",
        )
    return trial


def _where(trial: TrialRow) -> str:
    steps = f"step {trial.step}" + (f" of {trial.total_steps}" if trial.total_steps else "")
    return f"trial {trial.id} ({trial.state}, {steps})"


def _stop(desk: Desk, args: dict[str, Any]) -> Answer:
    trial = _live(desk, args)
    desk.store.wish(trial.id, Wanted.STOP)
    if trial.state.live:
        then = "ends at its next step; what it has learned is scored and kept as its adapter"
    elif trial.checkpoint_step:
        then = f"its checkpoint of step {trial.checkpoint_step} is scored and kept as its adapter"
    else:
        then = "ends now; it has no checkpoint, so there is nothing to keep"
    return _done(f"{_where(trial)}: {then}", trial=trial.id)


def _kill(desk: Desk, args: dict[str, Any]) -> Answer:
    trial = _live(desk, args)
    desk.store.wish(trial.id, Wanted.KILL)
    return _done(f"{_where(trial)}: is killed now; nothing is scored or kept", trial=trial.id)


def _pause(desk: Desk, args: dict[str, Any]) -> Answer:
    trial = _live(desk, args)
    desk.store.wish(trial.id, Wanted.PAUSE)
    then = "checkpoints at its next step and gives its card back"
    if not trial.state.live:
        then = "is paused; it takes no card until it is resumed"
    return _done(f"{_where(trial)}: {then}", trial=trial.id)


def _resume(desk: Desk, args: dict[str, Any]) -> Answer:
    trial = _live(desk, args)
    desk.store.wish(trial.id, Wanted.RUN)
    if trial.state is not State.PAUSED:
        return _done(f"{_where(trial)}: goes on", trial=trial.id)
    since = f"from step {trial.checkpoint_step}" if trial.checkpoint_step else "from its start"
    return _done(f"{_where(trial)}: goes on {since} as soon as a card is free", trial=trial.id)


def _release_card(desk: Desk, args: dict[str, Any]) -> Answer:
    card = next((c for c in desk.store.cards() if c.uuid.startswith(str(args["card"]))), None)
    if card is None:
        known = ", ".join(c.uuid for c in desk.store.cards()) or "none"
        raise NotThere(
            f"there is no card {safe_line(args['card'], 60)}", mend=f"there are: {known}"
        )
    desk.store.quarantine(card.uuid, "")
    return _done(f"card {card.uuid} takes trials again", card=card.uuid)


def _engine_stop(desk: Desk, args: dict[str, Any]) -> Answer:
    desk.store.set_fact(STOPPING, str(desk.store.clock()))
    live = len(desk.store.live_attempts())
    what = f"{live} running trials checkpoint first" if live else "nothing is running"
    return _done(f"the engine stops; {what}")


VERBS: dict[str, Callable[[Desk, dict[str, Any]], Answer]] = {
    "submit": _submit,
    "stop": _stop,
    "kill": _kill,
    "pause": _pause,
    "resume": _resume,
    "release-card": _release_card,
    "engine-stop": _engine_stop,
}

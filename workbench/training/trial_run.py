"""One attempt of one trial, from its assignment to its end event."""

from __future__ import annotations

import gc
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from workbench.assignment import Assignment
from workbench.errors import Diverged
from workbench.events import EventWriter, Outcome
from workbench.machine.cards import Card
from workbench.redact import redact
from workbench.training import failure, libraries
from workbench.training.attempt import Attempt, End
from workbench.training.card_memory import Meter
from workbench.training.control import Control, Emit
from workbench.training.host_memory import Host, trim
from workbench.training.model.base import Resident


def run(
    assignment: Assignment,
    *,
    resident: Resident,
    meter: Meter,
    emit: Emit,
    control: Control,
    generation: int = 0,
    rehearse: bool | None = None,
    host: Host | None = None,
) -> Outcome:
    """Run the attempt; every way it can go ends in one durable end event, and its outcome here.

    Only failure.CardLost is raised, without an end event: the attempt was lost, not failed.
    """
    try:
        with libraries.warnings_as_events(emit):
            end = Attempt(  # unnamed: what it holds must be gone when memory is given back
                assignment, resident, meter, emit, control, generation, rehearse, host
            ).run()
    except Exception as error:
        _keep_traceback(Path(assignment.folder), error)
        if assignment.card["kind"] == "cuda" and failure.is_poisoned(error):
            lost = "the card's context broke; see traceback.txt in the attempt's folder"
            raise failure.CardLost(lost, hint="it is tried again in a new process") from error
        end = _failed(error, assignment, control, meter)
        _forget_frames(error)
        if end.cause == "out_of_memory":  # the next attempt begins on an emptied card
            resident.release()
        gc.collect()
    if control.short_of_memory:
        resident.release()
        trim()
    meter.release()
    emit(
        "end",
        durable=True,
        outcome=end.outcome.value,
        step=end.step,
        reason=end.reason,
        hint=end.hint,
        cause=end.cause,
        stage=end.stage,
    )
    return end.outcome


def _failed(error: Exception, given: Assignment, control: Control, meter: Meter) -> End:
    when = control.stage if control.step is None else f"{control.stage} at step {control.step}"
    found = failure.classify(
        error,
        folder=Path(given.trial_folder),
        predicted_bytes=int(given.plan["predicted_bytes"]),
        peak_bytes=meter.peak_bytes(),
        when=when,
    )
    return End(
        outcome=Outcome.DIVERGED if isinstance(error, Diverged) else Outcome.FAILED,
        step=control.step,
        reason=found.reason,
        hint=found.hint,
        cause=found.cause,
        stage=control.stage,
    )


def run_foreground(
    assignment: Assignment,
    on_event: Callable[[str, dict[str, Any]], None],
    control: Control | None = None,
) -> Outcome:
    """One attempt in this process and thread, without Ray; events to the file and to `on_event`.

    `control.ask` may be called from a signal handler or another thread.
    """
    card = Card.from_json(assignment.card)
    libraries.warm(threads=1 if card.kind == "cpu" else None)
    writer = EventWriter(Path(assignment.folder) / "events.jsonl")

    def emit(kind: str, *, durable: bool = False, **data: Any) -> None:
        writer.write(kind, durable=durable, **data)
        on_event(kind, data)

    try:
        return run(
            assignment,
            resident=Resident(),
            meter=Meter(card),
            emit=emit,
            control=control or Control(),
        )
    finally:
        writer.close()


def _keep_traceback(folder: Path, error: BaseException) -> None:
    text = redact("".join(traceback.format_exception(error)))
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "traceback.txt").write_text(text, encoding="utf-8")


def _forget_frames(error: BaseException | None) -> None:
    """Frames of an exception hold the tensors it was raised among."""
    while error is not None:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__

"""One attempt of one trial, from its assignment to its end event."""

from __future__ import annotations

import gc
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from workbench.attempts.assignment import Assignment
from workbench.attempts.events import AttemptEnd, EventWriter, FailureCause, Outcome
from workbench.errors import Diverged
from workbench.fleet.trial_fence import Superseded
from workbench.machine.cards import Card
from workbench.machine.resources import release_free_memory
from workbench.text.redact import redact
from workbench.training import failure, libraries
from workbench.training.attempt import AttemptRun
from workbench.training.control import Control, Emit
from workbench.training.memory.card_memory import Meter
from workbench.training.memory.host_memory import MemoryMonitor
from workbench.training.model.base import ResidentBase


def run_attempt(
    assignment: Assignment,
    *,
    resident: ResidentBase,
    meter: Meter,
    emit: Emit,
    control: Control,
    generation: int = 0,
    rehearse: bool | None = None,
    host: MemoryMonitor | None = None,
) -> Outcome:
    """Run the attempt, write its one durable end event and return its outcome.

    Every failure becomes an end event too. Only failure.CardLost is raised, without an end event:
    a broken CUDA context says nothing about the trial, which is tried again in a new process.
    Superseded passes through: an attempt that was replaced writes nothing.
    """
    try:
        with libraries.warnings_as_events(emit):
            end = AttemptRun(  # without a name, so that its tensors can be freed below
                assignment, resident, meter, emit, control, generation, rehearse, host
            ).run()
    except Superseded:
        meter.release()
        raise
    except Exception as error:
        _keep_traceback(Path(assignment.folder), error)
        if assignment.card["kind"] == "cuda" and failure.is_poisoned(error):
            lost = "the card's context broke; see traceback.txt in the attempt's folder"
            raise failure.CardLost(lost, hint="it is tried again in a new process") from error
        end = _failed(error, assignment, control, meter)
        _forget_frames(error)
        if end.cause in (FailureCause.OUT_OF_MEMORY, FailureCause.CARD_MEMORY):
            # The next attempt needs an empty card.
            resident.release()
        gc.collect()
    if end.outcome is Outcome.YIELDED:  # the card is asked for
        resident.keeper.release()
    if control.short_of_memory:
        resident.release()
        release_free_memory()
    peak = meter.peak_bytes()
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
        peak_bytes=peak,
    )
    return end.outcome


def _failed(error: Exception, given: Assignment, control: Control, meter: Meter) -> AttemptEnd:
    when = control.stage if control.step is None else f"{control.stage} at step {control.step}"
    found = failure.classify(
        error,
        folder=Path(given.trial_folder),
        predicted_bytes=int(given.plan["predicted_bytes"]),
        peak_bytes=meter.peak_bytes(),
        room_bytes=meter.room_bytes() if failure.is_out_of_memory(error) else None,
        when=when,
    )
    return AttemptEnd(
        outcome=Outcome.DIVERGED if isinstance(error, Diverged) else Outcome.FAILED,
        step=control.step or 0,
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
    """Run one attempt in this process and thread, without Ray, and return its outcome.

    Events go to the attempt's file and to `on_event`. `control.request_halt` may be called from a
    signal handler or another thread.
    """
    card = Card.from_json(assignment.card)
    libraries.import_libraries(threads=1 if card.kind == "cpu" else None)
    writer = EventWriter(Path(assignment.folder) / "events.jsonl")

    one_at_a_time = threading.Lock()  # checkpoints are reported from the thread that writes them

    def emit(kind: str, *, durable: bool = False, **data: Any) -> None:
        writer.write(kind, durable=durable, **data)
        with one_at_a_time:
            on_event(kind, data)

    try:
        return run_attempt(
            assignment,
            resident=ResidentBase(),
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
    """Remove the tracebacks of the chain: their frames keep tensors alive."""
    while error is not None:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__

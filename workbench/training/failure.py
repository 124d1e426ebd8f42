"""Classification of failed attempts: a cause, the reason in words, and a hint what to do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from workbench.attempts.events import FailureCause
from workbench.errors import (
    CheckpointError,
    DataError,
    Diverged,
    DoesNotFit,
    EngineError,
    HostMemory,
    ModelError,
    RecipeError,
    WorkbenchError,
)
from workbench.machine.files import disk_is_full, is_full_disk
from workbench.machine.packages import PackageProblem, package_problems
from workbench.text import safe_line

_NO_MEMORY = re.compile(
    r"out of memory|CUBLAS_STATUS_ALLOC_FAILED|DefaultCPUAllocator: can't allocate memory", re.I
)
_POISONED = re.compile(
    r"illegal memory access|unspecified launch failure|device-side assert|misaligned address"
    r"|CUDA error: (?!out of|CUBLAS_STATUS_ALLOC_FAILED"
    r"|operation failed due to a previous error during capture)"
    r"|CUDA driver error: (?!out of memory)|ECC error|Xid"
    r"|(CUDNN|CUBLAS|CUSOLVER)_STATUS_(NOT_INITIALIZED|INTERNAL_ERROR|EXECUTION_FAILED"
    r"|MAPPING_ERROR)",
    re.I,
)
"""Messages after which a CUDA context is unusable. cuBLAS and cuDNN belong here: when their first
call finds no memory they report "not initialised", and keep reporting it."""


TAKEN_BYTES = 512 << 20
"""By how many bytes less than predicted a card must offer to call it other programs' doing. A CUDA
context may be so much larger than a plan assumes."""


class CardLost(EngineError):
    """The CUDA context is broken; this process can run nothing on the card again."""


def diverged(how: str) -> Diverged:
    """Return the error "the loss `how`" with the usual hint."""
    return Diverged(
        f"the loss {how}",
        hint="lower train.learning_rate, raise train.warmup, or look at the rows with "
        "`workbench check`",
    )


@dataclass(frozen=True, slots=True)
class Failure:
    """The classified failure of an attempt."""

    cause: FailureCause
    reason: str
    hint: str


def is_poisoned(error: BaseException) -> bool:
    """Return True when the CUDA context is unusable, so that only a new process can go on."""
    return any(
        isinstance(one, RuntimeError) and _POISONED.search(str(one)) is not None
        for one in _chain(error)
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield the error and the errors it was raised from."""
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def is_out_of_memory(error: BaseException) -> bool:
    """Return True for CUDA's and Python's out-of-memory errors, also as a cause of `error`.

    Classes are compared by name, so that a caller need not import torch.
    """
    for one in _chain(error):
        names = {kind.__name__ for kind in type(one).__mro__}
        if names & {"OutOfMemoryError", "MemoryError"}:
            return True
        if isinstance(one, RuntimeError) and _NO_MEMORY.search(str(one)):
            return True
    return False


def is_disk_full(error: BaseException, folder: Path) -> bool:
    """Return True when `error` reports a full disk, or the disk of `folder` is full now.

    A WorkbenchError has its own words and is never taken for a full disk.
    """
    if is_full_disk(error):
        return True
    if isinstance(error, WorkbenchError):
        return False
    return disk_is_full(folder)


def classify(
    error: BaseException,
    *,
    folder: Path,
    predicted_bytes: int,
    peak_bytes: int | None = None,
    room_bytes: int | None = None,
    when: str = "",
) -> Failure:
    """Return the failure for `error` of an attempt whose trial lives in `folder`.

    `when` names the phase for the message, for example "training at step 7". `room_bytes` are what
    the process held of its card or could get when it failed; None where that is not known. A
    WorkbenchError keeps its words and hint; what nobody foresaw is a "bug", whose traceback lies in
    the attempt's folder.
    """
    if is_out_of_memory(error):
        what = f"out of memory{f' in {when}' if when else ''}"
        predicted = f"{predicted_bytes / 2**30:.1f} GiB predicted"
        if room_bytes is not None and room_bytes + TAKEN_BYTES < predicted_bytes:
            return Failure(
                FailureCause.CARD_MEMORY,
                f"{what}: other programs left {room_bytes / 2**30:.1f} GiB of the card, "
                f"{predicted}",
                "`workbench cards` names the programs on the card; end them, or drain the card",
            )
        taken = f"; {peak_bytes / 2**30:.1f} GiB were taken" if peak_bytes else ""
        return Failure(
            FailureCause.OUT_OF_MEMORY,
            f"{what}{taken}, {predicted}",
            "the trial is retried with fewer rows at a time; if that fails, lower data.max_tokens",
        )
    if is_disk_full(error, folder):
        return Failure(
            FailureCause.DISK_FULL,
            "the disk is full",
            "free space on the disk of the workbench's home, then retry the trial",
        )
    if isinstance(error, WorkbenchError):
        return Failure(_cause(error), safe_line(error.what), safe_line(error.hint))
    if problems := _package_problems(error):
        return Failure(
            FailureCause.MODEL,
            safe_line("; ".join(one.what for one in problems), 600),
            safe_line("; ".join(one.hint for one in problems), 400),
        )
    return Failure(
        FailureCause.BUG,
        f"{type(error).__name__}: {safe_line(error, 200)}",
        "the attempt's folder holds traceback.txt; please report it",
    )


def _package_problems(error: BaseException) -> list[PackageProblem]:
    """Return the packages that explain an import that failed; empty for every other error."""
    if not any(isinstance(one, ImportError) for one in _chain(error)):
        return []
    return [one for one in package_problems() if one.breaks]


def _cause(error: WorkbenchError) -> FailureCause:
    for kind, cause in (
        (RecipeError, FailureCause.RECIPE),
        (DoesNotFit, FailureCause.RECIPE),
        (DataError, FailureCause.DATA),
        (ModelError, FailureCause.MODEL),
        (CheckpointError, FailureCause.RECIPE),
        (Diverged, FailureCause.RECIPE),
        (HostMemory, FailureCause.HOST_MEMORY),
    ):
        if isinstance(error, kind):
            return cause
    return FailureCause.BUG

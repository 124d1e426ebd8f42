"""Why an attempt failed, in words for the person: a cause, what happened, what mends it."""

from __future__ import annotations

import errno
import os
import re
from dataclasses import dataclass
from pathlib import Path

from workbench.errors import (
    CheckpointError,
    DataError,
    Diverged,
    EngineError,
    ModelError,
    RecipeError,
    WorkbenchError,
)
from workbench.text import safe_line

FULL_BYTES = 64 << 20
"""A disk with less is full: torch.save reports a full disk as a failed assertion."""
_NO_MEMORY = re.compile(
    r"out of memory|CUBLAS_STATUS_ALLOC_FAILED|DefaultCPUAllocator: can't allocate memory", re.I
)
_POISONED = re.compile(
    r"illegal memory access|unspecified launch failure|device-side assert|CUDA error: (?!out of)"
    r"|misaligned address|CUDNN_STATUS_EXECUTION_FAILED|CUBLAS_STATUS_EXECUTION_FAILED|Xid",
    re.I,
)


class CardLost(EngineError):
    """The CUDA context is no good any more; this process can run nothing on the card again."""


def diverged(when: str) -> Diverged:
    return Diverged(
        f"the loss became NaN or infinite {when}",
        mend="lower train.learning_rate, raise train.warmup, or look at the rows with "
        "`workbench check`",
    )


@dataclass(frozen=True, slots=True)
class Failure:
    cause: str
    """recipe, data, model, out_of_memory, disk_full or bug."""
    reason: str
    mend: str


def is_poisoned(error: BaseException) -> bool:
    """True when the card's context is beyond use: only a new process can go on."""
    return isinstance(error, RuntimeError) and bool(_POISONED.search(str(error)))


def is_out_of_memory(error: BaseException) -> bool:
    """Known by class name, so that torch need not be loaded to ask."""
    names = {kind.__name__ for kind in type(error).__mro__}
    if names & {"OutOfMemoryError", "MemoryError"}:
        return True
    return isinstance(error, RuntimeError) and bool(_NO_MEMORY.search(str(error)))


def is_disk_full(error: BaseException, folder: Path) -> bool:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    if isinstance(error, WorkbenchError):
        return False
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize < FULL_BYTES or (disk.f_files > 0 and disk.f_favail == 0)


def classify(error: BaseException, *, folder: Path, predicted_bytes: int) -> Failure:
    """The failure of an attempt whose trial lives in `folder`."""
    if is_out_of_memory(error):
        return Failure(
            "out_of_memory",
            f"out of memory; the plan had predicted {predicted_bytes / 2**30:.1f} GiB",
            "it is tried again with a smaller micro-step; else lower data.max_tokens",
        )
    if is_disk_full(error, folder):
        return Failure(
            "disk_full",
            "the disk is full",
            "free space on the disk of the workbench's home, then retry the trial",
        )
    if isinstance(error, WorkbenchError):
        return Failure(_cause(error), safe_line(error.what), safe_line(error.mend))
    return Failure(
        "bug",
        f"{type(error).__name__}: {safe_line(error, 200)}",
        "the attempt's folder holds traceback.txt; please report it",
    )


def _cause(error: WorkbenchError) -> str:
    for kind, cause in (
        (RecipeError, "recipe"),
        (DataError, "data"),
        (ModelError, "model"),
        (CheckpointError, "recipe"),
        (Diverged, "recipe"),
    ):
        if isinstance(error, kind):
            return cause
    return "bug"

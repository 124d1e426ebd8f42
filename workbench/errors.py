"""Every error a person can meet: what happened, and what mends it.

WorkbenchError (1)
├── UsageError (2)          the command line asked for something that cannot be
│   └── RecipeError (2)     one or more mistakes in a recipe, all told at once
├── NotThere (3)            no such trial, experiment, card, recipe
├── DataError (1)           rows that cannot be trained on
├── ModelError (1)          a model that cannot be had or loaded
├── DoesNotFit (1)          more bytes than a card, or the machine, has
├── HostMemory (1)          the machine has too little memory left for now
├── EngineError (1)         the engine, its home, its lock
├── StoreError (1)          the database
│   ├── IllegalMove (1)     a trial was not where its move starts
│   └── DatabaseDamaged (1) it lost rows, or cannot be read: `workbench repair`
├── Diverged (1)            the loss or the gradient is no number any more
└── CheckpointError (1)     a checkpoint that does not verify or does not belong here
"""

from __future__ import annotations


class WorkbenchError(Exception):
    """What happened, and in `mend` what to do about it; `exit_code` is the command's."""

    exit_code = 1

    def __init__(self, what: str, *, hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.what, self.hint))


def _rebuild(kind: type[WorkbenchError], what: str, hint: str) -> WorkbenchError:
    return kind(what, hint=hint)


class UsageError(WorkbenchError):
    exit_code = 2


class RecipeError(UsageError):
    """`what` holds one line per mistake, each `file:line: …`."""


class NotThere(WorkbenchError):
    exit_code = 3


class DataError(WorkbenchError):
    pass


class ModelError(WorkbenchError):
    pass


class DoesNotFit(WorkbenchError):
    pass


class EngineError(WorkbenchError):
    pass


class StoreError(WorkbenchError):
    pass


class IllegalMove(StoreError):
    pass


class DatabaseDamaged(StoreError):
    pass


class CheckpointError(WorkbenchError):
    pass


class Diverged(WorkbenchError):
    """The loss or the gradient is no number any more; no adapter was touched by it."""


class HostMemory(WorkbenchError):
    """The machine itself has too little memory left for now."""

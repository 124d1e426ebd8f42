"""Every error that is shown to a person: what happened, and a hint that says what to do.

The numbers are exit codes of the command line.

WorkbenchError (1)
├── UsageError (2)          the command line asks for something impossible
│   └── RecipeError (2)     one or more mistakes in a recipe, all reported at once
├── NotThere (3)            no such trial, experiment, card or recipe
├── DataError (1)           rows that cannot be trained on
├── ModelError (1)          a model that cannot be downloaded or loaded
├── DoesNotFit (1)          more bytes are needed than the card, or the machine, has
├── HostMemory (1)          the machine's own memory is too full for the moment
├── EngineError (1)         the engine, its home, its lock
├── StoreError (1)          the database
│   ├── IllegalMove (1)     a trial was not in the state where its move starts
│   └── DatabaseDamaged (1) rows are lost or the file cannot be read: `workbench repair`
├── Diverged (1)            the loss or the gradient is no longer finite
└── CheckpointError (1)     a checkpoint fails verification or belongs to another trial
"""

from __future__ import annotations


class WorkbenchError(Exception):
    """The base of all errors for people: `what` happened, and in `hint` what to do about it.

    Such an error is shown without a traceback; `exit_code` is the exit code of the command.
    """

    exit_code = 1

    def __init__(self, what: str, *, hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint

    def __reduce__(self) -> tuple[object, ...]:
        # Errors cross processes; pickle would call the class without the keyword `hint`.
        return (_rebuild, (type(self), self.what, self.hint))


def _rebuild(kind: type[WorkbenchError], what: str, hint: str) -> WorkbenchError:
    return kind(what, hint=hint)


class UsageError(WorkbenchError):
    """A command, argument or setting that makes no sense; nothing was changed."""

    exit_code = 2


class RecipeError(UsageError):
    """One or more mistakes in a recipe; `what` has one line for each, as `file:line: …`."""


class NotThere(WorkbenchError):
    """A thing that does not exist: a trial, an experiment, a card, a recipe."""

    exit_code = 3


class DataError(WorkbenchError):
    """Training or held-out rows that cannot be read or trained on."""


class ModelError(WorkbenchError):
    """A base model or tokenizer that cannot be downloaded, loaded or trained."""


class DoesNotFit(WorkbenchError):
    """A trial that needs more bytes than the card, or the machine, has in all."""


class EngineError(WorkbenchError):
    """A fault of the engine, its home or its lock."""


class StoreError(WorkbenchError):
    """A fault of the database."""


class IllegalMove(StoreError):
    """A move from a state in which the trial is not; most likely another process moved it first."""


class DatabaseDamaged(StoreError):
    """A database that lost rows or cannot be read; `workbench repair` rebuilds it."""


class CheckpointError(WorkbenchError):
    """A checkpoint that fails verification or belongs to another trial."""


class Diverged(WorkbenchError):
    """A loss or gradient that is no longer finite. No adapter was changed by it."""


class HostMemory(WorkbenchError):
    """A lack of the machine's own memory that may pass, unlike DoesNotFit."""

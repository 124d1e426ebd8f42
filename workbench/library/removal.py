"""Decides what may be removed: ended trials, and whole experiments that have ended."""

from __future__ import annotations

from collections.abc import Iterable

from workbench.adapters.subjects import ADAPTER, MODELS
from workbench.errors import UsageError
from workbench.home import Home
from workbench.library.marks import writing_library
from workbench.library.removed import RemovalRecord, read_records
from workbench.library.trash import finish_moves, move_to_trash
from workbench.library.usage import disk_bytes
from workbench.machine.locks import lock_holder
from workbench.store.reader import Reader
from workbench.store.rows import Experiment, TrialRow
from workbench.text import safe_line
from workbench.trial import FINAL, Kind, State

ATTEMPT_LOCK = "attempt.lock"
"""The file of a trial's folder that its worker locks while it may write; as in
`fleet.trial_fence`, which front ends must not import."""
UNFINISHED = frozenset(State) - FINAL


def plan_removal(home: Home, reader: Reader, word: str, now_utc: float) -> RemovalRecord:
    """Return what removing the trial with this id, or the experiment with this name, would do.

    Changes nothing. Raises NotThere for a word that names neither, and UsageError for something
    that still runs, that work in the queue needs, or that other results are compared with.
    """
    if word.isascii() and word.isdecimal():
        return _trial_removal(home, reader, reader.trial(int(word)), now_utc)
    return _experiment_removal(home, reader, reader.experiment(word), now_utc)


def remove_planned(home: Home, records: Iterable[RemovalRecord]) -> list[RemovalRecord]:
    """Move what the records name to the trash, each whole or not at all, and return them."""
    with writing_library(home):
        finish_moves(home)
        return [move_to_trash(home, record) for record in records]


def _trial_removal(home: Home, reader: Reader, trial: TrialRow, now_utc: float) -> RemovalRecord:
    if trial.kind is Kind.BASE:
        raise UsageError(
            f"trial {trial.id} scores the base, which the other trials are compared with",
            hint=f"remove the whole experiment: workbench rm {safe_line(trial.experiment_name)}",
        )
    finals = [one.id for one in reader.trials(trial.experiment) if one.finals_of == trial.id]
    if trial.finals_of is not None or finals:
        raise UsageError(
            f"trial {trial.id} belongs to finals, which are judged together",
            hint=f"remove the whole experiment: workbench rm {safe_line(trial.experiment_name)}",
        )
    _check_ended(home, reader, [trial])
    folders = _folders(home, reader, trial.id)
    return RemovalRecord(
        entry=_free_entry(home, f"trial-{trial.id}"),
        kind="trial",
        about=f"trial {trial.id} of {trial.experiment_name}",
        trials={trial.id: trial.created_utc},
        folders=tuple(folders),
        bytes=disk_bytes([home.root / name for name in folders]),
        removed_utc=now_utc,
    )


def _experiment_removal(
    home: Home, reader: Reader, experiment: Experiment, now_utc: float
) -> RemovalRecord:
    trials = reader.trials(experiment.id)
    if experiment.state == "preparing" or experiment.searching:
        raise UsageError(
            f"{safe_line(experiment.name)} has not ended",
            hint=f"end it first: workbench stop {safe_line(experiment.name)}",
        )
    _check_ended(home, reader, trials)
    # Another experiment on the same base and rows compares itself with this base's results.
    shared = {one.base_trial for one in reader.experiments() if one.id != experiment.id}
    gone = [trial for trial in trials if trial.id not in shared]
    folders = [f"experiments/{experiment.id}"]
    for trial in gone:
        folders += _folders(home, reader, trial.id)
    existing = [name for name in folders if (home.root / name).exists()]
    return RemovalRecord(
        entry=_free_entry(home, f"experiment-{experiment.id}"),
        kind="experiment",
        about=experiment.name,
        trials={trial.id: trial.created_utc for trial in gone},
        experiments={experiment.id: experiment.created_utc},
        folders=tuple(existing),
        bytes=disk_bytes([home.root / name for name in existing]),
        removed_utc=now_utc,
    )


def _folders(home: Home, reader: Reader, trial: int) -> list[str]:
    """Return the existing folders of a trial and its attempts, relative to the home."""
    known = [f"trials/{trial}", *(f"attempts/{one.id}" for one in reader.attempts(trial))]
    return [name for name in known if (home.root / name).exists()]


def _free_entry(home: Home, name: str) -> str:
    """Return the name, with a number behind it where a record has it: ids can come again."""
    taken = {one.entry for one in read_records(home)}
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name}.{number}"
    return free


def _check_ended(home: Home, reader: Reader, trials: Iterable[TrialRow]) -> None:
    """Raise UsageError unless all trials have ended and no unfinished trial needs one of them."""
    ids = {trial.id for trial in trials}
    for trial in trials:
        if not trial.state.final:
            raise UsageError(
                f"trial {trial.id} is {trial.state}",
                hint=f"end it first: workbench stop {trial.id}",
            )
        if lock_holder(home.trial(trial.id) / ATTEMPT_LOCK) is not None:
            raise UsageError(
                f"the worker of trial {trial.id} is still writing", hint="try again in a moment"
            )
    for waiting in reader.trials(states=UNFINISHED):
        models = waiting.settings.get(MODELS) or ()
        needed = ids & {waiting.warm_trial, waiting.settings.get(ADAPTER), *models}
        if needed and waiting.id not in ids:
            raise UsageError(
                f"trial {waiting.id} is {waiting.state} and needs trial {min(needed)}",
                hint=f"wait until it has ended, or end it: workbench stop {waiting.id}",
            )

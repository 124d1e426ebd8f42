"""Finals: once a sweep has ended, its best settings are trained again with other seeds.

Their trials are ordinary tuned trials of the same experiment, with the column `finals_of`. They are
added in one commit with the note that they have begun, so a loop that is killed at any line begins
them once. The verdict on them is `verdict.finals`' and is made by whoever shows it.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator, Sequence

from workbench import fault_points
from workbench.formatting import plural
from workbench.scheduler.tick_context import TickContext
from workbench.store.board import rank_adapters
from workbench.store.queries import sweep_progress
from workbench.store.queries.sweep_progress import FinalsRequest
from workbench.store.rows import Experiment, TrialRow
from workbench.trial import Kind, State

SEED = "train.seed"
"""The only setting in which a trial of finals differs from its finalist."""


def propose_finals(context: TickContext) -> None:
    """Begin the finals of every experiment whose sweep has just ended."""
    for experiment in sweep_progress.swept_experiments(context.store):
        finals = sweep_progress.requested_finals(context.store, experiment)
        if finals is not None:
            begin_finals(context, experiment, finals)
            fault_points.at("propose_finals.after_commit")


def finals_are_due(context: TickContext, experiment: Experiment) -> bool:
    """Return True where the experiment has not ended yet, because it is still to begin finals."""
    if experiment.state != "ready":
        return False
    return sweep_progress.requested_finals(context.store, experiment) is not None


def begin_finals(
    context: TickContext, experiment: Experiment, finals: FinalsRequest
) -> dict[int, list[int]]:
    """Add what is missing of the finals; return the ids of new trials by finalist, best first.

    Trials that a person stopped do not count as trained; those that failed do, because the seed
    was to blame, and a score is an average over all seeds. Every finalist is a key, also one that
    lacks nothing.
    """
    trials = [t for t in context.store.trials(experiment.id) if t.kind is Kind.TUNE]
    finalists = choose_finalists(context, experiment, trials, finals.top)
    used = {_seed(trial, experiment) for trial in trials} | {_own_seed(experiment)}
    added: dict[int, list[int]] = {}
    with context.store.writing():
        for finalist in finalists:
            trained = [
                t for t in trials if t.finals_of == finalist.id and t.state is not State.STOPPED
            ]
            seeds = itertools.islice(
                _new_seeds(experiment, finalist, used), max(0, finals.seeds - len(trained))
            )
            added[finalist.id] = [
                context.add_trial(
                    experiment.id,
                    Kind.TUNE,
                    {**finalist.settings, SEED: seed},
                    warm_trial=finalist.warm_trial,
                    finals_of=finalist.id,
                )
                for seed in seeds
            ]
        sweep_progress.request_finals(context.store, experiment.id, None)
        text = f"experiment {experiment.name}: {describe_beginning(added)}"
        level = "info" if finalists else "warning"
        context.store.note("finals", text, level=level, experiment=experiment.id)
        fault_points.at("propose_finals.before_commit")
    return added


def describe_beginning(added: dict[int, list[int]]) -> str:
    """Return in words what begins: `finals of trials 5, 4 begin: 6 trials with new seeds`."""
    if not added:
        return "no finals, because no trial has finished with a score"
    which = ", ".join(str(id) for id in added)
    of = f"finals of trial{'' if len(added) == 1 else 's'} {which}"
    count = sum(len(ids) for ids in added.values())
    return f"{of} begin: {plural(count, 'trial')} with new seeds" if count else f"{of} lack nothing"


def choose_finalists(
    context: TickContext, experiment: Experiment, trials: Sequence[TrialRow], top: int
) -> list[TrialRow]:
    """Return the best `top` finished trials by the board's score, the best first.

    Trials that differ in their seed alone count as one. A trial that had finals already stands for
    its settings, so that asking again adds to the same finalist.
    """
    by_id = {trial.id: trial for trial in trials}
    before = {_settings_key(by_id[t.finals_of]): by_id[t.finals_of] for t in trials if t.finals_of}
    chosen: dict[str, TrialRow] = {}
    for row in rank_adapters(context.store, experiment, context.store.clock()):
        trial = by_id.get(row.trial)
        if trial is None or trial.finals_of or row.rank is None or trial.state is not State.DONE:
            continue
        key = _settings_key(trial)
        chosen.setdefault(key, before.get(key, trial))
        if len(chosen) == top:
            break
    return list(chosen.values())


def _settings_key(trial: TrialRow) -> str:
    apart = {key: value for key, value in trial.settings.items() if key != SEED}
    return json.dumps([apart, trial.warm_trial], sort_keys=True)


def _own_seed(experiment: Experiment) -> int:
    return int(experiment.recipe["train"]["seed"])


def _seed(trial: TrialRow, experiment: Experiment) -> int:
    return int(trial.settings.get(SEED, _own_seed(experiment)))


def _new_seeds(experiment: Experiment, finalist: TrialRow, used: set[int]) -> Iterator[int]:
    """Generate seeds that no trial had before, the same ones after a restart; `used` grows."""
    swept = experiment.recipe.get("sweep") or {}
    for n in itertools.count():
        # Seeds of two finalists are unrelated, because their noise is pooled as independent.
        dice = random.Random(f"{swept.get('seed', 0)}:finals:{finalist.number}:{n}")
        seed = dice.getrandbits(32)
        if seed not in used:
            used.add(seed)
            yield seed

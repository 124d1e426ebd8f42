"""The order of an experiment's trials on cards of unequal size.

A big trial has fewer cards to choose from, so it goes before the small ones that would take its
card; and a long trial goes before short ones, so that no card works alone at the end. `place` asks
for it; between experiments fair share decides as ever (`store/queries/fair_share.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from workbench.scheduler.plans.remembered_plans import PLANS_A_TICK, could_take, like_key
from workbench.scheduler.tick_context import TickContext
from workbench.store.rows import Experiment, TrialRow, card_of
from workbench.trial import Kind


def order_by_size(
    context: TickContext, queued: list[TrialRow], known: dict[int, Experiment]
) -> list[TrialRow]:
    """Return the queue as `big_trials_first` orders it, on cards of more than one size.

    It makes half of a tick's new plans at most. A trial whose plan is not made yet needs 0.
    """
    sizes = {
        card_of(row).usable_bytes: row
        for row in context.cards
        if row.present and not (row.drained or row.quarantined)
    }
    if len(sizes) < 2 or len(queued) < 2:
        return queued
    needs: dict[str, int] = {}
    enough = len(context.plans) + PLANS_A_TICK // 2

    def need(trial: TrialRow) -> int:
        like = like_key(trial)
        if like not in needs and len(context.plans) < enough:
            able = (
                size
                for size in sorted(sizes)
                if could_take(context, trial, known[trial.experiment], sizes[size])
            )
            needs[like] = next(able, 0)
        return needs.get(like, 0)

    return big_trials_first(queued, need, lambda one: tokens_left(one, known[one.experiment]))


def big_trials_first(
    queued: Sequence[TrialRow],
    need: Callable[[TrialRow], int],
    work: Callable[[TrialRow], float],
) -> list[TrialRow]:
    """Return the trials with those of each experiment by need, then by work, most first.

    `need` is the size of the smallest card that takes a trial, `work` how long it trains in any
    unit. Trials with equal values keep their order, and so does every trial that a person has
    moved or pinned to a card, and whatever does not train.
    """
    ordered = list(queued)
    slots: dict[int, list[int]] = {}
    for at, trial in enumerate(queued):
        if trial.kind == Kind.TUNE and trial.rank is None and trial.desired_card is None:
            slots.setdefault(trial.experiment, []).append(at)
    for places in slots.values():
        mine = sorted((queued[at] for at in places), key=lambda one: (-need(one), -work(one)))
        for at, trial in zip(places, mine, strict=True):
            ordered[at] = trial
    return ordered


def tokens_left(trial: TrialRow, experiment: Experiment) -> float:
    """Return about how many tokens the trial has still to train on.

    It compares trials of one experiment; their model and their rows are taken to be the same.
    """
    train = _settings(trial, experiment, "train")
    data = (experiment.prepared or {}).get("data") or {}
    per_step = int(train.get("batch_size", 1)) * int(train.get("accumulation", 1))
    rows = float(train.get("epochs", 1)) * float(data.get("train_rows") or 0)
    if steps := train.get("max_steps"):
        rows = float(steps) * per_step
    rows = max(0.0, rows - (trial.checkpoint_step or 0) * per_step)
    longest = float(_settings(trial, experiment, "data").get("max_tokens", 1))
    each = min(longest, float(data.get("mean_length") or longest))
    return rows * each


def _settings(trial: TrialRow, experiment: Experiment, section: str) -> Mapping[str, Any]:
    """Return a section of the experiment's recipe with the trial's own settings.

    It is read without validation, because hundreds of trials are compared in each tick.
    """
    named = f"{section}."
    own = {k.removeprefix(named): v for k, v in trial.settings.items() if k.startswith(named)}
    return {**experiment.recipe.get(section, {}), **own}

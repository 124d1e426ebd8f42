"""Queued trials onto free cards: in order, each on the smallest card that takes it."""

from __future__ import annotations

import json

from workbench.assignment import Assignment
from workbench.cards import Card
from workbench.errors import DoesNotFit, WorkbenchError
from workbench.files import write_durably
from workbench.fleet import Phase
from workbench.footprint import Plan, choose_plan
from workbench.recipe import Recipe, apply_settings
from workbench.scheduler.desk import BRAKE, CARDS_PROBLEM, Desk, assignment_file, card_of
from workbench.store.rows import CardRow, Experiment, TrialRow
from workbench.trial import Kind, State, Wanted

LOOK_AHEAD = 64
"""Queued trials looked at in one tick; more could not be placed anyway."""


def place(desk: Desk) -> None:
    hold = _hold(desk)
    if hold:
        desk.store.wait_all(hold)
        return
    free = {row.uuid: row for row in desk.cards if not _busy(desk, row)}
    running = desk.store.running_by_experiment()
    for trial in desk.store.queue(LOOK_AHEAD):
        experiment = desk.store.experiment(trial.experiment)
        limit = _limit(experiment)
        if limit and running.get(experiment.id, 0) >= limit:
            desk.store.wait_for(trial.id, f"its experiment runs {limit} at once at most")
            continue
        chosen = _choose(desk, trial, experiment, free)
        if chosen is not None:
            card, plan = chosen
            _start(desk, trial, experiment, card, plan)
            del free[card.uuid]
            running[experiment.id] = running.get(experiment.id, 0) + 1
    desk.store.wait_rest(LOOK_AHEAD, "waits its turn")


def _hold(desk: Desk) -> str:
    """Why nothing at all is placed now; empty when something may be."""
    if desk.stopping:
        return "the engine is stopping"
    brake = desk.store.fact(BRAKE)
    if brake:
        return brake
    if not any(row.present for row in desk.cards):
        return desk.store.fact(CARDS_PROBLEM) or "no card has been seen yet"
    return "" if desk.fleet_ready() else "Ray is starting"


def _limit(experiment: Experiment) -> int | None:
    sweep = experiment.recipe.get("sweep") or {}
    return sweep.get("max_parallel")


def _busy(desk: Desk, row: CardRow) -> str:
    """Why this card takes no trial now; empty when it does."""
    if not row.present:
        return "gone"
    if row.quarantined:
        return f"quarantined ({row.quarantined})"
    if row.drained:
        return "drained"
    if row.problem:
        return row.problem
    if row.trial is not None:
        return f"runs trial {row.trial}"
    report = desk.reports.get(row.uuid)
    if report is not None and report.phase in (Phase.BUSY, Phase.GONE):
        return "its worker is not free yet"
    return ""


def _choose(
    desk: Desk, trial: TrialRow, experiment: Experiment, free: dict[str, CardRow]
) -> tuple[Card, Plan] | None:
    """The smallest free card that takes it, with its plan; else what it waits for is noted."""
    misfit: WorkbenchError | None = None
    for row in sorted(free.values(), key=lambda r: (card_of(r).usable_bytes, r.uuid)):
        card = card_of(row)
        try:
            return card, _plan(desk, trial, experiment, card, _free_bytes(desk, row))
        except WorkbenchError as refused:
            misfit = refused
    able = [row for row in desk.cards if row.present and _ever(desk, trial, experiment, row)]
    if not able and misfit is not None:
        reason = _nowhere(desk, trial, experiment) or misfit
        desk.store.move(
            trial.id,
            State.QUEUED,
            State.FAILED,
            by="place",
            why=reason.what,
            reason=reason.what,
            mend=reason.mend,
        )
        return None
    reasons = "; ".join(f"{row.uuid} {_busy(desk, row) or 'has too little free'}" for row in able)
    desk.store.wait_for(trial.id, f"waits for a card: {reasons}" if reasons else "waits for a card")
    return None


def _ever(desk: Desk, trial: TrialRow, experiment: Experiment, row: CardRow) -> bool:
    """True when this card could take the trial if it were all its own."""
    try:
        _plan(desk, trial, experiment, card_of(row), None)
    except WorkbenchError:
        return False
    return True


def _nowhere(desk: Desk, trial: TrialRow, experiment: Experiment) -> WorkbenchError | None:
    """What the roomiest card says when asked for all of it."""
    rows = [row for row in desk.cards if row.present]
    roomiest = max(rows, key=lambda row: card_of(row).usable_bytes)
    try:
        _plan(desk, trial, experiment, card_of(roomiest), None)
    except WorkbenchError as reason:
        return reason
    return None


def _free_bytes(desk: Desk, row: CardRow) -> int | None:
    """What NVML says is free, plus what our own idle worker there gives back."""
    if row.kind != "cuda" or row.free_bytes is None:
        return None
    foreign = sum(int(process.get("bytes") or 0) for process in row.processes)
    if row.uuid in desk.reports:
        return max(row.free_bytes, row.total_bytes - foreign)
    return row.free_bytes


def trial_recipe(trial: TrialRow, experiment: Experiment) -> Recipe:
    """The experiment's recipe with what was resolved once and this trial's own settings."""
    recipe = Recipe.model_validate_json(json.dumps({**experiment.recipe, "sweep": None}))
    return apply_settings(recipe, {**experiment.resolved, **trial.settings})


def _plan(
    desk: Desk, trial: TrialRow, experiment: Experiment, card: Card, free_bytes: int | None
) -> Plan:
    """Remembered for each trial's settings, card and GiB of room. DoesNotFit or UsageError."""
    room = None if free_bytes is None else free_bytes >> 28
    key = (experiment.id, json.dumps(trial.settings, sort_keys=True), card, room)
    if key not in desk.plans:
        assert experiment.prepared is not None
        try:
            desk.plans[key] = choose_plan(
                trial_recipe(trial, experiment),
                experiment.prepared["model"]["config"],
                card,
                free_bytes=free_bytes,
            )
        except WorkbenchError as refused:
            desk.plans[key] = refused
    found = desk.plans[key]
    if isinstance(found, WorkbenchError):
        raise found
    assert isinstance(found, Plan)
    return found


def _start(desk: Desk, trial: TrialRow, experiment: Experiment, card: Card, plan: Plan) -> None:
    """Attempt, assignment and move in one commit; sending it is settle's to repeat."""
    store, home = desk.store, desk.home
    with store.writing():
        attempt = store.add_attempt(
            trial.id, card.uuid, plan.to_json(), plan.predicted_bytes, trial.checkpoint_step or 0
        )
        given = Assignment(
            attempt=attempt,
            trial=trial.id,
            experiment=experiment.id,
            kind=Kind(trial.kind),
            recipe=trial_recipe(trial, experiment).model_dump(mode="json"),
            card=card.to_json(),
            plan=plan.to_json(),
            folder=str(home.attempt(attempt)),
            trial_folder=str(home.trial(trial.id)),
            experiment_folder=str(home.experiment(experiment.id)),
            finish=trial.wanted is Wanted.STOP,
        )
        home.attempt(attempt).mkdir(parents=True, exist_ok=True)
        write_durably(assignment_file(home, attempt), json.dumps(given.to_json()).encode())
        why = f"fits {card.uuid} with {plan.predicted_bytes / 2**30:.1f} GiB"
        store.move(trial.id, State.QUEUED, State.STARTING, by="place", why=why)
    desk.fleet.start(card, given)


__all__ = ["DoesNotFit", "place", "trial_recipe"]

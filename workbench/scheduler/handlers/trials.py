"""Trials: stop, kill, pause, resume; which goes first; which card it goes to."""

from __future__ import annotations

from typing import Any

from workbench.errors import UsageError, WorkbenchError
from workbench.fleet import Halt
from workbench.scheduler.handlers import done
from workbench.scheduler.handlers.cards import find_card
from workbench.scheduler.place import trial_recipe
from workbench.scheduler.planning import check_fits
from workbench.scheduler.tick_context import TickContext
from workbench.store.fair_share import place_of
from workbench.store.rows import Answer, Attempt, CardRow, TrialRow, card_of
from workbench.text import safe_line
from workbench.trial import DesiredState, State


def unended(context: TickContext, args: dict[str, Any]) -> TrialRow:
    """The trial meant; UsageError when it has ended."""
    trial = context.store.trial(int(args["trial"]))
    if trial.state.final:
        hint = "its adapter stands on the board" if trial.score is not None else ""
        if trial.score is not None:
            hint += f"; `workbench extend {trial.id}` trains on from it"
        raise UsageError(f"trial {trial.id} is {trial.state} already", hint=hint)
    return trial


def where(trial: TrialRow) -> str:
    steps = f"step {trial.step}" + (f" of {trial.total_steps}" if trial.total_steps else "")
    return f"trial {trial.id} ({trial.state}, {steps})"


def live_attempt(context: TickContext, trial: int) -> Attempt | None:
    return next((a for a in context.store.live_attempts() if a.trial == trial), None)


def stop(context: TickContext, args: dict[str, Any]) -> Answer:
    trial = unended(context, args)
    context.store.set_desired_state(trial.id, DesiredState.STOP)
    if trial.state.live:
        then = "ends at its next step; what it has learned is scored and kept as its adapter"
    elif trial.checkpoint_step:
        then = f"its checkpoint of step {trial.checkpoint_step} is scored and kept as its adapter"
    else:
        then = "ends now; it has no checkpoint, so there is nothing to keep"
    return done(f"{where(trial)}: {then}", trial=trial.id)


def kill(context: TickContext, args: dict[str, Any]) -> Answer:
    trial = unended(context, args)
    context.store.set_desired_state(trial.id, DesiredState.KILL)
    return done(f"{where(trial)}: is killed now; nothing is scored or kept", trial=trial.id)


def pause(context: TickContext, args: dict[str, Any]) -> Answer:
    trial = unended(context, args)
    context.store.set_desired_state(trial.id, DesiredState.PAUSE)
    then = "checkpoints at its next step and gives its card back"
    if not trial.state.live:
        then = "is paused; it takes no card until it is resumed"
    return done(f"{where(trial)}: {then}", trial=trial.id)


def resume(context: TickContext, args: dict[str, Any]) -> Answer:
    """A worker that was asked to end cannot be told to go on: it yields, and is placed again."""
    trial = unended(context, args)
    context.store.set_desired_state(trial.id, DesiredState.RUN)
    attempt = live_attempt(context, trial.id)
    if trial.pruned:  # the next evaluation judges it again
        context.store.steer_trial(trial.id, pruned="")
    halted = attempt.halt if attempt is not None else None
    asked = attempt is not None and (
        halted is not None or trial.desired_state is not DesiredState.RUN
    )
    if asked and (halted == Halt.FINISH or trial.desired_state is DesiredState.STOP):
        then = (
            "was being stopped; it gives its card back at its next step instead, and goes on from "
            "there as soon as a card is free, unless it has been scored by then"
        )
    elif asked:
        then = (
            "was asked for its card; it checkpoints, and goes on from there as soon as one is free"
        )
    elif trial.state.live:
        then = "is at work already; nothing changes"
    elif trial.state is State.QUEUED:
        then = "waits for a card; nothing else holds it"
    else:
        since = f"from step {trial.checkpoint_step}" if trial.checkpoint_step else "from its start"
        then = f"goes on {since} as soon as a card is free"
    return done(f"{where(trial)}: {then}", trial=trial.id)


# --- which goes first ---


def order(context: TickContext, args: dict[str, Any]) -> Answer:
    """Front, up, down or back; a place in the queue, whatever else decides when a card is free."""
    trial, to = unended(context, args), str(args["to"])
    if trial.state is not State.QUEUED:
        raise UsageError(
            f"trial {trial.id} is {trial.state}; only what waits in the queue can change places",
            hint="see `workbench ls`",
        )
    if to == "front":
        context.store.to_front(trial.id)
        return done(
            f"trial {trial.id} is next: it takes the first card that is free and fits, before all "
            "others of its experiment's priority",
            trial=trial.id,
        )
    mine = sorted(context.store.trials(trial.experiment, frozenset({State.QUEUED})), key=place_of)
    at = [t.id for t in mine].index(trial.id)
    found = _between(mine, at, to)
    if found is None:
        edge = "first" if to == "up" else "last"
        return done(f"trial {trial.id} is the {edge} of its experiment already", trial=trial.id)
    rank, words = found
    context.store.steer_trial(trial.id, rank=rank)
    return done(f"trial {trial.id} goes {words}", trial=trial.id)


def _between(mine: list[TrialRow], at: int, to: str) -> tuple[float, str] | None:
    """Its new rank and the words for it; None when it stands there already."""
    if to == "up" and at > 0:
        before = mine[at - 1]
        low = place_of(mine[at - 2]) if at > 1 else place_of(before) - 1
        return (low + place_of(before)) / 2, f"before trial {before.id}"
    if to == "down" and at + 1 < len(mine):
        behind = mine[at + 1]
        high = place_of(mine[at + 2]) if at + 2 < len(mine) else place_of(behind) + 1
        return (place_of(behind) + high) / 2, f"behind trial {behind.id}"
    if to == "back" and at + 1 < len(mine):
        return place_of(mine[-1]) + 0.5, "behind all others of its experiment"
    if to not in ("up", "down", "back"):
        raise UsageError(f"{safe_line(to, 20)} is no place", hint="front, up, down or back")
    return None


# --- which card ---


def move(context: TickContext, args: dict[str, Any]) -> Answer:
    """Checkpoint, give the card back, go on on the named one; any card when it is named `any`."""
    trial = unended(context, args)
    attempt = live_attempt(context, trial.id)
    if args["card"] == "any":
        context.store.steer_trial(trial.id, desired_card=None)
        stays = attempt is not None and attempt.halt is None
        then = f"stays on {attempt.card}" if attempt and stays else "takes any card that is free"
        return done(f"{where(trial)}: {then}{'' if stays else ' and fits'}", trial=trial.id)
    card = find_card(context, args["card"])
    if attempt is not None and attempt.card == card.uuid:
        return done(f"{where(trial)}: is on {card.uuid} already", trial=trial.id, card=card.uuid)
    _check_takes(context, trial, card)
    context.store.steer_trial(trial.id, desired_card=card.uuid)
    context.store.to_front(trial.id)
    if attempt is not None:
        context.store.touch_attempt(attempt.id, halt=Halt.YIELD)
        then = f"checkpoints at its next step, and goes on on {card.uuid}"
    elif trial.state is State.PAUSED:
        return done(f"{where(trial)}: goes to {card.uuid} once it is resumed", trial=trial.id)
    else:
        then = f"goes to {card.uuid}"
    when = f"once that is free of trial {card.trial}" if card.trial else "now, if that is free"
    return done(f"{where(trial)}: {then} {when}", trial=trial.id, card=card.uuid)


def _check_takes(context: TickContext, trial: TrialRow, card: CardRow) -> None:
    """Raises what keeps the card from ever taking this trial, as things stand."""
    stands = "" if card.present else "is gone"
    stands = stands or ("is drained" if card.drained else "")
    stands = stands or (f"is quarantined ({card.quarantined})" if card.quarantined else "")
    if stands:
        raise UsageError(
            f"card {card.uuid} {stands}; trial {trial.id} stays where it is",
            hint=f"`workbench undrain {card.uuid}` lets it take trials again"
            if card.present
            else "see `workbench cards`",
        )
    experiment = context.store.experiment(trial.experiment)
    try:
        check_fits(trial_recipe(trial, experiment), experiment, card_of(card))
    except WorkbenchError as misfit:
        what = f"trial {trial.id} cannot go to {card.uuid}, so it stays where it is: {misfit.what}"
        raise type(misfit)(what, hint=misfit.hint) from misfit

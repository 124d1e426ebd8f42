"""Handlers for trials: stop, kill, pause, resume, order in the queue, choice of a card."""

from __future__ import annotations

from math import isfinite
from typing import Any

from workbench.errors import UsageError, WorkbenchError
from workbench.fleet import Halt
from workbench.scheduler.handlers import accepted
from workbench.scheduler.handlers.cards import find_card
from workbench.scheduler.plans.remembered_plans import remembered_plan
from workbench.scheduler.tick_context import TickContext
from workbench.store.queries.fair_share import queue_place
from workbench.store.rows import AttemptRow, CardRow, RequestAnswer, TrialRow, card_of
from workbench.store.score_trials import check_it_trains
from workbench.text import safe_line
from workbench.trial import DesiredState, Kind, State, outcome_word


def unended_trial(context: TickContext, args: dict[str, Any]) -> TrialRow:
    """Return the trial that the request names; UsageError when it has ended."""
    trial = context.store.trial(int(args["trial"]))
    if trial.state.final:
        tuned = trial.kind is Kind.TUNE
        hint = f"its {'adapter' if tuned else 'score'} stands on the board"
        hint = "" if trial.score is None else hint
        if trial.score is not None and tuned:
            hint += f"; `workbench extend {trial.id}` trains on from it"
        word = outcome_word(trial.state, trial.reason)
        raise UsageError(f"trial {trial.id} is {word} already", hint=hint)
    return trial


def tuned_trial(context: TickContext, trial: object) -> TrialRow:
    """Return the trial with that id; UsageError where it does not train an adapter."""
    found = context.store.trial(int(trial))  # type: ignore[call-overload]
    check_it_trains(found)
    return found


def trial_position(trial: TrialRow) -> str:
    """Return the trial's name, state and step for an answer."""
    steps = f"step {trial.step}" + (f" of {trial.total_steps}" if trial.total_steps else "")
    return f"trial {trial.id} ({trial.state}, {steps})"


def live_attempt(context: TickContext, trial: int) -> AttemptRow | None:
    """Return the trial's live attempt; None where it has none."""
    return next((a for a in context.store.live_attempts() if a.trial == trial), None)


def stop_trial(context: TickContext, args: dict[str, Any]) -> RequestAnswer:
    """End the trial; what it has learned is scored and kept."""
    trial = unended_trial(context, args)
    context.store.set_desired_state(trial.id, DesiredState.STOP)
    if trial.kind is Kind.CHAT:
        then = "the chat ends"
    elif trial.kind in (Kind.SCORE, Kind.BASE):
        then = "ends without a score"
    elif trial.state.live:
        then = "ends at its next step; what it has learned is scored and kept as its adapter"
    elif trial.checkpoint_step:
        then = f"its checkpoint of step {trial.checkpoint_step} is scored and kept as its adapter"
    else:
        then = "ends now; it has no checkpoint, so there is nothing to keep"
    return accepted(f"{trial_position(trial)}: {then}", trial=trial.id)


def kill_trial(context: TickContext, args: dict[str, Any]) -> RequestAnswer:
    """End the trial at once and keep nothing."""
    trial = unended_trial(context, args)
    context.store.set_desired_state(trial.id, DesiredState.KILL)
    return accepted(
        f"{trial_position(trial)}: is killed now; nothing is scored or kept", trial=trial.id
    )


def pause_trial(context: TickContext, args: dict[str, Any]) -> RequestAnswer:
    """Checkpoint the trial and give its card back until it is resumed."""
    trial = unended_trial(context, args)
    context.store.set_desired_state(trial.id, DesiredState.PAUSE)
    then = "checkpoints at its next step and gives its card back"
    if trial.kind in (Kind.SCORE, Kind.BASE):
        then = "gives its card back, and is scored from the first row on when it is resumed"
    if not trial.state.live:
        then = "is paused; it takes no card until it is resumed"
    return accepted(f"{trial_position(trial)}: {then}", trial=trial.id)


def resume_trial(context: TickContext, args: dict[str, Any]) -> RequestAnswer:
    """Let the trial continue.

    A worker that was asked to end cannot be told to continue: it yields, and the trial is placed
    again.
    """
    trial = unended_trial(context, args)
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
    return accepted(f"{trial_position(trial)}: {then}", trial=trial.id)


# --- which goes first ---


def reorder_trial(context: TickContext, args: dict[str, Any]) -> RequestAnswer:
    """Move a waiting trial to the front, up, down or to the back of the queue.

    `place` with a `rank` puts it where it was before, which undoes another move.
    """
    trial, to = unended_trial(context, args), str(args["to"])
    if trial.state is not State.QUEUED:
        raise UsageError(
            f"trial {trial.id} is {trial.state}; only what waits in the queue can change places",
            hint="see `workbench ls`",
        )
    if to == "front":
        context.store.to_front(trial.id)
        return accepted(
            f"trial {trial.id} is next: it takes the first card that is free and fits, before all "
            "others of its experiment's priority",
            trial=trial.id,
        )
    if to == "place":
        context.store.steer_trial(trial.id, rank=_checked_rank(args.get("rank")))
        return accepted(f"trial {trial.id} is back at its place in the queue", trial=trial.id)
    mine = sorted(
        context.store.trials(trial.experiment, frozenset({State.QUEUED})), key=queue_place
    )
    at = [t.id for t in mine].index(trial.id)
    found = _between(mine, at, to)
    if found is None:
        edge = "first" if to == "up" else "last"
        text = f"trial {trial.id} is the {edge} of its experiment already"
        return accepted(text, trial=trial.id, changed=False)
    rank, words = found
    context.store.steer_trial(trial.id, rank=rank)
    return accepted(f"trial {trial.id} goes {words}", trial=trial.id)


def _checked_rank(rank: object) -> float | None:
    """Return the rank; raise UsageError for anything but a finite number or None."""
    if rank is None:
        return None
    if isinstance(rank, bool) or not isinstance(rank, int | float) or not isfinite(rank):
        raise UsageError(f"{safe_line(rank, 20)} is no rank", hint="a number, or null for none")
    return float(rank)


def _between(mine: list[TrialRow], at: int, to: str) -> tuple[float, str] | None:
    """Return the trial's new rank and words for it; None when it is at that place already."""
    if to == "up" and at > 0:
        before = mine[at - 1]
        low = queue_place(mine[at - 2]) if at > 1 else queue_place(before) - 1
        return (low + queue_place(before)) / 2, f"before trial {before.id}"
    if to == "down" and at + 1 < len(mine):
        behind = mine[at + 1]
        high = queue_place(mine[at + 2]) if at + 2 < len(mine) else queue_place(behind) + 1
        return (queue_place(behind) + high) / 2, f"behind trial {behind.id}"
    if to == "back" and at + 1 < len(mine):
        return queue_place(mine[-1]) + 0.5, "behind all others of its experiment"
    if to not in ("up", "down", "back"):
        raise UsageError(f"{safe_line(to, 20)} is no place", hint="front, up, down or back")
    return None


# --- which card ---


def move_trial(context: TickContext, args: dict[str, Any]) -> RequestAnswer:
    """Move the trial to the named card: checkpoint, give the card back, continue there.

    `any` removes an earlier choice.
    """
    trial = unended_trial(context, args)
    attempt = live_attempt(context, trial.id)
    if args["card"] == "any":
        context.store.steer_trial(trial.id, desired_card=None)
        stays = attempt is not None and attempt.halt is None
        then = f"stays on {attempt.card}" if attempt and stays else "takes any card that is free"
        return accepted(
            f"{trial_position(trial)}: {then}{'' if stays else ' and fits'}", trial=trial.id
        )
    card = find_card(context, args["card"])
    if attempt is not None and attempt.card == card.uuid:
        return accepted(
            f"{trial_position(trial)}: is on {card.uuid} already", trial=trial.id, card=card.uuid
        )
    _check_takes(context, trial, card)
    context.store.steer_trial(trial.id, desired_card=card.uuid)
    context.store.to_front(trial.id)
    if attempt is not None:
        context.store.touch_attempt(attempt.id, halt=Halt.YIELD)
        then = f"checkpoints at its next step, and goes on on {card.uuid}"
    elif trial.state is State.PAUSED:
        return accepted(
            f"{trial_position(trial)}: goes to {card.uuid} once it is resumed", trial=trial.id
        )
    else:
        then = f"goes to {card.uuid}"
    when = f"once that is free of trial {card.trial}" if card.trial else "now, if that is free"
    return accepted(f"{trial_position(trial)}: {then} {when}", trial=trial.id, card=card.uuid)


def _check_takes(context: TickContext, trial: TrialRow, card: CardRow) -> None:
    """Raise the reason for which the card cannot take this trial, as things are now."""
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
        remembered_plan(context, trial, experiment, card_of(card), free_bytes=None)
    except WorkbenchError as misfit:
        what = f"trial {trial.id} cannot go to {card.uuid}, so it stays where it is: {misfit.what}"
        raise type(misfit)(what, hint=misfit.hint) from misfit

"""Scores that are known already: of the untouched base, and of adapters on the very same rows.

A score is taken over as an attempt of its own, with an event file, so that a repair finds it again.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from workbench.adapters.subjects import subject_of
from workbench.attempts.assignment import Assignment
from workbench.attempts.events import EventWriter, Outcome
from workbench.attempts.results_file import file_digest, results_path
from workbench.machine.files import fresh_folder, sync_path, write_durably
from workbench.scheduler.evaluation.scoring import score_source
from workbench.scheduler.plans.planning import recipe_with
from workbench.scheduler.tick_context import TickContext, assignment_file, events_file
from workbench.store.ingest import ingest_events
from workbench.store.rows import AttemptRow, Experiment
from workbench.store.score_trials import scores_by_name, trials_of_folder, trials_with_results
from workbench.trial import State


def base_key(recipe: dict[str, Any], prepared: dict[str, Any], resolved: dict[str, Any]) -> str:
    """Return a key that is equal for experiments whose untouched base has the same scores."""
    model = prepared["model"]
    return json.dumps(
        [
            model["path"],
            model["revision"],
            recipe["model"]["quantization"],
            recipe["model"]["double_quantization"],
            recipe["model"]["attention"],
            resolved.get("model.precision"),
            _rounding_batch(resolved),
            prepared["evaluation_digest"],
        ]
    )


def _rounding_batch(resolved: dict[str, Any]) -> int | None:
    """Return the rows scored at once where they decide a score's last digits; None in fp32."""
    if resolved.get("model.precision") == "fp32":
        return None
    return resolved.get("evaluate.batch_size")


def known_base(
    context: TickContext, experiment: Experiment, prepared: dict[str, Any], resolved: dict[str, Any]
) -> int | None:
    """Return the trial that has scored, or is going to score, the very same base."""
    key = base_key(experiment.recipe, prepared, resolved)
    for other in context.store.experiments():
        if other.base_trial is None or _key_of(other) != key:
            continue
        state = context.store.trial(other.base_trial).state
        if state not in (State.FAILED, State.STOPPED):
            return other.base_trial
    return None


def known_score(context: TickContext, experiment: Experiment, adapter: int | str) -> int | None:
    """Return the trial that scored this adapter on the same rows, with results of every row.

    `experiment` is the prepared evaluation. None where the adapter has to be scored.
    """
    key = _key_of(experiment)
    if isinstance(adapter, int):
        found = trials_with_results(context.store, adapter)
    else:
        found = trials_of_folder(context.store, adapter)
    for id in reversed(found):
        other = context.store.experiment(context.store.trial(id).experiment)
        if key is None or _key_of(other) != key:
            continue
        if isinstance(adapter, str) and _digest(other, adapter) != _digest(experiment, adapter):
            continue
        return id
    return None


def _key_of(experiment: Experiment) -> str | None:
    if experiment.prepared is None:
        return None
    try:
        return base_key(experiment.recipe, experiment.prepared, experiment.resolved)
    except (KeyError, TypeError):  # of an older workbench
        return None


def _digest(experiment: Experiment, folder: str) -> object:
    return subject_of(experiment.prepared or {}, folder).get("digest")


def take_over_score(context: TickContext, id: int, source: int) -> bool:
    """End a queued score trial with the scores of `source`, and return True.

    Returns False, with nothing changed, where the results of single rows are not in the source's
    folder any more.
    """
    store = context.store
    before = next((a for a in reversed(store.attempts(source)) if a.outcome == Outcome.DONE), None)
    results = _copy_results(context, id, source)
    if before is None or results is None:
        return False
    trial = store.trial(id)
    experiment = store.experiment(trial.experiment)
    with store.writing():
        # It has ended from the start: the card of the source may be at work for another trial.
        attempt = store.add_attempt(
            id, before.card, before.plan, before.predicted_bytes, 0, outcome=Outcome.DONE
        )
        given = Assignment(
            attempt=attempt,
            trial=id,
            experiment=experiment.id,
            kind=trial.kind,
            recipe=recipe_with(experiment, trial.settings).model_dump(mode="json"),
            card={"uuid": before.card},
            plan=before.plan,
            folder=str(context.home.attempt(attempt)),
            trial_folder=str(context.home.trial(id)),
            experiment_folder=str(context.home.experiment(experiment.id)),
            score=score_source(context, trial, experiment),
        )
        fresh_folder(context.home.attempt(attempt))
        file = assignment_file(context.home, attempt)
        write_durably(file, json.dumps(given.to_json()).encode())
        _write_events(context, before, attempt, source, results)
        why = f"trial {source} was scored on the same rows"
        store.move(id, State.QUEUED, State.STARTING, by="place", why=why)
        end = ingest_events(store, store.attempt(attempt), events_file(context.home, attempt))
        assert end is not None
        store.touch_attempt(attempt, reason=end.reason, phase="", ends_utc=None)
        store.move(id, State.STARTING, State.DONE, by="reconcile", why=end.reason)
    return True


def _copy_results(context: TickContext, id: int, source: int) -> list[dict[str, Any]] | None:
    """Link the source's results files into the trial's folder; return the events that report them.

    None where one is missing.
    """
    rows = context.store.db.execute(
        """select evaluation, tokens, step, rows from row_results where trial = ? and scored""",
        (source,),
    ).fetchall()
    events = []
    for row in rows:
        theirs = results_path(context.home.trial(source), row["evaluation"])
        mine = results_path(context.home.trial(id), row["evaluation"])
        try:
            _link(theirs, mine)
            sha256 = file_digest(mine)
        except (OSError, ValueError):
            return None
        events.append({**dict(row), "scored": True, "sha256": sha256})
    return events or None


def _link(theirs: Path, mine: Path) -> None:
    mine.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):  # of an attempt that was cut off
        mine.hardlink_to(theirs)
    sync_path(mine.parent)


def _write_events(
    context: TickContext,
    before: AttemptRow,
    attempt: int,
    source: int,
    results: list[dict[str, Any]],
) -> None:
    """Write the event file of an attempt that took its scores from another trial."""
    store = context.store
    step = int(results[-1]["step"])
    text = f"the scores of trial {source} on the same rows are reused: nothing was scored again"
    writer = EventWriter(events_file(context.home, attempt))
    try:
        writer.write("started", plan=before.plan, pid=None, generation=None)
        writer.write("log", level="info", text=text)
        for one in results:
            writer.write("results", **one)
        for sample in store.samples(source):
            writer.write(
                "sample",
                question=sample.question,
                expected=sample.expected,
                answer=sample.answer,
                right=sample.correct,
            )
        values = scores_by_name(store, [source]).get(source, {})
        writer.write("score", subject="trial", values=values, step=step)
        end = {"outcome": Outcome.DONE.value, "step": step, "reason": text, "hint": ""}
        writer.write("end", durable=True, **end)
    finally:
        writer.close()

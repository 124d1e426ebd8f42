"""`workbench ls` and `show`: experiments with their trials, and one trial."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Annotated, Any

import typer

from workbench import formatting
from workbench.cli.arguments import Json, TrialId
from workbench.cli.revival import revive_engine
from workbench.cli.tables import as_json, out_table, print_answer, print_note
from workbench.cli.trials.trial_page import print_page
from workbench.errors import NotThere
from workbench.judging.board_words import id_ranges
from workbench.service import Service, TrialDetail
from workbench.service.reading import nothing_ran, nothing_ran_hint
from workbench.store.rows import Experiment, TrialRow
from workbench.text import safe_line

RECENT = 10
"""Experiments that `ls` lists without --all."""
Name = Annotated[
    str | None, typer.Argument(metavar="EXPERIMENT", help="The experiment's name or id.")
]


def ls_command(
    experiment: Name = None,
    everything: Annotated[
        bool,
        typer.Option("--all", "-a", help="List old and archived experiments and base trials too."),
    ] = False,
    as_data: Json = False,
) -> None:
    """List experiments and their trials, and cards that are left out while trials run or wait."""
    service = Service()
    revive_engine(service)
    known, archived = service.experiments(), frozenset[int]()
    if experiment is not None:
        found = [service.experiment(experiment)]
    else:
        archived = archived if everything else service.archived()
        known = [one for one in known if one.id not in archived]
        found = known[: None if everything else RECENT]

    places = {id: place for place, id in enumerate(service.queue(), start=1)}

    def trials(one: Experiment, *, waiting_base: bool = False) -> list[TrialRow]:
        return [
            t
            for t in service.trials(one.id)
            if everything or t.kind in ("tune", "score") or (waiting_base and t.id in places)
        ]

    if as_data:
        as_json([_experiment_data(one, trials(one), places) for one in found])
        return
    if not found and archived:
        print_note("every experiment is archived: workbench ls --all")
        return
    if not found:
        print_note(f"{nothing_ran(service.home)}; {nothing_ran_hint(service.home)}")
        return
    _print_experiments(found)
    for one in found:
        if experiment is not None or everything or one is found[0] or _unfinished(one):
            _print_trials(one, trials(one, waiting_base=True), places)
    if any(_unfinished(one) for one in found) and (line := service.cards_used()):
        print_answer()
        print_answer(line)
    if len(found) < len(known) and experiment is None:
        print_note(f"{len(known) - len(found)} older experiments: workbench ls --all")


def _unfinished(one: Experiment) -> bool:
    return any(one.counts.get(s) for s in ("queued", "starting", "running", "paused"))


def _experiment_data(
    one: Experiment, trials: Iterable[TrialRow], places: Mapping[int, int]
) -> dict[str, Any]:
    """Return the JSON of one experiment; `place` is a trial's place in the queue, 1 is next."""
    mine = [{**asdict(trial), "place": places.get(trial.id)} for trial in trials]
    return {
        "id": one.id,
        "name": one.name,
        "state": one.state,
        "reason": one.reason,
        "hint": one.hint,
        "rank_by": one.rank_by,
        "priority": one.priority,
        "max_parallel": one.max_parallel,
        "held": one.held,
        "ended_utc": one.ended_utc,
        "counts": one.counts,
        "killed": one.killed,
        "created_utc": one.created_utc,
        "trials": mine,
    }


def _print_experiments(found: list[Experiment]) -> None:
    rows = [
        (
            one.id,
            one.name,
            f"{one.state}, held" if one.held else one.state,
            formatting.counts_line(one.outcomes) if one.state == "ready" else one.reason or "-",
            formatting.date_time(one.created_utc),
        )
        for one in found
    ]
    heads = ("id", "experiment", "state", "trials", "submitted")
    out_table(heads, rows, right=("id",), flexible="trials", optional=("submitted",))
    for one in found:
        if one.state == "refused" and one.hint:
            print_answer(
                f"{safe_line(one.name)} was refused: {safe_line(one.reason)}\n  → {one.hint}"
            )


def _print_trials(one: Experiment, trials: list[TrialRow], places: Mapping[int, int]) -> None:
    if not trials:
        return
    print_answer()
    finals = [trial for trial in trials if trial.finals_of is not None]
    ended = sum(trial.state.final for trial in finals)
    about = f"; finals {ended} of {len(finals)}" if finals else ""
    print_answer(f"{safe_line(one.name)}, by {one.rank_by}{about}", "bold")
    rows = [
        (
            trial.id,
            _state(trial, places),
            formatting.steps(trial.step, trial.total_steps),
            formatting.number(trial.loss),
            formatting.score(trial.score),
            formatting.time_left(trial.seconds_left(time.time())),
            trial.card or "-",
            "the base" if trial.kind == "base" else formatting.brief_settings(trial.settings),
        )
        for trial in trials
    ]
    heads = ("trial", "state", "step", "loss", "score", "left", "card", "settings")
    out_table(
        heads,
        rows,
        right=("trial", "step", "loss", "score", "left"),
        optional=("left", "card"),
    )
    for why, ids in _reasons(trials).items():
        print_answer(f"{id_ranges(ids)}: {why}")


def _state(trial: TrialRow, places: Mapping[int, int]) -> str:
    """Return the state, and for a queued trial its place: `queued, 3rd`."""
    place = places.get(trial.id)
    word = formatting.outcome_word(trial.state, trial.reason)
    return word if place is None else f"{word}, {formatting.ordinal(place)}"


def _reasons(trials: Iterable[TrialRow]) -> dict[str, list[int]]:
    """Return what trials wait for or why they ended, each with the ids of those trials."""
    found: dict[str, list[int]] = {}
    for trial in trials:
        why = trial.waiting if trial.state == "queued" else trial.reason
        if why:
            word = formatting.outcome_word(trial.state, trial.reason)
            text = ", ".join(formatting.word_and_reason(word, why))
            found.setdefault(text, []).append(trial.id)
    return found


def show_command(
    trial: TrialId,
    series: Annotated[
        str | None, typer.Option(metavar="METRIC", help="Print one metric by step, such as loss.")
    ] = None,
    csv: Annotated[bool, typer.Option("--csv", help="Print the series as CSV.")] = False,
    as_data: Json = False,
) -> None:
    """Show everything about one trial, or one of its metrics by step."""
    service = Service()
    revive_engine(service)
    detail = service.trial(trial)
    if series is not None or csv:
        _print_series(service, detail, series or "loss", as_data)
        return
    rows = service.board(detail.experiment.id)[1]
    row = next((row for row in rows if row.trial == trial), None)
    if as_data:
        as_json({**asdict(detail), "board": None if row is None else asdict(row)})
    else:
        print_page(detail, row, rows)


def _print_series(service: Service, detail: TrialDetail, name: str, as_data: bool) -> None:
    """Print a metric's value at every step that reported it, as CSV or JSON."""
    if name not in detail.metric_names:
        known = ", ".join(detail.metric_names) or "none yet"
        raise NotThere(
            f"trial {detail.trial.id} has no metric {safe_line(name)}", hint=f"it has {known}"
        )
    # One point for each step: no span holds two of them.
    points = service.series(detail.trial.id, name, points=max(1, detail.trial.step) + 1)
    if as_data:
        as_json([{"step": point.step, name: point.low} for point in points])
        return
    print_answer(f"step,{safe_line(name)}")
    for point in points:
        print_answer(f"{point.step},{point.low!r}")


def chosen_experiment(service: Service, key: str | None) -> str | int:
    """Return the name or id that was given, else the newest id that is not archived.

    Where all are archived it is the newest of them. Raises NotThere where none was given and
    nothing has run.
    """
    if key is not None:
        return key
    experiments = service.experiments()
    if not experiments:
        raise NotThere(nothing_ran(service.home), hint=nothing_ran_hint(service.home))
    archived = service.archived()
    return next((one.id for one in experiments if one.id not in archived), experiments[0].id)

"""`workbench reproduce`: run a trial again exactly, and tell how far the two differ."""

from __future__ import annotations

from typing import Annotated

import typer

from workbench import formatting
from workbench.cli.arguments import Json, TrialId
from workbench.cli.tables import as_json, print_answer, print_note
from workbench.cli.trials.control import need_engine
from workbench.errors import NotThere, UsageError, WorkbenchError
from workbench.library.reproduction import Reproduction, changed_versions, compare_runs
from workbench.machine.packages import installed_versions
from workbench.service import Service, TrialDetail
from workbench.store.rows import Experiment, TrialRow
from workbench.text import safe_line
from workbench.trial import Kind, State


def reproduce_command(
    trial: TrialId,
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Also with other versions of the libraries.")
    ] = False,
    as_data: Json = False,
) -> None:
    """Run a trial again with its recipe, rows and seed; once it has ended, show the differences.

    The first call submits it, a later one compares losses and scores.
    """
    service = Service()
    found = service.trial(trial)
    name = f"{safe_line(found.experiment.name, 60)}-again-{trial}"
    again = next((one for one in service.experiments() if one.name == name), None)
    if again is None:
        _submit(service, found, name, anyway, as_data)
        return
    second = next((one for one in service.trials(again.id) if one.kind == Kind.TUNE), None)
    failed = second if second is not None and second.state is State.FAILED else None
    if (lost := again if again.state == "refused" else failed) is not None:
        first = f"{lost.hint}. " if lost.hint else ""
        raise WorkbenchError(
            f"{name} did not train: {safe_line(lost.reason)}",
            hint=f"{first}Then workbench rm {name}, and this command again",
        )
    if second is None or not second.state.final:
        state = again.reason or again.state if second is None else str(second.state)
        if as_data:
            as_json({"experiment": again.id, "state": state})
        else:
            print_answer(f"{name} is {safe_line(state)}; ask again when it has ended")
        return
    result = _compare(service, found, again, second)
    if as_data:
        as_json({**_as_data(result), "exact": result.is_exact})
        return
    _print(result, found.experiment.rank_by)


def _submit(service: Service, found: TrialDetail, name: str, anyway: bool, as_data: bool) -> None:
    """Ask for the trial's recipe as an experiment of its own, with what was resolved for it."""
    from workbench.recipe import apply_settings
    from workbench.trial_edits import recipe_for_trial

    if not found.trial.state.final or found.trial.kind != Kind.TUNE:
        raise UsageError(
            f"trial {found.trial.id} is no trial that has trained and ended",
            hint="`workbench ls` shows the trials",
        )
    if found.trial.warm_trial is not None:
        raise UsageError(
            f"trial {found.trial.id} continued from trial {found.trial.warm_trial}",
            hint=f"reproduce that one first, or: workbench clone {found.trial.id}",
        )
    adapter = service.home.trial(found.trial.id) / "adapter"
    changed = changed_versions(adapter, installed_versions())
    if changed and not anyway:
        words = ", ".join(f"{n} {then}, now {now}" for n, (then, now) in sorted(changed.items()))
        wanted = " ".join(f"{n}=={then}" for n, (then, _) in sorted(changed.items()))
        raise UsageError(
            f"it was trained with other versions: {safe_line(words, 300)}",
            hint=f"pip install {safe_line(wanted, 300)}, or add --anyway",
        )
    recipe = recipe_for_trial(found.experiment, found.trial.settings)
    recipe = apply_settings(recipe, {**found.experiment.resolved, "name": name})
    need_engine(service)
    answer = service.wait_for_answer(service.submit(recipe))
    if as_data:
        as_json(answer.to_json())
        return
    print_answer(answer.text)
    print_note(f"when it has ended: workbench reproduce {found.trial.id}")


def _compare(
    service: Service, found: TrialDetail, again: Experiment, second: TrialRow
) -> Reproduction:
    runs = []
    for trial, experiment in ((found.trial, found.experiment), (second, again)):
        rows = service.board(experiment.id)[1]
        row = next((one for one in rows if one.trial == trial.id), None)
        if row is None:
            raise NotThere(f"trial {trial.id} is on no board", hint="run it again: --anyway")
        losses = service.series(trial.id, "loss", points=max(1, trial.step) + 1)
        runs.append((trial.id, experiment, losses, row.scores))
    return compare_runs(runs[0], runs[1])


def _as_data(result: Reproduction) -> dict[str, object]:
    from dataclasses import asdict

    return asdict(result)


def _print(result: Reproduction, rank_by: str) -> None:
    if result.is_exact:
        print_answer(f"trial {result.again} reproduces trial {result.trial} to the last digit")
        return
    print_answer(f"trial {result.again} against trial {result.trial}:")
    print_answer(f"  {'rows':<14}{'the same' if result.same_rows else 'other ones'}")
    print_answer(f"  {'held out':<14}{'the same' if result.same_held_out else 'other ones'}")
    loss = "-"
    if result.max_loss_difference is not None:
        loss = f"off by {result.max_loss_difference:.3g} at most, over {result.steps} steps"
    print_answer(f"  {'training loss':<14}{loss}")
    for name, apart in sorted(result.score_differences.items(), key=lambda one: one[0] != rank_by):
        print_answer(f"  {safe_line(name):<14}{formatting.score(apart, sign=True)}")

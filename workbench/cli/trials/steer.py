"""`workbench clone`, `extend`, `add`, and the commands that steer the queue and the cards."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from workbench.cli.arguments import Json, TrialId, is_id
from workbench.cli.errors import tell_error
from workbench.cli.tables import as_json, print_answer, print_note
from workbench.cli.trials.control import need_engine
from workbench.errors import RecipeError, UsageError, WorkbenchError
from workbench.service import Service

Name = Annotated[str, typer.Argument(metavar="EXPERIMENT", help="The experiment's name or id.")]
MaybeName = Annotated[
    str | None, typer.Argument(metavar="EXPERIMENT", help="Its name or id; without one, all.")
]
CardName = Annotated[
    str,
    typer.Argument(metavar="CARD", help="The card's UUID from `cards`, or its beginning."),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", "-s", metavar="KEY=VALUE", help="Change a setting: -s lora.rank=32"),
]
WarmStart = Annotated[
    str | None,
    typer.Option(metavar="TRIAL", help="Start from that trial's adapter; `none` starts fresh."),
]
NO_VALUE = ("none", "null")
"""Words for no value: the command line's own, and that in which recipes and settings have it."""


def clone_command(
    trial: TrialId,
    settings: Settings = None,
    edit: Annotated[
        bool, typer.Option("--edit", "-e", help="Edit the settings in $EDITOR.")
    ] = False,
    warm_start: WarmStart = None,
    as_data: Json = False,
) -> None:
    """Run a trial again with other settings, as a new one."""
    from workbench.trial_edits import changed_settings, tuned_recipe

    service = Service()
    found = service.trial(trial)
    recipe = tuned_recipe(found.experiment, found.trial)
    edits = changed_settings(recipe, settings or [])
    if edit:
        edits = _edited(trial, recipe, settings or [])
    args: dict[str, Any] = {"trial": trial, "settings": edits}
    if warm_start is not None:
        args["warm_trial"] = _trial_or_none(warm_start)
    _ask(service, "clone", as_data, **args)


def _edited(trial: int, recipe: Any, settings: list[str]) -> dict[str, Any]:
    """Return the settings that a person changed in $EDITOR.

    A text with mistakes is reported and can be edited again. If the person declines, it is kept in
    a file that the error names.
    """
    from workbench.trial_edits import changed_settings, editable_text, run_editor, write_draft

    begun = editable_text(_with(recipe, settings) if settings else recipe, trial)
    path = write_draft(begun)
    while True:
        text = run_editor(path, begun)
        try:
            edits = changed_settings(recipe, text=text, file=path.name)
        except WorkbenchError as wrong:
            if not _again(wrong):
                raise RecipeError("nothing was cloned", hint=f"your text is in {path}") from wrong
            continue
        path.unlink(missing_ok=True)
        if text == begun and not settings:
            raise UsageError("nothing was changed, so nothing was cloned")
        return edits


def _with(recipe: Any, settings: list[str]) -> Any:
    from workbench.recipe import apply_settings
    from workbench.trial_edits import changed_settings

    return apply_settings(recipe, changed_settings(recipe, settings))


def _again(wrong: WorkbenchError) -> bool:
    tell_error(wrong)
    sys.stderr.write("edit again? [Y/n] ")
    sys.stderr.flush()
    typed = sys.stdin.readline()
    return bool(typed) and typed.strip().lower() in ("", "y", "yes")


def _trial_or_none(word: str) -> int | None:
    if word in NO_VALUE:
        return None
    if not is_id(word):
        raise UsageError(
            f"--warm-start takes a trial's id, not {word}",
            hint="write --warm-start 7, or --warm-start none",
        )
    return int(word)


def extend_command(
    trial: TrialId,
    epochs: Annotated[
        str | None, typer.Option(metavar="+N", help="More epochs, such as +1 or +0.5.")
    ] = None,
    steps: Annotated[
        str | None, typer.Option(metavar="+N", help="More optimizer steps, such as +100.")
    ] = None,
    as_data: Json = False,
) -> None:
    """Train longer: a new trial that starts from an ended trial's adapter."""
    args: dict[str, Any] = {"trial": trial}
    if epochs is not None and steps is not None:
        raise UsageError("--epochs and --steps exclude each other", hint="give one of them")
    if epochs is not None:
        args["epochs"] = _number(epochs, float)
    if steps is not None:
        args["steps"] = _number(steps, int)
    _ask(Service(), "extend", as_data, **args)


def _number(
    word: str, kind: type[int] | type[float], hint: str = "write a number such as +1"
) -> int | float:
    try:
        return kind(word)
    except ValueError as wrong:
        raise UsageError(f"{word} is not a number", hint=hint) from wrong


def add_command(
    experiment: Name,
    settings: Settings = None,
    trials: Annotated[
        int | None,
        typer.Option("--trials", "-n", min=1, help="Number of trials of its sweep to add."),
    ] = None,
    warm_start: WarmStart = None,
    as_data: Json = False,
) -> None:
    """Add one trial to an experiment, or more trials of its sweep."""
    service = Service()
    if (trials is None) == (not settings):
        what = "neither a trial's settings nor a number of trials was given"
        if settings:
            what = "-s adds one trial, --trials adds trials of the sweep; they cannot be combined"
        raise UsageError(
            what,
            hint=f"workbench add {experiment} -s train.learning_rate=1e-4, or --trials 4",
        )
    if trials is not None:
        _ask(service, "add", as_data, experiment=experiment, trials=trials)
        return
    from workbench.trial_edits import changed_settings, recipe_for_trial

    edits = changed_settings(recipe_for_trial(service.experiment(experiment), {}), settings or [])
    warm = None if warm_start is None else _trial_or_none(warm_start)
    _ask(service, "add", as_data, experiment=experiment, settings=edits, warm_trial=warm)


def move_command(trial: TrialId, card: CardName, as_data: Json = False) -> None:
    """Move a trial to another card; `any` takes the first free one."""
    _ask(Service(), "move", as_data, trial=trial, card=card)


def order_command(
    trial: TrialId,
    to: Annotated[str, typer.Argument(metavar="front|up|down|back")] = "front",
    as_data: Json = False,
) -> None:
    """Change a waiting trial's place in the queue."""
    _ask(Service(), "order", as_data, trial=trial, to=to)


def priority_command(
    experiment: Name,
    number: Annotated[int, typer.Argument(metavar="NUMBER", help="Higher goes first; default 0.")],
    as_data: Json = False,
) -> None:
    """Set an experiment's priority in the queue."""
    _ask(Service(), "priority", as_data, experiment=experiment, priority=number)


def parallel_command(
    experiment: Name,
    limit: Annotated[str, typer.Argument(metavar="NUMBER", help="At most; `none` for no limit.")],
    as_data: Json = False,
) -> None:
    """Limit how many of an experiment's trials run at once."""
    wanted = None if limit in NO_VALUE else _number(limit, int, "write a number, or none")
    _ask(Service(), "max-parallel", as_data, experiment=experiment, limit=wanted)


def hold_command(experiment: MaybeName = None, as_data: Json = False) -> None:
    """Start no more trials, of one experiment or of all."""
    _ask(Service(), "hold", as_data, experiment=experiment)


def release_command(experiment: MaybeName = None, as_data: Json = False) -> None:
    """Let a held queue or experiment start trials again."""
    _ask(Service(), "release", as_data, experiment=experiment)


def drain_command(
    card: CardName,
    now: Annotated[
        bool,
        typer.Option("--now", help="Checkpoint its trial and continue it elsewhere."),
    ] = False,
    as_data: Json = False,
) -> None:
    """Start no more trials on a card."""
    _ask(Service(), "drain", as_data, card=card, now=now)


def undrain_command(
    card: CardName,
    quarantine: Annotated[
        bool, typer.Option("--quarantine", help="End its quarantine too.")
    ] = False,
    as_data: Json = False,
) -> None:
    """Let a drained card take trials again."""
    _ask(Service(), "undrain", as_data, card=card, quarantine=quarantine)


def finals_command(
    experiment: Name,
    top: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Settings that are trained again; 3 unless the recipe says."
        ),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(metavar="N", help="New seeds of each; 3 unless the recipe says."),
    ] = None,
    as_data: Json = False,
) -> None:
    """Train the best settings again with other seeds, and rank them by the mean.

    Asked for again with more, only what is missing is added. While the sweep still runs, they are
    remembered and begin at its end. `workbench board` shows them below its table.
    """
    _ask(Service(), "finals", as_data, experiment=experiment, top=top, seeds=seeds)


def _ask(service: Service, verb: str, as_data: bool, /, **args: Any) -> None:
    """Send one request and print its answer. Raises a refusal with the engine's exit code."""
    for named, look in (("experiment", service.experiment), ("trial", service.trial)):
        if args.get(named) is not None:
            look(args[named])  # an unknown name is reported before an engine is started
    need_engine(service)
    answer = service.wait_for_answer(service.send(verb, **args))
    if as_data:
        as_json(answer.to_json())
        return
    print_answer(answer.text)
    if answer.data.get("name") and not answer.data.get("trial"):
        print_note(f"follow it: workbench watch {answer.data['experiment']}")

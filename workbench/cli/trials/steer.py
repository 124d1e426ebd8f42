"""Steering what runs: clones, longer trials, more trials, the queue, the cards."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from workbench.cli.errors import tell_error
from workbench.cli.tables import as_json, out, tell
from workbench.cli.trials.control import answered, need_engine
from workbench.errors import RecipeError, UsageError, WorkbenchError
from workbench.service import Service

TrialId = Annotated[int, typer.Argument(metavar="TRIAL", help="Its id, as `ls` shows it.")]
Name = Annotated[str, typer.Argument(metavar="EXPERIMENT", help="Its name or id.")]
MaybeName = Annotated[
    str | None, typer.Argument(metavar="[EXPERIMENT]", help="Its name or id; left out: all.")
]
CardName = Annotated[
    str, typer.Argument(metavar="CARD", help="Its uuid as `cards` shows it, or how that begins.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", "-s", metavar="KEY=VALUE", help="Change a setting: -s lora.rank=32"),
]
WarmStart = Annotated[
    str | None,
    typer.Option(metavar="TRIAL", help="Start from that trial's adapter; `none` starts fresh."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def clone(
    trial: TrialId,
    settings: Settings = None,
    edit: Annotated[bool, typer.Option("--edit", "-e", help="Change it in $EDITOR.")] = False,
    warm_start: WarmStart = None,
    as_data: Json = False,
) -> None:
    """Run a trial again with other settings, as a new one."""
    from workbench.trial_edits import as_recipe, changed

    service = Service()
    found = service.trial(trial)
    recipe = as_recipe(found.experiment, found.trial.settings)
    edits = changed(recipe, settings or [])
    if edit:
        edits = _edited(trial, recipe, settings or [])
    args: dict[str, Any] = {"trial": trial, "settings": edits}
    if warm_start is not None:
        args["warm_trial"] = _trial_or_none(warm_start)
    _ask(service, "clone", as_data, **args)


def _edited(trial: int, recipe: Any, settings: list[str]) -> dict[str, Any]:
    """What a person changed in $EDITOR; a text with mistakes is offered again, and kept."""
    from workbench.trial_edits import as_text, changed, edit, new_text

    begun = as_text(_with(recipe, settings) if settings else recipe, trial)
    path = new_text(begun)
    while True:
        text = edit(path, begun)
        try:
            edits = changed(recipe, text=text, file=path.name)
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
    from workbench.trial_edits import changed

    return apply_settings(recipe, changed(recipe, settings))


def _again(wrong: WorkbenchError) -> bool:
    tell_error(wrong)
    sys.stderr.write("edit it again? [Y/n] ")
    sys.stderr.flush()
    typed = sys.stdin.readline()
    return bool(typed) and typed.strip().lower() in ("", "y", "yes")


def _trial_or_none(word: str) -> int | None:
    if word == "none":
        return None
    if not (word.isascii() and word.isdecimal()):
        raise UsageError(
            f"--warm-start wants a trial's id, not {word}", hint="--warm-start 7, or none"
        )
    return int(word)


def extend(
    trial: TrialId,
    epochs: Annotated[
        str | None, typer.Option(metavar="+N", help="Epochs more, like +1 or +0.5.")
    ] = None,
    steps: Annotated[
        str | None, typer.Option(metavar="+N", help="Optimizer steps more, like +100.")
    ] = None,
    as_data: Json = False,
) -> None:
    """Train on from an ended trial's adapter, as a new trial."""
    args: dict[str, Any] = {"trial": trial}
    if epochs is not None:
        args["epochs"] = _number(epochs, float)
    if steps is not None:
        args["steps"] = _number(steps, int)
    _ask(Service(), "extend", as_data, **args)


def _number(word: str, kind: type[int] | type[float], hint: str = "like +1") -> int | float:
    try:
        return kind(word)
    except ValueError as wrong:
        raise UsageError(f"{word} is no number", hint=hint) from wrong


def add(
    experiment: Name,
    settings: Settings = None,
    trials: Annotated[
        int | None, typer.Option("--trials", "-n", min=1, help="So many more of its sweep.")
    ] = None,
    warm_start: WarmStart = None,
    as_data: Json = False,
) -> None:
    """Add a trial to an experiment, or more of its sweep."""
    service = Service()
    if (trials is None) == (not settings):
        what = "say which trial to add, or how many of the sweep"
        if settings:
            what = "-s adds one trial, --trials so many more of the sweep: not both at once"
        raise UsageError(
            what,
            hint=f"workbench add {experiment} -s train.learning_rate=1e-4, or --trials 4",
        )
    if trials is not None:
        _ask(service, "add", as_data, experiment=experiment, trials=trials)
        return
    from workbench.trial_edits import as_recipe, changed

    edits = changed(as_recipe(service.experiment(experiment), {}), settings or [])
    warm = None if warm_start is None else _trial_or_none(warm_start)
    _ask(service, "add", as_data, experiment=experiment, settings=edits, warm_trial=warm)


def move(trial: TrialId, card: CardName, as_data: Json = False) -> None:
    """Take a trial to another card; `any` lets it choose."""
    _ask(Service(), "move", as_data, trial=trial, card=card)


def order(
    trial: TrialId,
    to: Annotated[str, typer.Argument(metavar="[front|up|down|back]")] = "front",
    as_data: Json = False,
) -> None:
    """Change a waiting trial's place in the queue."""
    _ask(Service(), "order", as_data, trial=trial, to=to)


def priority(
    experiment: Name,
    number: Annotated[int, typer.Argument(metavar="NUMBER", help="Higher goes first; 0 at first.")],
    as_data: Json = False,
) -> None:
    """Say which experiment's trials go first."""
    _ask(Service(), "priority", as_data, experiment=experiment, priority=number)


def parallel(
    experiment: Name,
    limit: Annotated[str, typer.Argument(metavar="NUMBER", help="At most; `none`: all cards.")],
    as_data: Json = False,
) -> None:
    """Say how many of an experiment's trials run at once."""
    wanted = None if limit == "none" else _number(limit, int, "a number, or none")
    _ask(Service(), "max-parallel", as_data, experiment=experiment, limit=wanted)


def hold(experiment: MaybeName = None, as_data: Json = False) -> None:
    """Start no more trials, of one experiment or at all."""
    _ask(Service(), "hold", as_data, experiment=experiment)


def release(experiment: MaybeName = None, as_data: Json = False) -> None:
    """Let a held queue, or a held experiment, go on."""
    _ask(Service(), "release", as_data, experiment=experiment)


def drain(
    card: CardName,
    now: Annotated[
        bool, typer.Option("--now", help="Do not wait for its trial: checkpoint, go on elsewhere.")
    ] = False,
    as_data: Json = False,
) -> None:
    """Give a card no more trials."""
    _ask(Service(), "drain", as_data, card=card, now=now)


def undrain(
    card: CardName,
    quarantine: Annotated[
        bool, typer.Option("--quarantine", help="End its quarantine too.")
    ] = False,
    as_data: Json = False,
) -> None:
    """Let a card take trials again."""
    _ask(Service(), "undrain", as_data, card=card, quarantine=quarantine)


def _ask(service: Service, verb: str, as_data: bool, /, **args: Any) -> None:
    """One request; its answer on stdout. A refusal is raised with the engine's exit code."""
    for named, look in (("experiment", service.experiment), ("trial", service.trial)):
        if args.get(named) is not None:
            look(args[named])  # a slip starts no engine
    need_engine(service)
    answer = answered(service, service.send(verb, **args))
    if as_data:
        as_json({"answer": answer.text, **answer.data})
        return
    out(answer.text)
    if answer.data.get("name") and not answer.data.get("trial"):
        tell(f"follow it: workbench watch {answer.data['experiment']}")

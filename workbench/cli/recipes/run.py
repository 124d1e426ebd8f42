"""`workbench run`: submit a recipe, and follow it if asked to."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from workbench import formatting
from workbench.cli.tables import as_json, out, tell
from workbench.cli.trials.control import ANSWER_S, answered
from workbench.cli.trials.follow import follow
from workbench.cli.trials.listing import board_data, print_board
from workbench.cli.trials.watch import ring
from workbench.errors import DoesNotFit, WorkbenchError
from workbench.service import Service
from workbench.store.rows import card_of
from workbench.text import safe_line

if TYPE_CHECKING:
    from workbench.recipe import Recipe

RecipeName = Annotated[str, typer.Argument(help="A file, or the name of a shipped recipe.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", "-s", metavar="KEY=VALUE", help="Change a setting: -s lora.rank=8"),
]


def run(
    recipe: RecipeName,
    settings: Settings = None,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Follow in plain lines to the end.")
    ] = False,
    warm_start: Annotated[
        int | None,
        typer.Option(metavar="TRIAL", help="Start every trial from this one's adapter."),
    ] = None,
    as_data: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Train a recipe's trials, one on each card, many at once."""
    service = Service()
    submitted = submit(service, read(recipe, settings), warm_start)
    if not as_data:
        out(f"experiment {safe_line(submitted['name'])}: {formatting.trials(submitted['trials'])}")
    if not watch:
        if as_data:
            as_json(submitted)
        else:
            out("its data is checked, then its trials are queued; closing this changes nothing")
            out(f"follow: workbench ls {submitted['experiment']}, or the screen: workbench")
        return
    experiment = watched(service, submitted["experiment"])
    found, rows = service.board(experiment)
    if as_data:
        as_json({**submitted, "board": board_data(rows)})
    else:
        print_board(found, rows)
    raise typer.Exit(1 if any(row.state == "failed" for row in rows) else 0)


def read(name: str, settings: list[str] | None) -> Recipe:
    """The recipe meant by a path or a shipped name, with the command line's settings."""
    from workbench.recipe import find_recipe, load_recipe

    return load_recipe(find_recipe(name), settings or [])


def submit(service: Service, recipe: Recipe, warm_trial: int | None = None) -> dict[str, Any]:
    """Hand the recipe to the engine, started if need be: experiment, name, trials (at most; None
    where a budget alone ends its sweep)."""
    from workbench.recipe import trial_count

    check_ever_fits(service, recipe)
    service.home.make()
    state = service.engine().state
    if state == "stopped":
        tell("the engine was stopped: starting it again")
    elif state == "down":
        tell("starting the engine (some seconds)")
    stopping = service.stopping()
    service.start_engine()
    if stopping:
        tell("the engine was stopping: it goes on")
        service.wait_for_engine(running=True, timeout_s=ANSWER_S)
    answer = answered(service, service.submit(recipe, warm_trial))
    return {
        "experiment": int(answer.data["experiment"]),
        "name": str(answer.data["name"]),
        "trials": trial_count(recipe.sweep),
    }


def check_ever_fits(service: Service, recipe: Recipe) -> None:
    """DoesNotFit where no card that the engine has could take the model even with rows of one
    token: said before weights are fetched for it. Nothing is said where that cannot be told."""
    from workbench.footprint import choose_plan
    from workbench.footprint.model.config import find_config

    swept = recipe.sweep.parameters if recipe.sweep else {}
    open_yet = any(key.startswith(("model.", "lora.", "train.optimizer")) for key in swept)
    if open_yet or service.engine().state != "running":
        return
    try:
        config, _ = find_config(recipe.model)
    except WorkbenchError:  # preparing finds it, or says why not
        return
    plain = recipe.model_copy(update={"sweep": None})
    misfits: list[DoesNotFit] = []
    for card in map(card_of, service.snapshot().cards):
        try:
            choose_plan(plain, config, card, longest=1, sample=[1], scored=1)
        except DoesNotFit as small:
            misfits.append(small)
        except WorkbenchError:  # a precision or an attention that this card lacks
            continue
        else:
            return
    if misfits:
        raise DoesNotFit(f"no card here can ever take it: {misfits[0].what}", hint=misfits[0].hint)


def watched(service: Service, experiment: int) -> int:
    """Follow on stderr; leaving with ctrl-c leaves the training alone."""
    try:
        follow(service, experiment, tell)
    except KeyboardInterrupt:
        tell(f"left; training goes on (workbench ls {experiment}, or workbench)")
        raise
    found = service.experiment(experiment)
    counts = formatting.counts_line(found.counts)
    ring(f"{safe_line(found.name)} has ended: {counts}", sys.stderr)
    return experiment

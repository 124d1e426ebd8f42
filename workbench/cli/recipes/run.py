"""`workbench run`: submit a recipe to the engine, and follow its experiment if asked to."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from workbench import formatting
from workbench.cli.arguments import Json
from workbench.cli.recipes.measured_history import measured_history
from workbench.cli.tables import as_json, print_answer, print_note
from workbench.cli.trials.board import board_answer, print_board
from workbench.cli.trials.follow import follow_experiment
from workbench.cli.trials.watch import ring_bell
from workbench.errors import DoesNotFit, EngineError, WorkbenchError
from workbench.service import ANSWER_S, Service
from workbench.store.rows import card_of
from workbench.text import safe_line
from workbench.trial import FINAL, State

if TYPE_CHECKING:
    from workbench.recipe import Recipe

RecipeName = Annotated[
    str, typer.Argument(metavar="RECIPE", help="A file, or the name of a shipped recipe.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", "-s", metavar="KEY=VALUE", help="Change a setting: -s lora.rank=8"),
]


def run_command(
    recipe: RecipeName,
    settings: Settings = None,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Follow the experiment in plain lines to its end.")
    ] = False,
    warm_start: Annotated[
        int | None,
        typer.Option(metavar="TRIAL", help="Start every trial from this trial's adapter."),
    ] = None,
    start: Annotated[
        bool, typer.Option("--start", help="Start an engine that you have stopped, without asking.")
    ] = False,
    as_data: Json = False,
) -> None:
    """Train a recipe's trials: one on each card, many at once."""
    service = Service()
    submitted = submit_to_engine(
        service, load_with_settings(recipe, settings), warm_start, start=start
    )
    if not as_data:
        count = formatting.sweep_size(submitted["trials"], submitted["finals"])
        print_answer(f"experiment {safe_line(submitted['name'])}: {count}")
    if not watch:
        if as_data:
            as_json(submitted)
        else:
            print_answer(
                "its data is checked, then its trials are queued; you may close this terminal"
            )
            print_answer(f"follow it: workbench watch {submitted['experiment']}, or workbench")
            if line := service.cards_used():
                print_answer(line)
        return
    experiment = follow_to_end(service, submitted["experiment"])
    board = service.judged_board(experiment)
    if as_data:
        as_json({**submitted, **board_answer(board)})
    else:
        print_board(board)
    raise typer.Exit(1 if any(row.state == "failed" for row in board.rows) else 0)


def load_with_settings(name: str, settings: list[str] | None) -> Recipe:
    """Return the recipe at a path or of a shipped name, with settings of the command line applied.

    Raises RecipeError with every mistake and its line, or NotThere.
    """
    from workbench.recipe import find_recipe, load_recipe, shipped_recipe

    path = find_recipe(name)
    if shipped_recipe(path.stem) not in (None, path):
        print_note(f"using {safe_line(path)}, not the shipped recipe of the same name")
    return load_recipe(path, settings or [])


def submit_to_engine(
    service: Service, recipe: Recipe, warm_trial: int | None = None, *, start: bool = False
) -> dict[str, Any]:
    """Submit the recipe to the engine, which is started if it is down.

    Where a person has stopped the engine while trials wait, the person is asked first, unless
    `start`: starting it continues those trials too. Returns `experiment` (its id), `name` and
    `trials`: how many there can be at most, None where only a budget ends the sweep, `finals`: how
    many its finals add, and `answer`: the engine's words.
    """
    check_ever_fits(service, recipe)
    start_engine_for(service, start=start)
    answer = service.wait_for_answer(service.submit(recipe, warm_trial))
    if answer.data["name"] != safe_line(recipe.name, 80):
        print_note(f"{safe_line(recipe.name, 80)} is the name of an earlier experiment")
    return {
        **answer.to_json(),
        "experiment": int(answer.data["experiment"]),
        "name": str(answer.data["name"]),
        **count_trials(recipe),
    }


def count_trials(recipe: Recipe) -> dict[str, int | None]:
    """Return the most trials that a recipe can have as `trials`, and those of its finals.

    `trials` is None where only a budget ends the sweep.
    """
    from workbench.recipe import finals_count, trial_count

    return {"trials": trial_count(recipe.sweep), "finals": finals_count(recipe.sweep)}


def trials_words(recipe: Recipe) -> str:
    """Return `6 trials, then 9 in finals: the best settings again with 3 new seeds each`."""
    counts = count_trials(recipe)
    words = formatting.sweep_size(counts["trials"], counts["finals"] or 0)
    if recipe.sweep is None or recipe.sweep.finals is None:
        return words
    return f"{words}: the best settings again with {recipe.sweep.finals.seeds} new seeds each"


def start_engine_for(service: Service, *, start: bool = False) -> None:
    """Start the engine where it is down, because a request follows.

    Where a person has stopped the engine while trials wait, the person is asked first, unless
    `start`. Raises EngineError where the answer is no, or where nobody can be asked.
    """
    service.home.make()
    engine = service.engine()
    if engine.state == "down":
        print_note("starting the engine (takes some seconds)")
    elif engine.has_ended:
        if not start:
            _ask_to_start(service)
        print_note("the engine was stopped: starting it again")
    stopping = service.stopping()
    service.start_engine()
    if stopping:
        if not engine.has_ended:
            print_note("the engine was stopping; it now continues")
        service.wait_for_engine(running=True, timeout_s=ANSWER_S)


def _ask_to_start(service: Service) -> None:
    """Ask whether a stopped engine may start again, where that continues other work.

    Raises EngineError where the answer is no, or where nobody can be asked.
    """
    experiments = service.experiments()
    unfinished = frozenset(State) - FINAL
    waiting = sum(one.counts.get(state, 0) for one in experiments for state in unfinished)
    growing = sum(one.state == "preparing" or one.searching for one in experiments)
    if not waiting and not growing:
        return
    count = formatting.plural(*((waiting, "trial") if waiting else (growing, "experiment")))
    stopped = f"the engine was stopped, and {count} would continue if it is started"
    if not sys.stdin.isatty():
        raise EngineError(
            stopped,
            hint="add --start; once the engine runs, `pause` and `kill` keep trials from it",
        )
    sys.stderr.write(f"{stopped}. Start it? [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise EngineError(
            "the engine stays stopped; nothing was submitted",
            hint="`workbench engine start` starts it, and so does --start",
        )


def check_ever_fits(service: Service, recipe: Recipe) -> None:
    """Raise DoesNotFit where no card of the engine could take the model with rows of one token.

    Raises ModelError where the model can be neither loaded nor planned.

    It is called before weights are fetched. Nothing is raised where it cannot be known yet: the
    engine has not seen its cards, the config.json is not here, or the sweep varies the sizes. The
    error is that of the card with the most memory.
    """
    from workbench.footprint import plan_trial
    from workbench.footprint.model.config import find_config, refuse_untrainable
    from workbench.footprint.model.families import family_of
    from workbench.footprint.model.shape import ModelShape
    from workbench.footprint.row_lengths import Lengths
    from workbench.footprint.sweeps.worst_case import affects_bytes

    swept = recipe.sweep.parameters if recipe.sweep else {}
    try:
        config, _ = find_config(recipe.model)
    except WorkbenchError:  # preparing finds it, or says why not
        return
    if "model.name" not in swept:
        refuse_untrainable(config, recipe.model.name, recipe.model.revision)
    if any(map(affects_bytes, swept)) or service.engine().state != "running":
        return
    if not family_of(ModelShape.of(config)).counted:  # preparing counts it
        return
    plain = recipe.model_copy(update={"sweep": None})
    shortest: Lengths = {"longest": 1, "sample": [1], "scored": 1}
    history = measured_history(service)
    misfits: list[DoesNotFit] = []
    cards = [card_of(row) for row in service.snapshot().cards]
    for card in sorted(cards, key=lambda card: -card.usable_bytes):
        try:
            plan_trial(plain, config, card, lengths=shortest, history=history)
        except DoesNotFit as small:
            misfits.append(small)
        except WorkbenchError:  # a precision or an attention that this card lacks
            continue
        else:
            return
    if misfits:
        raise DoesNotFit(f"no card here can ever take it: {misfits[0].what}", hint=misfits[0].hint)


def follow_to_end(service: Service, experiment: int) -> int:
    """Follow the experiment on stderr to its end, and return its id.

    ctrl-c stops following and is raised again; training continues.
    """
    try:
        follow_experiment(service, experiment, print_note)
    except KeyboardInterrupt:
        print_note(
            f"stopped following; training continues (workbench watch {experiment}, or workbench)"
        )
        raise
    found = service.experiment(experiment)
    counts = formatting.counts_line(found.outcomes)
    ring_bell(f"{safe_line(found.name)} has ended: {counts}", sys.stderr)
    return experiment

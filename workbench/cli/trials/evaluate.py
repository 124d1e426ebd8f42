"""`workbench evaluate`: score adapters on any rows, as work of the queue."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from workbench.cli.arguments import Json
from workbench.cli.child import ask_child
from workbench.cli.recipes.run import follow_to_end, start_engine_for
from workbench.cli.tables import as_json, print_answer
from workbench.cli.trials.board import board_answer, print_board
from workbench.cli.trials.named_adapters import NamedAdapters, check_folders, find_adapters
from workbench.errors import RecipeError, UsageError
from workbench.machine.python_children import python_command
from workbench.service import RequestAnswer, Service
from workbench.text import safe_line, shell_word

if TYPE_CHECKING:
    from workbench.recipe import Recipe

Subjects = Annotated[
    list[str],
    typer.Argument(
        metavar="TRIAL|EXPERIMENT|FOLDER",
        help="Trials' ids, an experiment's name for all its adapters, or folders of any tool.",
    ),
]


def evaluate_command(
    subjects: Subjects,
    data: Annotated[
        str | None, typer.Option("--data", "-d", metavar="FILE", help="The rows to score on.")
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|NAME", help="A task of lm-evaluation-harness instead (workbench[eval])."
        ),
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN=NAME,...", help="Columns of the file: question=prompt,answer=completion"
        ),
    ] = None,
    answer_pattern: Annotated[
        str | None,
        typer.Option(metavar="REGEX", help="Generate answers, and compare what it finds in them."),
    ] = None,
    rows: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Score the first N rows only.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the evaluation; by default made from both names.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", "-s", metavar="KEY=VALUE", help="Change a setting of data or evaluate."
        ),
    ] = None,
    same_base: Annotated[
        bool,
        typer.Option("--same-base", help="Folders belong to this base, whatever they call it."),
    ] = False,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Follow it in plain lines to its board.")
    ] = False,
    start: Annotated[
        bool, typer.Option("--start", help="Start an engine that you have stopped, without asking.")
    ] = False,
    as_data: Json = False,
) -> None:
    """Score adapters on any rows: yours, and folders made by PEFT, TRL, Axolotl, Unsloth, …

    With --task they are scored by a task of lm-evaluation-harness. The base is scored beside them.
    It becomes an experiment of its own, with a board.
    """
    from workbench.adapters.evaluation_recipe import find_rows

    _check_options(data, task, rows, columns, answer_pattern, settings)
    service = Service()
    found = find_adapters(service, subjects)
    if task is not None:
        recipe = task_recipe(found, task, name, settings)
    else:
        assert data is not None
        recipe = _recipe(found, find_rows(data), columns, answer_pattern, rows, name, settings)
    check_folders(found, recipe, same_base=same_base)
    start_engine_for(service, start=start)
    answer = service.wait_for_answer(service.evaluate(recipe, found.adapters, same_base=same_base))
    if not as_data:
        print_answer(answer.text)
    if watch:
        _follow(service, answer, as_data=as_data)
    elif as_data:
        as_json(answer.to_json())
    else:
        print_answer(f"follow it: workbench watch {answer.data['experiment']}, or workbench")


def _check_options(
    data: str | None,
    task: str | None,
    rows: int | None,
    columns: str | None,
    answer_pattern: str | None,
    settings: Sequence[str] | None,
) -> None:
    """Raise UsageError unless there are rows of one kind, with options that belong to it."""
    from workbench.recipe.keys import full_key

    if (data is None) == (task is None):
        raise UsageError(
            "evaluate takes either --data or --task",
            hint="--data FILE for rows of yours, --task FILE or NAME for lm-evaluation-harness",
        )
    with_data = (rows, columns, answer_pattern)
    if task is not None and any(option is not None for option in with_data):
        raise UsageError(
            "--rows, --columns and --answer-pattern go with --data",
            hint="a task says itself which rows it asks, and how they are judged",
        )
    typed = {full_key(word.partition("=")[0].strip()) for word in settings or ()}
    for option, value, setting in (
        ("--data", data, "data.eval"),
        ("--data", data, "data.train"),
        ("--rows", rows, "data.eval_rows"),
        ("--columns", columns, "data.columns"),
        ("--answer-pattern", answer_pattern, "evaluate.answer_pattern"),
    ):
        if value is not None and setting in typed:
            raise UsageError(f"{option} and -s {setting} both say it", hint=f"leave {setting} out")


def _follow(service: Service, answer: RequestAnswer, *, as_data: bool) -> NoReturn:
    """Follow the evaluation to its end and show its board. Exits with 1 where a trial failed."""
    experiment = int(answer.data["experiment"])
    follow_to_end(service, experiment)
    board = service.judged_board(experiment)
    if as_data:
        as_json({**answer.to_json(), **board_answer(board)})
    else:
        print_board(board)
    raise typer.Exit(1 if any(row.state == "failed" for row in board.rows) else 0)


def evaluate_on_own_rows(service: Service, trial: int, words: Sequence[str]) -> RequestAnswer:
    """Score the adapters that `words` name on the held-out rows of the trial's experiment.

    What was scored on these rows is not scored again. Raises UsageError where the rows were split
    off the training file, and what starting the engine raises.
    """
    data = service.trial(trial).experiment.recipe["data"]
    if data.get("eval") is None:
        raise UsageError(
            "its held-out rows are a part of the training file",
            hint=f"workbench evaluate {' '.join(map(shell_word, words))} --data FILE",
        )
    found = find_adapters(service, words)
    split = {} if data.get("eval_split") is None else {"data.eval_split": data["eval_split"]}
    changes = [f"{key}={value}" for key, value in split.items()]
    name = f"{found.name}-soup"
    recipe = _recipe(found, data["eval"], None, None, int(data["eval_rows"]), name, changes)
    check_folders(found, recipe, same_base=False)
    start_engine_for(service)
    return service.wait_for_answer(service.evaluate(recipe, found.adapters, same_base=False))


def _recipe(
    found: NamedAdapters,
    file: str,
    columns: str | None,
    answer_pattern: str | None,
    rows: int | None,
    name: str | None,
    settings: Sequence[str] | None,
) -> Recipe:
    from workbench.adapters.evaluation_recipe import folder_recipe
    from workbench.trial_edits import recipe_for_trial, scoring_recipe, trial_recipe

    resolved: dict[str, Any] = {}
    if found.source is not None:
        experiment, trial = found.source
        resolved = dict(experiment.resolved)
        source = (
            recipe_for_trial(experiment, {}) if trial is None else trial_recipe(experiment, trial)
        )
    else:
        source = folder_recipe(found.folders[0], file, base=_base_setting(settings))
    changes: dict[str, object] = {}
    if columns is not None:
        changes["data.columns"] = parse_columns(columns)
        if not any(word.startswith("data.shape=") for word in settings or ()):
            changes["data.shape"] = "auto"
    if answer_pattern is not None:
        changes["evaluate.answer_pattern"] = answer_pattern
    return scoring_recipe(
        source,
        file,
        name or f"{found.name}-{Path(file).stem}",
        rows=rows,
        resolved=resolved,
        words=settings or (),
        changes=changes,
    )


TASK_ROWS = 16
"""Held-out rows of which the loss is computed beside the scores of a task."""


def task_recipe(
    found: NamedAdapters, task: str, name: str | None, settings: Sequence[str] | None
) -> Recipe:
    """Return the recipe that scores adapters by a task of lm-evaluation-harness.

    The board ranks by the task's first metric. Raises RecipeError for what the harness refuses, and
    UsageError for folders alone, which bring no rows.
    """
    if found.source is None:
        raise UsageError(
            "--task takes trials of the home, whose rows are known",
            hint="name a trial beside the folder, on the same base",
        )
    named = os.path.abspath(Path(task).expanduser()) if is_task_file(task) else task
    scores = task_scores(named)
    chosen = [f"evaluate.task={named}", f"evaluate.rank_by={scores[0]}"]
    dropped = ["evaluate.answer_pattern=null", "evaluate.scorer=null"]
    data = found.source[0].recipe["data"]
    return _recipe(
        found,
        str(data.get("eval") or _first_name(data["train"])),
        None,
        None,
        TASK_ROWS,
        name or f"{found.name}-{Path(task).stem}",
        [*dropped, *chosen, *(settings or ())],
    )


def _first_name(train: Any) -> str:
    """Return the training data's name, of a list that of its first source."""
    return str(train if isinstance(train, str) else train[0]["path"])


def is_task_file(task: str) -> bool:
    """Return True for the path of a task's YAML file, False for a name of the harness."""
    return task.endswith((".yaml", ".yml"))


def task_scores(task: str) -> list[str]:
    """Return the names of the scores of a task. Raises RecipeError where the harness refuses it.

    Takes some seconds: a child process loads the harness and the task's rows.
    """
    result = ask_child(python_command("workbench.training.scoring.harness", task))
    try:
        found = dict(json.loads(result.stdout.strip().splitlines()[-1]))
    except (ValueError, IndexError, TypeError) as broken:
        raise RecipeError(
            f"the task {safe_line(task, 200)} could not be read",
            hint="`workbench doctor` checks the installation",
        ) from broken
    if "error" in found:
        raise RecipeError(str(found["error"]), hint=str(found["hint"]))
    return [str(one["score"]) for one in found["metrics"]]


def _base_setting(settings: Sequence[str] | None) -> str | None:
    """Return the base that `-s model.name=…` names; None without one."""
    named = [one.partition("=")[2] for one in settings or () if one.startswith("model.name=")]
    return named[-1] if named else None


def parse_columns(text: str) -> dict[str, str]:
    """Return `question=prompt,answer=completion` as a table. Raises UsageError."""
    found = {}
    for part in text.split(","):
        column, equals, meaning = part.partition("=")
        if not equals or not column.strip() or not meaning.strip():
            raise UsageError(
                f"--columns: {safe_line(part, 80)} is not COLUMN=NAME",
                hint="for example --columns question=prompt,answer=completion",
            )
        found[column.strip()] = meaning.strip()
    return found

"""Preparation of an experiment: everything that can be checked before a card is needed.

    python -m workbench.training.prepare EXPERIMENT_FOLDER CACHE_FOLDER [--rows-only]
        [--then EXPERIMENT_FOLDER ...]

Reads `recipe.json` in the experiment's folder, pins the model's revision and prepares the rows.
Writes `prepare.progress.json` while it works and `prepared.json` at the end; touches no GPU. Does
the same for the folders after `--then`, one after another, whatever becomes of those before.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import logging
import os
import sys
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from workbench import fault_points
from workbench.adapters.evaluation_hints import for_evaluate
from workbench.adapters.subjects import SUBJECTS, Subjects, read_subjects
from workbench.errors import ModelError, RecipeError, WorkbenchError
from workbench.footprint.model.config import refuse_untrainable
from workbench.footprint.model.positions import model_positions
from workbench.machine.processes import die_with_parent
from workbench.recipe.schema import Recipe
from workbench.text import safe_text
from workbench.text.redact import log_without_secrets
from workbench.training.dataset.files.hub_rows import cause_text, root_cause
from workbench.training.model.source import (
    ModelSource,
    fetch_weights,
    has_weights,
    resolve_model,
)
from workbench.user_config import hide_hub_kernels

if TYPE_CHECKING:
    from workbench.training.dataset.first_pass import Progress
    from workbench.training.dataset.prepared import Prepared

log = logging.getLogger(__name__)

RECIPE, PROGRESS, RESULT = "recipe.json", "prepare.progress.json", "prepared.json"
LOG = "prepare.log"
_PROGRESS_EVERY_S = 0.25


def prepare_experiment(
    folder: Path, cache: Path, progress: Progress, *, weights: bool = True
) -> dict[str, Any]:
    """Prepare the experiment in `folder`, write `prepared.json` there and return its content.

    With `weights` the weights of a hub model are downloaded too; rows need only the tokenizer.
    A folder with `subjects.json` scores adapters and trains nothing: only its held-out rows are
    prepared, and what was found in the adapters' folders is added as `subjects`.
    Takes seconds for small data, about a millisecond a row and process for much. Raises DataError,
    ModelError or RecipeError for what it refuses, after writing error and hint to `prepared.json`.
    """
    subjects = None
    try:
        subjects = _subjects(folder)
        result = _prepare(_recipe(folder / RECIPE), cache, progress, subjects, weights=weights)
    except WorkbenchError as refused:
        if subjects is not None:
            refused.hint = for_evaluate(refused.hint)
        error = {"error": refused.what, "hint": refused.hint, "exit_code": refused.exit_code}
        _write(folder / RESULT, {"ok": False, **error})
        raise
    fault_points.at("prepare.before_result")
    _write(folder / RESULT, result)
    return result


def _prepare(
    recipe: Recipe, cache: Path, progress: Progress, subjects: Subjects | None, *, weights: bool
) -> dict[str, Any]:
    """Return the content of `prepared.json`; `subjects` are the adapters of an evaluation."""
    progress("finding the model", 0, 0)
    model = resolve_model(recipe.model)
    refuse_untrainable(model.config, model.path, model.revision)
    progress("loading the tokenizer", 0, 0)
    from workbench.training.model.preflight import check_model  # seconds: transformers
    from workbench.training.model.tokenizer import load_tokenizer
    from workbench.training.scoring.scorers.own_scorers import (
        check_scorers_exist,
        scorer_digests,
        scorers_folder,
    )

    scorers = scorers_folder(cache.parents[1])
    check_scorers_exist(recipe.evaluate.scorers, scorers)
    tokenizer = load_tokenizer(model.path, model.revision)
    progress("checking the model", 0, 0)
    incomplete = not has_weights(model)
    adapters: dict[str, Any] = {}
    model_notes: list[str] = []
    if subjects is None:
        model, adapters, model_notes = _inspect(model, recipe)
    prepared = _prepare_rows(recipe, model, tokenizer, cache, progress, trains=subjects is None)
    _check_tokens(model, prepared, int(tokenizer.pad_token_id))
    recipe_notes = _check_recipe(recipe, model, prepared, tokenizer, scorers)
    if weights:
        progress("fetching the model", 0, 0)
        fetch_weights(model)
        if incomplete and subjects is None:
            check_model(model, recipe)
    scored: dict[str, Any] = {}
    if subjects is not None:
        progress("checking the adapters", 0, 0)
        model, scored = _describe_subjects(subjects, model, recipe, tokenizer.chat_template)
    digests = scorer_digests(recipe.evaluate.scorers, scorers)
    about = prepared.to_json()
    notes, examples = about.pop("notes"), about.pop("examples")
    return {
        "ok": True,
        "model": {**model.to_json(), **adapters},
        "data": about,
        "evaluation_digest": evaluation_digest(recipe, prepared, digests),
        "notes": [*model_notes, *recipe_notes, *notes],
        "examples": examples,
        **scored,
    }


def _inspect(model: ModelSource, recipe: Recipe) -> tuple[ModelSource, dict[str, Any], list[str]]:
    """Return the model with its counted weights, what it says of its adapters, and notes.

    Raises ModelError or RecipeError where one of the recipe's trials could not train it.
    """
    from workbench.training.model.preflight import check_model, inspect_model
    from workbench.training.recipe_checks import check_swept_targets

    facts = inspect_model(model, recipe)
    check_swept_targets(recipe, partial(check_model, facts.source))
    return facts.source, {"adapters": facts.adapters}, facts.notes


def _prepare_rows(
    recipe: Recipe,
    model: ModelSource,
    tokenizer: Any,
    cache: Path,
    progress: Progress,
    *,
    trains: bool,
) -> Prepared:
    """Prepare the rows of a recipe that trains, or the held-out rows alone."""
    from workbench.training.dataset.prepared import prepare_data
    from workbench.training.dataset.scored_rows import prepare_scored_rows
    from workbench.training.dataset.tokenizer_pool import spare_processes

    return (prepare_data if trains else prepare_scored_rows)(
        recipe,
        tokenizer,
        cache,
        progress,
        refresh=True,
        processes=spare_processes(),
        most_tokens=model_positions(model.config),
    )


def _describe_subjects(
    subjects: Subjects, model: ModelSource, recipe: Recipe, template: Any
) -> tuple[ModelSource, dict[str, Any]]:
    """Return the model with its counted weights, and what was found in the adapters' folders."""
    # Seconds of imports, which an experiment that trains does not wait for: PEFT.
    from workbench.training.dataset.chat.template import unthinking_by_default
    from workbench.training.evaluation.adapter_checks import describe_subjects
    from workbench.training.model.preflight import counted_source, empty_model

    templates = [template] if isinstance(template, str) else []
    if recipe.data.drops_reasoning:  # as our own adapters of such rows are saved
        templates += [unthinking_by_default(one) for one in templates]
    base = empty_model(model, recipe)
    found = describe_subjects(subjects, recipe.model.name, base, templates)
    return counted_source(model, base), {"subjects": found}


def evaluation_digest(
    recipe: Recipe, prepared: Prepared, scorer_files: Mapping[str, str] = MappingProxyType({})
) -> str:
    """Return a digest equal for comparable scores: the same rows, asked and judged alike.

    `scorer_files` has the digests of the user's own scorers (`own_scorers.scorer_digests`).
    """
    judged = recipe.evaluate.model_dump(mode="json", include={"answer_pattern", "max_new_tokens"})
    if recipe.evaluate.scorer is not None:
        judged |= {"scorers": recipe.evaluate.scorers, "files": dict(scorer_files)}
    if (task := recipe.evaluate.task) is not None:
        judged["task"] = [task, _file_digest(Path(task))]
        if recipe.data.drops_reasoning:  # rows hold it; a task is asked by the template alone
            judged["reasoning"] = "drop"
    # Version 2 keeps the result of every row: a base that was scored before is scored again.
    text = json.dumps([prepared.eval_digest, judged, {"version": 2}], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _file_digest(path: Path) -> str:
    """Return the SHA-256 of a file's content, an empty text where there is no such file."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


def _check_recipe(
    recipe: Recipe, model: ModelSource, prepared: Prepared, tokenizer: Any, scorers: Path
) -> list[str]:
    """Return the notes of `recipe_checks` about recipe, rows and model together.

    `scorers` is the folder of the user's own scorers, which are tried on a few rows.
    """
    from workbench.training import recipe_checks
    from workbench.training.dataset.prepared import load_prepared
    from workbench.training.scoring.scorers.scorer_checks import scorer_notes

    held = load_prepared(prepared)[1].select_columns(["prompt_ids", "question", "answer"])
    rows = held.select(range(min(len(held), recipe_checks.MOST_ROWS))).to_list()
    asked = [(str(row["question"]), str(row["answer"])) for row in rows if row["prompt_ids"]]
    lengths = {
        "max_length": prepared.max_length,
        "eval_max_length": prepared.eval_max_length,
        "uncut_max_length": prepared.uncut_max_length,
        "prompt_length": recipe_checks.longest_prompt(rows),
    }
    return [
        *recipe_checks.check_positions(recipe, model.config, lengths),
        *recipe_checks.check_recipe(recipe, rows, prepared.train_rows, tokenizer),
        *scorer_notes(recipe.evaluate, asked, scorers),
    ]


def _check_tokens(model: ModelSource, prepared: Prepared, pad_id: int) -> None:
    """Raise ModelError where a token has no embedding."""
    config = model.config.get("text_config") or model.config
    vocabulary = config.get("vocab_size")
    highest = max(prepared.highest_id, pad_id)
    if isinstance(vocabulary, int) and highest >= vocabulary:
        raise ModelError(
            f"the tokenizer gives token {highest}, but the model has embeddings for {vocabulary}",
            hint="tokenizer and model do not belong together; take both from the same release",
        )


def _subjects(folder: Path) -> Subjects | None:
    try:
        return read_subjects(folder)
    except (OSError, ValueError, KeyError, TypeError) as broken:
        raise RecipeError(
            f"{folder / SUBJECTS} is no list of adapters: {safe_text(broken, 400)}",
            hint="submit the evaluation again",
        ) from broken


def _recipe(path: Path) -> Recipe:
    try:
        return Recipe.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as broken:
        raise RecipeError(
            f"{path} is no resolved recipe: {safe_text(broken, 400)}",
            hint="submit the recipe again",
        ) from broken


# ── as a process ─────────────────────────────────────────────────────────────────────────────


class ProgressFile:
    """A progress callback that writes {stage, done, total} to a file.

    At most four times a second; the begin and the end of a stage are written at once.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stage = ""
        self._next_s = 0.0

    def __call__(self, stage: str, done: int, total: int) -> None:
        now_s = time.monotonic()
        if now_s < self._next_s and stage == self._stage and done != total:
            return
        self._stage, self._next_s = stage, now_s + _PROGRESS_EVERY_S
        _write(self._path, {"stage": stage, "done": done, "total": total}, durable=False)


def _write(path: Path, what: dict[str, Any], *, durable: bool = True) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)  # a person may have removed the folder
    staged = path.with_name(f"{path.name}.{os.getpid()}")
    with staged.open("w", encoding="utf-8") as file:
        json.dump(what, file, ensure_ascii=False)
        file.flush()
        if durable:
            os.fsync(file.fileno())
    staged.replace(path)


def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0 when all experiments are ready, 1 when one was refused; `prepared.json` says why."""
    # Imports are most of the work for small data, and collections were a fifth of their time.
    gc.set_threshold(50_000, 20, 100)
    # Set before anything imports torch or the hub's client.
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    os.environ.setdefault("HF_HUB_ETAG_TIMEOUT", "8")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    hide_hub_kernels()
    os.umask(0o077)
    parser = argparse.ArgumentParser(prog="python -m workbench.training.prepare")
    parser.add_argument("experiment_folder", type=Path)
    parser.add_argument("cache_folder", type=Path)
    parser.add_argument(
        "--rows-only", action="store_true", help="fetch no weights, and end with the parent"
    )
    parser.add_argument(
        "--then", type=Path, nargs="+", default=[], help="more experiments' folders"
    )
    asked = parser.parse_args(arguments)
    if asked.rows_only:
        die_with_parent()
    log_without_secrets("%(levelname)s %(message)s")
    weights = not asked.rows_only
    code = _prepare_reported(asked.experiment_folder, asked.cache_folder, weights)
    for folder in asked.then:
        _log_to(folder / LOG)
        code = max(code, _prepare_reported(folder, asked.cache_folder, weights))
    return code


def _log_to(path: Path) -> None:
    """Send this process's output to `path`: each experiment has a log of its own."""
    with path.open("ab") as log:
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)


def _prepare_reported(folder: Path, cache: Path, weights: bool) -> int:
    """Prepare one experiment, with every error written to its `prepared.json`; return 0 or 1."""
    try:
        progress = ProgressFile(folder / PROGRESS)
        prepare_experiment(folder, cache, progress, weights=weights)
    except WorkbenchError as refused:
        log.error("preparation refused: %s", refused.what)
        return 1
    except Exception as broken:
        log.exception("preparation failed")
        what = f"preparing failed: {cause_text(root_cause(broken))}"
        hint = "the experiment's log has the details; `workbench doctor` checks the machine"
        _write(folder / RESULT, {"ok": False, "error": what, "hint": hint})
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

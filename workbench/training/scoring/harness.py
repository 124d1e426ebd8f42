"""Tasks of lm-evaluation-harness on a model that is loaded, through the harness's own API.

Needs the extra `workbench[eval]`. A task is a file of the user's or the name of one that the
harness ships. A file is data: one that names code is refused, and its templates are rendered in
Jinja's sandbox. docs/scorers.md says what of the results is kept.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import RecipeError
from workbench.text import safe_line
from workbench.training.control import Control
from workbench.training.failure import is_out_of_memory
from workbench.trial import LOWER_SUFFIX

if TYPE_CHECKING:  # seconds: a task is looked at before anything is loaded
    from torch import nn

STDERR = "_stderr"
"""The end of the name under which the harness's standard error of a score is kept."""
_SEED = 1234
"""The harness's own default seed for choosing few-shot examples."""
_BOOTSTRAPS = 1_000
"""Resamples for standard errors of metrics that are no mean over rows; means need none."""
_UNFIT = re.compile(r"[^a-z0-9_]+")
_CODE = re.compile(r"!function|^\s*(?:include|class|unsafe_code)\s*:", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskMetric:
    """One metric of a task, with the name of its score."""

    score: str
    """The name of its score, such as `sums_exact_match`; it ends with :min if lower is better."""
    key: str
    """Its key in the harness's results, such as `exact_match,none`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskScores:
    """The scores of a model on a task."""

    values: dict[str, float]
    """Each metric by the name of its score; `<name>_stderr` has the harness's standard error."""
    row_scores: dict[str, list[float | None]]
    """For each metric that the harness gives by row, one number for each row."""
    texts: list[tuple[str, str, str]]
    """Question, expected answer and the model's answer of each row, as the harness has them."""
    digest: str
    """SHA-256 over the harness's hashes of rows, prompts and targets; 32 hexadecimal digits."""


def run_task(
    model: nn.Module,
    tokenizer: Any,
    task: str,
    *,
    batch_size: int,
    precision: str,
    control: Control,
    chat: bool = False,
) -> TaskScores:
    """Evaluate the model on one task; `task` is the path of a YAML file or a name.

    `chat` asks through the tokenizer's chat template. On out of memory the task starts again with
    half the batch. Raises RecipeError for a task that is unknown, names code, or cannot be loaded,
    and Interrupted when the card is to be given back.
    """
    from workbench.training.scoring.held_out_loss import scoring_mode

    _import_harness()
    loaded = _load_task(task)
    hook = model.register_forward_pre_hook(lambda *_: control.check())
    try:
        with scoring_mode(model, precision):
            while True:
                try:
                    found = _evaluate(model, tokenizer, loaded, batch_size, chat)
                    break
                except (RuntimeError, MemoryError) as error:
                    if not is_out_of_memory(error) or batch_size == 1:
                        raise
                batch_size = math.ceil(batch_size / 2)
    finally:
        hook.remove()
    (name,) = found["results"]
    return _task_scores(found, name)


def list_metrics(task: str) -> list[TaskMetric]:
    """Return the metrics of a task, in its own order, without running it.

    Loads the task's rows. Raises RecipeError as run_task does.
    """
    _import_harness()
    (loaded,) = _load_task(task)["tasks"].values()
    name = str(loaded.config.task)
    better = loaded.higher_is_better()
    filters = [one["name"] for one in loaded.config.filter_list or [{"name": "none"}]]
    return [
        TaskMetric(score=_score_name(name, f"{metric},{one}", better), key=f"{metric},{one}")
        for one in filters
        for metric in better
    ]


def _import_harness() -> None:
    try:
        from lm_eval import utils
    except ImportError as absent:
        raise RecipeError(
            "tasks of lm-evaluation-harness need the package lm_eval, which is not installed",
            hint="pip install 'qlora-workbench[eval]'",
        ) from absent
    from jinja2.sandbox import SandboxedEnvironment

    if isinstance(utils.env, SandboxedEnvironment):
        return
    # The harness renders a task's templates without a sandbox, in which they may call anything.
    sandbox = SandboxedEnvironment(loader=utils.env.loader, undefined=utils.env.undefined)
    sandbox.filters.update(utils.env.filters)
    sandbox.keep_trailing_newline = utils.env.keep_trailing_newline
    utils.env = sandbox


def _load_task(task: str) -> dict[str, Any]:
    """Return the harness's dictionary with the one task, its rows loaded."""
    path = Path(task).expanduser()
    if is_file := path.suffix in (".yaml", ".yml"):
        _check_file(path)
    from lm_eval.tasks import TaskManager  # seconds: it imports datasets

    manager = TaskManager(include_defaults=not is_file)
    try:
        loaded = dict(manager.load([str(path) if is_file else task]))
    except Exception as broken:  # of yaml, datasets or the harness itself
        raise RecipeError(
            f"the task {safe_line(task, 200)} cannot be loaded: "
            f"{type(broken).__name__}: {safe_line(broken, 300)}",
            hint="lm-eval validate --tasks NAME says more; named tasks download their rows",
        ) from broken
    if len(loaded["tasks"]) != 1:
        raise RecipeError(
            f"{safe_line(task, 80)} is a group of {len(loaded['tasks'])} tasks",
            hint="evaluate its tasks one by one, so that each has a board",
        )
    for one in loaded["tasks"].values():
        if one.get_config("num_fewshot") is None:
            one.set_config(key="num_fewshot", value=0)
        one.set_fewshot_seed(seed=_SEED)
    return loaded


def _check_file(path: Path) -> None:
    """Raise RecipeError for a file that is not there or that names code."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as broken:
        raise RecipeError(
            f"the task file {safe_line(path, 200)} cannot be read: {safe_line(broken, 200)}",
            hint="give the path of a YAML file, or the name of a task of the harness",
        ) from broken
    if found := _CODE.search(text):
        raise RecipeError(
            f"{found[0].strip()} runs code or reads another file, which a task file may not: "
            f"{safe_line(path, 200)}",
            hint="write the task with templates, filters and metrics of the harness only",
        )


def _evaluate(
    model: nn.Module, tokenizer: Any, loaded: dict[str, Any], batch_size: int, chat: bool
) -> dict[str, Any]:
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM

    wrapped = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size)
    found = evaluate(
        wrapped,
        loaded,
        bootstrap_iters=_BOOTSTRAPS,
        apply_chat_template=chat,
        fewshot_as_multiturn=chat,
        log_samples=True,
    )
    return dict(found)


def _task_scores(found: Mapping[str, Any], name: str) -> TaskScores:
    results = found["results"][name]
    better = found["higher_is_better"][name]
    samples = sorted(found["samples"][name], key=lambda one: (one["doc_id"], str(one["filter"])))
    values: dict[str, float] = {}
    rows: dict[str, list[float | None]] = {}
    for key, value in results.items():
        if not isinstance(value, int | float) or isinstance(value, bool) or "," not in key:
            continue
        metric, _, chosen = key.partition(",")
        if metric.endswith(STDERR):
            continue
        score = _score_name(name, key, better)
        values[score] = float(value)
        error = results.get(f"{metric}{STDERR},{chosen}")
        if isinstance(error, int | float) and math.isfinite(error):
            values[f"{score.removesuffix(LOWER_SUFFIX)}{STDERR}"] = float(error)
        by_row = [one.get(metric) for one in samples if one["filter"] == chosen]
        if by_row and all(isinstance(one, int | float) for one in by_row):
            rows[score] = [float(one) for one in by_row]
    first = [one for one in samples if one["filter"] == samples[0]["filter"]]
    return TaskScores(
        values=values,
        row_scores={key: row for key, row in rows.items() if len(row) == len(first)},
        texts=[_texts(one) for one in first],
        digest=_digest(first),
    )


def _score_name(task: str, key: str, better: Mapping[str, bool]) -> str:
    """Return the name of a score: `sums_exact_match`, with the filter where it is not `none`."""
    metric, _, chosen = key.partition(",")
    parts = [task, metric] if chosen == "none" else [task, metric, chosen]
    plain = _UNFIT.sub("_", "_".join(parts).lower())[:56].strip("_")
    name = plain if plain[:1].isalpha() else f"t_{plain}"
    return name if better.get(metric, True) else f"{name}{LOWER_SUFFIX}"


def _texts(sample: Mapping[str, Any]) -> tuple[str, str, str]:
    asked = sample["arguments"][0][0] if sample["arguments"] else ""
    given = sample["filtered_resps"]
    answer = given[0] if given else ""
    if given and all(isinstance(one, tuple | list) for one in given):
        # Log-likelihoods of choices: the answer is the likeliest one.
        likeliest = max(range(len(given)), key=lambda index: float(given[index][0]))
        answer = sample["arguments"][likeliest][1]
    return str(asked), str(sample["target"]), str(answer)


def _digest(samples: list[Mapping[str, Any]]) -> str:
    import hashlib

    known = [[one["doc_hash"], one["prompt_hash"], one["target_hash"]] for one in samples]
    return hashlib.sha256(json.dumps(known).encode()).hexdigest()[:32]


def main(arguments: list[str]) -> int:
    """Print the metrics of a task as JSON, {"metrics": [{"score", "key"}]} or {"error", "hint"}."""
    try:
        metrics = [{"score": one.score, "key": one.key} for one in list_metrics(arguments[0])]
    except RecipeError as refused:
        print(json.dumps({"error": refused.what, "hint": refused.hint}))
        return 1
    print(json.dumps({"metrics": metrics}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""The scores of an exported model on the rows that its trial was scored on.

A merged model is scored as trials are. A GGUF file is scored by llama.cpp, which computes it as its
users' machines will: the tokens of rows and questions are those of the trial.

    python -m workbench.export.score MODEL ROWS EVALUATE [--ends 2,7] [--scorers FOLDER]

MODEL is a folder or a .gguf file, ROWS an arrow file of prepared rows, EVALUATE the recipe's
section `evaluate` as JSON.
"""

from __future__ import annotations

import os
import signal
import sys

if __name__ == "__main__":  # ctrl-c while the imports below run would print a traceback
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))

import argparse
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from workbench.errors import UsageError
from workbench.export.child import print_report
from workbench.recipe.schema import Evaluate
from workbench.training import libraries
from workbench.training.control import Control
from workbench.training.dataset.row_stats import IGNORED

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset

    from workbench.training.scoring.row_losses import RowLosses
    from workbench.training.scoring.scorers.answer_scores import OwnScorerRun

ROWS_AT_ONCE = 8
"""Rows that a CPU scores at once where the recipe leaves it to the plan of a card."""
Progress = Callable[[int, int], None]


def score_folder(
    model: Path,
    rows_file: Path,
    evaluate: Evaluate,
    ends: Sequence[int],
    scorers: Path | None = None,
    progress: Progress = lambda *_: None,
) -> dict[str, Any]:
    """Return the scores of a merged model, in its own dtype and on the CPU, under `values`.

    Holds the whole model in memory. Scorers of the user's own are taken from the folder `scorers`.
    Raises ModelError for a model that cannot be loaded.
    """
    libraries.import_libraries(threads=None)
    import torch
    from datasets import Dataset
    from transformers import AutoTokenizer

    from workbench.training.model.base import DTYPES
    from workbench.training.model.weights import load_whole
    from workbench.training.scoring.scores import Scorer

    loaded = load_whole(str(model), None, dtype="auto")
    loaded.requires_grad_(False)
    found = {dtype: name for name, dtype in DTYPES.items()}
    kinds = {param.dtype for param in loaded.parameters()}
    control = Control()
    control.rows_done = progress
    wanted = evaluate.batch_size
    scorer = Scorer(
        model=loaded,
        rows=Dataset.from_file(str(rows_file)),
        tokenizer=AutoTokenizer.from_pretrained(model),
        evaluate=evaluate,
        # A model in two dtypes is computed in the wider one.
        precision=found[torch.float32 if len(kinds) > 1 else kinds.pop()],
        emit=lambda kind, *, durable=False, **data: None,
        control=control,
        rows_at_once=ROWS_AT_ONCE if wanted == "auto" else wanted,
        turn_end_ids=ends,
        own_scorers=_own_scorers(scorers),
    )
    values = scorer.scores()
    return {"values": values, "missing": dict(scorer.missing), "by": "transformers"}


class Runtime(Protocol):
    """A program that computes logits of tokens one after another; `llama_cpp.Llama` is one."""

    @property
    def n_tokens(self) -> int: ...

    @property
    def scores(self) -> np.ndarray[Any, Any]:
        """The logits behind each token that was evaluated, (tokens, vocabulary)."""
        ...

    def reset(self) -> None: ...
    def eval(self, tokens: Sequence[int]) -> None: ...


def score_gguf(
    file: Path,
    rows_file: Path,
    evaluate: Evaluate,
    ends: Sequence[int],
    tokenizer: Path,
    scorers: Path | None = None,
    progress: Progress = lambda *_: None,
) -> dict[str, Any]:
    """Return the scores of a GGUF file by llama.cpp, under `values`.

    `tokenizer` is a folder with the model's tokenizer. Raises UsageError without llama-cpp-python.
    """
    libraries.import_libraries(threads=None)
    try:
        import llama_cpp
    except ImportError as missing:
        raise UsageError(
            "llama-cpp-python is not installed", hint="pip install llama-cpp-python"
        ) from missing
    from datasets import Dataset
    from transformers import AutoTokenizer

    rows = Dataset.from_file(str(rows_file))
    lengths = [
        max(len(ids), len(asked or ()) + evaluate.max_new_tokens)
        for ids, asked in zip(rows["input_ids"], rows["prompt_ids"], strict=True)
    ]
    runtime = llama_cpp.Llama(
        str(file), n_ctx=max(lengths, default=1) + 1, logits_all=True, verbose=False
    )
    own = _own_scorers(scorers)
    read = AutoTokenizer.from_pretrained(tokenizer)
    return score_runtime(runtime, rows, evaluate, ends, read, own, progress)


def score_runtime(
    runtime: Runtime,
    rows: Dataset,
    evaluate: Evaluate,
    ends: Sequence[int],
    tokenizer: Any,
    own: OwnScorerRun | None = None,
    progress: Progress = lambda *_: None,
) -> dict[str, Any]:
    """Return the scores of what `runtime` computes, as `Scorer.scores` gives those of a trial."""
    from workbench.training.scoring.scorers.answer_scores import (
        count_scored,
        mean_scores,
        score_answers,
    )

    values = {**_losses(runtime, rows, progress).values(), "rows": float(len(rows))}
    missing: dict[str, str] = {}
    if evaluate.scorers:
        stops = {*ends, tokenizer.eos_token_id}
        texts: list[tuple[str, str, str] | None] = []
        for number, row in enumerate(rows):
            asked = row["prompt_ids"]
            if not asked:
                texts.append(None)
                continue
            made = _greedy(runtime, asked, evaluate.max_new_tokens, stops)
            text = tokenizer.decode(made, skip_special_tokens=True)
            texts.append((row["question"] or "", row["answer"], text))
            progress(number + 1, len(rows))
        scored = score_answers(evaluate, texts, own)
        values |= mean_scores(scored.values)
        if scored.values:
            values["answers"] = float(max(map(count_scored, scored.values.values())))
        missing = dict(scored.missing)
    return {"values": values, "missing": missing, "by": "llama.cpp"}


def _losses(runtime: Runtime, rows: Dataset, progress: Progress) -> RowLosses:
    import numpy as np

    from workbench.training.scoring.row_losses import RowLosses

    nats, right, targets = [], [], []
    for number, row in enumerate(rows):
        runtime.reset()
        runtime.eval(row["input_ids"])
        labels = np.asarray(row["labels"][1:])
        logits = runtime.scores[: len(labels)][labels != IGNORED].astype(np.float64)
        labels = labels[labels != IGNORED]
        most = logits.max(axis=-1, keepdims=True)
        total = np.log(np.exp(logits - most).sum(axis=-1)) + most[:, 0]
        picked = logits[np.arange(len(labels)), labels]
        nats.append(float((total - picked).sum()))
        right.append(int((logits.argmax(axis=-1) == labels).sum()))
        targets.append(len(labels))
        progress(number + 1, len(rows))
    return RowLosses(nats=nats, right=right, targets=targets)


def _greedy(runtime: Runtime, asked: list[int], most: int, stops: Collection[int]) -> list[int]:
    """Return the likeliest tokens behind the question, up to one that ends an answer."""
    runtime.reset()
    runtime.eval(asked)
    made: list[int] = []
    while len(made) < most:
        made.append(int(runtime.scores[runtime.n_tokens - 1].argmax()))
        if made[-1] in stops:
            break
        runtime.eval(made[-1:])
    return made


def _own_scorers(folder: Path | None) -> OwnScorerRun | None:
    from workbench.training.scoring.scorers.answer_scores import OwnScorerRun

    return None if folder is None else OwnScorerRun(folder=folder)


def _print_progress(done: int, total: int) -> None:
    if sys.stderr.isatty():
        end = "\n" if done >= total else ""
        print(f"\rscoring {done} of {total} rows", end=end, file=sys.stderr, flush=True)


def main() -> int:
    """Score as the command line asks, print the scores as JSON and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("rows", type=Path)
    parser.add_argument("evaluate")
    parser.add_argument("--ends", default="")
    parser.add_argument("--scorers", type=Path)
    parser.add_argument("--tokenizer", type=Path)
    given = parser.parse_args()
    ends = [int(word) for word in given.ends.split(",") if word]
    evaluate = Evaluate.model_validate_json(given.evaluate)

    def score() -> dict[str, Any]:
        if given.model.is_dir():
            return score_folder(
                given.model, given.rows, evaluate, ends, given.scorers, _print_progress
            )
        return score_gguf(
            given.model,
            given.rows,
            evaluate,
            ends,
            given.tokenizer,
            given.scorers,
            _print_progress,
        )

    return print_report(score, after_ctrl_c=lambda: "the export is whole, and not scored")


if __name__ == "__main__":
    sys.exit(main())

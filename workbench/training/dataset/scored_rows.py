"""Rows that are only scored: the held-out file alone, in the cache of prepared rows.

The training file may be gone when an adapter is evaluated on other rows. The eval file's columns
and its digest are those of the same rows beside a training file, so that scores are comparable.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import DataError
from workbench.recipe.schema import Data, Recipe
from workbench.training.dataset.arrow_writer import BATCH_ROWS, EVAL, TRAIN, ArrowWriter
from workbench.training.dataset.files.sources import DataSource, find_scored
from workbench.training.dataset.first_pass import Progress, reread_rows, survey_rows
from workbench.training.dataset.prepared import Prepared, cached_rows, prepared_digest
from workbench.training.dataset.row_parser import RowParser
from workbench.training.dataset.tokenizer_pool import MANY_ROWS, TokenizerPool

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def prepare_scored_rows(
    recipe: Recipe,
    tokenizer: PreTrainedTokenizerBase,
    cache: Path,
    progress: Progress,
    *,
    refresh: bool = False,
    processes: int = 1,
    most_tokens: int | None = None,
) -> Prepared:
    """Return the rows of `data.eval` as tokens, with no training rows; `data.train` is not read.

    Arguments and errors are those of `prepare_data`. Lengths, target tokens and the ids that end
    turns are those of the scored rows.
    """
    data = recipe.data
    progress("looking for the data", 0, 0)
    source = find_scored(data, cache / "sources", refresh=refresh)
    if source is None:
        raise DataError("there are no rows to score", hint="name a file in data.eval")
    rows = source

    def make(staged: Path) -> dict[str, Any]:
        return _make_rows(data, tokenizer, rows, staged, progress, processes, most_tokens)

    digest = prepared_digest(data, tokenizer, [], source)
    return cached_rows(cache, digest, [None, source.digest], make)


def _make_rows(
    data: Data,
    tokenizer: PreTrainedTokenizerBase,
    source: DataSource,
    folder: Path,
    progress: Progress,
    processes: int,
    most_tokens: int | None,
) -> dict[str, Any]:
    """Write eval.arrow and an empty train.arrow; return the fields of `Prepared`."""
    parser = RowParser(data, templates=bool(tokenizer.chat_template), most_tokens=most_tokens)
    count = survey_rows(source, "scored", progress, data.eval_rows, [parser.parse])
    pool = TokenizerPool(parser, tokenizer, processes=processes if count >= MANY_ROWS else 1)

    def writer(name: str, schema: Any) -> ArrowWriter:
        file = folder / f"{name}.arrow"
        return ArrowWriter(file, schema, name, parser, pool.renderer, tokenizer)

    with writer("train", TRAIN), writer("eval", EVAL) as held:
        for number, (row, tokens) in enumerate(pool.tokens(reread_rows(source, data.eval_rows))):
            if number % BATCH_ROWS == 0:
                progress("tokenising scored rows", number, count)
            held.add(parser.parse(row), row.place, tokens)
        progress("tokenising scored rows", count, count)
    held.stats.check()
    return {
        "eval_digest": held.stats.digest(),
        "shape": parser.shape,
        **held.stats.numbers(),
        "read_rows": 0,
        "train_rows": 0,
        "eval_rows": held.stats.kept,
        "eval_max_length": held.stats.longest,
        "highest_id": held.stats.highest_id,
        "examples": held.examples.rows,
        "notes": [
            *parser.notes(pool.renderer),
            *held.stats.notes(),
            *held.warnings.notes(),
        ],
    }

"""From data files to arrow files: read, split, understand, render, cut, write."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa  # type: ignore[import-untyped]

from workbench.errors import DataError
from workbench.recipe.schema import Data
from workbench.training.heldout import hold_out
from workbench.training.render import Renderer
from workbench.training.rows import Row
from workbench.training.shapes import Example, example_of, find_shape
from workbench.training.sources import Source
from workbench.training.tally import Kept, Tally

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Progress = Callable[[str, int, int], None]
"""Stage, done, total (0 while it is not known)."""

_IDS = pa.list_(pa.int32())
_TRAIN = pa.schema([("input_ids", _IDS), ("labels", _IDS), ("length", pa.int32())])
_EVAL = pa.schema(
    [*_TRAIN, ("prompt_ids", _IDS), ("question", pa.string()), ("answer", pa.string())]
)


def make_rows(
    data: Data,
    tokenizer: PreTrainedTokenizerBase,
    sources: tuple[Source, Source | None],
    folder: Path,
    progress: Progress,
) -> dict[str, Any]:
    """Write train.arrow and eval.arrow into `folder`; returns what data.Prepared tells of them.

    `sources` are train and eval. DataError for rows that cannot be trained on.
    """
    train, held, notes = _split(data, sources, progress)
    shape = find_shape(data, train[0])
    loss_on = _loss_on(data, shape)
    templated = data.chat_template == "auto" and bool(tokenizer.chat_template)
    if shape in ("messages", "sharegpt") and not templated:
        raise DataError(
            "chats need a chat template, and "
            + ("data.chat_template is never" if tokenizer.chat_template else "this model has none"),
            mend="pick an instruction-tuned model (often named …-Instruct), or give the rows as "
            "prompt and completion",
        )
    renderer = Renderer(tokenizer, loss_on)

    def read(row: Row) -> Example:
        return example_of(data, shape, row, templated=templated)

    made = []
    for name, rows, schema in (("train", train, _TRAIN), ("eval", held, _EVAL)):
        find_shape(data, rows[0])
        tally = Tally(name, data.max_tokens)
        _write(folder / f"{name}.arrow", schema, rows, read, renderer, tally, progress)
        tally.check()
        made.append(tally)
    return {
        "eval_digest": made[1].digest(),
        "shape": shape,
        **made[0].numbers(),
        "train_rows": made[0].kept,
        "eval_rows": made[1].kept,
        "highest_id": max(tally.highest_id for tally in made),
        "notes": [*notes, *made[0].notes(), *made[1].notes(), *made[1].shared_with(made[0])],
    }


def _split(
    data: Data, sources: tuple[Source, Source | None], progress: Progress
) -> tuple[list[Row], list[Row], list[str]]:
    """(train, eval, notes), neither of them empty."""
    train = _read(sources[0], "training", progress, None if sources[1] is None else data.max_rows)
    if sources[1] is not None:
        held = _read(sources[1], "held-out", progress, data.eval_rows)
        return train, held, []
    train, held, notes = hold_out(train, data.eval_rows)
    return train[: data.max_rows], held, notes


def _read(source: Source, what: str, progress: Progress, limit: int | None) -> list[Row]:
    rows = []
    for row in source.read():
        rows.append(row)
        if len(rows) % 1000 == 0:
            progress(f"reading {what} rows", len(rows), limit or 0)
        if len(rows) == limit:
            break
    if rows:
        return rows
    name = source.path.name if source.path else source.name
    raise DataError(
        f"{name} holds no {what} rows",
        mend="the file is empty; check data.train and data.eval",
    )


def _loss_on(data: Data, shape: str) -> str:
    if shape == "text":
        if data.loss_on in ("completion", "assistant"):
            raise DataError(
                f"data.loss_on is {data.loss_on}, but plain text has no such part",
                mend="set data.loss_on: all, or give the rows as prompt and completion",
            )
        return "all"
    if data.loss_on != "auto":
        return data.loss_on
    return "assistant" if shape in ("messages", "sharegpt") else "completion"


def _write(
    path: Path,
    schema: pa.Schema,
    rows: list[Row],
    read: Callable[[Row], Example],
    renderer: Renderer,
    tally: Tally,
    progress: Progress,
) -> None:
    with path.open("wb") as file, pa.ipc.new_stream(file, schema) as stream:
        for start in range(0, len(rows), 256):
            progress(f"tokenising {tally.name} rows", start, len(rows))
            kept: list[Kept] = []
            for row in rows[start : start + 256]:
                made = tally.add(renderer.tokens_of(read(row), row.place), row.place, renderer.ends)
                if made is not None:
                    kept.append(made)
            columns = [[getattr(row, name) for row in kept] for name in schema.names]
            arrays = [pa.array(c, field.type) for c, field in zip(columns, schema, strict=True)]
            stream.write_batch(pa.record_batch(arrays, schema=schema))
    progress(f"tokenising {tally.name} rows", len(rows), len(rows))

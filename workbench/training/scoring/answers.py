"""Greedy answers in batches, compared with the expected ones by the recipe's pattern.

`scorers` gives them the scores that a recipe names.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from datasets import Dataset
from torch import nn

from workbench.training.control import Control
from workbench.training.model.portable import as_ids
from workbench.training.scoring.generation import GenerateRows, GenerationPlan, generate_rows
from workbench.training.scoring.scorers.extraction import compared_part


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratedAnswer:
    """The answer that the model generated for one held-out row."""

    row: int
    """The row's number among the held-out rows."""
    text: str
    """The generated text without special tokens; empty for a row without a question."""
    right: bool
    """True when the pattern finds the same in the generated and in the expected answer; without a
    pattern, when the whole answers match."""
    scorable: bool
    """False when there is no question, or the expected answer does not match the pattern."""
    extracted: str | None = None
    """The part of `text` that the pattern finds; None without a match, and without a pattern."""
    expected: str = ""
    """The whole expected answer of the row."""
    tokens: int = 0
    """Tokens that were generated, with the one that ended the answer."""
    ended_by: str = ""
    """"end" for an answer that the model ended, "length" for one cut at `max_new_tokens`; empty
    for a row without a question."""


def generate_answers(
    model: nn.Module,
    rows: Dataset,
    tokenizer: Any,
    *,
    pattern: str | None,
    batch_size: int,
    max_new_tokens: int,
    precision: str,
    control: Control,
    turn_end_ids: Collection[int] = (),
    dequantised: bool = False,
    generate: GenerateRows = generate_rows,
    shrunk: Callable[[int], None] = lambda size: None,
    fell_back: Callable[[str], None] = lambda reason: None,
) -> list[GeneratedAnswer]:
    """Generate one greedy answer for each row and return them in the rows' order.

    Up to `batch_size` rows are generated at once, fewer where the card has no room; `shrunk` is
    called with a new number, `fell_back` with the reason where transformers has to generate them.
    `dequantised`: 4-bit weights are unpacked once. `generate` makes the tokens. An answer ends at
    one of `end_ids`. Raises Interrupted when the card is to be given back.
    """
    prompts = {row: ids for row, ids in enumerate(rows["prompt_ids"]) if ids}
    expected: list[str] = list(rows["answer"])
    wanted = [
        compared_part(pattern, text) if row in prompts else None
        for row, text in enumerate(expected)
    ]
    plan = GenerationPlan(
        rows_at_once=batch_size,
        most=max_new_tokens,
        ends=end_ids(model, tokenizer, turn_end_ids),
        pad_id=tokenizer.pad_token_id,
        precision=precision,
        dequantised=dequantised,
    )
    made = generate(model, prompts, plan, control, shrunk=shrunk, fell_back=fell_back)
    texts = tokenizer.batch_decode([one.ids for one in made.values()], skip_special_tokens=True)
    text_of = dict(zip(made, texts, strict=True))
    answers = []
    for row, whole in enumerate(expected):
        new, text = made.get(row), text_of.get(row, "")
        found = compared_part(pattern, text) if new is not None else None
        answers.append(
            GeneratedAnswer(
                row=row,
                text=text,
                right=wanted[row] is not None and found == wanted[row],
                scorable=wanted[row] is not None,
                extracted=found if pattern is not None else None,
                expected=whole,
                tokens=0 if new is None else len(new.ids),
                ended_by="" if new is None else "end" if new.ended else "length",
            )
        )
    return answers


def end_ids(model: nn.Module, tokenizer: Any, turn_end_ids: Collection[int] = ()) -> list[int]:
    """Return the ids that may end an answer: the model's, the tokenizer's and the trained ones.

    `turn_end_ids` are the ids that ended turns with loss in the prepared rows.
    """
    config = getattr(model, "generation_config", None)
    own = as_ids(getattr(config, "eos_token_id", None))
    return sorted({*own, *as_ids(tokenizer.eos_token_id), *turn_end_ids})

"""Greedy answers in batches, compared with the expected ones by the recipe's pattern.

`scorers` gives them the scores that a recipe names.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset
from torch import nn
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from workbench.training.control import Control
from workbench.training.model.portable import as_ids
from workbench.training.scoring.held_out_loss import in_batches, scoring_mode
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


class _Watch(StoppingCriteria):  # type: ignore[misc]
    """A hook at every token that records progress and raises Interrupted on a request to yield."""

    def __init__(self, control: Control) -> None:
        self._control = control

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        self._control.check()
        return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)


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
    shrunk: Callable[[int], None] = lambda size: None,
) -> list[GeneratedAnswer]:
    """Generate one greedy answer for each row and return them in the rows' order.

    Rows are sorted by length and generated `batch_size` at a time, with fewer rows when the card
    has no room; `shrunk` is called with a new size. An answer ends at one of `end_ids`. The
    key-value cache is freed after each batch. Raises Interrupted when the card is to be given back.
    """
    prompts: list[list[int]] = list(rows["prompt_ids"])
    asked = [i for i, prompt in enumerate(prompts) if prompt]
    order = sorted(asked, key=lambda i: -len(prompts[i]))
    expected: list[str] = list(rows["answer"])
    wanted = [
        compared_part(pattern, text) if prompt else None
        for text, prompt in zip(expected, prompts, strict=True)
    ]
    ends = end_ids(model, tokenizer, turn_end_ids)
    settings = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        temperature=1.0,
        top_p=1.0,
        top_k=50,
        repetition_penalty=1.0,
        use_cache=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=ends,
    )
    stop = StoppingCriteriaList([_Watch(control)])
    made: dict[int, tuple[str, int, bool]] = {}
    with scoring_mode(model, precision) as device:

        def work(batch: list[int]) -> None:
            width = max(len(prompts[i]) for i in batch)
            pads = [width - len(prompts[i]) for i in batch]
            ids = [
                [tokenizer.pad_token_id] * pad + prompts[i]
                for pad, i in zip(pads, batch, strict=True)
            ]
            mask = [[0] * pad + [1] * (width - pad) for pad in pads]
            out = model.generate(  # type: ignore[operator]
                input_ids=torch.tensor(ids, device=device),
                attention_mask=torch.tensor(mask, device=device),
                generation_config=settings,
                stopping_criteria=stop,
            )
            generated = out[:, width:]
            decoded = tokenizer.batch_decode(generated, skip_special_tokens=True)
            for i, text, ids in zip(batch, decoded, generated.tolist(), strict=True):
                made[i] = (text, *_length(ids, ends))

        in_batches(order, batch_size, control, work, shrunk)
    answers = []
    for i, whole in enumerate(expected):
        text, tokens, ended = made.get(i, ("", 0, False))
        found = compared_part(pattern, text) if i in made else None
        answers.append(
            GeneratedAnswer(
                row=i,
                text=text,
                right=wanted[i] is not None and found == wanted[i],
                scorable=wanted[i] is not None,
                extracted=found if pattern is not None else None,
                expected=whole,
                tokens=tokens,
                ended_by=("end" if ended else "length") if i in made else "",
            )
        )
    return answers


def _length(ids: Sequence[int], ends: Collection[int]) -> tuple[int, bool]:
    """Return the number of generated ids up to the one that ends the answer, and if one does.

    Behind it is padding, because the other answers of the batch are longer.
    """
    for n, id in enumerate(ids, start=1):
        if id in ends:
            return n, True
    return len(ids), False


def end_ids(model: nn.Module, tokenizer: Any, turn_end_ids: Collection[int] = ()) -> list[int]:
    """Return the ids that may end an answer: the model's, the tokenizer's and the trained ones.

    `turn_end_ids` are the ids that ended turns with loss in the prepared rows.
    """
    config = getattr(model, "generation_config", None)
    own = as_ids(getattr(config, "eos_token_id", None))
    return sorted({*own, *as_ids(tokenizer.eos_token_id), *turn_end_ids})

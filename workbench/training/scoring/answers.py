"""Generated answers against expected ones: greedy, in batches, exact match of the pattern."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset
from torch import nn
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from workbench.training.control import Control
from workbench.training.scoring.held_out_loss import in_batches, scoring

TURN_ENDS = ("<|eot_id|>", "<|im_end|>", "<end_of_turn>", "<|end|>", "<|end_of_text|>")
"""Tokens that end a turn in common chat templates, beside the tokenizer's own end."""
_THOUSANDS = re.compile(r"(?<=\d),(?=\d)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    row: int
    text: str
    """What was generated, special tokens removed."""
    right: bool
    scorable: bool
    """False when there is no question, or the expected answer does not match the pattern."""


def extract(pattern: str, text: str) -> str | None:
    """The last match's first group (or all of it), stripped, commas in numbers removed."""
    last = None
    for last in re.finditer(pattern, text):  # noqa: B007
        pass
    if last is None:
        return None
    found = last.group(1) if last.re.groups else last.group(0)
    return _THOUSANDS.sub("", found or "").strip()


class _Watch(StoppingCriteria):  # type: ignore[misc]
    """Makes progress visible at every token, and stops for a wish to have the card back."""

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
    pattern: str,
    batch_size: int,
    max_new_tokens: int,
    precision: str,
    control: Control,
    shrunk: Callable[[int], None] = lambda size: None,
) -> list[Answer]:
    """One greedy answer per row, in the rows' order. The key-value cache goes with each batch."""
    prompts: list[list[int]] = list(rows["prompt_ids"])
    asked = [i for i, prompt in enumerate(prompts) if prompt]
    order = sorted(asked, key=lambda i: -len(prompts[i]))
    wanted = [
        extract(pattern, text) if prompt else None
        for text, prompt in zip(rows["answer"], prompts, strict=True)
    ]
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
        eos_token_id=end_ids(model, tokenizer),
    )
    stop = StoppingCriteriaList([_Watch(control)])
    texts: dict[int, str] = {}
    with scoring(model, precision) as device:

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
            said = tokenizer.batch_decode(out[:, width:], skip_special_tokens=True)
            texts.update(zip(batch, said, strict=True))

        in_batches(order, batch_size, control, work, shrunk)
    return [
        Answer(
            row=i,
            text=texts.get(i, ""),
            right=wanted[i] is not None and extract(pattern, texts[i]) == wanted[i],
            scorable=wanted[i] is not None,
        )
        for i in range(len(prompts))
    ]


def end_ids(model: nn.Module, tokenizer: Any) -> list[int]:
    """Every token that may end an answer: the model's, the tokenizer's, and TURN_ENDS it has."""
    config = getattr(model, "generation_config", None)
    told = getattr(config, "eos_token_id", None)
    ids = set(told if isinstance(told, list) else [told])
    ids.add(tokenizer.eos_token_id)
    known = tokenizer.get_added_vocab()
    ids.update(known[name] for name in TURN_ENDS if name in known)
    return sorted(id for id in ids if id is not None)

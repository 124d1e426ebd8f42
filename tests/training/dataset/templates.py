"""Chat templates of model families, as TRL ships them, on the demo's tokenizer."""

from __future__ import annotations

import copy
import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from workbench.recipe.schema import Data
from workbench.training.dataset.chat.rendering import Renderer, Tokens
from workbench.training.dataset.files.lines import DataRow
from workbench.training.dataset.rows.shapes import Chat, example_of

_SPECIAL = re.compile(
    r"<\|[^|<>'\s]*\|>|<｜[^<>\s]*?｜>|</?s>|<(?:start|end)_of_turn>"
    r"|<\|(?:turn|channel|tool\w*)>|<(?:turn|channel|tool\w*)\|>"  # Gemma 4
)
_ENDS = (
    "<|im_end|>", "<end_of_turn>", "<|eot_id|>", "<|return|>", "<｜end▁of▁sentence｜>", "<turn|>",
)  # fmt: skip
_PLAIN = ["<think>", "</think>", "<tool_call>", "</tool_call>"]


@cache
def template_text(name: str) -> str:
    """Return the text of one of TRL's templates, e.g. `qwen3` or `qwen3_training`."""
    spec = find_spec("trl")
    assert spec is not None
    assert spec.origin is not None
    return (Path(spec.origin).parent / "chat_templates" / f"{name}.jinja").read_text("utf-8")


def family_tokenizer(base: PreTrainedTokenizerBase, name: str) -> PreTrainedTokenizerBase:
    """Return a copy of the tokenizer with a family's template and the control tokens in it."""
    tokenizer = copy.deepcopy(base)
    text = template_text(name)
    special = sorted(set(_SPECIAL.findall(text)))
    tokenizer.add_special_tokens({"additional_special_tokens": special})
    tokenizer.add_tokens(_PLAIN)
    tokenizer.eos_token = next((end for end in _ENDS if end in special), tokenizer.eos_token)
    tokenizer.chat_template = text
    return tokenizer


def rendered(
    tokenizer: PreTrainedTokenizerBase, row: dict[str, Any], loss_on: str = "assistant", **how: Any
) -> Tokens:
    """Return the tokens of a row of messages."""
    data = Data(train="t.jsonl")
    example = example_of(data, "messages", DataRow("t.jsonl:1", row), templated=True)
    assert isinstance(example, Chat)
    return Renderer(tokenizer, loss_on, **how).tokens_of(example, "t.jsonl:1")


def learned(tokenizer: PreTrainedTokenizerBase, tokens: Tokens) -> list[str]:
    """Return the text of each run of tokens with loss."""
    runs: list[list[int]] = []
    before = False
    for id, trained in zip(tokens.ids, tokens.trained, strict=True):
        if trained and not before:
            runs.append([])
        if trained:
            runs[-1].append(id)
        before = trained
    return [tokenizer.decode(run) for run in runs]


def asked(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def answer(text: str | None, **fields: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **fields}

"""What is odd about rows that can be trained on: told with the first row and the mend."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import TYPE_CHECKING

from workbench.training.dataset.rendering import Tokens
from workbench.training.dataset.row_stats import Count
from workbench.training.dataset.shapes import Chat, Example, Pair, Text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

END_MARKERS = (
    "</s>", "<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|endoftext|>", "<|end_of_text|>",
    "<|end|>", "<eos>", "<turn|>",
)  # fmt: skip
"""What model families write at the end of a turn or a text."""


class Doubts:
    """Looks at every row that is kept; some microseconds each."""

    def __init__(self, name: str, tokenizer: PreTrainedTokenizerBase) -> None:
        self._name = name
        self._begin = tokenizer.bos_token_id
        self._begin_text = str(tokenizer.bos_token)
        self._own_end = str(tokenizer.eos_token)
        own = {str(token) for token in tokenizer.added_tokens_decoder.values()}
        foreign = [re.escape(marker) for marker in END_MARKERS if marker not in own]
        self._foreign = re.compile("|".join(foreign) or "(?!)")
        self._markers: dict[str, Count] = defaultdict(Count)
        self._begins = Count()
        self._order = Count()
        self._unasked = Count()
        self._blank = Count()

    def look(self, example: Example, tokens: Tokens, place: str) -> None:
        said = _said(example)
        for marker in sorted(set(self._foreign.findall(said))):
            self._markers[marker].add(place)
        if self._begin is not None and self._begins_twice(said, tokens.ids):
            self._begins.add(place)
        if isinstance(example, Chat) and out_of_order(example):
            self._order.add(place)
        if _learns_blanks(example):
            self._blank.add(place)
        if not isinstance(example, Text) and tokens.prompt_ids and not tokens.question.strip():
            self._unasked.add(place)

    def _begins_twice(self, said: str, ids: list[int]) -> bool:
        """At the front, or in the middle because the row's own text has it: a template may put one
        before every turn."""
        if ids[:2] == [self._begin, self._begin]:
            return True
        return self._begin_text in said and self._begin in ids[1:]

    def notes(self) -> list[str]:
        said: list[str] = []
        for marker, count in self._markers.items():
            words = f"with {marker}, another model family's end marker, as plain text"
            hint = f"take it out of the rows: this model's own end is {self._own_end}, put there"
            said += count.note(self._name, words, f"{hint} by itself")
        said += self._begins.note(
            self._name,
            "with a second begin token",
            "take the begin token out of the rows; the tokenizer or the template puts one there",
        )
        said += self._order.note(
            self._name,
            "whose turns are out of order",
            "user and assistant take turns, the user first, a system message before them",
        )
        said += self._unasked.note(
            self._name, "whose prompt is empty", "fill it, or take the rows out"
        )
        return said + self._blank.note(
            self._name, "with nothing but blanks where text is learned", "fill it, or take them out"
        )


def out_of_order(chat: Chat) -> bool:
    """True unless turns go (system), user, assistant, user, … with tools where they like."""
    roles = [message["role"] for message in chat.messages]
    if roles[0] in ("system", "developer"):
        roles = roles[1:]
    if "system" in roles or "developer" in roles:
        return True
    if "tool" in roles:
        return roles[0] != "user"
    return any(role != ("user", "assistant")[n % 2] for n, role in enumerate(roles))


def _learns_blanks(example: Example) -> bool:
    """Whether text that may carry loss is empty; rows in which all of it is are left out before."""
    if isinstance(example, Text):
        return not example.text.strip()
    if isinstance(example, Pair):
        return not example.completion.strip()
    answers = (one["content"] for one in example.messages if one["role"] == "assistant")
    return not all(answer.strip() for answer in answers)


def _said(example: Example) -> str:
    if isinstance(example, Text):
        return example.text
    if isinstance(example, Pair):
        return f"{example.prompt}\n{example.completion}"
    return "\n".join(message["content"] for message in example.messages)

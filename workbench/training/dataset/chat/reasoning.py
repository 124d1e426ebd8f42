"""The reasoning of an answer: a field of its turn, or a `<think>` block in front of its text."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from workbench.training.dataset.chat.template import Message, Span

FIELDS = ("reasoning_content", "thinking", "reasoning")
"""Names of the field; transformers gives templates the one that they read."""
_OPEN, _CLOSE = "<think>", "</think>"
_BLOCK = re.compile(rf"\s*(?:{_OPEN})?\s*{_CLOSE}\s*")
"""Matches the empty block that templates put before an answer without reasoning, or its end."""
_CLOSING = re.compile(r"\s*<[^<>]*think[^<>]*>\s*", re.IGNORECASE)
"""Matches the tag behind the reasoning."""


def reasoning_of(message: Message) -> str:
    """Return the reasoning that an answer was given with, without blanks around it; or ""."""
    for name in FIELDS:
        if isinstance(message.get(name), str) and message[name].strip():
            return str(message[name]).strip()
    return _split(message["content"] or "")[0]


def without_reasoning(message: Message) -> Message:
    """Return an answer without its reasoning; another turn as it is."""
    if message["role"] != "assistant":
        return message
    kept = {key: value for key, value in message.items() if key not in FIELDS}
    return {**kept, "content": _split(message["content"])[1]}


def _split(content: str) -> tuple[str, str]:
    """Return the reasoning in a text and what stands behind it.

    A block whose opening tag is missing counts: some generation prompts supply the tag.
    """
    before, close, behind = content.partition(_CLOSE)
    opened = before.lstrip().startswith(_OPEN)
    if not close or (not opened and _OPEN in content):
        return "", content
    return before.lstrip().removeprefix(_OPEN).strip(), behind.lstrip()


def reasoning_spans(text: str, spans: Sequence[Span], answers: Sequence[Message]) -> Iterator[Span]:
    """Yield the characters of the reasoning in rendered answers, with the tags around it.

    `spans` are the answers' characters, and `answers` their messages in the same order; an answer
    whose reasoning the template left out has none. Empty blocks count, too.
    """
    left = list(answers)
    for start, end in spans:
        if block := _BLOCK.match(text, start, end):
            yield start, block.end()
        for number, answer in enumerate(left):
            thought = reasoning_of(answer)
            at = text.find(thought, start, end) if thought else -1
            if at >= 0:
                yield start, _behind(text, at + len(thought), end, answer)
                del left[: number + 1]
                break


def _behind(text: str, at: int, end: int, answer: Message) -> int:
    """Return where the answer says something behind its reasoning, which ends at `at`."""
    said = _split(answer["content"] or "")[1].strip()
    found = text.find(said, at, end) if said else -1
    if found >= 0:
        return found
    closing = _CLOSING.match(text, at, end)
    return closing.end() if closing else at

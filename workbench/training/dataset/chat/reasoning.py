"""The reasoning of an answer: a field of its turn, or a `<think>` block in front of its text."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress

from workbench.errors import DataError
from workbench.training.dataset.chat.template import ChatTemplate, Message, Span

FIELDS = ("reasoning_content", "thinking", "reasoning")
"""Names of the field; transformers gives templates the one that they read."""
_OPEN, _CLOSE = "<think>", "</think>"
_BLOCK = re.compile(rf"\s*(?:{_OPEN})?\s*{_CLOSE}\s*")
"""Matches the empty block that templates put before an answer without reasoning, or its end."""
_CLOSING = re.compile(r"\s*[<\[][^<>\[\]]+[>\]]\s*")
"""Matches the tag behind the reasoning, as `</think>`, `<channel|>` or `[/THINK]`."""


def reasoning_of(message: Message) -> str:
    """Return the reasoning that an answer was given with, without blanks around it; or ""."""
    return _field_of(message) or _split(message["content"] or "")[0]


def _field_of(message: Message) -> str:
    texts = (message[name] for name in FIELDS if isinstance(message.get(name), str))
    return next((text.strip() for text in texts if text.strip()), "")


def _said(message: Message) -> str:
    """Return what an answer says without its reasoning."""
    content = str(message["content"] or "")
    # Beside a field, `</think>` alone is no end of a block whose opening tag is missing.
    block = not _field_of(message) or content.lstrip().startswith(_OPEN)
    return _split(content)[1] if block else content


def without_reasoning(message: Message) -> Message:
    """Return an answer without its reasoning; another turn as it is."""
    if message["role"] != "assistant":
        return message
    kept = {key: value for key, value in message.items() if key not in FIELDS}
    return {**kept, "content": _said(message)}


def with_reasoning_field(message: Message) -> Message:
    """Return an answer whose block in front became the field reasoning_content; others as is."""
    content = str(message["content"] or "")
    opened = message["role"] == "assistant" and content.lstrip().startswith(_OPEN)
    if not opened or _field_of(message):
        return message
    thought, said = _split(content)
    return {**message, "content": said, "reasoning_content": thought} if thought else message


def never_ends_reasoning(message: Message) -> bool:
    """Return whether an answer begins with `<think>` that nothing closes, as one that was cut."""
    content = str(message["content"] or "")
    opened = message["role"] == "assistant" and content.lstrip().startswith(_OPEN)
    return opened and _CLOSE not in content


def shows_blocks_twice(template: ChatTemplate) -> bool:
    """Return whether the template shows reasoning of a field, and a block in the text beside it."""
    answer: Message = {"role": "assistant", "content": f"{_OPEN}\nzebra\n{_CLOSE}\n\nyak"}
    asked: Message = {"role": "user", "content": "Does it rain?"}
    with suppress(DataError):
        as_text, as_field = (
            template.render([asked, one], "probe").count(_CLOSE)
            for one in (answer, with_reasoning_field(answer))
        )
        return as_text > as_field > 0
    return False


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
    paired = len(spans) == len(answers)  # else an answer has several marks, or none
    left = list(answers)
    for start, end in spans:
        if block := _BLOCK.match(text, start, end):
            yield start, block.end()
        for number, answer in enumerate(left[:1] if paired else left):
            stop = _reasoning_end(text, start, end, answer)
            if stop:
                yield start, stop
            if stop or paired:
                del left[: number + 1]
                break


def _reasoning_end(text: str, start: int, end: int, answer: Message) -> int:
    """Return where an answer says something behind its reasoning; 0 where that is not shown.

    A tag stands behind the reasoning and before the answer. An answer can hold the words of a
    reasoning that the template left out.
    """
    thought, said = reasoning_of(answer), _said(answer).strip()
    at, closing = start - 1, None
    while thought and closing is None and (at := text.find(thought, at + 1, end)) >= 0:
        closing = _CLOSING.match(text, at + len(thought), end)
    if closing is None:
        return 0
    found = text.find(said, closing.end(), end)
    if said and found < 0:
        return 0 if said in text[start:end] else closing.end()
    return found if said else closing.end()

"""The texts that a chat template puts around each message, found by rendering known messages.

Programs such as Ollama have a template language of their own. Instead of translating a Jinja
template, the texts between the messages are taken from what it renders, and conversations put
together from them are compared with what it renders.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from workbench.errors import ModelError
from workbench.text import safe_line

_SYSTEM, _USER, _ANSWER, _NEXT = "SYSTEMTEXT", "USERTEXT", "ANSWERTEXT", "NEXTTEXT"
Message = dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatParts:
    """Texts around the messages of a conversation in which user and model take turns."""

    opening: str
    """Before the first user's message where there is no system message."""
    before_system: str | None
    """Before the system message; None where the template takes none."""
    after_system: str
    """Between the system message and the user's message."""
    system_is_last: bool
    """True where the system message stands in the last user's turn and not in the first."""
    user_to_answer: str
    """Between a user's message and its answer, in earlier turns."""
    answer_to_user: str
    """Between an answer and the next user's message."""
    ending: str
    """After the last user's message: the answer of the model begins behind it."""

    def render(self, messages: Sequence[Message]) -> str:
        """Return a conversation that ends with a user's message, and may begin with a system's."""
        has_system = messages[0]["role"] == "system"
        turns = [message["content"] for message in messages[has_system:]]
        system = f"{self.before_system}{messages[0]['content']}{self.after_system}"
        opening = system if has_system and not self.system_is_last else self.opening
        if has_system and self.system_is_last:
            turns[-1] = system.removeprefix(self.opening) + turns[-1]
        between = [self.user_to_answer, self.answer_to_user] * (len(turns) // 2)
        parts = [part for pair in zip(turns, [*between, self.ending], strict=True) for part in pair]
        return "".join([opening, *parts])


def chat_parts(tokenizer: Any) -> ChatParts:
    """Return the parts of a tokenizer's chat template, once they render conversations as it does.

    Raises ModelError for a template that does more than put texts around messages.
    """
    if not tokenizer.chat_template:
        raise _refused("there is no chat template")
    turns = [_said("user", _USER), _said("assistant", _ANSWER), _said("user", _NEXT)]
    opening, rest = _cut(_rendered(tokenizer, turns), _USER)
    user_to_answer, rest = _cut(rest, _ANSWER)
    answer_to_user, ending = _cut(rest, _NEXT)
    before_system, after_system = _around_system(tokenizer)
    found = ChatParts(
        opening=opening,
        before_system=before_system,
        after_system=after_system,
        system_is_last=False,
        user_to_answer=user_to_answer,
        answer_to_user=answer_to_user,
        ending=ending,
    )
    if not _renders_alike(tokenizer, found) and (before_system or "").startswith(opening):
        found = replace(found, system_is_last=True)
    if not _renders_alike(tokenizer, found):
        raise _refused("it does more than put texts before and after messages")
    return found


def sample_conversations(*, system: bool) -> list[list[Message]]:
    """Return ten conversations that a model can be asked to continue; half with a system message.

    Without `system` none has one.
    """
    texts = (
        "Hello!",
        "What is 2 + 2?",
        "def f(x):\n    return x",
        "Grüße, 世界 🙂",
        '{"a": [1, "b"]}',
    )
    conversations = []
    for number in range(10):
        turns = [_said("system", f"Answer in {number + 1} words.")] if system and number % 2 else []
        for turn in range(number // 2 + 1):
            if turn:
                turns.append(_said("assistant", texts[(number + turn + 2) % len(texts)]))
            turns.append(_said("user", texts[(number + turn) % len(texts)]))
        conversations.append(turns)
    return conversations


def _renders_alike(tokenizer: Any, found: ChatParts) -> bool:
    """Return whether ten conversations are rendered as by the template."""
    return all(
        found.render(messages) == _rendered(tokenizer, messages)
        for messages in sample_conversations(system=found.before_system is not None)
    )


def _around_system(tokenizer: Any) -> tuple[str | None, str]:
    """Return the texts before and after a system message; None where the template has no place."""
    try:
        text = _rendered(tokenizer, [_said("system", _SYSTEM), _said("user", _USER)])
    except ModelError:
        return None, ""
    if _SYSTEM not in text:
        return None, ""
    before, rest = _cut(text, _SYSTEM)
    return before, _cut(rest, _USER)[0]


def _rendered(tokenizer: Any, messages: Sequence[Message]) -> str:
    """Return the text before the model's answer; ModelError with the template's own words."""
    try:
        return str(
            tokenizer.apply_chat_template(
                list(messages), tokenize=False, add_generation_prompt=True
            )
        )
    except Exception as refused:  # a template raises what it likes
        raise _refused(f"it fails: {safe_line(refused, 200)}") from refused


def _cut(text: str, word: str) -> tuple[str, str]:
    """Return the text before and after a word that stands in it once."""
    if text.count(word) != 1:
        raise _refused("it leaves out a message or repeats one")
    before, _, after = text.partition(word)
    return before, after


def _said(role: str, text: str) -> Message:
    return {"role": role, "content": text}


def _refused(why: str) -> ModelError:
    return ModelError(
        f"the chat template cannot be written for Ollama: {why}",
        hint="write the file without --ollama; llama.cpp reads the template that is in it",
    )

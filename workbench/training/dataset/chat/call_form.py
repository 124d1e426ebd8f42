"""The form in which a chat template takes a call: arguments as an object or as JSON text.

A template that writes them by `tojson` would write a text with its quotes escaped, and one that
joins texts would write an object as Python prints it. Some show calls only of turns whose content
is null, and others refuse that. Which it is shows a probe.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from workbench.errors import DataError
from workbench.training.dataset.chat.template import ChatTemplate, Message

_TOOL = {
    "type": "function",
    "function": {
        "name": "zebra_rain",
        "description": "Rain.",
        "parameters": {"type": "object", "properties": {"yak": {"type": "integer"}}},
    },
}
_ARGUMENTS = {"yak": 7}
_TEXT = json.dumps(_ARGUMENTS)
_SYSTEM: Message = {"role": "system", "content": "Be brief."}


@dataclass(frozen=True, slots=True)
class CallForm:
    """The form in which a template takes calls."""

    as_text: bool
    """True if arguments are given as JSON text, and not as an object."""
    no_content: str | None
    """The content of a turn that says nothing beside its calls: an empty text, or None."""


def find_call_form(template: ChatTemplate) -> CallForm | None:
    """Return how the template takes calls; None for one that shows none."""
    for content in ("", None):
        as_object = _probed(template, _ARGUMENTS, content)
        if "yak" in as_object and "'yak'" not in as_object:
            return CallForm(False, content)
        if _TEXT in _probed(template, _TEXT, content):
            return CallForm(True, content)
    return None


def shows_tools(template: ChatTemplate) -> bool:
    """Return whether the template writes the tools that a chat offers."""
    for system in ([], [_SYSTEM]):
        with suppress(DataError):
            asked = [*system, {"role": "user", "content": "Does it rain?"}]
            return "zebra_rain" in template.with_tools([_TOOL]).render(asked, "probe", ask=True)
    return False


def _probed(template: ChatTemplate, arguments: object, content: str | None) -> str:
    """Return a rendered chat with one call; an empty text where the template refuses it."""
    function = {"name": "zebra_rain", "arguments": arguments}
    call = {"id": "a1b2c3d4e", "type": "function", "function": function}
    asked: Message = {"role": "user", "content": "Does it rain?"}
    called: Message = {"role": "assistant", "content": content, "tool_calls": [call]}
    for system in ([], [_SYSTEM]):
        try:
            text = template.with_tools([_TOOL]).render([*system, asked, called], "probe")
        except DataError:
            continue
        # The names of the tool stand in its description, too.
        return text[text.rfind("zebra_rain") :]
    return ""


def with_call_form(messages: Sequence[Message], form: CallForm) -> list[Message]:
    """Return the messages with their calls in that form."""
    return [_formed(one, form) if "tool_calls" in one else one for one in messages]


def _formed(message: Message, form: CallForm) -> Message:
    calls = message["tool_calls"]
    if form.as_text:
        calls = [_as_text(call) for call in calls]
    return {**message, "content": message["content"] or form.no_content, "tool_calls": calls}


def _as_text(call: dict[str, Any]) -> dict[str, Any]:
    function = call["function"]
    arguments = json.dumps(function["arguments"], ensure_ascii=False)
    return {**call, "function": {**function, "arguments": arguments}}

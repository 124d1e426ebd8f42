"""The parts of a chat that a template shows, leaves out or adds, found in the rendered text.

What makes a row mean something else is refused; the rest is a finding, which becomes a warning.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from workbench.errors import DataError
from workbench.text import safe_line
from workbench.training.dataset.chat.reasoning import FIELDS, reasoning_of, without_reasoning
from workbench.training.dataset.chat.template import ChatTemplate, Message, without_marks
from workbench.training.dataset.rows.shapes import Chat
from workbench.training.dataset.rows.tools import names_of

Finding = tuple[str, str]
"""A kind of `data_warnings.FINDINGS`, and the token, role or field that it is about."""
NO_TOOLS = (
    "use a model whose chat template shows tools and calls; or write both into the turns' content, "
    "or leave such rows out"
)
_LONGEST_ADDED = 60
"""Characters shown of what a template puts before an answer."""
_TAG = re.compile(r"<[^<>\s]+>")


def refuse_hidden_tools(example: Chat, text: str, place: str) -> None:
    """Raise DataError for a tool or a call that the rendered text does not name."""
    calls = [call for message in example.messages for call in message.get("tool_calls", ())]
    shown = [(f"tool {name}", name) for name in names_of(example.tools)]
    for name, call in zip(names_of(calls), calls, strict=True):
        said = [one for one in call["function"]["arguments"].values() if isinstance(one, str)]
        shown += [(f"call of {name}", value) for value in (name, *said)]
    for what, value in shown:
        if value.strip() not in text and json.dumps(value, ensure_ascii=False)[1:-1] not in text:
            raise _hidden(what, place)


def _hidden(what: str, place: str) -> DataError:
    return DataError(
        f"{place}: the model's chat template does not show the {safe_line(what, 80)}",
        hint=NO_TOOLS,
    )


def refuse_hidden_turns(template: ChatTemplate, messages: Sequence[Message], place: str) -> None:
    """Raise DataError for a call, or for what a call gave, that the template leaves out.

    The chat is rendered once more with words that stand nowhere else, because a call may say
    nothing that its tool, its question or another call does not say, too, and results are written
    in several ways.
    """
    names: dict[str, str] = {}
    renamed = []
    for message in messages:
        if message["role"] == "tool":
            name = f"workbench_result_{len(names)}_"
            names[name] = "result of a call"
            message = {**message, "content": name}
        elif calls := message.get("tool_calls"):
            calls = [dict(call) for call in calls]
            for call in calls:
                name = f"workbench_call_{len(names)}_"
                names[name] = f"call of {call['function']['name']}"
                call["function"] = {**call["function"], "name": name}
            message = {**message, "tool_calls": calls}
        renamed.append(message)
    if not names:
        return
    try:
        text = template.render(renamed, place)
    except DataError:  # it looks calls up in its tools, or reads results as JSON
        return
    for name, own in names.items():
        if name not in text:
            raise _hidden(own, place)


def put_before(answer: Message, text: str, start: int) -> str:
    """Return the text that the template puts between header and last answer, to be learned; or "".

    `start` is the first learned character. An answer with fields of its own, as its reasoning, is
    not looked at.
    """
    at = text.find(answer["content"].strip(), start)
    if len(answer) > 2 or at <= start or not answer["content"].strip():
        return ""
    return without_marks(text[start:at]).strip()[:_LONGEST_ADDED]


def left_out(messages: Sequence[Message], text: str) -> list[Finding]:
    """Return what messages say and the rendered text does not show, white space aside.

    A text that several messages have must stand there as often. The results of tools are not
    compared: templates write them as JSON, with other escapes.
    """
    shown = _squeezed(text)
    needed: Counter[str] = Counter()
    findings: dict[str, set[Finding]] = defaultdict(set)
    last = max((n for n, one in enumerate(messages) if one["role"] == "assistant"), default=0)
    for number, message in enumerate(messages):
        said: set[str] = set()
        for finding, value in _parts(message, earlier=number < last):
            squeezed = _squeezed(value)
            said.add(squeezed)
            findings[squeezed].add(finding)
        needed.update(said)
    lost = (value for value, times in needed.items() if shown.count(value) < times)
    return sorted(set().union(*(findings[value] for value in lost)))


def _parts(message: Message, *, earlier: bool) -> Iterator[tuple[Finding, str]]:
    """Yield what a message says, each with the finding where the template leaves it out."""
    if message["role"] == "tool":
        return
    for key, value in message.items():
        if key in ("role", "tool_calls"):  # calls were looked for by what they say
            continue
        if not (earlier and message["role"] == "assistant"):
            yield (("left out", message["role"]) if key == "content" else ("field", key)), value
        elif key in FIELDS:
            yield ("reasoning", ""), value
        elif key == "content":
            bare = {"role": "assistant", "content": value}
            yield ("reasoning", ""), reasoning_of(bare)
            yield ("left out", "assistant"), without_reasoning(bare)["content"]
        else:
            yield ("field", key), value


def call_findings(messages: Sequence[Message], text: str) -> Iterator[Finding]:
    """Yield the tags that results of calls bring and the template puts there as well, and nulls."""
    for message in messages:
        said = message["content"].strip() if message["role"] == "tool" else ""
        tag = _TAG.match(said)
        if tag and re.search(rf"{re.escape(tag[0])}\s*{re.escape(said)}", text):
            yield ("wrapped", tag[0])
    calls = (call for message in messages for call in message.get("tool_calls", ()))
    if any(None in call["function"]["arguments"].values() for call in calls):
        yield ("nulls", "")


def _squeezed(text: str) -> str:
    return "".join(text.split())

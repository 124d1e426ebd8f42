"""The turns of a chat as rows give them: their roles, texts and further fields, checked one by one.

`shapes` makes examples of them. What is no text is refused with the hint for its kind.
"""

from __future__ import annotations

import difflib
import re
from datetime import date, time, timedelta
from typing import Any

from workbench.errors import DataError
from workbench.text import safe_line
from workbench.training.dataset.files.lines import json_kind
from workbench.training.dataset.rows.fields import (
    MEDIA_HINT,
    TOOLS_HINT,
    check_characters,
    is_given,
    refuse_unlearned,
    unused_fields,
)
from workbench.training.dataset.rows.tools import (
    CALL_ROLES,
    RESULT_ROLES,
    read_calls,
    read_json,
)

ROLES = ("system", "developer", "user", "assistant", "tool")
SHAREGPT_ROLES = {
    "system": "system", "human": "user", "user": "user", "gpt": "assistant",
    "assistant": "assistant", "chatgpt": "assistant", "bot": "assistant", "model": "assistant",
    "tool": "tool",
}  # fmt: skip
_OWN_FIELDS = ("tool_calls", "tool_call_id", "name")
"""Fields of a turn that say which tools it calls, or which call it answers."""
_USE_TOOLS = ("assistant", "tool")
_ANY_ROLE = "|".join({**dict.fromkeys(ROLES), **SHAREGPT_ROLES})
_AS_TEXT = re.compile(
    rf"""\s*\[\s*\{{(?=.*?["'](?:role|from)["']\s*:\s*["'](?:{_ANY_ROLE})["'])"""
    r"""(?=.*?["'](?:content|value)["']\s*:)""",
    re.DOTALL,
)
"""Matches a list of turns as JSON writes it, or as pandas writes Python's own form into CSV."""
_BY_COLUMN = (
    "where the file holds whole columns, write it row by row, e.g. with pandas: "
    'df.to_json("NEW.jsonl", orient="records", lines=True)'
)


def holds_turns(value: Any) -> bool:
    """Return whether `read_turns` is to read a value that may be plain text, too."""
    return isinstance(value, list) or (isinstance(value, str) and _AS_TEXT.match(value) is not None)


def read_turns(turns: Any, name: str, place: str) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the turns in the column `name`, and the names of their fields that are not used.

    The list may be given as its JSON text. Each turn has `role`, one of ROLES, `content`, and
    further fields that are text; an assistant's may have `tool_calls` (see `tools.read_calls`).
    Raises DataError, naming `place`, for what is no list of turns, or holds something other than
    text.
    """
    if isinstance(turns, str) and turns.lstrip().startswith("["):
        turns = read_json(turns, f"{place}: {name}")
    if not isinstance(turns, list) or not turns:
        raise DataError(
            f"{place}: {name} holds {json_kind(turns) if turns else 'no turns'}",
            hint=f"{name} is a list of turns, each with a role and its content",
        )
    read = [_turn(turn, f"{place}: turn {n} of {name}") for n, turn in enumerate(turns, 1)]
    turns = _with_call_ids(_joined([turn for turn, _ in read]))
    return turns, [name for _, unused in read for name in unused]


def _joined(turns: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the turns with calls that follow one another, or an answer's text, in one turn.

    Formats that give each call a turn of its own mean one answer by it.
    """
    joined: list[dict[str, Any]] = []
    for turn in turns:
        own = turn.pop("_call_turn", False)
        if own and joined and joined[-1]["role"] == "assistant":
            calls = [*joined[-1].get("tool_calls", []), *turn["tool_calls"]]
            joined[-1] = {**joined[-1], "tool_calls": calls}
        else:
            joined.append(turn)
    return joined


def _with_call_ids(turns: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the turns, where results that name no call have the ids of the calls before them.

    Results stand in the order of their calls. Templates look up by the id which function gave a
    result, and without it write `unknown` (Gemma 4) or refuse the chat.
    """
    ids: list[str | None] = []
    for turn in turns:
        if turn["role"] != "tool":
            ids = [call.get("id") for call in turn.get("tool_calls", ())]
        elif ids and (own := ids.pop(0)) is not None:
            turn.setdefault("tool_call_id", own)
    return turns


def _turn(turn: Any, place: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return one turn, and the names of its fields that are not used.

    Further fields that hold text are kept, since the chat template may show them, as it does with
    `reasoning_content`; whether it did is checked when the chat is rendered.
    """
    if not isinstance(turn, dict):
        hint = 'write {"role": …, "content": …}'
        if isinstance(turn, str):
            hint += f"; {_BY_COLUMN}"
        raise DataError(f"{place} is {json_kind(turn)}", hint=hint)
    # Null is no value: where rows of both kinds share one schema, every turn has all four keys.
    sharegpt = turn.get("from") is not None and "value" in turn
    names = ("from", "value") if sharegpt else ("role", "content")
    role, content = turn.get(names[0]), turn.get(names[1])
    if role in CALL_ROLES:
        calls = read_calls(content, f"{place}: {names[1]}")
        return {"role": "assistant", "content": "", "tool_calls": calls, "_call_turn": True}, ()
    known: str | None
    if role in RESULT_ROLES:
        known = "tool"
    elif names[0] == "from":
        known = SHAREGPT_ROLES.get(str(role))
    else:
        known = str(role) if role in ROLES else None
    if known is None:
        raise DataError(
            f"{place} has the unknown role {safe_line(role, 60)}", hint=_role_hint(role)
        )
    own_fields = _OWN_FIELDS[:1] if known == "assistant" else _OWN_FIELDS[1:]
    unused = unused_fields(turn, (*names, *(own_fields if known in _USE_TOOLS else ())), place)
    if known == "assistant":
        refuse_unlearned(turn, place)
    called = known == "assistant" and is_given(turn.get("tool_calls"))
    said: dict[str, Any] = {
        "role": known,
        "content": "" if called and content is None else _content(content, place),
    }
    if called:
        said["tool_calls"] = read_calls(turn["tool_calls"], f"{place}: tool_calls")
    if known == "tool":
        own = [name for name in own_fields if isinstance(turn.get(name), str)]
        said |= {name: checked_text(turn[name], f"{place}: {name}") for name in own}
    for name in unused:
        if isinstance(turn.get(name), str) and name not in said:
            said[name] = checked_text(turn[name], f"{place}: {name}")
    return said, tuple(name for name in unused if name not in said)


def _content(content: Any, place: str) -> str:
    if isinstance(content, list):
        for part in content:
            if not (isinstance(part, dict) and part.get("type") == "text"):
                raise _no_text_part(part, place)
        content = "".join(checked_text(part.get("text"), place) for part in content)
    return checked_text(content, place)


def _no_text_part(part: Any, place: str) -> DataError:
    """Return the error for a part of a turn that is no text, with the hint for its kind."""
    if not isinstance(part, dict):
        return DataError(
            f"{place} holds {json_kind(part)} as a part of its content",
            hint='write each part as {"type": "text", "text": …}, or the content as one text',
        )
    kind = str(part.get("type"))
    lower = kind.lower()
    if "tool" in lower or "function" in lower:
        hint = TOOLS_HINT
    elif any(name in lower for name in ("image", "audio", "video")):
        hint = MEDIA_HINT
    elif "think" in lower or "reason" in lower:
        hint = (
            "write it into the turn's field reasoning_content where the model's chat template "
            "shows that, or into its text"
        )
    else:
        hint = 'write it as {"type": "text", "text": …}, or take it out'
    return DataError(f"{place} has a part of type {safe_line(kind, 60)}, not text", hint=hint)


def _role_hint(role: Any) -> str:
    said = str(role).lower()
    meant = SHAREGPT_ROLES.get(said)
    near = difflib.get_close_matches(said, ROLES, n=1)
    if meant or near:
        return f"did you mean {meant or near[0]}? Roles are {', '.join(ROLES)}"
    return f"roles are {', '.join(ROLES)}"


def checked_text(value: Any, place: str) -> str:
    """Return `value` if it is text that UTF-8 can encode; else raise DataError naming `place`."""
    if not isinstance(value, str):
        raise DataError(f"{place} holds {json_kind(value)}, not text", hint=_text_hint(value))
    check_characters(value, place)
    return value


def _text_hint(value: Any) -> str:
    """Return how to give a value of another kind as text."""
    if value is None or value != value:  # pandas writes NaN where it has no value
        return 'write "" where it is to be empty, or take the row out'
    if isinstance(value, date | time | timedelta):
        return f'write dates and times as text, e.g. "{safe_line(value, 60)}"'
    if isinstance(value, bytes):
        return "decode the bytes and write them as text"
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return "a list of turns belongs into a column named messages: map it in data.columns"
    if isinstance(value, dict) and value and all(str(key).isdecimal() for key in value):
        return _BY_COLUMN
    if isinstance(value, list | dict):
        return "write it as text, as the model is to read it, e.g. as JSON in quotes"
    return f'write it as text: "{safe_line(value, 60)}" for {safe_line(value, 60)}'

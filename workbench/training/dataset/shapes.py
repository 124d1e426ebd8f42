"""The shapes of rows, and the example a row holds: plain text, prompt and completion, or a chat."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from workbench.errors import DataError
from workbench.recipe.schema import Data
from workbench.text import safe_line
from workbench.training.dataset.files.lines import DataRow, json_kind

NEEDED: dict[str, tuple[str, ...]] = {
    "messages": ("messages",),
    "sharegpt": ("conversations",),
    "prompt-completion": ("prompt", "completion"),
    "alpaca": ("instruction", "output"),
    "text": ("text",),
}
"""The columns each shape needs, in the order in which `auto` looks for them."""

SYNONYMS = {
    "prompt": ("question", "query", "instruction", "input", "problem"),
    "completion": ("answer", "response", "output", "solution", "target"),
    "text": ("content", "document", "body"),
    "messages": ("chat", "dialog", "dialogue", "conversation"),
}
"""Other common names of these columns; offered in a hint, never assumed."""

ROLES = ("system", "developer", "user", "assistant", "tool")
SHAREGPT_ROLES = {
    "system": "system", "human": "user", "user": "user", "gpt": "assistant",
    "assistant": "assistant", "chatgpt": "assistant", "bot": "assistant", "model": "assistant",
    "tool": "tool",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Text:
    """A plain text, all of which carries loss."""

    text: str


@dataclass(frozen=True, slots=True)
class Pair:
    """A prompt and its completion, joined without a chat template."""

    prompt: str
    completion: str


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation that the chat template renders."""

    messages: tuple[dict[str, str], ...]
    """`role` and `content` each; roles are ROLES."""


Example = Text | Pair | Chat


def find_shape(data: Data, row: DataRow) -> str:
    """Return the recipe's shape, or the one whose columns this row has.

    Raises DataError when none fits, or when data.columns maps a column that the row does not have.
    """
    _check_mapping(data, row)
    columns = mapped_columns(data, row)
    if data.shape != "auto":
        return data.shape
    for shape, needed in NEEDED.items():
        if all(name in columns for name in needed):
            return shape
    if "messages" in data.columns.values():
        return "messages"
    raise DataError(
        f"{row.place}: its columns ({_names(row.values)}) are no shape that is known here",
        hint=_mapping_hint(row.values)
        or "name the shape's columns in data.columns, e.g. {question: prompt, answer: completion}",
    )


def mapped_columns(data: Data, row: DataRow) -> dict[str, Any]:
    """Return the row's values by the shape's names.

    A mapped column replaces one that already has the target name.
    """
    kept = {name: value for name, value in row.values.items() if name not in data.columns}
    mapped = {new: row.values[old] for old, new in data.columns.items() if old in row.values}
    return kept | mapped


def example_of(data: Data, shape: str, row: DataRow, *, templated: bool) -> Example:
    """Return the example that the row holds; with `templated`, pairs and alpaca rows become chats.

    Raises DataError, naming the row's place, where a value is not what the shape needs.
    """
    columns = mapped_columns(data, row)
    if shape == "text":
        return Text(_text(columns, "text", row))
    if shape == "messages":
        return Chat(_turns(columns, "messages", row, data.system))
    if shape == "sharegpt":
        name = "conversations" if "conversations" in columns else "messages"
        return Chat(_turns(columns, name, row, data.system))
    if shape == "alpaca":
        return _alpaca(columns, row, data.system, templated=templated)
    prompt, completion = _text(columns, "prompt", row), _text(columns, "completion", row)
    return _pair(prompt, completion, data.system, templated=templated)


def _pair(prompt: str, completion: str, system: str | None, *, templated: bool) -> Example:
    if not templated:
        return Pair(f"{system}\n\n{prompt}" if system else prompt, completion)
    turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": completion}]
    return Chat(_with_system(turns, system))


def _alpaca(
    columns: Mapping[str, Any], row: DataRow, system: str | None, *, templated: bool
) -> Example:
    instruction, output = _text(columns, "instruction", row), _text(columns, "output", row)
    given = "" if columns.get("input") is None else _text(columns, "input", row)
    if templated:
        asked = f"{instruction}\n\n{given}" if given else instruction
        return _pair(asked, output, system, templated=True)
    # The headings of the Alpaca data's own prompt: github.com/tatsu-lab/stanford_alpaca
    asked = f"### Instruction:\n{instruction}\n\n"
    asked += f"### Input:\n{given}\n\n" if given else ""
    return _pair(asked + "### Response:\n", output, system, templated=False)


def _turns(
    columns: Mapping[str, Any], name: str, row: DataRow, system: str | None
) -> tuple[dict[str, str], ...]:
    turns = _value(columns, name, row)
    if not isinstance(turns, list) or not turns:
        raise DataError(
            f"{row.place}: {name} holds {json_kind(turns) if turns else 'no turns'}",
            hint=f"{name} is a list of turns, each with a role and its content",
        )
    read = [_turn(turn, f"{row.place}: turn {n} of {name}") for n, turn in enumerate(turns, 1)]
    return _with_system(read, system)


def _with_system(turns: list[dict[str, str]], system: str | None) -> tuple[dict[str, str], ...]:
    has_one = turns[0]["role"] in ("system", "developer")
    if system is None or has_one:
        return tuple(turns)
    return ({"role": "system", "content": system}, *turns)


def _turn(turn: Any, place: str) -> dict[str, str]:
    if not isinstance(turn, dict):
        raise DataError(f"{place} is {json_kind(turn)}", hint='write {"role": …, "content": …}')
    if "from" in turn and "value" in turn:
        role, content = turn["from"], turn["value"]
        known = SHAREGPT_ROLES.get(str(role))
    else:
        role, content = turn.get("role"), turn.get("content")
        known = str(role) if role in ROLES else None
    if known is None:
        raise DataError(
            f"{place} has the unknown role {safe_line(role, 60)}", hint=_role_hint(role)
        )
    if turn.get("tool_calls"):
        raise DataError(
            f"{place} has tool_calls, which are not trained on yet",
            hint="write the call into the turn's content, or leave such rows out",
        )
    return {"role": known, "content": _content(content, place)}


def _content(content: Any, place: str) -> str:
    if isinstance(content, list):
        if not all(isinstance(part, dict) and part.get("type") == "text" for part in content):
            raise DataError(
                f"{place} holds something other than text", hint="leave out images and sounds"
            )
        content = "".join(checked_text(part.get("text"), place) for part in content)
    return checked_text(content, place)


def _role_hint(role: Any) -> str:
    meant = SHAREGPT_ROLES.get(str(role).lower())
    near = difflib.get_close_matches(str(role).lower(), ROLES, n=1)
    if meant or near:
        return f"did you mean {meant or near[0]}? Roles are {', '.join(ROLES)}"
    return f"roles are {', '.join(ROLES)}"


def _text(columns: Mapping[str, Any], name: str, row: DataRow) -> str:
    return checked_text(_value(columns, name, row), f"{row.place}: {name}")


def checked_text(value: Any, place: str) -> str:
    """Return `value` if it is text that UTF-8 can encode; else raise DataError naming `place`."""
    if not isinstance(value, str):
        raise DataError(f"{place} holds {json_kind(value)}, not text", hint='write "42" for 42')
    try:
        value.encode()
    except UnicodeEncodeError as broken:
        raise DataError(
            f"{place} holds half a character (a lone surrogate) at {broken.start + 1}",
            hint="write the text again from its source; an emoji was cut in two",
        ) from broken
    return value


def _value(columns: Mapping[str, Any], name: str, row: DataRow) -> Any:
    if name in columns:
        return columns[name]
    near = difflib.get_close_matches(name, [str(column) for column in columns], n=1)
    raise DataError(
        f"{row.place}: has no column {name} (it has {_names(columns)})",
        hint=f"did you mean {safe_line(near[0], 60)}? Map it: data.columns: "
        f"{{{safe_line(near[0], 60)}: {name}}}"
        if near
        else _mapping_hint(columns) or f"add the column, or map one to {name} in data.columns",
    )


def _check_mapping(data: Data, row: DataRow) -> None:
    for old in data.columns:
        if old not in row.values:
            near = difflib.get_close_matches(old, [str(name) for name in row.values], n=1)
            raise DataError(
                f"data.columns names {safe_line(old, 60)}, which {row.place} does not have",
                hint=f"did you mean {safe_line(near[0], 60)}?"
                if near
                else f"its columns are {_names(row.values)}",
            )
    if len(set(data.columns.values())) < len(data.columns):
        raise DataError(
            "data.columns maps two columns to one name", hint="map each name from one column"
        )


def _mapping_hint(columns: Iterable[str]) -> str:
    """Return a hint such as `write data.columns: {question: prompt, …}`, or an empty string."""
    have = {str(name).lower(): str(name) for name in columns}
    for needed in (("prompt", "completion"), ("messages",), ("text",)):
        found = [next((have[s] for s in (w, *SYNONYMS[w]) if s in have), None) for w in needed]
        if all(found) and len(set(found)) == len(found):
            pairs = ", ".join(
                f"{safe_line(f, 60)}: {w}" for f, w in zip(found, needed, strict=True) if f != w
            )
            return f"write data.columns: {{{pairs}}}" if pairs else ""
    return ""


def _names(columns: Iterable[Any]) -> str:
    return safe_line(", ".join(str(name) for name in columns), 200) or "none"

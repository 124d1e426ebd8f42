"""The shapes of rows, and the example a row holds: plain text, prompt and completion, or a chat."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import date, time, timedelta
from typing import Any

from workbench.errors import DataError
from workbench.recipe.schema import Data
from workbench.text import safe_line
from workbench.training.dataset.fields import is_empty, unused_fields
from workbench.training.dataset.files.json_rows import rows_inside_hint
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
    unused: tuple[str, ...] = field(default=(), compare=False)
    """Names of the row's columns that are not used, and not known to be harmless."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A prompt and its completion, joined without a chat template."""

    prompt: str
    completion: str
    unused: tuple[str, ...] = field(default=(), compare=False)


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation that the chat template renders."""

    messages: tuple[dict[str, str], ...]
    """`role` and `content` each, and further fields that are text; roles are ROLES."""
    prompt_turns: int = 0
    """Turns that belong to the prompt where prompt and completion were given as turns; else 0."""
    unused: tuple[str, ...] = field(default=(), compare=False)
    """Names of the columns and of the turns' fields that are not used."""


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
        or rows_inside_hint(row.values)
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
        example: Example = Text(_text(columns, "text", row))
        used = {"text"}
    elif shape == "messages":
        example, used = _chat(columns, "messages", row, data.system)
    elif shape == "sharegpt":
        name = "conversations" if "conversations" in columns else "messages"
        example, used = _chat(columns, name, row, data.system)
    elif shape == "alpaca":
        used = {"instruction", "input", "output", "system"}
        system = _own_system(columns, row) or data.system
        example = _alpaca(columns, row, system, templated=templated)
    else:
        example, used = _prompt_completion(columns, row, data.system, templated=templated)
    unused = unused_fields(columns, used, f"{row.place}:")
    return replace(example, unused=(*example.unused, *unused)) if unused else example


def _own_system(columns: Mapping[str, Any], row: DataRow) -> str | None:
    """Return the text of the row's `system` column, or None where it has none."""
    if is_empty(columns.get("system")):
        return None
    return _text(columns, "system", row)


def _prompt_completion(
    columns: Mapping[str, Any], row: DataRow, system: str | None, *, templated: bool
) -> tuple[Example, set[str]]:
    used = {"prompt", "completion", "system"}
    system = _own_system(columns, row) or system
    turned = [name for name in ("prompt", "completion") if isinstance(columns.get(name), list)]
    if not turned:
        prompt, completion = _text(columns, "prompt", row), _text(columns, "completion", row)
        return _pair(prompt, completion, system, templated=templated), used
    if not templated:
        raise DataError(
            f"{row.place}: {turned[0]} holds turns, and no chat template is used to render them",
            hint="give prompt and completion as text; or, to have them rendered, pick a model with "
            "a chat template and set data.chat_template: auto",
        )
    parts = []
    unused: list[str] = []
    for name, role in (("prompt", "user"), ("completion", "assistant")):
        if name in turned:
            turns, left = _turns(columns, name, row)
            unused += left
        else:
            turns = [{"role": role, "content": _text(columns, name, row)}]
        parts.append(turns)
    asked = _with_system(parts[0], system)
    if not any(turn["role"] == "assistant" for turn in parts[1]):
        raise DataError(
            f"{row.place}: completion has no turn of the assistant",
            hint='give the answer the role assistant: {"role": "assistant", "content": …}',
        )
    messages = (*asked, *parts[1])
    return Chat(messages, prompt_turns=len(asked), unused=_distinct(unused)), used


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


def _chat(
    columns: Mapping[str, Any], name: str, row: DataRow, system: str | None
) -> tuple[Chat, set[str]]:
    """Return the chat in the column `name`, and the names of the columns used for it."""
    turns, unused = _turns(columns, name, row)
    own = _own_system(columns, row)
    chat = Chat(_with_system(turns, own or system), unused=_distinct(unused))
    # A system column beside a chat that has a system turn of its own is not used.
    used = {name} if own and own != chat.messages[0]["content"] else {name, "system"}
    return chat, used


def _turns(
    columns: Mapping[str, Any], name: str, row: DataRow
) -> tuple[list[dict[str, str]], list[str]]:
    """Return the turns in the column `name`, and the names of their fields that are not used."""
    turns = _value(columns, name, row)
    if not isinstance(turns, list) or not turns:
        raise DataError(
            f"{row.place}: {name} holds {json_kind(turns) if turns else 'no turns'}",
            hint=_turns_hint(turns, name),
        )
    read = [_turn(turn, f"{row.place}: turn {n} of {name}") for n, turn in enumerate(turns, 1)]
    return [turn for turn, _ in read], [name for _, unused in read for name in unused]


def _turns_hint(value: Any, name: str) -> str:
    """Return how to give turns where something else stands: often the JSON text of a list."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        return (
            f"{name} holds a list as text: write the list of turns itself, in jsonl or parquet, "
            f"e.g. jq -c '.{name} |= fromjson' OLD.jsonl > NEW.jsonl"
        )
    return f"{name} is a list of turns, each with a role and its content"


def _distinct(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))


def _with_system(turns: list[dict[str, str]], system: str | None) -> tuple[dict[str, str], ...]:
    has_one = turns[0]["role"] in ("system", "developer")
    if system is None or has_one:
        return tuple(turns)
    return ({"role": "system", "content": system}, *turns)


def _turn(turn: Any, place: str) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return one turn, and the names of its fields that are not used.

    Further fields that hold text are kept, since the chat template may show them, as it does with
    `reasoning_content`; whether it did is checked when the chat is rendered.
    """
    if not isinstance(turn, dict):
        raise DataError(f"{place} is {json_kind(turn)}", hint='write {"role": …, "content": …}')
    names = ("from", "value") if "from" in turn and "value" in turn else ("role", "content")
    role, content = turn.get(names[0]), turn.get(names[1])
    if names[0] == "from":
        known = SHAREGPT_ROLES.get(str(role))
    else:
        known = str(role) if role in ROLES else None
    if known is None:
        raise DataError(
            f"{place} has the unknown role {safe_line(role, 60)}", hint=_role_hint(role)
        )
    unused = unused_fields(turn, names, place)
    said = {"role": known, "content": _content(content, place)}
    for name in unused:
        if isinstance(turn.get(name), str) and name not in said:
            said[name] = checked_text(turn[name], f"{place}: {name}")
    return said, tuple(name for name in unused if name not in said)


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
        raise DataError(f"{place} holds {json_kind(value)}, not text", hint=_text_hint(value))
    try:
        value.encode()
    except UnicodeEncodeError as broken:
        raise DataError(
            f"{place} holds half a character (a lone surrogate) at {broken.start + 1}",
            hint="write the text again from its source; an emoji was cut in two",
        ) from broken
    return value


def _text_hint(value: Any) -> str:
    """Return how to give a value of another kind as text."""
    if value is None:
        return 'write "" where it is to be empty, or take the row out'
    if isinstance(value, date | time | timedelta):
        return f'write dates and times as text, e.g. "{safe_line(value, 60)}"'
    if isinstance(value, bytes):
        return "decode the bytes and write them as text"
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return "a list of turns belongs into a column named messages: map it in data.columns"
    if isinstance(value, list | dict):
        return "write it as text, as the model is to read it, e.g. as JSON in quotes"
    return f'write it as text: "{safe_line(value, 60)}" for {safe_line(value, 60)}'


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

"""The shapes of rows, and the example a row holds: plain text, prompt and completion, or a chat."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from workbench.errors import DataError
from workbench.recipe.schema import Data
from workbench.text import safe_line
from workbench.training.dataset.files.json_rows import rows_inside_hint
from workbench.training.dataset.files.lines import DataRow
from workbench.training.dataset.rows.fields import is_empty, is_given, unused_fields
from workbench.training.dataset.rows.row_turns import checked_text, holds_turns, read_turns
from workbench.training.dataset.rows.tools import read_tools, read_variables

NEEDED: dict[str, tuple[str, ...]] = {
    "messages": ("messages",),
    "sharegpt": ("conversations",),
    "prompt-completion": ("prompt", "completion"),
    "alpaca": ("instruction", "output"),
    "text": ("text",),
}
"""The columns each shape needs, in the order in which `auto` looks for them."""

OPTIONAL = ("system", "tools", "input", "history", "chat_template_kwargs")
"""Columns that only some rows of a shape may have."""

SYNONYMS = {
    "prompt": ("question", "query", "instruction", "input", "problem"),
    "completion": ("answer", "response", "output", "solution", "target", "chosen"),
    "text": ("content", "document", "body"),
    "messages": ("chat", "dialog", "dialogue", "conversation", "turns", "chosen"),
}
"""Other common names of these columns; offered in a hint, never assumed."""


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

    messages: tuple[dict[str, Any], ...]
    """`role` and `content` each, and further fields that are text; roles are row_turns.ROLES.
    `tool_calls` are in the form of `tools.read_calls`."""
    prompt_turns: int = 0
    """Turns that belong to the prompt where prompt and completion were given as turns; else 0."""
    unused: tuple[str, ...] = field(default=(), compare=False)
    """Names of the columns and of the turns' fields that are not used."""
    tools: tuple[dict[str, Any], ...] = ()
    """The tools that the row offers, in the form of `tools.read_tools`."""
    variables: dict[str, Any] = field(default_factory=dict)
    """Variables that the row gives to the chat template, as `enable_thinking`."""


Example = Text | Pair | Chat


def find_shape(data: Data, row: DataRow) -> str:
    """Return the recipe's shape, or the one whose columns this row has.

    Raises DataError when none fits, or when data.columns maps a column that the row does not have.
    """
    _check_mapping(data, row)
    columns = mapped_columns(data, row)
    if data.shape != "auto":
        return data.shape
    # Parquet has every column in every row: what is null is there for other rows.
    filled = {name for name, value in columns.items() if value is not None}
    for there in (filled, columns.keys()):
        for shape, needed in NEEDED.items():
            if there >= set(needed):
                return shape
    if "messages" in data.columns.values():
        return "messages"
    hint = _mapping_hint(row.values)
    if hint and {"chosen", "rejected"} <= row.values.keys():
        hint = f"of rows for preference training the chosen answers can be learned: {hint}"
    raise DataError(
        f"{row.place}: its columns ({_names(row.values)}) are no shape that is known here",
        hint=hint
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
    if data.shape == "auto":
        _refuse_other_columns(columns, shape, row)
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
    if isinstance(example, Chat):
        used = {*used, "tools", "chat_template_kwargs"}
        if is_given(columns.get("tools")):
            example = replace(example, tools=read_tools(columns["tools"], f"{row.place}: tools"))
        if is_given(given := columns.get("chat_template_kwargs")):
            variables = read_variables(given, f"{row.place}: chat_template_kwargs")
            example = replace(example, variables=variables)
    unused = unused_fields(columns, used, f"{row.place}:")
    return replace(example, unused=(*example.unused, *unused)) if unused else example


def _refuse_other_columns(columns: Mapping[str, Any], shape: str, row: DataRow) -> None:
    """Raise DataError for a row without a column that the first one, which had the shape, has."""
    if shape == "sharegpt" and "messages" in columns:
        return
    for name in NEEDED[shape]:
        if name not in columns:
            near = difflib.get_close_matches(name, [str(column) for column in columns], n=1)
            hint = (
                f"did you mean {safe_line(near[0], 60)}? Rename it in that row, as in the first one"
                if near
                else "the first row has it: put rows with other columns into a file of their own, "
                "and list both files in data.train"
            )
            raise DataError(
                f"{row.place}: has no column {name} (it has {_names(columns)})", hint=hint
            )


def content_of(data: Data, shape: str, row: DataRow) -> str:
    """Return what the row says as text that is equal for equal examples of any shape.

    It does not depend on the model. Raises DataError as `example_of` does.
    """
    example = example_of(data, shape, row, templated=True)
    said: list[object] = [example.text] if isinstance(example, Text) else []
    if isinstance(example, Chat):
        said = [example.messages]
        said += [example.tools] if example.tools else []
        said += [example.variables] if example.variables else []
    return json.dumps(said, sort_keys=True)


def _own_system(columns: Mapping[str, Any], row: DataRow) -> str | None:
    """Return the text of the row's `system` column, or None where it has none."""
    if is_empty(columns.get("system")):
        return None
    return _text(columns, "system", row)


def _prompt_completion(
    columns: Mapping[str, Any], row: DataRow, system: str | None, *, templated: bool
) -> tuple[Example, set[str]]:
    if columns.get("label") is False:
        raise DataError(
            f"{row.place}: has label: false, and its completion would be learned",
            hint="in rows for preference training it marks an answer that is not wanted: leave "
            "out those with false, or the column where it means something else",
        )
    used = {"prompt", "completion", "system"}
    system = _own_system(columns, row) or system
    turned = [name for name in ("prompt", "completion") if holds_turns(columns.get(name))]
    if not turned:
        prompt, completion = _text(columns, "prompt", row), _text(columns, "completion", row)
        return _pair(prompt, completion, system, templated=templated), used
    if len(turned) == 1 and isinstance(columns[turned[0]], str):
        [other] = {"prompt", "completion"} - set(turned)
        _text(columns, other, row)
        raise DataError(
            f"{row.place}: {turned[0]} holds turns as JSON text, and {other} plain text",
            hint=f"give {other} as turns, too; or, where the JSON itself is to be learned as "
            "text, put a word before it",
        )
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
            turns, left = read_turns(_value(columns, name, row), name, row.place)
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
    if is_given(columns.get("history")):
        raise DataError(
            f"{row.place}: has history, earlier turns that would be left out of what is trained on",
            hint="give the row as messages, the earlier turns among them",
        )
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
    turns, unused = read_turns(_value(columns, name, row), name, row.place)
    own = _own_system(columns, row)
    chat = Chat(_with_system(turns, own or system), unused=_distinct(unused))
    # A system column beside a chat that has a system turn of its own is not used.
    used = {name} if own and own != chat.messages[0]["content"] else {name, "system"}
    return chat, used


def _distinct(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))


def _with_system(turns: list[dict[str, Any]], system: str | None) -> tuple[dict[str, Any], ...]:
    has_one = turns[0]["role"] in ("system", "developer")
    if system is None or has_one:
        return tuple(turns)
    return ({"role": "system", "content": system}, *turns)


def _text(columns: Mapping[str, Any], name: str, row: DataRow) -> str:
    return checked_text(_value(columns, name, row), f"{row.place}: {name}")


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
    for old, new in data.columns.items():
        if old not in row.values:
            near = difflib.get_close_matches(old, [str(name) for name in row.values], n=1)
            if new in OPTIONAL and not near:
                continue  # JSON lines leave out what a row does not have
            raise DataError(
                f"data.columns names {safe_line(old, 60)}, which {row.place} does not have",
                hint=f"did you mean {safe_line(near[0], 60)}?"
                if near
                else f"its columns are {_names(row.values)}; name those in data.columns. Where "
                "files differ, a source of data.train has its own: [{path: …, columns: {…}}]",
            )
    if len(set(data.columns.values())) < len(data.columns):
        raise DataError(
            "data.columns maps two columns to one name", hint="map each name from one column"
        )


def _mapping_hint(columns: Mapping[str, Any]) -> str:
    """Return a hint such as `write data.columns: {question: prompt, …}`, or an empty string."""
    have = {str(name).strip().lower(): str(name) for name in columns}
    for needed in (("prompt", "completion"), ("messages",), ("text",)):
        found = [next((have[s] for s in (w, *SYNONYMS[w]) if s in have), "") for w in needed]
        # A text beside a list of turns: the turns are a whole chat, and the text its first one.
        kinds = {holds_turns(columns[name]) for name in found if name}
        whole = len(kinds) > 1 or (needed == ("messages",) and True not in kinds)
        if all(found) and len(set(found)) == len(found) and not whole:
            pairs = ", ".join(
                f"{_quoted(f)}: {w}" for f, w in zip(found, needed, strict=True) if f != w
            )
            return f"write data.columns: {{{pairs}}}" if pairs else ""
    return ""


def _quoted(name: str) -> str:
    """Return a column's name as YAML takes it, in quotes where blanks belong to it."""
    if name == name.strip():
        return safe_line(name, 60)
    return f'"{safe_line(f"|{name}|", 62)[1:-1]}"'  # the bars keep the blanks at both ends


def _names(columns: Iterable[Any]) -> str:
    return safe_line(", ".join(str(name) for name in columns), 200) or "none"

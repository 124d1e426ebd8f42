"""Reads what a row gives the chat template as JSON: tools, calls of them, and variables.

Formats differ: OpenAI's `tool_calls` with arguments as JSON text, flat `{name, arguments}`, turns
of a role of their own (`function_call`, `tool_call`). All become one form, in which arguments are
the values that were given, with no key added and none left out.
"""

from __future__ import annotations

import math
from typing import Any

from workbench.errors import DataError
from workbench.text import safe_line
from workbench.training.dataset.files.json_rows import parse_json
from workbench.training.dataset.files.lines import json_kind
from workbench.training.dataset.rows.fields import check_characters

CALL_ROLES = ("function_call", "tool_call")
"""Roles of turns whose text is a call as JSON, which is the assistant's."""
RESULT_ROLES = ("observation", "tool_response", "function", "ipython")
"""Other names of the role `tool`, whose turns hold what a call gave."""

_DEEPEST = 64
"""Levels of the most nested value in a call or a tool."""
_CALL = '{"name": "rain", "arguments": {"town": "Ulm"}}'
_TOOL = '{"type": "function", "function": {"name": "rain", "parameters": {…}}}'


def read_tools(value: Any, place: str) -> tuple[dict[str, Any], ...]:
    """Return the tools in a row's column, each as `{"type": "function", "function": {…}}`.

    Takes a list or its JSON text. Raises DataError, naming `place`, for anything else.
    """
    tools = _from_text(value, place, _TOOL)
    if not isinstance(tools, list):
        raise DataError(f"{place} holds {json_kind(value)}", hint=f"write a list: [{_TOOL}]")
    return tuple(_tool(one, f"{place}: tool {n}") for n, one in enumerate(tools, 1))


def read_variables(value: Any, place: str) -> dict[str, Any]:
    """Return what a row gives to the chat template by name; a null is none, as in parquet.

    Takes an object or its JSON text. Raises DataError, naming `place`, for anything else.
    """
    example = '{"enable_thinking": false}'
    variables = _from_text(value, place, example)
    if not isinstance(variables, dict):
        raise DataError(f"{place} holds {json_kind(value)}", hint=f"write an object: {example}")
    _check_is_json(variables, place)
    return {name: one for name, one in variables.items() if one is not None}


def _tool(tool: Any, place: str) -> dict[str, Any]:
    flat = isinstance(tool, dict) and isinstance(tool.get("name"), str)
    whole: Any = {"type": "function", "function": tool} if flat else tool
    function = whole.get("function") if isinstance(whole, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str) or not name:
        raise DataError(f"{place} has no name", hint=f"write it as {_TOOL}")
    _check_is_json(function, place)
    return dict(whole)


def read_calls(value: Any, place: str) -> list[dict[str, Any]]:
    """Return calls, each as `{"type": "function", "function": {"name": …, "arguments": {…}}}`.

    An `id` is kept. Takes one call, a list, or the JSON text of either. Raises DataError, naming
    `place`, for what is no call.
    """
    calls = _from_text(value, place)
    calls = [calls] if isinstance(calls, dict) else calls
    if not isinstance(calls, list) or not calls:
        raise DataError(f"{place} holds {json_kind(value)}, no call", hint=f"write it as {_CALL}")
    return [_call(one, f"{place}: call {n}") for n, one in enumerate(calls, 1)]


def _call(call: Any, place: str) -> dict[str, Any]:
    function = call.get("function", call) if isinstance(call, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str) or not name:
        raise DataError(f"{place} names no function", hint=f"write it as {_CALL}")
    assert isinstance(function, dict)
    check_characters(name, f"{place}: name")
    given = function.get("arguments", function.get("parameters", {}))
    arguments = _from_text(given, f"{place}: arguments") if str(given).strip() else {}
    if not isinstance(arguments, dict):
        raise DataError(
            f"{place}: arguments hold {json_kind(arguments)}, not an object",
            hint=f"give them by name, as in {_CALL}",
        )
    _check_is_json(arguments, f"{place}: arguments")
    own_id = {"id": call["id"]} if isinstance(call.get("id"), str) else {}
    return {**own_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def _check_is_json(value: Any, place: str, inside: int = 0) -> None:
    """Raise DataError for a value that JSON does not have, such as a date in a parquet file.

    transformers 5.24 shows a chat template `<datetime>` in its place, and says nothing. Half a
    character, which JSON can hold, is refused as in any other text.
    """
    if inside > _DEEPEST:
        raise DataError(
            f"{safe_line(place, 200)} is nested more than {_DEEPEST} deep",
            hint="leave such rows out, or write that part as text",
        )
    if isinstance(value, dict):
        for name, member in value.items():
            check_characters(str(name), f"{place}: a name")
            _check_is_json(member, f"{place}: {safe_line(name, 60)}", inside + 1)
    elif isinstance(value, list):
        for item in value:
            _check_is_json(item, place, inside + 1)
    elif isinstance(value, str):
        check_characters(value, place)
    elif isinstance(value, float) and not math.isfinite(value):
        raise DataError(
            f"{place} holds {value}, which JSON does not have",
            hint="write null, or leave the key out; pandas writes NaN where it has no value",
        )
    elif value is not None and not isinstance(value, int | float):
        raise DataError(
            f"{place} holds {json_kind(value)}, which JSON does not have",
            hint="write it as text, or a decimal as a number, where the file is made",
        )


def _from_text(value: Any, place: str, example: str = _CALL) -> Any:
    """Return the value, or what its JSON text says."""
    return read_json(value, place, example) if isinstance(value, str) else value


def read_json(text: str, place: str, example: str = '[{"role": "user", "content": "Hi"}]') -> Any:
    """Return what the JSON text says; DataError, naming `place` and an example, for another."""
    try:
        return parse_json(text)
    except (ValueError, RecursionError) as broken:
        raise DataError(
            f"{place} holds text that is not JSON: {safe_line(broken, 120)}",
            hint=f"write it as JSON, e.g. {example}",
        ) from broken


def names_of(items: Any) -> list[str]:
    """Return the names of tools or calls in our form."""
    return [str(one["function"]["name"]) for one in items]

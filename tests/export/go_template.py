"""The part of Go's text/template that our Modelfiles use, as Ollama fills it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

_ACTION = re.compile(r"\{\{ (.*?) \}\}", re.DOTALL)
Scope = dict[str, Any]


def render_go(template: str, messages: Sequence[Mapping[str, str]]) -> str:
    """Render a template for a conversation; `.System` is the text of a first system message."""
    first = messages[0]
    root = {
        "System": first["content"] if first["role"] == "system" else "",
        "Messages": [{"Role": one["role"], "Content": one["content"]} for one in messages],
    }
    parts = _ACTION.split(template)  # texts and actions in turn
    return "".join(_block(parts, 0, len(parts), {"": root, "$": root}))


def _block(parts: list[str], begin: int, end: int, scope: Scope) -> Iterator[str]:
    at = begin
    while at < end:
        if at % 2 == 0:
            yield parts[at]
            at += 1
            continue
        word, _, rest = parts[at].partition(" ")
        if word not in ("if", "range"):
            yield str(_value(parts[at], scope))
            at += 1
            continue
        cuts = _cuts(parts, at)
        if word == "if":
            yield from _chosen(parts, cuts, scope)
        else:
            name, other = (one.strip() for one in rest.partition(":=")[0].split(","))
            for number, item in enumerate(_value(rest.partition(":=")[2].strip(), scope)):
                inner = {**scope, "": item, name: number, other: item}
                yield from _block(parts, at + 1, cuts[-1], inner)
        at = cuts[-1] + 1


def _cuts(parts: list[str], at: int) -> list[int]:
    """Return the places of an action, of its else branches and of its end."""
    depth, cuts = 0, [at]
    for place in range(at, len(parts), 2):
        word = parts[place].partition(" ")[0]
        depth += {"if": 1, "range": 1, "end": -1}.get(word, 0)
        if (word == "else" and depth == 1) or depth == 0:
            cuts.append(place)
        if depth == 0:
            break
    return cuts


def _chosen(parts: list[str], cuts: list[int], scope: Scope) -> Iterator[str]:
    for place, following in pairwise(cuts):
        condition = parts[place].removeprefix("else").strip().removeprefix("if").strip()
        if not condition or _value(condition, scope):
            return _block(parts, place + 1, following, scope)
    return iter(())


def _value(text: str, scope: Scope) -> Any:
    words = re.findall(r'"(?:[^"\\]|\\.)*"|[()]|[^\s()]+', text)
    return _call(words, scope)


def _call(words: list[str], scope: Scope) -> Any:
    """Take words off the list up to a closing bracket, and return what they mean."""
    values = []
    while words and (word := words.pop(0)) != ")":
        values.append(_call(words, scope) if word == "(" else _word(word, scope))
    return values[0](*values[1:]) if callable(values[0]) else values[0]


def _word(word: str, scope: Scope) -> Any:
    functions = {"eq": lambda a, b: a == b, "and": lambda a, b: a and b, "len": len}
    functions |= {"slice": lambda items, begin: items[begin:]}
    if word in functions:
        return functions[word]
    if word[0] == '"':
        return json.loads(word)
    if word.isdigit():
        return int(word)
    name, *keys = word.split(".")
    found = scope[name]
    for key in keys:
        found = found[key]
    return found

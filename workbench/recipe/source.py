"""Parse YAML text into plain values with their line numbers. No other module reads YAML.

The accepted YAML is small and strict: no anchors, aliases or tags, no duplicate keys, bounded size
and depth. Unquoted scalars are read by the rules of YAML 1.2, so `1e-4` is a number and `no`, `010`
and `12:30` are text. PyYAML's own rules are those of YAML 1.1, which read `010` as 8 and `12:30` as
750.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from workbench.errors import RecipeError
from workbench.text import safe_line

MAX_BYTES = 64 << 10
MAX_DEPTH = 20

KeyPath = tuple[str | int, ...]

# YAML 1.2 core schema without octal, hexadecimal, .inf and .nan; digits bounded.
NULL = re.compile(r"(?:~|null|Null|NULL|)\Z")
BOOL = re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z")
INT = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,39})\Z")
FLOAT = re.compile(
    r"[-+]?(?:(?:0|[1-9][0-9]{0,39})(?:\.[0-9]{0,40})?|\.[0-9]{1,40})(?:[eE][-+]?[0-9]{1,4})?\Z"
)
# Control characters but tab and newline, and halves of surrogate pairs: no setting needs them,
# and paths, terminals and databases trip over them.
_UNFIT = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """The place where a value was written: a line of the file, or an override.

    Places sort by line; overrides have lines beyond the end of every file.
    """

    line: int
    text: str


@dataclass(frozen=True, slots=True, order=True)
class Mistake:
    """One mistake of a recipe, shown as `recipe.yaml:14: lora.rnak is not a setting.`"""

    place: Place
    what: str

    def __str__(self) -> str:
        return f"{self.place.text}: {self.what}"


@dataclass(slots=True)
class YamlSource:
    """A parsed YAML document: plain values, the place of each, and the mistakes found so far.

    `written` holds the original text of unquoted scalars, for settings that accept text only.
    """

    file: str
    data: Any = None
    places: dict[KeyPath, Place] = field(default_factory=dict)
    written: dict[KeyPath, str] = field(default_factory=dict)
    mistakes: list[Mistake] = field(default_factory=list)

    def place(self, path: KeyPath) -> Place:
        """Return the place of `path`, or of its nearest parent with a known place."""
        while path and path not in self.places:
            path = path[:-1]
        return self.places.get(path, Place(1, f"{self.file}:1"))

    def wrong(self, path: KeyPath, what: str) -> None:
        """Record a mistake at `path`."""
        self.mistakes.append(Mistake(self.place(path), what))


def recipe_error(mistakes: list[Mistake], hint: str = "") -> RecipeError:
    """Return one error for all mistakes, with one line each, in the order of the file."""
    lines = list(dict.fromkeys(str(mistake) for mistake in sorted(mistakes)))
    return RecipeError("\n".join(lines), hint=hint or "correct the lines named and try again")


def read_scalar(text: str) -> Any:
    """Return the value of an unquoted YAML scalar: None, bool, int, float or the text itself."""
    if NULL.match(text):
        return None
    if BOOL.match(text):
        return text.lower() == "true"
    if INT.match(text):
        return int(text)
    if FLOAT.match(text):
        return float(text)
    return text


def parse_yaml(text: str, file: str) -> YamlSource:
    """Parse one YAML document of at most MAX_BYTES.

    Raises RecipeError if the text is not YAML. Constructs that are YAML but not accepted here
    (duplicate keys, anchors, tags) are recorded in `mistakes`.
    """
    source = YamlSource(file)
    if len(text.encode(errors="replace")) > MAX_BYTES:
        limit = f"a recipe has at most {MAX_BYTES >> 10} KiB"
        raise recipe_error([Mistake(Place(1, f"{file}:1"), f"{limit}; is this the right file?")])
    try:
        _Walk(source, yaml.parse(text, Loader=yaml.SafeLoader)).document()
    except yaml.YAMLError as broken:
        raise recipe_error([_syntax(broken, text, file)]) from broken
    except (ValueError, OverflowError) as broken:  # "\UFFFFFFFF", %YAML with 5,000 digits
        what = f"is not YAML: {safe_line(broken, 120)}"
        raise recipe_error([Mistake(Place(1, f"{file}:1"), what)]) from broken
    return source


class _Walk:
    """A parser from PyYAML's events to plain values.

    It reads events and not nodes, because composing nodes would expand aliases first, and a few
    lines of nested aliases expand to gigabytes. MAX_DEPTH bounds the recursion.
    """

    def __init__(self, source: YamlSource, events: Iterator[Any]) -> None:
        self.source = source
        self.events = events

    def document(self) -> None:
        for event in self.events:
            if isinstance(event, yaml.DocumentStartEvent):
                if self.source.data is not None:
                    self._wrong(event, "a second document starts; one recipe, one file")
                    return
            elif isinstance(event, yaml.NodeEvent):
                self.source.places[()] = self._place(event)
                self.source.data = self._node(event, ())

    def _node(self, event: Any, path: KeyPath) -> Any:
        self._refuse_marks(event)
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event, path)
        if isinstance(event, yaml.AliasEvent):
            return None
        if len(path) >= MAX_DEPTH:
            line = event.start_mark.line + 1
            place = Place(line, f"{self.source.file}:{line}")
            raise recipe_error([Mistake(place, f"nested more than {MAX_DEPTH} deep")])
        if isinstance(event, yaml.MappingStartEvent):
            return self._mapping(path)
        return self._sequence(path)

    def _mapping(self, path: KeyPath) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            key = self._key(event, path)
            here = (*path, key)
            if key in mapping:
                first = self.source.places[here].line
                self._wrong(
                    event, f"{dotted_path(here)} stands here a second time (first: line {first})"
                )
            else:
                self.source.places[here] = self._place(event)
            value = self._node(next(self.events), here)
            # The first value stays, so that its line agrees with the message about the duplicate.
            mapping.setdefault(key, value)
        return mapping

    def _key(self, event: Any, path: KeyPath) -> str:
        if isinstance(event, yaml.ScalarEvent):
            self._refuse_marks(event)
            return self._text(event, str(event.value))
        self._wrong(event, "a key is one word, not a list or a mapping")
        self._node(event, (*path, "?"))
        return f"?{event.start_mark.index}"

    def _sequence(self, path: KeyPath) -> list[Any]:
        values: list[Any] = []
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            here = (*path, len(values))
            self.source.places[here] = self._place(event)
            values.append(self._node(event, here))
        return values

    def _scalar(self, event: Any, path: KeyPath) -> Any:
        text = self._text(event, str(event.value))
        # Quoted text is text, whatever it looks like.
        if event.style is not None or event.tag is not None:
            return text
        self.source.written[path] = text
        return read_scalar(text)

    def _text(self, event: Any, text: str) -> str:
        if _UNFIT.search(text):
            self._wrong(event, "holds a control character")
            return _UNFIT.sub("", text)
        return text

    def _refuse_marks(self, event: Any) -> None:
        if isinstance(event, yaml.AliasEvent):
            self._wrong(event, f"*{safe_line(event.anchor, 40)}: aliases are not read here")
        elif event.anchor is not None:
            self._wrong(event, f"&{safe_line(event.anchor, 40)}: anchors are not read here")
        if getattr(event, "tag", None) is not None:
            self._wrong(event, f"{safe_line(event.tag, 40)}: tags are not read here")

    def _place(self, event: Any) -> Place:
        line = event.start_mark.line + 1
        return Place(line, f"{self.source.file}:{line}")

    def _wrong(self, event: Any, what: str) -> None:
        self.source.mistakes.append(Mistake(self._place(event), what))


def _syntax(broken: yaml.YAMLError, text: str, file: str) -> Mistake:
    if isinstance(broken, yaml.MarkedYAMLError):
        problem, mark = _problem(broken)
        line = mark.line + 1 if mark else 1
    else:
        position = getattr(broken, "position", 0)
        line = text.count("\n", 0, position if isinstance(position, int) else 0) + 1
        problem = "holds a control character"
    return Mistake(Place(line, f"{file}:{line}"), f"is not YAML: {safe_line(problem, 160)}")


def _problem(broken: yaml.MarkedYAMLError) -> tuple[str, Any]:
    """Return (what is wrong, where), common mistakes not in terms of PyYAML's scanner."""
    problem = broken.problem or broken.context or "cannot be read"
    context, here, begun = broken.context or "", broken.problem_mark, broken.context_mark
    if "'\\t'" in problem:
        problem = "a tab; YAML is indented with spaces"
    elif problem == "mapping values are not allowed here":
        problem = "a colon where none may stand; is the line indented right, or its text unquoted?"
    elif "unknown escape character" in problem or "expected escape sequence" in problem:
        problem = "a backslash between double quotes; put the text between single quotes: '\\d+'"
    elif "quoted scalar" in context and "unexpected end of stream" in problem:
        return "a quote that is not closed", begun
    elif "a flow " in context:
        return "a { or [ that is not closed, or a comma that is missing behind it", begun
    elif "cannot start any token" in problem:
        character = problem.removeprefix("found character ").partition(" that ")[0]
        problem = f"a text that begins with {character}; put it between quotes"
    elif "expected <block end>" in problem:
        problem = "text behind a finished value, or a line indented otherwise than those above it"
    return problem, here or begun


NAMELESS = "(an empty name)"


def dotted_path(path: KeyPath) -> str:
    """Return a path as text that is safe to print: `lora.targets[2]`."""
    shown = ""
    for part in path:
        shown += f"[{part + 1}]" if isinstance(part, int) else f".{safe_line(part, 80) or NAMELESS}"
    return safe_line(shown.removeprefix("."), 80) or "the recipe"

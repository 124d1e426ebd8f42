"""Rendering of chats with the model's own template, and encoding of the rendered text.

Three things differ from `apply_chat_template`. The date is fixed, so that rows do not depend on the
day. Control tokens in the text of a message are encoded as plain text, so that a row cannot forge a
turn. A refusal names a change to the rows or the recipe that works, because it was tried.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateSyntaxError, meta
from transformers.utils.chat_template_utils import _compile_jinja_template, render_jinja_template

from workbench.errors import DataError
from workbench.text import safe_line
from workbench.training.dataset.chat.training_templates import training_template

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Message = dict[str, Any]
"""A turn with `role`, `content`, further fields that are text, and perhaps `tool_calls`."""
Span = tuple[int, int]
"""First character, and the one behind the last."""

MARKS = re.compile(r"\{%-?\s*generation\s*-?%\}")
"""Matches the marks with which a chat template says itself what the assistant generates."""
DATE = datetime(2024, 7, 26)
"""The date that templates see in place of today's."""
_CHANCE = re.compile(r"\|\s*random\b")
"""Matches jinja's filter that picks one item by chance."""
_CLOCK = "strftime_now"
"""The function of transformers with which templates write the date or time."""
QUIET = {"verbose": False}
"""Silences the tokenizer's warning about rows longer than the model reads; rows are cut later."""

_BEGIN, _END = "\ue0f1", "\ue0f2"
"""Private-use characters around a control token that came from a message and not the template."""
FORGED = _BEGIN
"""The character that stands before such a token in a rendered chat."""
_MARKED = re.compile(f"{_BEGIN}(.*?){_END}|[{_BEGIN}{_END}]", re.DOTALL)
_SHAPING = re.compile(r"think|thought|reason|tool|python|call", re.IGNORECASE)
"""Matches special tokens that a message may hold: they shape an answer, not the turns.

Those that stand for an image or a sound are not among them, since there is none to put there.
"""
UNTHINKING = (
    "{%- if enable_thinking is not defined %}{%- set enable_thinking = false %}{%- endif %}\n"
)
"""The beginning of a template by unthinking_by_default(). A line of its own, which renders to
nothing, so that blanks and line ends behind it count as in the template itself."""
_SYSTEM: Message = {"role": "system", "content": "You are a helpful assistant."}


class ChatTemplate:
    """The chat template of a tokenizer; picklable, and without state between rows.

    It renders chats without tools; `with_tools` returns one that offers some.
    """

    tools: list[dict[str, Any]] | None = None
    """The tools that chats are rendered with."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, variables: Mapping[str, Any] | None = None
    ) -> None:
        """Raise DataError for several templates without a default, and for one that draws lots.

        `variables` are given to the template, e.g. `enable_thinking`.
        """
        self._tokenizer = tokenizer
        try:
            given = str(tokenizer.get_chat_template())
        except ValueError as refused:
            raise DataError(
                f"the model has several chat templates: {safe_line(refused, 160)}",
                hint="name one of them default in the model's folder, or give the rows as prompt "
                "and completion with data.chat_template: never",
            ) from refused
        self._template = _own_copy(given)
        if _CHANCE.search(self._template):
            raise DataError(
                "the model's chat template draws at random, so that rows would differ each time",
                hint="write one choice in place of the filter random in the model's chat template, "
                "or give the rows as prompt and completion with data.chat_template: never",
            )
        self.marked = MARKS.search(self._template) is not None
        """True if the template marks what the assistant generates."""
        training = None if self.marked else training_template(given.removeprefix(UNTHINKING))
        self._training = None if training is None else _own_copy(training)
        """TRL's template for the family, which has marks; None where it is not needed or known."""
        self.dated = _CLOCK in self._template
        """True if the template writes a date."""
        control = [
            re.escape(str(token))
            for token in tokenizer.added_tokens_decoder.values()
            if token.special and not _SHAPING.search(str(token))
        ]
        # Longest first, so that a token is not taken for a shorter one that it contains.
        self._control = re.compile("|".join(sorted(control, key=len, reverse=True)) or "(?!)")
        self._variables = self._mark(dict(variables or {}))

    def with_tools(self, tools: Sequence[dict[str, Any]]) -> ChatTemplate:
        """Return this template for chats that offer these tools; itself for none."""
        if not tools:
            return self
        offering = copy.copy(self)
        offering.tools = [self._mark(tool) for tool in tools]
        return offering

    def read_variables(self) -> frozenset[str]:
        """Return the names of variables that the template reads and that nothing else gives it."""
        given = {"messages", "tools", "documents", "add_generation_prompt"}
        return _read_variables(self._template) - {*given, *self._tokenizer.special_tokens_map}

    # ── messages ─────────────────────────────────────────────────────────────────────────────

    def mark_control_tokens(self, messages: Sequence[Message]) -> list[Message]:
        """Return the messages with control tokens in their texts marked, for `encode` to see."""
        return [{key: self._mark(value) for key, value in one.items()} for one in messages]

    def _mark(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._mark(one) for one in value]
        if isinstance(value, dict):
            return {key: self._mark(one) for key, one in value.items()}
        return self._marked_text(value) if isinstance(value, str) else value

    def _marked_text(self, text: str) -> str:
        # Marks that the text holds itself must not forge anything.
        text = text.replace(_BEGIN, "").replace(_END, "")
        return self._control.sub(f"{_BEGIN}\\g<0>{_END}", text)

    # ── rendering ────────────────────────────────────────────────────────────────────────────

    def render(self, messages: Sequence[Message], place: str, *, ask: bool = False) -> str:
        """Return the chat as text; with `ask` it ends with the generation prompt.

        Raises DataError, naming `place`, where the template refuses the chat.
        """
        return self._render(messages, place, ask=ask, marks=False)[0]

    def render_marked(self, messages: Sequence[Message], place: str) -> tuple[str, list[Span]]:
        """Return the chat as text, and the spans within the template's generation marks."""
        return self._render(messages, place, ask=False, marks=True)

    @property
    def known_family(self) -> bool:
        """True if the template has no marks, and TRL's training template for it has some."""
        return self._training is not None

    def training_marks(self, messages: Sequence[Message], text: str) -> list[Span] | None:
        """Return the spans within the marks of TRL's training template for the family.

        None where there is no such template, or where it renders the chat otherwise than as `text`.
        """
        if self._training is None:
            return None
        marking = copy.copy(self)
        marking._template = self._training
        try:
            shown, spans = marking._try(messages, marks=True)
        except Exception:  # whatever it raises, it cannot be used for this chat
            return None
        return spans if shown == text else None

    def _render(
        self, messages: Sequence[Message], place: str, *, ask: bool, marks: bool
    ) -> tuple[str, list[Span]]:
        try:
            return self._try(messages, ask=ask, marks=marks)
        except Exception as refused:  # a template is a program and can raise anything
            if isinstance(refused, MemoryError):
                raise
            raise DataError(
                f"{place}: the model's chat template refuses this chat: {_reason(refused)}",
                hint=self._refusal_hint(messages),
            ) from refused

    def _try(
        self, messages: Sequence[Message], *, ask: bool = False, marks: bool = False
    ) -> tuple[str, list[Span]]:
        if self.dated:
            _compile_jinja_template(self._template).globals[_CLOCK] = DATE.strftime
        texts, spans = render_jinja_template(
            conversations=[list(messages)],
            tools=self.tools,
            chat_template=self._template,
            add_generation_prompt=ask,
            return_assistant_tokens_mask=marks,
            **self._tokenizer.special_tokens_map,
            **self._variables,
        )
        text = str(texts[0])
        text.encode()  # half a character of the template's own: no tokenizer takes it
        return text, list(spans[0]) if marks else []

    def _refusal_hint(self, messages: Sequence[Message]) -> str:
        """Return a hint for a refused chat, naming the change that makes the template accept it."""
        plain = copy.copy(self)
        plain._variables = {}
        if self._variables and plain._accepts(messages):
            names = safe_line(", ".join(self._variables), 120)
            return f"the template takes the chat without {names} in chat_template_kwargs"
        has_one = bool(messages) and messages[0]["role"] in ("system", "developer")
        if not has_one and self._accepts([_SYSTEM, *messages]):
            return (
                "the template wants a system message: set data.system in the recipe, e.g. "
                f'data.system: "{_SYSTEM["content"]}"'
            )
        if hint := self._role_hint(messages):
            return hint
        spoken = [one for one in messages if one["role"] not in ("system", "developer")]
        if len(spoken) < len(messages) and self._accepts(spoken):
            return (
                "the template takes no system message: take the system turns out of the rows and "
                "data.system out of the recipe, or write their text into the user's turn"
            )
        single = [
            {**one, "tool_calls": one["tool_calls"][:1]} if "tool_calls" in one else one
            for one in messages
        ]
        if single != list(messages) and self._accepts(single):
            return (
                "the template takes one call in a turn: leave out the rows in which a turn has more"
            )
        bare = [{"role": one["role"], "content": one["content"]} for one in messages]
        if bare != list(messages) and self._accepts(bare):
            return "take the turns' fields other than role and content out of the rows"
        if self._accepts([{"role": "user", "content": "Hi"}, _answer("Hello")]):
            return "let user and assistant take turns, the user first, as the template wants it"
        return (
            "the template refuses every chat: mend it in the model's folder, or give the rows as "
            "prompt and completion with data.chat_template: never"
        )

    def _role_hint(self, messages: Sequence[Message]) -> str:
        """Return a hint to give turns of a role that the template refuses another one, or ''."""
        named = [{"name": "rain", **one} if one["role"] == "tool" else one for one in messages]
        if named != list(messages) and self._accepts(named):
            return (
                "the template looks up what each result answers: give turns of the role tool the "
                "tool_call_id of their call, or the function's name in a field name"
            )
        for role, other in (("developer", "system"), ("tool", "user")):
            changed = [one | {"role": other} if one["role"] == role else one for one in messages]
            if changed != list(messages) and self._accepts(changed):
                return f"the template takes no role {role}: give those turns the role {other}"
        return ""

    def _accepts(self, messages: Sequence[Message]) -> bool:
        if not messages:
            return False
        try:
            self._try(messages)
        except Exception:  # whatever the template raises, it does not accept this
            return False
        return True

    # ── encoding ─────────────────────────────────────────────────────────────────────────────

    def encode(self, text: str) -> tuple[list[int], list[Span]]:
        """Return the ids of a rendered chat, and the characters of `text` that each stands for."""
        if _BEGIN not in text and _END not in text:
            return self._encode(text, 0)
        ids: list[int] = []
        spans: list[Span] = []
        at = 0
        for mark in _MARKED.finditer(text):
            parts = [self._encode(text[at : mark.start()], at, inside=at > 0)]
            if mark[1]:
                parts.append(self._encode(mark[1], mark.start(1), inside=True, plain=True))
            for more_ids, more_spans in parts:
                ids += more_ids
                spans += more_spans
            at = mark.end()
        last_ids, last_spans = self._encode(text[at:], at, inside=True)
        return ids + last_ids, spans + last_spans

    def _encode(
        self, text: str, offset: int, *, inside: bool = False, plain: bool = False
    ) -> tuple[list[int], list[Span]]:
        """Encode a piece that begins at character `offset` of the chat."""
        if not text:
            return [], []
        ids, spans = self._tokens(text, plain=plain)
        if inside:
            # SentencePiece puts a blank before a text's first word, which is wrong inside a chat:
            # a line break goes before the piece and is dropped again, where it is a token.
            led_ids, led_spans = self._tokens("\n" + text, plain=plain)
            lead = self._tokens("\n", plain=plain)[0]
            if led_ids[: len(lead)] == lead and len(led_ids) > len(lead):
                ids = led_ids[len(lead) :]
                spans = [(max(a - 1, 0), b - 1) for a, b in led_spans[len(lead) :]]
        return ids, [(a + offset, b + offset) for a, b in spans]

    def _tokens(self, text: str, *, plain: bool) -> tuple[list[int], list[Span]]:
        """Return ids and their characters; with `plain`, special tokens are read as text."""
        encoded = self._tokenizer(
            text,
            add_special_tokens=False,
            return_offsets_mapping=True,
            split_special_tokens=plain,
            **QUIET,
        )
        return list(encoded["input_ids"]), list(encoded["offset_mapping"])


def _own_copy(template: str) -> str:
    """Return a dated template under another text, so that its compiled form is ours alone.

    transformers compiles a template once per text and shares it, and the fixed date is set in the
    compiled form: whoever else renders the model's template must not see it.
    """
    if _CLOCK not in template:
        return template
    if template.lstrip(" \t").startswith("{%"):
        template = template.lstrip(" \t")  # as jinja does with blanks before a block
    return "{# with a fixed date +#}" + template


@lru_cache(maxsize=8)
def _read_variables(template: str) -> frozenset[str]:
    try:
        environment = _compile_jinja_template(template).environment
        names = meta.find_undeclared_variables(environment.parse(template))
    except TemplateSyntaxError:  # each chat is refused with it
        return frozenset()
    return frozenset(names - environment.globals.keys())


def unthinking_by_default(template: str) -> str:
    """Return the template, with `enable_thinking` false for callers that leave it out.

    Where it does not read that variable it comes back as it is.
    """
    if "enable_thinking" not in _read_variables(template):
        return template
    return UNTHINKING + template


def control_tokens(text: str) -> list[str]:
    """Return the distinct control tokens that messages brought into a rendered text, sorted."""
    return sorted({mark[1] for mark in _MARKED.finditer(text) if mark[1]})


def without_marks(text: str) -> str:
    """Return a rendered text without the marks around control tokens."""
    return text.replace(_BEGIN, "").replace(_END, "")


def _answer(content: str) -> Message:
    return {"role": "assistant", "content": content}


def _reason(refused: Exception) -> str:
    said = safe_line(refused, 160)
    known = type(refused).__module__.startswith("jinja2") and said
    return said if known else f"{type(refused).__name__}: {said}"

"""Rendered chats with the characters of the assistant's turns: where each begins and ends.

An answer begins where generation would: behind the generation prompt. Templates show past answers
in three other ways, which are handled here: with the header inside their generation marks, without
a think block that the generation prompt opens, and without parts that they leave out.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from workbench.errors import DataError
from workbench.training.dataset.chat.template import FORGED, ChatTemplate, Message, Span
from workbench.training.dataset.chat.turn_ends import TurnFormat, common_prefix
from workbench.training.dataset.rows.tools import names_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class ChatLayout:
    """A rendered chat, and the places in it that matter for training."""

    text: str
    spans: list[Span]
    """The trained answers with their end tokens and whatever the template puts behind them."""
    prompt: str
    """The text that generation of the last answer starts from; empty where it is the first turn."""
    unopened: str
    """The text that the generation prompt opens (`<think>`) and the last answer lacks; or empty."""
    unmarked: bool = False
    """True if a trained answer stands outside the template's generation marks."""


class ChatTurns:
    """Finds the assistant's turns in chats that one template renders."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, template: ChatTemplate, turn_format: TurnFormat
    ) -> None:
        self._tokenizer, self._template, self._format = tokenizer, template, turn_format
        ends = tokenizer.convert_ids_to_tokens(sorted(turn_format.end_ids))
        # Marked ones were brought by a message and end nothing.
        self._ends = re.compile(f"(?<!{FORGED})(?:{'|'.join(map(re.escape, ends))})")
        self._closing = re.compile(rf"\s*{self._ends.pattern}")
        added = map(str, tokenizer.added_tokens_decoder.values())
        self._added = re.compile("|".join(map(re.escape, added)) or "(?!)")
        opener = self._added.search(turn_format.header)
        self._opens = re.compile(f"(?<!{FORGED}){re.escape(opener[0])}" if opener else "(?!)")

    def lay_out(
        self, messages: Sequence[Message], trained: Sequence[int], place: str
    ) -> ChatLayout:
        """Render the chat and find its turns `trained` (indices of assistant messages).

        Renders once, and once more for each trained turn. Raises DataError, naming `place`, where
        the template refuses the chat or changes it so that an answer cannot be found.
        """
        answers = [n for n, message in enumerate(messages) if message["role"] == "assistant"]
        if self._template.marked:
            text, marks = self._template.render_marked(messages, place)
            spans = [self._without_header(text, span) for span in marks]
            if len(trained) < len(answers) == len(spans):
                spans = spans[-len(trained) :]  # the trained turns are the last ones
            elif len(trained) < len(answers):
                spans = self._later_spans(text, spans, messages[: trained[0]], place)
        else:
            text = self._template.render(messages, place)
            spans = self._spans(text, messages, trained, place)
        unmarked = self._template.marked and len(spans) < len(trained)
        if not answers or not answers[-1]:
            return ChatLayout(text, spans, "", "", unmarked)
        layout = self._with_prompt(text, spans, messages, answers[-1], place)
        return replace(layout, unmarked=unmarked)

    # ── the last answer ──────────────────────────────────────────────────────────────────────

    def _with_prompt(
        self, text: str, spans: list[Span], messages: Sequence[Message], last: int, place: str
    ) -> ChatLayout:
        before = self._template.render(messages[:last], place, ask=True)
        if text.startswith(before):
            return ChatLayout(text, spans, before, "")
        start = self._start_without_opening(text, before, _content(messages[last]))
        if start is None:
            return ChatLayout(text, spans, before, "")
        opened = before[start:]
        rest = self._behind_opening(_content(messages[last]), opened)
        if rest is None or last != len(messages) - 1 or not spans:
            return ChatLayout(text, spans, before[:start], opened.strip())
        # The generation prompt opens the think block that the answer has too, and the template
        # leaves it out of past answers: train on what would be generated.
        end = self._ends.search(text, start)
        closing = text[end.start() :] if end else ""
        whole = before + rest + closing
        return ChatLayout(whole, [*spans[:-1], (len(before), len(whole))], before, "")

    def _behind_opening(self, content: str, opened: str) -> str | None:
        """Return the answer behind the opened tag, or None where it does not begin with it."""
        name = opened.strip()
        if not name or not content.lstrip().startswith(name):
            return None
        blank = opened[len(opened.rstrip()) :]
        return content.lstrip()[len(name) :].removeprefix(blank)

    def _start_without_opening(self, text: str, before: str, content: str) -> int | None:
        """Return where the answer begins in `text` if only what the prompt opens is missing."""
        prompt = self._format.generation_prompt
        if not prompt or not before.endswith(prompt):
            return None
        start = common_prefix(self._tokenizer, before, text)
        if start <= len(before) - len(prompt):
            return None  # earlier turns differ, too
        # What stands there must be the answer, or its end where the template drops its thinking.
        end = self._ends.search(text, start)
        shown = text[start : end.start() if end else len(text)].strip()
        said = content.strip()
        return start if said.endswith(shown) or shown.startswith(said) else None

    # ── spans ────────────────────────────────────────────────────────────────────────────────

    def _without_header(self, text: str, span: Span) -> Span:
        """Return the span without a header, or the rest of one, that its marks enclose."""
        start, end = span
        for header in (self._format.generation_prompt, self._format.header):
            at = text.find(header, max(0, start - len(header)), start + len(header))
            if header and at >= 0 and start < at + len(header) < end:
                return at + len(header), end
        return span

    def _later_spans(
        self, text: str, spans: list[Span], earlier: Sequence[Message], place: str
    ) -> list[Span]:
        """Return the spans behind the turns `earlier`; an answer can have several marks."""
        before = self._template.render(earlier, place)
        begin = common_prefix(self._tokenizer, before, text)
        return [span for span in spans if span[1] > begin]

    def _spans(
        self, text: str, messages: Sequence[Message], trained: Sequence[int], place: str
    ) -> list[Span]:
        """Return the characters of the turns `trained`; DataError where they cannot be told."""
        answers = [n for n, message in enumerate(messages) if message["role"] == "assistant"]
        marks = self._template.training_marks(messages, text)
        if marks is not None and len(marks) == len(answers):
            by_turn = dict(zip(answers, marks, strict=True))
            return [self._without_header(text, by_turn[turn]) for turn in trained]
        spans: list[Span] = []
        for turn in trained:
            try:
                spans.append(self._span(text, messages, turn, place))
            except DataError:
                by_header = self._spans_by_header(text, messages)
                if by_header is None:
                    raise
                spans.append(by_header[turn])
        return spans

    def _spans_by_header(self, text: str, messages: Sequence[Message]) -> dict[int, Span] | None:
        """Return each answer's characters, from its header to its end token; None if not plain.

        Templates that drop the reasoning of earlier turns render what stands before an answer
        otherwise once it is given. Headers hold a control token, which no message can forge, and
        there must be one for each answer.
        """
        header = self._format.inner_header
        if not self._added.search(header):
            return None
        starts = [found.end() for found in re.finditer(re.escape(header), text)]
        turns = [n for n, message in enumerate(messages) if message["role"] == "assistant"]
        if len(starts) != len(turns):
            return None
        supplied = self._format.generation_prompt.removeprefix(header)
        spans: dict[int, Span] = {}
        for turn, start, limit in zip(turns, starts, [*starts[1:], len(text)], strict=True):
            end = self._ends.search(text, start)
            if end is None or end.end() > limit:
                return None
            stop = self._stop(text, start, end.end())
            # What the generation prompt supplies is not learned, where the turn has it.
            start += len(supplied) if text.startswith(supplied, start) else 0
            spans[turn] = (start, stop)
        return spans

    def _span(self, text: str, messages: Sequence[Message], turn: int, place: str) -> Span:
        """Return the characters of a turn, with its end token and what the template adds."""
        start = self._start(text, messages, turn, place)
        if turn == len(messages) - 1:
            return start, len(text)
        after = self._template.render(messages[: turn + 1], place)
        if text.startswith(after):
            return start, len(after)
        # Some templates (Qwen3's) show more of the last answer than of earlier ones.
        content = _content(messages[turn]).strip()
        found, stop = self._closed(text, content, start)
        following = text.find(_content(messages[turn + 1]).strip(), start)
        # Calls stand behind the content.
        whole = bool(content) and not messages[turn].get("tool_calls")
        end = self._ends.search(text, start)
        # A next turn that says the same is not taken for an answer that is left out.
        other = found == following and end is not None and end.start() < found
        if whole and found >= 0 and not 0 <= following < found and not other:
            return start, stop
        stop = self._stop(text, start, end.end()) if end else start
        called = names_of(messages[turn].get("tool_calls", ()))
        hidden = any(name not in text[start:stop] for name in called)
        if end is None or 0 <= following < end.start() or hidden:
            raise DataError(
                f"{place}: the chat template leaves out or changes what turn {turn + 1} says",
                hint="set data.loss_on: completion, to train on the last answer alone",
            )
        return start, stop

    def _closed(self, text: str, content: str, start: int) -> Span:
        """Return the characters of an answer's text, with the end token where one follows.

        A short answer stands in other words, too (`a` in `channel`), but before no end token.
        """
        first = at = text.find(content, start)
        while content and at >= 0:
            if end := self._closing.match(text, at + len(content)):
                return at, end.end()
            at = text.find(content, at + 1)
        return first, first + len(content)

    def _stop(self, text: str, start: int, end: int) -> int:
        """Return where a turn ends that ends at `end` or where the next one begins.

        The end of a call can be another token than that of an answer.
        """
        following = self._opens.search(text, start, end)
        return following.start() if following else end

    def _start(self, text: str, messages: Sequence[Message], turn: int, place: str) -> int:
        content = _content(messages[turn])
        if not turn:
            return self._first_start(text, content)
        before = self._template.render(messages[:turn], place, ask=True)
        if text.startswith(before):
            return len(before)
        start = self._start_without_opening(text, before, content)
        if start is None:
            raise DataError(
                f"{place}: the chat template renders the turns before an answer otherwise when "
                "the answer follows, so the answer's tokens cannot be told",
                hint="give the rows as prompt and completion with data.chat_template: never, or "
                "put generation marks around the answer in the model's chat template",
            )
        return start

    def _first_start(self, text: str, content: str) -> int:
        """Return where a chat's first turn, the assistant's, says something: behind its header."""
        header, said = self._format.header, max(0, text.find(content.strip()))
        at = text.find(header) if header else -1
        return at + len(header) if 0 <= at <= said - len(header) else said


def _content(message: Message) -> str:
    """Return what a turn says beside its calls, which may be nothing."""
    return message["content"] or ""

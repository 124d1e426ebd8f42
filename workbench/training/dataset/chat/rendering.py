"""Rows as tokens, with the tokens that carry loss.

What is trained on must be what is generated: a prompt is rendered by the tokenizer's own chat
template, loss starts where generation would, and the token that ends a turn always carries loss.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from typing import Any

from transformers import PreTrainedTokenizerBase

from workbench.errors import DataError
from workbench.training.dataset.chat.call_form import (
    CallForm,
    find_call_form,
    shows_tools,
    with_call_form,
)
from workbench.training.dataset.chat.reasoning import (
    never_ends_reasoning,
    reasoning_spans,
    shows_blocks_twice,
    with_reasoning_field,
    without_reasoning,
)
from workbench.training.dataset.chat.shown import (
    NO_TOOLS,
    Finding,
    call_findings,
    left_out,
    put_before,
    refuse_hidden_tools,
    refuse_hidden_turns,
)
from workbench.training.dataset.chat.template import (
    QUIET,
    ChatTemplate,
    Message,
    Span,
    control_tokens,
    without_marks,
)
from workbench.training.dataset.chat.turn_ends import TurnFormat, find_turn_format
from workbench.training.dataset.chat.turns import ChatTurns
from workbench.training.dataset.rows.shapes import Chat, Example, Pair, Text

CLOSE_REASONING = "leave such rows out, or write </think> and the answer behind their reasoning"
_MOST_FORMATS = 256
"""Sets of variables of rows for which the chat template's probes are kept."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """A rendered row before it is cut."""

    ids: list[int]
    trained: list[bool]
    """True where a token carries loss."""
    prompt_ids: list[int]
    """Ids that generation starts from; empty for plain text."""
    question: str
    answer: str
    ended: bool
    """True if the end of the last trained turn carries loss."""
    end_ids: frozenset[int] = frozenset()
    """Ids that stand at the end of trained turns, or anywhere in a text without turns."""
    findings: tuple[Finding, ...] = ()
    """Warnings about the row, found while rendering it."""

    @property
    def agrees(self) -> bool:
        """True if the row begins with its prompt, so that generation starts as training did."""
        return self.ids[: len(self.prompt_ids)] == self.prompt_ids


class Renderer:
    """Renders examples into tokens, at about half a millisecond a row."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        loss_on: str,
        *,
        chats: bool = True,
        reasoning: str = "keep",
    ) -> None:
        """Probe the chat template once, which takes some milliseconds.

        Without `chats`, rows are never rendered by a chat template, and a template that cannot be
        used does not matter. `reasoning` is `data.reasoning`; with `drop`, a template that can is
        told that the model does not think, as it would be to generate such answers.
        """
        self._tokenizer = tokenizer
        self._loss_on = loss_on
        self._reasoning = reasoning
        self._variables = {"enable_thinking": False} if reasoning == "drop" else {}
        self.turn_format = find_turn_format(tokenizer, self._variables, chats=chats)
        self.ends = self.turn_format.end_ids
        """Ids of the tokens that close a turn."""
        has_template = chats and bool(tokenizer.chat_template)
        self.template = ChatTemplate(tokenizer, self._variables) if has_template else None
        self._by_variables: dict[str, tuple[ChatTemplate, TurnFormat]] = {}
        special = (id for id, token in tokenizer.added_tokens_decoder.items() if token.special)
        self._closers = self.ends.union(special)
        """Ids that close an earlier answer: some templates have other ends for those with calls."""
        names = tokenizer.convert_ids_to_tokens(sorted(self.ends))
        self._end_names = tuple(str(name) for name in names)
        begin = tokenizer.bos_token_id
        plain = list(tokenizer("a", **QUIET)["input_ids"])
        self._begin = begin if begin is not None and plain[:1] == [begin] else None

    def tokens_of(self, example: Example, place: str) -> Tokens:
        """Return the example's tokens; DataError, naming `place`, where the template refuses it."""
        if isinstance(example, Text):
            return self._text(example)
        if isinstance(example, Pair):
            return self._pair(example)
        return self._chat(example, place)

    # ── text and pairs ───────────────────────────────────────────────────────────────────────

    def _text(self, example: Text) -> Tokens:
        ids = self._closed(self._plain(example.text))
        header = self.turn_format.header.strip()
        found = (("turns", header),) if header and header in example.text else ()
        ends = self.ends.intersection(ids)
        return Tokens(ids, [True] * len(ids), [], "", "", True, ends, found)

    def _pair(self, example: Pair) -> Tokens:
        prompt_ids = self._plain(example.prompt)
        while prompt_ids and prompt_ids[-1] == self._tokenizer.eos_token_id:
            prompt_ids.pop()
        ids = self._closed(self._plain(example.prompt + example.completion))
        # A token that holds the prompt's end and the completion's begin carries loss.
        start = 0 if self._loss_on == "all" else _common(prompt_ids, ids)
        trained = [place >= start for place in range(len(ids))]
        ends = self.ends.intersection(ids)
        return Tokens(ids, trained, prompt_ids, example.prompt, example.completion, True, ends)

    def _plain(self, text: str) -> list[int]:
        """Return ids with the tokenizer's special tokens; never a second begin token in front."""
        ids = list(self._tokenizer(text, **QUIET)["input_ids"])
        begin = self._tokenizer.bos_token_id
        return ids[1:] if begin is not None and ids[:2] == [begin, begin] else ids

    def _closed(self, ids: list[int]) -> list[int]:
        """Return the ids with an end, unless they have one, behind which blanks may stand."""
        end = int(self._tokenizer.eos_token_id)
        said = len(ids)
        while said and self._blank(ids[said - 1]) and ids[said - 1] != end:
            said -= 1
        return ids if said and ids[said - 1] == end else [*ids, end]

    # ── chats ────────────────────────────────────────────────────────────────────────────────

    def _chat(self, example: Chat, place: str) -> Tokens:
        assert self.template is not None, "chats are parsed only where there is a template"
        given = example.messages
        if self._reasoning == "drop":
            given = tuple(without_reasoning(message) for message in given)
        messages, findings = self._without_own_ends(given)
        answers = [n for n, message in enumerate(messages) if message["role"] == "assistant"]
        read = self.template.read_variables() if example.variables else frozenset()
        findings += [("variable", name) for name in example.variables if name not in read]
        template, turn_format = self._template_with(
            {name: value for name, value in example.variables.items() if name in read}, place
        )
        template = template.with_tools(example.tools)
        trained_turns = self._trained_turns(example, answers)
        findings += self._check_reasoning(messages, trained_turns, place)
        told = [with_reasoning_field(one) for one in messages] if self._shows_twice else messages
        marked = template.mark_control_tokens(self._with_calls(told, place))
        turns = ChatTurns(self._tokenizer, template, turn_format)
        layout = turns.lay_out(marked, trained_turns, place)
        if example.tools and not self._shows_tools:
            raise DataError(f"{place}: the model's chat template shows no tools", hint=NO_TOOLS)
        shown = without_marks(layout.text)
        refuse_hidden_tools(example, shown, place)
        refuse_hidden_turns(template, marked, place)
        ids, offsets = self.template.encode(layout.text)
        runs = [self._end_run(ids, *run) for run in _runs(offsets, layout.spans)]
        ended = not runs or ids[runs[-1][1] - 1] in self.ends
        # A template that closes nothing: without an end the model would not learn to stop.
        if not ended and runs[-1][1] == len(ids):
            ids.append(int(self._tokenizer.eos_token_id))
            runs[-1] = (runs[-1][0], len(ids))
            ended = True
        trained = [self._loss_on == "all"] * len(ids)
        for start, end in runs:
            trained[start:end] = [True] * (end - start)
        if self._reasoning == "mask":
            said = [marked[turn] for turn in trained_turns]
            for start, end in reasoning_spans(layout.text, layout.spans, said):
                # A token can begin in the generation prompt: line breaks on both sides are one.
                for n, (a, b) in enumerate(offsets):
                    trained[n] = trained[n] and not (a < b and start < b <= end)
        # The next lines only look at the row; nothing they find changes what is trained on.
        findings += [("control", name) for name in control_tokens(layout.text)]
        lost = left_out(messages, shown)
        # Of answers that carry no loss the reasoning is not missed.
        findings += [one for one in lost if one[0] != "reasoning" or len(trained_turns) > 1]
        findings += call_findings(messages, shown)
        if layout.unopened:
            findings.append(("unopened", layout.unopened))
        if any(ids[end - 1] not in self._closers for _, end in runs[:-1]):
            findings.append(("open end", ""))
        if layout.unmarked:
            findings.append(("unmarked", ""))
        if self._begin is not None and self._begin not in ids[:1]:
            findings.append(("no begin", str(self._tokenizer.bos_token)))
        if not answers:
            return Tokens(ids, trained, [], "", "", ended, findings=tuple(findings))
        # Of an end token that was appended there are no characters.
        learned = (a for (a, b), loss in zip(offsets, trained, strict=False) if loss and a < b)
        start = next((a for a in learned if a >= layout.spans[-1][0]), 0) if layout.spans else 0
        added = put_before(messages[answers[-1]], layout.text, start) if start else ""
        if added and not turn_format.unasked_header:
            findings.append(("put before", added))
        prompt_ids = self.template.encode(layout.prompt)[0]
        question = example.messages[answers[-1] - 1]["content"] if answers[-1] else ""
        answer = messages[answers[-1]]["content"]
        if messages[answers[-1]].get("tool_calls") and runs:
            answer = self._said(ids[runs[-1][0] : runs[-1][1]])
        ends = self._closing_ids(ids, runs)
        return Tokens(ids, trained, prompt_ids, question, answer, ended, ends, tuple(findings))

    def _template_with(
        self, variables: Mapping[str, Any], place: str
    ) -> tuple[ChatTemplate, TurnFormat]:
        """Return the template that is given a row's variables, and how it then writes turns.

        Raises DataError, naming `place`, where turns cannot be told then.
        """
        assert self.template is not None
        variables = {**variables, **self._variables}
        if variables == self._variables:
            return self.template, self.turn_format
        key = json.dumps(variables, sort_keys=True)
        if key not in self._by_variables:
            if len(self._by_variables) >= _MOST_FORMATS:
                self._by_variables.clear()
            template = ChatTemplate(self._tokenizer, variables)
            try:
                turn_format = find_turn_format(self._tokenizer, variables)
            except DataError as refused:
                raise DataError(f"{place}: {refused.what}", hint=refused.hint) from refused
            self._by_variables[key] = template, turn_format
        return self._by_variables[key]

    @cached_property
    def _shows_tools(self) -> bool:
        return self.template is not None and shows_tools(self.template)

    @cached_property
    def _shows_twice(self) -> bool:
        return self.template is not None and shows_blocks_twice(self.template)

    def _check_reasoning(
        self, messages: Sequence[Message], trained_turns: Sequence[int], place: str
    ) -> list[Finding]:
        """Return a finding for an answer with loss whose reasoning never ends.

        Raises DataError where that reasoning was to be dropped or masked.
        """
        looked_at = range(len(messages)) if self._reasoning == "drop" else trained_turns
        if not any(never_ends_reasoning(messages[turn]) for turn in looked_at):
            return []
        if self._reasoning != "keep":
            raise DataError(f"{place}: an answer's <think> is never closed", hint=CLOSE_REASONING)
        return [("unended", "")]

    @cached_property
    def _call_form(self) -> CallForm | None:
        """Return the form in which the template takes calls; None where it shows none."""
        return None if self.template is None else find_call_form(self.template)

    def _with_calls(self, messages: list[Message], place: str) -> list[Message]:
        """Return the messages with calls in the form that the template takes.

        Raises DataError for calls where the template shows none.
        """
        if not any("tool_calls" in message for message in messages):
            return messages
        if self._call_form is None:
            raise DataError(f"{place}: the model's chat template shows no calls", hint=NO_TOOLS)
        return with_call_form(messages, self._call_form)

    def _said(self, ids: list[int]) -> str:
        """Return an answer's text as scoring reads it: without its ends and special tokens."""
        return str(self._tokenizer.decode(ids, skip_special_tokens=True)).strip()

    def _trained_turns(self, example: Chat, answers: list[int]) -> list[int]:
        if self._loss_on != "completion":
            return answers
        if example.prompt_turns:
            return [turn for turn in answers if turn >= example.prompt_turns]
        return answers[-1:]

    def _without_own_ends(self, messages: Sequence[Message]) -> tuple[list[Message], list[Finding]]:
        """Return the messages without end tokens that they bring: the template puts one there."""
        made: list[Message] = []
        findings: list[Finding] = []
        for message in messages:
            said = message["content"].rstrip()
            name = next((name for name in self._end_names if said.endswith(name)), "")
            if name and message["role"] == "assistant":
                findings.append(("own end", name))
                message = {**message, "content": said.removesuffix(name)}
            made.append(message)
        return made, findings

    def _end_run(self, ids: list[int], start: int, end: int) -> tuple[int, int]:
        """Return the run extended or cut so that it ends with its closing tokens."""
        # Templates put line breaks behind the end token, and some repeat the token.
        said = end  # index behind the last token that is neither blank nor an end
        while said > start and (ids[said - 1] in self.ends or self._blank(ids[said - 1])):
            said -= 1
        close = next((n for n in range(said, end) if ids[n] in self.ends), end)
        while close < len(ids) and ids[close] in self.ends:
            close += 1
        return start, close

    def _closing_ids(self, ids: list[int], runs: Sequence[Span]) -> frozenset[int]:
        """Return the ends that close the runs; those inside, as behind thinking, end no turn."""
        closing: set[int] = set()
        for start, end in runs:
            closing.update(takewhile(lambda id: id in self.ends, reversed(ids[start:end])))
        return frozenset(closing)

    def _blank(self, id: int) -> bool:
        return not self._tokenizer.decode([id]).strip()


def _runs(offsets: Sequence[Span], spans: Sequence[Span]) -> list[Span]:
    """Return for each span of characters the first token in it, and the one behind the last."""
    runs = []
    for start, end in spans:
        inside = [n for n, (a, b) in enumerate(offsets) if a < end and b > start]
        if inside:
            runs.append((inside[0], inside[-1] + 1))
    return runs


def _common(left: Sequence[int], right: Sequence[int]) -> int:
    """Return the length of the longest common prefix."""
    pairs = enumerate(zip(left, right, strict=False))
    return next((n for n, (a, b) in pairs if a != b), min(len(left), len(right)))

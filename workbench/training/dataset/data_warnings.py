"""Warnings about rows that can be trained on but look wrong, each with its first row and a hint."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import TYPE_CHECKING

from workbench.training.dataset.chat.rendering import CLOSE_REASONING, Tokens
from workbench.training.dataset.chat.shown import Finding
from workbench.training.dataset.row_stats import RowCount
from workbench.training.dataset.rows.shapes import Chat, Example, Pair, Text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

END_MARKERS = (
    "</s>", "<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|endoftext|>", "<|end_of_text|>",
    "<|end|>", "<eos>", "<turn|>",
)  # fmt: skip
"""The tokens that model families write at the end of a turn or a text."""


FINDINGS = {
    "control": (
        "whose text holds the control token {0}; it is trained on as plain text",
        "take it out of the rows: the chat template puts such tokens where they belong",
    ),
    "turns": (
        "with turns of a chat in plain text ({0}), all of which is learned, questions too",
        "give such rows as messages, or as prompt and completion, to learn the answers alone",
    ),
    "own end": (
        "whose answer brings its own end {0}, left out here",
        "take it out of the rows: the chat template puts it there",
    ),
    "left out": (
        "in which the chat template leaves out part of what the {0} says",
        "look at the examples; take that part out of the rows, or use a template that shows it",
    ),
    "field": (
        "with the field {0} in a turn, which the chat template does not show",
        "write it into the turn's content, or take it out of the rows",
    ),
    "variable": (
        "with {0} in chat_template_kwargs, a variable that the chat template does not read",
        "write what it says into the turns, or take it out of the rows",
    ),
    "nulls": (
        "with a call that has an argument of null, which is learned as it stands",
        "right where the tool takes null; where a program wrote one schema for all rows, as "
        "datasets.to_json does, name its parquet file or hub data set instead, whose nulls are "
        "left out, or take them out of the rows",
    ),
    "wrapped": (
        "with a result of a call that brings {0}, which the chat template puts around it, too",
        "take it, and what closes it, out of the results",
    ),
    "reasoning": (
        "with reasoning in an earlier answer, which the chat template leaves out, as it does when "
        "the model is asked; that answer is learned without",
        "set data.loss_on: completion to learn the last answer alone, or data.reasoning: drop to "
        "learn all of them without reasoning",
    ),
    "unended": (
        "with an answer whose <think> is never closed, as where reasoning was cut; the model "
        "learns to stop while it reasons",
        CLOSE_REASONING,
    ),
    "unopened": (
        "whose answer does not begin with {0}, which the chat template puts before every answer "
        "that is generated; it is trained and scored without",
        "begin the answers with {0}, or use a chat template that does not open it",
    ),
    "put before": (
        "whose answer has {0} put before it by the chat template; it is learned as a part of it",
        "right where the model is to answer so; else give the reasoning in the turn's field "
        "reasoning_content, set data.reasoning: drop (the prompt then supplies it, where the "
        "template knows enable_thinking) or mask, or use a chat template that puts nothing there",
    ),
    "open end": (
        "with an earlier answer that the chat template closes with no end token; the model learns "
        "to stop from the last answer alone",
        "close every answer with the end token in the model's chat template, or give each answer "
        "a row of its own",
    ),
    "unmarked": (
        "with an answer outside the chat template's generation marks, which carries no loss",
        "put the marks around every answer in the model's chat template",
    ),
    "no begin": (
        "without the begin token {0}, which the tokenizer puts before plain text",
        "put {{{{ bos_token }}}} in front of the model's chat template, unless the model was "
        "trained without",
    ),
}
"""Words and hint for each kind of finding of the renderer; {0} is what it is about."""
_USE_IT = "map it in data.columns where it is one of the shape's, else it may be taken out"


class DataWarnings:
    """Checks of every row that is kept, at some microseconds a row."""

    def __init__(self, name: str, tokenizer: PreTrainedTokenizerBase) -> None:
        self._name = name
        self._begin = tokenizer.bos_token_id
        self._begin_text = str(tokenizer.bos_token)
        self._tokenizer = tokenizer
        self._ends: set[int] = set()  # that close the rows with a foreign end
        own = {str(token) for token in tokenizer.added_tokens_decoder.values()}
        foreign = [re.escape(marker) for marker in END_MARKERS if marker not in own]
        self._foreign = re.compile("|".join(foreign) or "(?!)")
        self._markers: dict[str, RowCount] = defaultdict(RowCount)
        self._second_begin = RowCount()
        self._findings: dict[Finding, RowCount] = defaultdict(RowCount)
        self._unused: dict[str, RowCount] = defaultdict(RowCount)
        self._out_of_order = RowCount()
        self._empty_prompt = RowCount()
        self._blank = RowCount()

    def inspect(self, example: Example, tokens: Tokens, place: str) -> None:
        """Count the row under every warning that applies to it."""
        said = _text_of(example)
        for marker in sorted(set(self._foreign.findall(said))):
            self._markers[marker].add(place)
            self._ends |= tokens.end_ids
        if self._begin is not None and self._has_second_begin(said, tokens.ids):
            self._second_begin.add(place)
        if isinstance(example, Chat) and out_of_order(example):
            self._out_of_order.add(place)
        if _learns_blank(example):
            self._blank.add(place)
        for finding in tokens.findings:
            self._findings[finding].add(place)
        for name in example.unused:
            self._unused[name].add(place)
        if not isinstance(example, Text) and tokens.prompt_ids and not tokens.question.strip():
            self._empty_prompt.add(place)

    def _has_second_begin(self, said: str, ids: list[int]) -> bool:
        """Return whether a second begin token stands in front, or was brought in by the row's text.

        A begin token in the middle alone is no fault: some templates put one before every turn.
        """
        if ids[:2] == [self._begin, self._begin]:
            return True
        return self._begin_text in said and self._begin in ids[1:]

    def notes(self) -> list[str]:
        """Return the warnings in words, e.g. `2 train rows whose prompt is empty (first: …)`."""
        said: list[str] = []
        ends = self._tokenizer.convert_ids_to_tokens(sorted(self._ends))
        own = " or ".join(map(str, ends)) or self._tokenizer.eos_token
        for marker, count in self._markers.items():
            words = f"with {marker}, another model family's end marker, as plain text"
            hint = f"take it out of the rows: this model's own end is {own}, put there"
            said += count.note(self._name, words, f"{hint} by itself")
        said += self._second_begin.note(
            self._name,
            "with a second begin token",
            "take the begin token out of the rows; the tokenizer or the template puts one there",
        )
        said += self._out_of_order.note(
            self._name,
            "whose turns are out of order",
            "user and assistant take turns, the user first, a system message before them",
        )
        said += self._empty_prompt.note(
            self._name, "whose prompt is empty", "fill it, or take the rows out"
        )
        said += self._blank.note(
            self._name, "with nothing but blanks where text is learned", "fill it, or take them out"
        )
        for (kind, detail), count in sorted(self._findings.items()):
            words, hint = FINDINGS[kind]
            shown = detail.replace("\n", "\\n")
            said += count.note(self._name, words.format(shown), hint.format(shown))
        for name, count in sorted(self._unused.items()):
            said += count.note(self._name, f"with the field {name}, which is not used", _USE_IT)
        return said


def out_of_order(chat: Chat) -> bool:
    """Return whether the turns break the order (system), user, assistant, user, …

    Chats with tool turns only have to begin with the user.
    """
    roles = [message["role"] for message in chat.messages]
    if roles[0] in ("system", "developer"):
        roles = roles[1:]
    if "system" in roles or "developer" in roles:
        return True
    if "tool" in roles:
        return bool(roles[0] != "user")
    return any(role != ("user", "assistant")[n % 2] for n, role in enumerate(roles))


def _learns_blank(example: Example) -> bool:
    """Return whether a text that may carry loss is blank.

    Rows in which all of it is empty were left out before.
    """
    if isinstance(example, Text):
        return not example.text.strip()
    if isinstance(example, Pair):
        return not example.completion.strip()
    answers = (one for one in example.messages if one["role"] == "assistant")
    return not all(bool(one["content"].strip() or one.get("tool_calls")) for one in answers)


def _text_of(example: Example) -> str:
    if isinstance(example, Text):
        return example.text
    if isinstance(example, Pair):
        return f"{example.prompt}\n{example.completion}"
    return "\n".join(message["content"] for message in example.messages)

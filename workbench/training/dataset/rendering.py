"""Rows as tokens, with the tokens that carry loss.

What is trained on must be what is generated: a prompt is rendered by the tokenizer's own chat
template, loss starts where generation would, and the token that ends a turn always carries loss.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerBase

from workbench.errors import DataError
from workbench.text import safe_line
from workbench.training.dataset.shapes import Chat, Example, Pair, Text

MARKS = re.compile(r"\{%-?\s*generation\s*-?%\}")
"""Matches the marks with which a chat template says itself what the assistant generates."""

_ENDS = ("<|eot_id|>", "<|im_end|>", "<end_of_turn>", "<|end|>", "<|eot|>", "<turn|>")
"""Tokens that end a turn in common templates, for templates that refuse the probe."""
_QUIET = {"verbose": False}
"""Silences the tokenizer's warning about rows longer than the model reads; rows are cut later."""


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
    """Whether the end of the last trained turn carries loss."""

    @property
    def agrees(self) -> bool:
        """Whether the row begins with its prompt, so that generation starts as training did."""
        return self.ids[: len(self.prompt_ids)] == self.prompt_ids


class Renderer:
    """Renders examples into tokens, at about half a millisecond a row."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, loss_on: str) -> None:
        self._tokenizer = tokenizer
        self._loss_on = loss_on
        template = tokenizer.chat_template
        self.marked = isinstance(template, str) and MARKS.search(template) is not None
        """Whether the template marks what the assistant generates."""
        self.ends = self._find_ends() if template else {int(tokenizer.eos_token_id)}
        """Ids of the tokens that close a turn."""

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
        return Tokens(ids, [True] * len(ids), [], "", "", True)

    def _pair(self, example: Pair) -> Tokens:
        prompt_ids = self._plain(example.prompt)
        while prompt_ids and prompt_ids[-1] == self._tokenizer.eos_token_id:
            prompt_ids.pop()
        ids = self._closed(self._plain(example.prompt + example.completion))
        # A token that holds the prompt's end and the completion's begin carries loss.
        start = 0 if self._loss_on == "all" else _common(prompt_ids, ids)
        trained = [place >= start for place in range(len(ids))]
        return Tokens(ids, trained, prompt_ids, example.prompt, example.completion, True)

    def _plain(self, text: str) -> list[int]:
        """Return ids with the tokenizer's special tokens; never a second begin token in front."""
        ids = list(self._tokenizer(text, **_QUIET)["input_ids"])
        begin = self._tokenizer.bos_token_id
        return ids[1:] if begin is not None and ids[:2] == [begin, begin] else ids

    def _closed(self, ids: list[int]) -> list[int]:
        end = int(self._tokenizer.eos_token_id)
        return ids if ids[-1:] == [end] else [*ids, end]

    # ── chats ────────────────────────────────────────────────────────────────────────────────

    def _chat(self, example: Chat, place: str) -> Tokens:
        messages = list(example.messages)
        turns = [n for n, message in enumerate(messages) if message["role"] == "assistant"]
        if self._loss_on == "completion":
            turns = turns[-1:]
        if self.marked:
            ids, runs = self._marked_runs(messages, place)
            runs = runs[-1:] if self._loss_on == "completion" else runs
        else:
            ids, runs = self._found_runs(messages, turns, place)
        runs = [self._end_run(ids, start, end) for start, end in runs]
        ended = not runs or ids[runs[-1][1] - 1] in self.ends
        if not ended and runs[-1][1] == len(ids):  # a template that closes nothing
            ids.append(int(self._tokenizer.eos_token_id))
            runs[-1] = (runs[-1][0], len(ids))
            ended = True
        trained = [self._loss_on == "all"] * len(ids)
        for start, end in runs:
            trained[start:end] = [True] * (end - start)
        if not turns:
            return Tokens(ids, trained, [], "", "", ended)
        before = messages[: turns[-1]]
        question = before[-1]["content"] if before else ""
        prompt_ids = self._prompt_ids(before, place)
        return Tokens(ids, trained, prompt_ids, question, messages[turns[-1]]["content"], ended)

    def _marked_runs(self, messages: list[dict[str, str]], place: str) -> _Runs:
        """Return ids and the runs that the template's own generation marks enclose."""
        rendered = self._render(
            messages, place, return_assistant_tokens_mask=True, tokenizer_kwargs=_QUIET
        )
        mask = [*rendered["assistant_masks"], 0]
        edges = [n for n in range(len(mask)) if mask[n] != (mask[n - 1] if n else 0)]
        return list(rendered["input_ids"]), list(zip(edges[::2], edges[1::2], strict=True))

    def _found_runs(
        self, messages: list[dict[str, str]], turns: Sequence[int], place: str
    ) -> _Runs:
        """Return ids and the assistant's runs, found by rendering the chat up to each turn."""
        whole = str(self._render(messages, place, tokenize=False))
        encoded = self._tokenizer(
            whole, add_special_tokens=False, return_offsets_mapping=True, **_QUIET
        )
        offsets = encoded["offset_mapping"]
        runs = []
        for turn in turns:
            start, end = self._span(whole, messages, turn, place)
            inside = [n for n, (a, b) in enumerate(offsets) if a < end and b > start]
            if inside:
                runs.append((inside[0], inside[-1] + 1))
        return list(encoded["input_ids"]), runs

    def _span(
        self, whole: str, messages: list[dict[str, str]], turn: int, place: str
    ) -> tuple[int, int]:
        """Return the characters of a turn, with its end token and what the template adds."""
        before = ""
        if turn:
            before = str(
                self._render(messages[:turn], place, tokenize=False, add_generation_prompt=True)
            )
        if not whole.startswith(before):
            raise DataError(
                f"{place}: the chat template renders the turns before an answer otherwise when "
                "the answer follows, so the answer's tokens cannot be told",
                hint="use a chat template with generation marks, train on the last answer alone "
                "with data.loss_on: completion, or give rows as prompt and completion with "
                "data.chat_template: never",
            )
        if turn == len(messages) - 1:
            return len(before), len(whole)
        after = str(self._render(messages[: turn + 1], place, tokenize=False))
        if whole.startswith(after):
            return len(before), len(after)
        # Some templates (Qwen3's) show more of the last answer than of earlier ones.
        content = messages[turn]["content"].strip()
        found = whole.find(content, len(before))
        following = whole.find(messages[turn + 1]["content"].strip(), len(before))
        if found < 0 or 0 <= following < found:
            raise DataError(
                f"{place}: the chat template leaves out or changes what turn {turn + 1} says",
                hint="use a chat template with generation marks, or data.loss_on: completion",
            )
        return len(before), found + len(content)

    def _end_run(self, ids: list[int], start: int, end: int) -> tuple[int, int]:
        """Return the run extended or cut so that it ends with its closing tokens."""
        said = end  # index behind the last token that is neither blank nor an end
        while said > start and (ids[said - 1] in self.ends or self._blank(ids[said - 1])):
            said -= 1
        close = next((n for n in range(said, end) if ids[n] in self.ends), end)
        while close < len(ids) and ids[close] in self.ends:
            close += 1
        return start, close

    def _blank(self, id: int) -> bool:
        return not self._tokenizer.decode([id]).strip()

    def _prompt_ids(self, before: list[dict[str, str]], place: str) -> list[int]:
        if not before:
            return []
        rendered = self._render(before, place, add_generation_prompt=True, tokenizer_kwargs=_QUIET)
        return list(rendered["input_ids"])

    def _render(self, messages: list[dict[str, str]], place: str, **options: Any) -> Any:
        try:
            return self._tokenizer.apply_chat_template(messages, **options)
        except (TemplateError, TypeError, ValueError, KeyError, IndexError) as refused:
            raise DataError(
                f"{place}: the model's chat template refuses this chat: {safe_line(refused, 160)}",
                hint="many templates want user and assistant in turn, and some no system message",
            ) from refused

    def _find_ends(self) -> set[int]:
        """Return the end-of-sequence token and the tokens the template puts behind an answer."""
        tokenizer = self._tokenizer
        added = {str(token): int(id) for id, token in tokenizer.added_tokens_decoder.items()}
        ends = {int(tokenizer.eos_token_id), *(added[name] for name in _ENDS if name in added)}
        answer = "Zebra7"
        probe = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": answer}]
        try:
            text = str(self._render(probe, "probe", tokenize=False))
        except DataError:
            return ends
        if answer not in text:
            raise DataError(
                "the model's chat template leaves out what turns say when they are plain text",
                hint="pick a model for text, or set data.chat_template: never",
            )
        behind = text[text.rfind(answer) + len(answer) :]
        for id in tokenizer(behind, add_special_tokens=False, **_QUIET)["input_ids"]:
            if id in added.values():
                ends.add(int(id))
            elif not self._blank(id):
                break
        return ends


_Runs = tuple[list[int], list[tuple[int, int]]]


def _common(left: Sequence[int], right: Sequence[int]) -> int:
    """Return the length of the longest common prefix."""
    pairs = enumerate(zip(left, right, strict=False))
    return next((n for n, (a, b) in pairs if a != b), min(len(left), len(right)))

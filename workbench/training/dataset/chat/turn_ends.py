"""The one decision about how a model's chat template opens and closes the assistant's turns.

Training takes from here which tokens must carry loss at the end of an answer and where an answer
begins; the ids that ended trained turns are written into the prepared rows
(`Prepared.turn_end_ids`), from which scoring, merging and exporting take them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from workbench.errors import DataError
from workbench.training.dataset.chat.template import QUIET, ChatTemplate, Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

COMMON_ENDS = ("<|eot_id|>", "<|im_end|>", "<end_of_turn>", "<|end|>", "<|eot|>", "<turn|>")
"""Tokens that end a turn in common templates, for templates that refuse every probe."""

# Words that no template contains, so that they can be found in what it renders.
_ANSWERS = ("Zebra7", "Yak8")
_SYSTEM: Message = {"role": "system", "content": "Be brief."}
_TURNS: tuple[Message, ...] = (
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": _ANSWERS[0]},
    {"role": "user", "content": "Bye"},
    {"role": "assistant", "content": _ANSWERS[1]},
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnFormat:
    """The text and tokens that a chat template writes around an answer, found by probes."""

    end_ids: frozenset[int]
    """Ids that close a turn: the end-of-sequence token, and what stands right behind an inner and a
    last answer."""
    generation_prompt: str
    """Text that asks for an answer, e.g. `<|im_start|>assistant\\n`; empty where a probe failed."""
    header: str
    """The part of it that also stands before an answer already given: without a think block that
    only the generation prompt opens."""
    inner_header: str = ""
    """The part of the generation prompt that stands before answers which other turns follow."""
    unasked_header: str = ""
    """Text before answers of a template that has no generation prompt: it is learned with them."""


def find_turn_format(
    tokenizer: PreTrainedTokenizerBase,
    variables: Mapping[str, Any] | None = None,
    *,
    chats: bool = True,
) -> TurnFormat:
    """Return how the tokenizer's chat template writes turns; takes some milliseconds.

    `variables` are given to the template, e.g. `enable_thinking`.

    Without a template, only the end-of-sequence token ends a text. Raises DataError for a template
    that leaves out what turns say when they are plain text; without `chats` such a template is
    taken for none.
    """
    eos = int(tokenizer.eos_token_id)
    no_turns = TurnFormat(end_ids=frozenset({eos}), generation_prompt="", header="")
    if not tokenizer.chat_template:
        return no_turns
    try:
        template = ChatTemplate(tokenizer, variables)
        system, probe = _accepted_probe(template)
    except DataError:
        if chats:
            raise
        return no_turns
    if probe is None:
        added = tokenizer.get_added_vocab()
        named = {int(added[name]) for name in COMMON_ENDS if name in added}
        return TurnFormat(end_ids=frozenset({eos, *named}), generation_prompt="", header="")
    first, last = _ANSWERS if _ANSWERS[1] in probe else (_ANSWERS[0], _ANSWERS[0])
    # Nothing follows the last answer, so what stands behind it are ends and no opening tokens.
    ends = {eos, *_closing_ids(tokenizer, probe, last, openers=set())}
    ends |= _closing_ids(tokenizer, probe, first, openers=_opening_ids(tokenizer, probe) - ends)
    try:
        prompt, header, unasked = _generation_prompt(tokenizer, template, system)
    except DataError:
        if chats:
            raise
        return no_turns
    return TurnFormat(
        end_ids=frozenset(ends),
        generation_prompt=prompt,
        header=header,
        inner_header=_inner_header(tokenizer, template, system, prompt, probe),
        unasked_header=unasked,
    )


def _inner_header(
    tokenizer: PreTrainedTokenizerBase,
    template: ChatTemplate,
    system: Sequence[Message],
    prompt: str,
    probe: str,
) -> str:
    """Return the part of the generation prompt before the first of two answers; "" for one."""
    if not prompt or _ANSWERS[1] not in probe:
        return ""
    asked = template.render([*system, _TURNS[0]], "probe", ask=True)
    before = probe[: probe.find(_ANSWERS[0])]
    start = len(asked) - len(prompt)
    if not before.startswith(asked[:start]):
        return ""
    return prompt[: common_prefix(tokenizer, prompt, before[start:])]


def _accepted_probe(template: ChatTemplate) -> tuple[list[Message], str | None]:
    """Return the system turns the template needs, and the longest probe chat it renders."""
    # Two exchanges show how an inner turn ends; some templates refuse all but one.
    for system in ([], [_SYSTEM]):
        for length in (4, 2):
            try:
                text = template.render([*system, *_TURNS[:length]], "probe")
            except DataError:
                continue
            if _ANSWERS[0] not in text:
                raise DataError(
                    "the model's chat template leaves out what turns say when they are plain text",
                    hint="pick a model for text, or give the rows as prompt and completion and set "
                    "data.chat_template: never",
                )
            return system, text
    return [], None


def _closing_ids(
    tokenizer: PreTrainedTokenizerBase, probe: str, answer: str, *, openers: set[int]
) -> set[int]:
    """Return the added tokens right behind an answer, up to any text or one of `openers`."""
    behind = probe[probe.rfind(answer) + len(answer) :]
    added = set(tokenizer.added_tokens_decoder)
    ends: set[int] = set()
    for id in tokenizer(behind, add_special_tokens=False, **QUIET)["input_ids"]:
        if id in openers:
            break
        if id in added:
            ends.add(int(id))
        elif tokenizer.decode([id]).strip():
            break
    return ends


def _opening_ids(tokenizer: PreTrainedTokenizerBase, probe: str) -> set[int]:
    """Return the added tokens that open the chat or a user's turn.

    They are the tokens in front of the chat's first text, and the one nearest to the user's: what
    stands between may have closed a system turn that the template put there by itself.
    """
    front = probe[: probe.find(_TURNS[0]["content"])]
    added = set(tokenizer.added_tokens_decoder)
    ids = [int(id) for id in tokenizer(front, add_special_tokens=False, **QUIET)["input_ids"]]
    leading = takewhile(lambda id: id in added, ids)
    nearest = [id for id in ids if id in added][-1:]
    return {*leading, *nearest}


def _generation_prompt(
    tokenizer: PreTrainedTokenizerBase,
    template: ChatTemplate,
    system: Sequence[Message],
) -> tuple[str, str, str]:
    """Return the generation prompt, its part that a given answer has, too, and an unasked header.

    Raises DataError for a template that writes the prompt behind every chat, asked for or not: the
    header of a turn that never comes would be learned.
    """
    try:
        plain = template.render([*system, _TURNS[0]], "probe")
        asked = template.render([*system, _TURNS[0]], "probe", ask=True)
        told = template.render([*system, *_TURNS[:2]], "probe")
    except DataError:
        return "", "", ""
    begin = common_prefix(tokenizer, plain, asked)
    if asked[begin:]:
        shared = common_prefix(tokenizer, asked, told)
        return asked[begin:], asked[begin : max(begin, shared)], ""
    said = told.rfind(_ANSWERS[0])
    header = told[common_prefix(tokenizer, plain, told[:said]) : said]
    if _asks_always(template, system, plain, told):
        raise DataError(
            "the model's chat template writes the generation prompt behind every chat, so that the "
            "header of a turn that never comes would be learned",
            hint="put {% if add_generation_prompt %} and {% endif %} around it at the end of the "
            "model's chat template",
        )
    return "", "", header.strip()


def _asks_always(template: ChatTemplate, system: Sequence[Message], plain: str, told: str) -> bool:
    """Return whether the template writes an answer's header behind every chat.

    It then stands behind a question, and behind a last answer but not behind an inner one, as the
    end of a turn would. `plain` is a rendered question, `told` the same with its answer.
    """
    first, question = _ANSWERS[0], _TURNS[0]["content"]
    said = told.rfind(first)
    before = told[told.find(question) + len(question) : said].strip()
    behind = told[said + len(first) :]
    if not before or not all(text.rstrip().endswith(before) for text in (plain, behind)):
        return False
    try:
        whole = template.render([*system, *_TURNS], "probe")
    except DataError:
        return False
    return not whole[whole.find(first) + len(first) :].startswith(behind.rstrip())


def common_prefix(tokenizer: PreTrainedTokenizerBase, left: str, right: str) -> int:
    """Return the length of the longest common prefix that cuts no added token of `left` in two."""
    pairs = enumerate(zip(left, right, strict=False))
    length = next((n for n, (a, b) in pairs if a != b), min(len(left), len(right)))
    names = sorted(map(str, tokenizer.added_tokens_decoder.values()), key=len, reverse=True)
    tokens = re.compile("|".join(map(re.escape, names)) or "(?!)")
    for token in tokens.finditer(left):
        if token.start() < length < token.end():
            return token.start()
    return length

"""The answers of a chat, token by token: several at once by the decode path, else one by one.

Both ways take questions while others are being answered, hand out text as it is generated, and
say how each answer ended. `LaneAnswers` gives every question a lane with its own adapter;
`ModelAnswers` is transformers' `generate` over PEFT's modules, for what decode/ does not know.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from peft import PeftModel
from torch import nn
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
    TextStreamer,
)

from workbench.chat.session_files import Question
from workbench.footprint.peak.scoring_bytes import PASS_TOKENS
from workbench.training.decode.forward import FastForward
from workbench.training.decode.lanes import Lanes, Prompt
from workbench.training.failure import is_out_of_memory
from workbench.training.scoring.held_out_loss import scoring_mode

LOOK_TOKENS = 4
"""Tokens of each answer between two looks of a GPU's host; a CPU looks after each."""
LEAST_POSITIONS = 512
"""Tokens of a conversation that a lane has room for at first; its room is doubled as it fills."""

Look = Callable[[], Collection[int]]
"""A function that returns the numbers of cancelled questions; it may raise Interrupted."""


class Asked:
    """A question whose answer is being generated."""

    def __init__(
        self,
        question: Question,
        ids: list[int],
        tokenizer: PreTrainedTokenizerBase,
        write: Callable[[str], None],
    ) -> None:
        """`ids` is what generation starts from; `write` gets the answer's text, piece by piece."""
        self.question, self.ids = question, ids
        self.pieces = Pieces(tokenizer, write)
        self._began_s = time.monotonic()

    def finished(self, ended_by: str = "", **error: str) -> Finished:
        """Return the end of the answer, after the rest of its text was written."""
        if ended_by:
            self.pieces.end()
        seconds = round(time.monotonic() - self._began_s, 3)
        return Finished(
            number=self.question.number,
            tokens=self.pieces.tokens,
            ended_by=ended_by,
            seconds=seconds,
            **error,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """The end of one answer."""

    number: int
    tokens: int = 0
    ended_by: str = ""
    """`end`, `length` or `cancelled`; empty for an error."""
    seconds: float = 0.0
    error: str = ""
    hint: str = ""


class Answers(Protocol):
    """A way to answer questions."""

    @property
    def room(self) -> int:
        """Questions that may be begun now."""

    @property
    def running(self) -> bool:
        """True while an answer is being generated."""

    def begin(self, asked: Sequence[Asked]) -> None:
        """Begin to answer so many questions, within `room`."""

    def go_on(self, look: Look) -> list[Finished]:
        """Generate a few tokens of every answer, and return those that ended."""


@dataclass(slots=True, kw_only=True)
class LaneAnswers:
    """Answers by the decode path, each in a lane with the adapter of its question's subject."""

    forward: FastForward
    end_ids: Sequence[int]
    most: int
    """Lanes, which is the number of answers at once."""
    _lanes: Lanes | None = None
    _waiting: list[Asked] = field(default_factory=list)
    _running: dict[int, Asked] = field(default_factory=dict)

    @property
    def room(self) -> int:
        return self.most - len(self._running) - len(self._waiting)

    @property
    def running(self) -> bool:
        return bool(self._running or self._waiting)

    def begin(self, asked: Sequence[Asked]) -> None:
        self._waiting += asked

    def go_on(self, look: Look) -> list[Finished]:
        """Read the new questions and add a few tokens to every answer.

        Where the card has no room for them, all that are being answered end with that error.
        """
        over = self._drop(look())
        try:
            return over + self._advance()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        # Outside `except`, where the error's frames hold no tensors.
        return over + self._give_up()

    def _drop(self, cancelled: Collection[int]) -> list[Finished]:
        lanes = [lane for lane, one in self._running.items() if one.question.number in cancelled]
        dropped = [self._running.pop(lane) for lane in lanes]
        dropped += [one for one in self._waiting if one.question.number in cancelled]
        self._waiting = [one for one in self._waiting if one not in dropped]
        return [one.finished("cancelled") for one in dropped]

    def _advance(self) -> list[Finished]:
        while self._waiting:
            self._start()
        over = self._collect()
        if self._running:
            steps = LOOK_TOKENS if self.forward.device.type == "cuda" else 1
            held = self._with_room(max(map(_length, self._running.values())) + steps)
            held.advance(list(self._running), steps)
        return over

    def _collect(self) -> list[Finished]:
        """Hand out the new tokens of each answer, and end those that have ended."""
        if self._lanes is None or not self._running:
            return []
        ended = self._lanes.ended(list(self._running))
        for lane, ids in self._lanes.new_tokens(list(self._running)).items():
            self._running[lane].pieces.add(ids)
        over = []
        for lane, ids in ended.items():
            ended_by = "end" if ids[-1] in self.end_ids else "length"
            over.append(self._running.pop(lane).finished(ended_by))
        return over

    def _start(self) -> None:
        """Read as many waiting questions as one pass takes into free lanes."""
        some = [self._waiting[0]]
        for one in self._waiting[1:]:
            if sum(len(each.ids) for each in (*some, one)) <= PASS_TOKENS:
                some.append(one)
        held = self._with_room(max(len(one.ids) for one in some) + 1)
        free = [lane for lane in range(self.most) if lane not in self._running]
        begun = dict(zip(free, some, strict=False))
        held.start(list(begun), [_prompt(one) for one in begun.values()])
        self._running |= begun
        self._waiting = [one for one in self._waiting if one not in some]

    def _with_room(self, positions: int) -> Lanes:
        """Return the lanes, with room for conversations of so many tokens."""
        room = LEAST_POSITIONS
        while room < positions:
            room *= 2
        if self._lanes is None:
            self._lanes = Lanes(
                self.forward, self.most, positions=room, most=room, ends=self.end_ids
            )
        self._lanes.grow(room)
        return self._lanes

    def _give_up(self) -> list[Finished]:
        lost = [*self._running.values(), *self._waiting]
        self._running, self._waiting, self._lanes = {}, [], None
        if self.forward.device.type == "cuda":
            torch.cuda.empty_cache()
        what = "the card has no memory left for these answers"
        hint = "ask fewer models at once, begin a new conversation, or lower --max-tokens"
        return [one.finished(error=what, hint=hint) for one in lost]


def _length(one: Asked) -> int:
    return len(one.ids) + one.pieces.tokens


def _prompt(one: Asked) -> Prompt:
    question = one.question
    return Prompt(
        ids=one.ids,
        most=question.max_new_tokens,
        adapter=question.subject,
        temperature=question.temperature,
        seed=question.seed,
    )


class _Cancelled(Exception):
    """The person ended this answer."""


@dataclass(slots=True, kw_only=True)
class ModelAnswers:
    """Answers by transformers' `generate`, one after another."""

    model: nn.Module
    adapters: Sequence[str | None]
    """For each subject the name of its adapter within the model; None stands for the base."""
    precision: str
    end_ids: Sequence[int]
    pad_id: int
    _asked: Asked | None = None

    @property
    def room(self) -> int:
        return 0 if self.running else 1

    @property
    def running(self) -> bool:
        return self._asked is not None

    def begin(self, asked: Sequence[Asked]) -> None:
        for self._asked in asked:
            return

    def go_on(self, look: Look) -> list[Finished]:
        """Generate the whole answer."""
        asked, self._asked = self._asked, None
        if asked is None:
            return []

        def watch() -> None:
            if asked.question.number in look():
                raise _Cancelled

        try:
            watch()
            ids = self._generate(asked, watch)
        except _Cancelled:
            return [asked.finished("cancelled")]
        return [asked.finished("end" if ids and ids[-1] in self.end_ids else "length")]

    def _generate(self, asked: Asked, watch: Callable[[], None]) -> list[int]:
        with (
            self._subject(asked.question.subject),
            scoring_mode(self.model, self.precision) as device,
        ):
            torch.manual_seed(asked.question.seed)
            prompt = torch.tensor([asked.ids], device=device)
            out = self.model.generate(  # type: ignore[operator]
                input_ids=prompt,
                attention_mask=torch.ones_like(prompt),
                generation_config=self._settings(asked.question),
                stopping_criteria=StoppingCriteriaList([_Watch(watch)]),
                streamer=asked.pieces,
            )
        new: list[int] = out[0, len(asked.ids) :].tolist()
        return new

    def _settings(self, question: Question) -> GenerationConfig:
        sample = question.temperature > 0
        return GenerationConfig(
            max_new_tokens=question.max_new_tokens,
            do_sample=sample,
            num_beams=1,
            temperature=question.temperature if sample else 1.0,
            top_p=1.0,
            top_k=0 if sample else 50,
            repetition_penalty=1.0,
            use_cache=True,
            pad_token_id=self.pad_id,
            eos_token_id=list(self.end_ids),
        )

    def _subject(self, subject: int) -> Any:
        """Return a context in which the model answers as that subject."""
        name = self.adapters[subject]
        if not isinstance(self.model, PeftModel):
            return nullcontext()
        if name is None:
            return self.model.disable_adapter()
        self.model.set_adapter(name)
        return nullcontext()


class Pieces(TextStreamer):  # type: ignore[misc]
    """A streamer that hands finished text to `write`, in whole words where it can."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, write: Callable[[str], None]) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._write = write
        self.tokens = 0
        """New tokens that were handed out or are held back."""

    def add(self, ids: Sequence[int]) -> None:
        """Take the tokens of an answer so far, of which those before are known already."""
        self.next_tokens_are_prompt = False
        for id in ids[self.tokens :]:
            self.put(torch.tensor([id]))

    def put(self, value: torch.Tensor) -> None:
        if not self.next_tokens_are_prompt:
            self.tokens += value.numel()
        super().put(value)

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        if text:
            self._write(text)


class _Watch(StoppingCriteria):  # type: ignore[misc]
    """A hook at every token that raises what ends the answer early."""

    def __init__(self, look: Callable[[], None]) -> None:
        self._look = look

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        self._look()
        return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)

"""A chat on one card: several adapters on one resident base answer a person's questions.

`chat_on_base` is the part of an attempt of kind `chat`. The worker follows the session's questions
and appends answers as they are generated, token by token. It holds no conversation: every question
brings its own. The session ends when the person has left, which their lock shows, after a while
without a question, or when the card is to be given back.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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

from workbench.adapters.adapter_folder import read_adapter
from workbench.attempts.events import AttemptEnd, Outcome
from workbench.chat.session_files import (
    LineFollower,
    Question,
    SessionFiles,
    append_line,
    read_question,
)
from workbench.errors import DataError, WorkbenchError
from workbench.fleet import Halt
from workbench.training.control import Control, Emit, Interrupted
from workbench.training.dataset.chat.template import ChatTemplate
from workbench.training.model.saved_adapter import load_several
from workbench.training.scoring.held_out_loss import scoring_mode

POLL_S = 0.05
"""Seconds between two looks for a question."""
ARRIVAL_S = 60.0
"""Seconds after loading within which the person must have taken the session's lock."""
SILENCE_S = 1_800.0
"""Seconds without a question after which the card is given back."""


def chat_on_base(
    base: nn.Module,
    models: Sequence[Mapping[str, Any] | None],
    emit: Emit,
    control: Control,
    **about: Any,
) -> AttemptEnd:
    """Load the adapters that an assignment's `chat` names, serve the session, and return its end.

    `about` are the further fields of ChatRun. Raises CheckpointError or NotThere for an adapter
    that changed, vanished or does not fit the base.
    """
    adapters = {
        _name(n): (read_adapter(Path(one["folder"])), one.get("sha256"))
        for n, one in enumerate(models)
        if one is not None
    }
    model = load_several(base, adapters) if adapters else base
    names = [_name(n) if one is not None else None for n, one in enumerate(models)]
    control.stage = "chatting"
    emit("phase", name="chatting", detail="")
    try:
        reason = ChatRun(model=model, adapters=names, control=control, **about).serve()
    except Interrupted:
        reason = "asked to give the card back"
        return AttemptEnd(outcome=Outcome.YIELDED, step=0, reason=reason)
    outcome = Outcome.STOPPED if control.halt is Halt.FINISH else Outcome.DONE
    return AttemptEnd(outcome=outcome, step=0, reason=reason)


def _name(subject: int) -> str:
    """Return the adapter's name within the model.

    A bare number would be taken for a layer's: PEFT 0.21 leaves out the keys of other adapters by
    looking for `.<name>.` anywhere in them (findings/peft-adapter-named-like-a-layer.sh).
    """
    return f"adapter_{subject}"


class _Cancelled(Exception):
    """The person ended this answer."""


@dataclass(slots=True, kw_only=True)
class ChatRun:
    """One session: the loaded models, and the files through which they are asked."""

    model: nn.Module
    """The base, or a PeftModel around it that holds every adapter of the session."""
    tokenizer: PreTrainedTokenizerBase
    adapters: Sequence[str | None]
    """For each subject the name of its adapter within the model; None stands for the base."""
    files: SessionFiles
    control: Control
    precision: str
    end_ids: Sequence[int]
    """Ids that end an answer."""
    template: bool
    """True where the adapters were trained on rows rendered by the chat template."""
    silence_s: float = SILENCE_S
    _cancelled: set[int] = field(default_factory=set)
    _waiting: list[Question] = field(default_factory=list)

    def serve(self) -> str:
        """Answer questions until the session is over, and return why it is, in words.

        Raises Interrupted when the card is to be given back.
        """
        ended, begun = _known_answers(self.files)
        questions = LineFollower(self.files.questions)
        append_line(self.files.answers, {"ready": True})
        came, last_s = False, time.monotonic()
        while True:
            self.control.check()
            if self.control.halt is Halt.FINISH:
                return "the chat was stopped"
            # Before the questions are read: whoever asks and leaves at once still gets an answer.
            there = self.files.person_is_there()
            came = came or there
            self._take_new(questions, ended)
            if self._waiting:
                question = self._waiting.pop(0)
                if question.number in begun:
                    append_line(self.files.answers, {"number": question.number, "again": True})
                self._answer(question, questions, ended)
                last_s = time.monotonic()
                continue
            silent_s = time.monotonic() - last_s
            if not there and (came or silent_s > ARRIVAL_S):
                return "the person left the chat"
            if silent_s > self.silence_s:
                return f"no question for {self.silence_s / 60:.0f} minutes"
            time.sleep(POLL_S)

    def _take_new(self, questions: LineFollower, ended: set[int]) -> None:
        """Read new questions and cancellations; a line that is neither is left out."""
        for line in questions.new_lines():
            try:
                if "cancel" in line:
                    self._cancelled.add(int(line["cancel"]))
                    continue
                question = read_question(line)
            except (KeyError, TypeError, ValueError):
                continue
            if question.number not in ended:
                self._waiting.append(question)

    def _answer(self, question: Question, questions: LineFollower, ended: set[int]) -> None:
        """Generate one answer into the session's file; an error becomes its last line."""
        began_s = time.monotonic()
        last: dict[str, Any]
        try:
            tokens, ended_by = self._generate(question, questions, ended)
            last = {"ended_by": ended_by, "tokens": tokens}
        except WorkbenchError as refused:
            last = {"error": refused.what, "hint": refused.hint}
        ended.add(question.number)
        seconds = round(time.monotonic() - began_s, 3)
        append_line(self.files.answers, {"number": question.number, "seconds": seconds, **last})

    def _generate(
        self, question: Question, questions: LineFollower, ended: set[int]
    ) -> tuple[int, str]:
        """Return the number of generated tokens and why the answer ended."""
        ids = self.prompt_ids(question.messages)

        def write(text: str) -> None:
            append_line(self.files.answers, {"number": question.number, "text": text})

        def watch() -> None:
            self.control.check()
            self._take_new(questions, ended)
            if question.number in self._cancelled:
                raise _Cancelled

        streamer = _Pieces(self.tokenizer, write)
        if question.number in self._cancelled:
            return 0, "cancelled"
        try:
            with (
                self._subject(question.subject),
                scoring_mode(self.model, self.precision) as device,
            ):
                torch.manual_seed(question.seed)
                prompt = torch.tensor([ids], device=device)
                out = self.model.generate(  # type: ignore[operator]
                    input_ids=prompt,
                    attention_mask=torch.ones_like(prompt),
                    generation_config=self._settings(question),
                    stopping_criteria=StoppingCriteriaList([_Watch(watch)]),
                    streamer=streamer,
                )
        except _Cancelled:
            streamer.end()
            return streamer.tokens, "cancelled"
        new = out[0, len(ids) :].tolist()
        return len(new), "end" if new and new[-1] in self.end_ids else "length"

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
            pad_token_id=self.tokenizer.pad_token_id,
            eos_token_id=list(self.end_ids),
        )

    def _subject(self, subject: int) -> Any:
        """Return a context in which the model answers as that subject."""
        if not 0 <= subject < len(self.adapters):
            raise DataError(f"the chat has no model number {subject}", hint="open it again")
        name = self.adapters[subject]
        if not isinstance(self.model, PeftModel):
            return nullcontext()
        if name is None:
            return self.model.disable_adapter()
        self.model.set_adapter(name)
        return nullcontext()

    def prompt_ids(self, messages: Sequence[dict[str, str]]) -> list[int]:
        """Return the ids that generation starts from, made as in training.

        Without a chat template the last message is continued as it is. Raises DataError where the
        template refuses the conversation.
        """
        if self.template and self.tokenizer.chat_template:
            template = ChatTemplate(self.tokenizer)
            text = template.render(template.mark_control_tokens(messages), "the chat", ask=True)
            return template.encode(text)[0]
        return list(self.tokenizer(messages[-1]["content"], verbose=False)["input_ids"])


def _known_answers(files: SessionFiles) -> tuple[set[int], set[int]]:
    """Return the numbers of the answers that have ended, and of those that were only begun."""
    ended: set[int] = set()
    begun: set[int] = set()
    answers = LineFollower(files.answers)
    while lines := list(answers.new_lines()):
        for line in lines:
            if isinstance(number := line.get("number"), int):
                (ended if "ended_by" in line or "error" in line else begun).add(number)
    return ended, begun - ended


class _Pieces(TextStreamer):  # type: ignore[misc]
    """A streamer that hands finished text to `write`, in whole words where it can."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, write: Callable[[str], None]) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._write = write
        self.tokens = 0

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

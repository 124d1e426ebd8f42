from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import PreTrainedTokenizerBase

from tests.support.waiting import wait_for
from workbench.chat.session_files import LineFollower, SessionFiles, append_line
from workbench.fleet import Halt
from workbench.machine.locks import Lock
from workbench.recipe.names import local_path
from workbench.training import libraries
from workbench.training.control import Control, Interrupted
from workbench.training.evaluation.chat_run import ChatRun
from workbench.training.model.base import BaseSpec, load_base
from workbench.training.scoring.answers import end_ids

# PEFT calls what transformers deprecates; a worker logs such warnings as events.
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")
DEMO = local_path("workbench:demo/model")


def _models() -> PeftModel:
    """Return the demo base with two random adapters, named 0 and 2."""
    assert DEMO is not None
    base = load_base(
        BaseSpec(
            path=str(DEMO),
            revision=None,
            quantization="none",
            double_quantization=False,
            precision="fp32",
            attention="sdpa",
            device="cpu",
        )
    )
    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    torch.manual_seed(1)
    model = get_peft_model(base, config, adapter_name="0")
    model.add_adapter("2", config)
    for name, param in model.named_parameters():
        if "lora_" in name:
            param.data.normal_(0, 0.5)
    return model


class Session:
    """A chat that is served on a thread, and the person on the other side of its files."""

    def __init__(self, run: ChatRun) -> None:
        self.run = run
        self.files = run.files
        self.person = Lock(run.files.lock)
        self.reason = ""
        self.error: BaseException | None = None
        self.lines: list[dict[str, Any]] = []
        self._follower = LineFollower(run.files.answers)
        self._thread = threading.Thread(target=self._serve)

    def _serve(self) -> None:
        try:
            self.reason = self.run.serve()
        except BaseException as error:
            self.error = error

    @contextmanager
    def open(self) -> Iterator[None]:
        self.files.folder.mkdir(parents=True)
        assert self.person.take()
        self._thread.start()
        try:
            yield
        finally:
            self.person.release()
            self.run.control.request_halt(Halt.FINISH)
            self._thread.join(30)
            assert not self._thread.is_alive()

    def leave(self) -> str:
        self.person.release()
        self._thread.join(30)
        return self.reason

    def ask(self, number: int, subject: int, text: str, **how: Any) -> None:
        messages = [{"role": "user", "content": text}]
        question = {"number": number, "subject": subject, "messages": messages}
        given = {"max_new_tokens": 12, "temperature": 0.0, "seed": 0, **how}
        append_line(self.files.questions, {**question, **given})

    def until_answered(self, number: int) -> list[dict[str, Any]]:
        def mine() -> list[dict[str, Any]]:
            self.lines += self._follower.new_lines()
            found = [line for line in self.lines if line.get("number") == number]
            return found if any("ended_by" in one or "error" in one for one in found) else []

        return wait_for(mine, f"answer {number} has ended", 60)

    def text_of(self, number: int) -> str:
        return "".join(str(line.get("text", "")) for line in self.until_answered(number))


@pytest.fixture
def session(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> Session:
    libraries.import_libraries(threads=1)
    model = _models()
    run = ChatRun(
        model=model,
        tokenizer=tokenizer,
        adapters=["0", None, "2"],
        files=SessionFiles(tmp_path / "chat"),
        control=Control(),
        precision="fp32",
        end_ids=end_ids(model, tokenizer),
        template=True,
    )
    return Session(run)


def _greedy(session: Session, text: str, subject: int, count: int = 12) -> str:
    """Return the greedy answer by one forward pass a token, without a cache."""
    run = session.run
    ids = run.prompt_ids([{"role": "user", "content": text}])
    new: list[int] = []
    with run._subject(subject), torch.no_grad():
        for _ in range(count):
            logits = run.model(input_ids=torch.tensor([ids + new])).logits
            new.append(int(logits[0, -1].argmax()))
            if new[-1] in run.end_ids:
                break
    return str(run.tokenizer.decode(new, skip_special_tokens=True))


def test_base_and_adapters_answer_the_same_question_each_as_itself(session: Session) -> None:
    expected = [_greedy(session, "What is 2 + 3?", subject) for subject in range(3)]
    assert len(set(expected)) > 1
    with session.open():
        for subject in (2, 0, 1):
            session.ask(subject + 1, subject, "What is 2 + 3?")
        assert [session.text_of(subject + 1) for subject in range(3)] == expected


def test_the_chat_ends_when_the_person_leaves(session: Session) -> None:
    with session.open():
        session.ask(1, 1, "What is 2 + 3?")
        session.until_answered(1)
        assert session.leave() == "the person left the chat"


def test_a_cancelled_answer_ends_and_the_next_one_is_whole(session: Session) -> None:
    with session.open():
        session.ask(1, 1, "Tell me everything.", max_new_tokens=100_000)
        append_line(session.files.questions, {"cancel": 1})
        assert session.until_answered(1)[-1]["ended_by"] == "cancelled"
        session.ask(2, 1, "What is 2 + 3?", max_new_tokens=3)
        last = session.until_answered(2)[-1]
        assert last["ended_by"] in ("end", "length")
        assert last["tokens"] <= 3


def test_draws_repeat_with_their_seed_and_differ_without_it(session: Session) -> None:
    with session.open():
        for number, seed in enumerate((5, 5, 6), start=1):
            session.ask(number, 1, "What is 2 + 3?", temperature=3.0, seed=seed)
        one, same, other = (session.text_of(number) for number in (1, 2, 3))
        assert one == same != other


def test_a_replaced_worker_answers_what_had_no_end_and_nothing_twice(session: Session) -> None:
    with session.open():
        session.ask(1, 1, "What is 2 + 3?")
        session.until_answered(1)
    session.ask(2, 1, "What is 4 + 4?")
    append_line(session.files.answers, {"number": 2, "text": "ha"})  # then the worker was killed
    again = Session(session.run)
    again.run.control.halt = None
    assert again.person.take()
    again._thread.start()
    found = again.until_answered(2)
    assert again.leave() == "the person left the chat"
    assert {"number": 2, "again": True} in found
    assert sum("ended_by" in line for line in again.until_answered(1)) == 1


def test_lines_that_are_no_questions_are_left_out(session: Session) -> None:
    with session.open():
        append_line(session.files.questions, {"number": "x"})
        append_line(session.files.questions, {"cancel": "y"})
        with session.files.questions.open("ab") as file:
            file.write(b"no json\n[1]\n")
        session.ask(1, 7, "What is 2 + 3?")
        assert "no model number 7" in session.until_answered(1)[-1]["error"]
        session.ask(2, 1, "What is 2 + 3?", max_new_tokens=2)
        session.until_answered(2)


def test_a_card_that_is_needed_back_interrupts_an_answer(session: Session) -> None:
    with session.open():
        session.ask(1, 1, "Tell me everything.", max_new_tokens=100_000)
        answers = LineFollower(session.files.answers)
        wait_for(lambda: any("text" in line for line in answers.new_lines()), "it answers")
        session.run.control.request_halt(Halt.YIELD)
        session._thread.join(30)
        assert isinstance(session.error, Interrupted)

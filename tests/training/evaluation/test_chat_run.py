from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import PreTrainedTokenizerBase

from tests.support.waiting import wait_for
from tests.training.trials import spec
from workbench.chat.session_files import LineFollower, SessionFiles, append_line, read_question
from workbench.fleet import Halt
from workbench.machine.locks import Lock
from workbench.recipe.names import local_path
from workbench.training import libraries
from workbench.training.control import Control, Interrupted
from workbench.training.evaluation import chat_answers
from workbench.training.evaluation.chat_run import ChatRun, answers_of, prompt_ids
from workbench.training.model.base import load_base
from workbench.training.scoring.answers import end_ids

# PEFT calls what transformers deprecates; a worker logs such warnings as events.
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")
NAMES = ["0", None, "2"]
DEMO = local_path("workbench:demo/model")


def _models(**more: Any) -> PeftModel:
    """Return the demo base with two random adapters, named 0 and 2."""
    assert DEMO is not None
    base = load_base(spec(path=str(DEMO), double_quantization=False))
    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], **more)
    torch.manual_seed(1)
    model = get_peft_model(base, config, adapter_name="0")
    model.add_adapter("2", config)
    for name, param in model.named_parameters():
        if "lora_A" in name or "lora_B" in name:
            param.data.normal_(0, 0.5)
    return model


class Session:
    """A chat that is served on a thread, and the person on the other side of its files."""

    def __init__(self, model: PeftModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
        self.model, self.tokenizer, self.files = model, tokenizer, SessionFiles(folder)
        self.ends = end_ids(model, tokenizer)
        self.control = Control()
        self.person = Lock(self.files.lock)
        self.reason = ""
        self.error: BaseException | None = None
        self.fell_back: list[str] = []
        self.lines: list[dict[str, Any]] = []
        self._follower = LineFollower(self.files.answers)
        self._thread = threading.Thread(target=self._serve)

    def _serve(self) -> None:
        try:
            with answers_of(
                self.model,
                NAMES,
                precision="fp32",
                end_ids=self.ends,
                pad_id=0,
                rows_at_once=16,
                fell_back=self.fell_back.append,
            ) as answers:
                self.reason = ChatRun(
                    answers=answers,
                    subjects=len(NAMES),
                    tokenizer=self.tokenizer,
                    files=self.files,
                    control=self.control,
                    template=True,
                ).serve()
        except BaseException as error:
            self.error = error

    @contextmanager
    def open(self) -> Iterator[None]:
        self.files.folder.mkdir(parents=True, exist_ok=True)
        assert self.person.take()
        self._thread.start()
        try:
            yield
        finally:
            self.person.release()
            self.control.request_halt(self.control.halt or Halt.FINISH)
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

    def numbers(self) -> set[int]:
        """Return the numbers of the questions whose answers have begun."""
        self.lines += self._follower.new_lines()
        return {int(line["number"]) for line in self.lines if "number" in line}

    def until_answered(self, number: int) -> list[dict[str, Any]]:
        def mine() -> list[dict[str, Any]]:
            self.lines += self._follower.new_lines()
            found = [line for line in self.lines if line.get("number") == number]
            return found if any("ended_by" in one or "error" in one for one in found) else []

        return wait_for(mine, f"answer {number} has ended", 60)

    def text_of(self, number: int) -> str:
        return "".join(str(line.get("text", "")) for line in self.until_answered(number))


@pytest.fixture(params=["lanes", "transformers"])
def session(
    request: pytest.FixtureRequest, tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> Session:
    """A chat by each way: transformers answers for adapters that the decode path does not know."""
    libraries.import_libraries(threads=1)
    model = _models(use_dora=request.param == "transformers")
    return Session(model, tokenizer, tmp_path / "chat")


only_lanes = pytest.mark.parametrize("session", ["lanes"], indirect=True)


def _greedy(session: Session, text: str, subject: int) -> str:
    """Return the greedy answer by one forward pass a token, without a cache; before it is open."""
    model, name = session.model, NAMES[subject]
    if name is not None:
        model.set_adapter(name)
    with model.disable_adapter() if name is None else nullcontext():
        return _continued(session, text)


def _continued(session: Session, text: str, count: int = 12) -> str:
    ids = prompt_ids(session.tokenizer, [{"role": "user", "content": text}], template=True)
    new: list[int] = []
    for _ in range(count):
        with torch.no_grad():
            logits = session.model(input_ids=torch.tensor([ids + new])).logits
        new.append(int(logits[0, -1].argmax()))
        if new[-1] in session.ends:
            break
    return str(session.tokenizer.decode(new, skip_special_tokens=True))


def test_base_and_adapters_answer_the_same_question_each_as_itself(session: Session) -> None:
    expected = [_greedy(session, "What is 2 + 3?", subject) for subject in range(3)]
    assert len(set(expected)) > 1
    with session.open():
        for subject in (2, 0, 1):
            session.ask(subject + 1, subject, "What is 2 + 3?")
        assert [session.text_of(subject + 1) for subject in range(3)] == expected
    assert bool(session.fell_back) is (session.model.peft_config["0"].use_dora)


@only_lanes
def test_answers_that_are_written_together_arrive_together(session: Session) -> None:
    """Three lanes answer at once; a question that waits gets that of an answer which ends."""
    session.ends = []
    expected = [_greedy(session, text, 1) for text in ("One?", "Two?")]
    with session.open():
        for number in (1, 2, 3):
            session.ask(number, 1, "Tell me everything.", max_new_tokens=100_000)
        session.ask(4, 1, "One?")
        wait_for(lambda: {1, 2, 3} <= session.numbers(), "all three answer at once")
        append_line(session.files.questions, {"cancel": 2})
        assert session.text_of(4) == expected[0]
        session.ask(5, 1, "Two?")
        append_line(session.files.questions, {"cancel": 1})
        assert session.text_of(5) == expected[1]
        append_line(session.files.questions, {"cancel": 3})
        assert session.until_answered(3)[-1]["ended_by"] == "cancelled"


@only_lanes
def test_an_answer_longer_than_the_room_of_a_lane_goes_on(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat_answers, "LEAST_POSITIONS", 16)
    expected = _greedy(session, "What is 2 + 3?", 0)
    with session.open():
        session.ask(1, 0, "What is 2 + 3?")
        assert session.text_of(1) == expected


@only_lanes
def test_answers_without_memory_end_with_an_error_and_the_chat_goes_on(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = _greedy(session, "What is 2 + 3?", 0)
    with monkeypatch.context() as patch, session.open():
        patch.setattr(chat_answers, "LEAST_POSITIONS", 1 << 40)  # petabytes, which no machine has
        session.ask(1, 0, "What is 2 + 3?")
        assert "no memory left" in session.until_answered(1)[-1]["error"]
        patch.undo()
        session.ask(2, 0, "What is 2 + 3?")
        assert session.text_of(2) == expected


def test_each_model_is_asked_by_the_template_of_its_folder(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    answers: Any = None  # none is asked for
    run = ChatRun(
        answers=answers, subjects=2, tokenizer=tokenizer, files=SessionFiles(tmp_path),
        control=Control(), template=True, templates={1: "{{ messages[0].content }}!"},
    )  # fmt: skip
    messages = [{"role": "user", "content": "7"}]
    how = {"max_new_tokens": 4, "temperature": 0.0, "seed": 0}
    asked = [
        run._asked(read_question({"number": 1, "subject": n, "messages": messages, **how})).ids
        for n in (0, 1)
    ]
    own = tokenizer("7!", add_special_tokens=False)["input_ids"]
    assert asked == [prompt_ids(tokenizer, messages, template=True), own]


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
    again = Session(session.model, session.tokenizer, session.files.folder)
    with again.open():
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
        session.control.request_halt(Halt.YIELD)
        session._thread.join(30)
        assert isinstance(session.error, Interrupted)

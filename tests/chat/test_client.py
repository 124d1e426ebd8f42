"""The person's side of a session; what the worker would write lies in the files already."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest

from workbench.chat.client import ChatSession, Piece
from workbench.chat.session_files import LineFollower, SessionFiles, append_line, session_of
from workbench.cli.trials.chat import Talk, talk_with_person
from workbench.home import Home
from workbench.service import Service

ASK = [{"role": "user", "content": "What is 2 + 3?"}]
WRITTEN: list[dict[str, Any]] = [
    {"number": 2, "text": "It is "},
    {"number": 1, "text": "Fi"},
    {"number": 2, "text": "5."},
    {"number": 1, "text": "ve."},
    {"number": 1, "ended_by": "end", "tokens": 3, "seconds": 0.1},
    {"number": 2, "ended_by": "length", "tokens": 4, "seconds": 0.1},
]


@pytest.fixture
def session(tmp_path: Path) -> ChatSession:
    return ChatSession(Service(Home(tmp_path)), [5, None], trial=7)


@pytest.fixture
def files(tmp_path: Path) -> SessionFiles:
    return session_of(Home(tmp_path).trial(7))


def lines(path: Path) -> list[dict[str, Any]]:
    return list(LineFollower(path).new_lines())


def test_questions_asked_together_lie_there_before_an_answer_is_read(
    session: ChatSession, files: SessionFiles
) -> None:
    one, two = session.ask(0, ASK), session.ask(1, ASK)
    assert [(line["number"], line["subject"]) for line in lines(files.questions)] == [
        (1, 0),
        (2, 1),
    ]
    for line in WRITTEN:
        append_line(files.answers, line)
    assert "".join(piece.text for piece in one) == "Five."
    assert [piece.text for piece in two] == ["It is ", "5.", ""]
    assert next(two, None) is None


def test_an_answer_that_is_closed_is_cancelled_once_and_its_lines_are_left_out(
    session: ChatSession, files: SessionFiles
) -> None:
    one, two = session.ask(0, ASK), session.ask(1, ASK)
    one.close()
    one.close()
    assert lines(files.questions)[2:] == [{"cancel": 1}]
    for line in WRITTEN:
        append_line(files.answers, line)
    assert list(one) == []
    last = list(two)[-1]
    two.close()
    assert last.ended_by == "length"
    assert lines(files.questions)[3:] == []


def test_a_talk_shows_one_model_after_another_and_goes_on_after_ctrl_c(
    session: ChatSession, files: SessionFiles
) -> None:
    for line in WRITTEN:
        append_line(files.answers, line)
    shown: list[tuple[str, str]] = []

    def show(name: str, piece: Piece) -> None:
        shown.append((name, piece.text))
        if piece.text == "Fi":
            raise KeyboardInterrupt

    found = Talk(session, "Be brief.", {"seed": 4}).ask_all("What is 2 + 3?", show)
    assert shown == [
        ("trial 5", ""), ("trial 5", "Fi"), ("trial 5", ""),
        ("base", ""), ("base", "It is "), ("base", "5."), ("base", ""),
    ]  # fmt: skip
    assert [(one["answer"], one["ended_by"]) for one in found["answers"]] == [
        ("Fi", "cancelled"),
        ("It is 5.", "length"),
    ]
    first, second, third = lines(files.questions)
    assert first["messages"] == [{"role": "system", "content": "Be brief."}, *ASK]
    assert (first["seed"], second["number"], third) == (4, 2, {"cancel": 1})


def test_a_mistyped_command_is_no_question(
    session: ChatSession,
    files: SessionFiles,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for line in WRITTEN:
        append_line(files.answers, line)
    monkeypatch.setattr("sys.stdin", io.StringIO("/rest\n/usr/bin: what is it?\n"))
    talk_with_person(Talk(session, None, {}))
    assert "there is no command /rest; " in capsys.readouterr().err
    asked = [line["messages"][-1]["content"] for line in lines(files.questions)]
    assert asked == ["/usr/bin: what is it?"] * 2

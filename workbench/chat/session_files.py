"""The files of a chat session: JSON lines that one side appends and the other follows.

A session is a trial of kind `chat`; its files lie in `trials/<id>/chat/`:

    person.lock      held (flock) by the front end while a person is there
    questions.jsonl  written by the front end
    answers.jsonl    written by the worker

Questions: `{"number": 1, "subject": 0, "messages": [{"role": …, "content": …}], "max_new_tokens":
512, "temperature": 0.0, "seed": 0}`, and `{"cancel": 1}` to end an answer early. `subject` is an
index into the session's list of models.
Answers: `{"ready": true}` once the models are loaded; `{"number": 1, "text": "…"}` for each piece;
`{"number": 1, "ended_by": "end"|"length"|"cancelled", "tokens": 17, "seconds": 0.9}`;
`{"number": 1, "error": "…", "hint": "…"}`. A worker that was lost and replaced begins an answer
that had no end once more, with `{"number": 1, "again": true}`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.machine.locks import lock_holder

MOST_READ_BYTES = 1 << 20
"""Most bytes read from a followed file at once."""


@dataclass(frozen=True, slots=True)
class SessionFiles:
    """The paths of one session."""

    folder: Path

    @property
    def lock(self) -> Path:
        """The lock that a front end holds while a person is there."""
        return self.folder / "person.lock"

    @property
    def questions(self) -> Path:
        return self.folder / "questions.jsonl"

    @property
    def answers(self) -> Path:
        return self.folder / "answers.jsonl"

    def person_is_there(self) -> bool:
        """Return True while a front end holds the session's lock; a killed one does not."""
        return lock_holder(self.lock) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One prompt for one model of a session."""

    number: int
    """Counted from 1 within the session."""
    subject: int
    """Index of the model in the session's list."""
    messages: list[dict[str, str]]
    """The conversation so far; the last message is the person's."""
    max_new_tokens: int
    temperature: float
    """0 chooses the most probable token each time."""
    seed: int
    """Seed of the draws where the temperature is above 0."""


def session_of(trial_folder: Path) -> SessionFiles:
    """Return the session of a trial whose folder is `trials/<id>`."""
    return SessionFiles(trial_folder / "chat")


def append_line(path: Path, data: dict[str, Any]) -> None:
    """Append one JSON line in one write, so that a reader never sees two lines mixed.

    Raises OSError, for example on a full disk.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab", buffering=0) as file:
        file.write(json.dumps(data, ensure_ascii=False).encode(errors="replace") + b"\n")


class LineFollower:
    """A reader of the complete lines that are appended to a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def new_lines(self) -> Iterator[dict[str, Any]]:
        """Yield the JSON objects that were appended since the last call; none for a missing file.

        A line that is no JSON object is left out: it was torn when its writer was killed.
        """
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                chunk = file.read(MOST_READ_BYTES)
        except OSError:
            return
        end = chunk.rfind(b"\n") + 1
        self._offset += end
        for line in chunk[:end].splitlines():
            try:
                data = json.loads(line)
            except ValueError:
                continue
            if isinstance(data, dict):
                yield data


def read_question(data: dict[str, Any]) -> Question:
    """Return the question of a line. Raises TypeError or ValueError for what is none."""
    messages = [
        {"role": str(one["role"]), "content": str(one["content"])} for one in data["messages"]
    ]
    return Question(
        number=int(data["number"]),
        subject=int(data["subject"]),
        messages=messages,
        max_new_tokens=max(1, int(data["max_new_tokens"])),
        temperature=max(0.0, float(data["temperature"])),
        seed=int(data["seed"]),
    )

"""`workbench chat`: ask adapters, side by side with each other or with their base."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from itertools import chain
from typing import Annotated, Any

import typer

from workbench import formatting
from workbench.chat.client import Answer, ChatEnded, ChatSession, Piece
from workbench.cli.arguments import TrialId, is_id
from workbench.cli.errors import tell_error
from workbench.cli.tables import as_json, colour_text, print_answer, print_note
from workbench.cli.trials.control import need_engine
from workbench.errors import UsageError, WorkbenchError
from workbench.service import Service
from workbench.text import safe_text

BASE = "base"
_COMMAND = re.compile(r"/[a-z]+")
"""A line that can only be meant as a command."""
HELP = "enter asks · ctrl-c ends an answer · /reset forgets the conversation · ctrl-d leaves"


def chat_command(
    trial: TrialId,
    against: Annotated[
        list[str] | None,
        typer.Option(metavar="TRIAL|base", help="Answers the same prompts too; may be repeated."),
    ] = None,
    prompt: Annotated[
        list[str] | None,
        typer.Option("--prompt", "-p", help="Ask this and end; may be repeated."),
    ] = None,
    system: Annotated[
        str | None, typer.Option(help="The system message; default: data.system of the recipe.")
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of an answer.")] = 512,
    temperature: Annotated[
        float, typer.Option(min=0.0, help="0 takes the most probable token each time.")
    ] = 0.0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the draws.")] = 0,
    as_data: Annotated[
        bool, typer.Option("--json", help="Print JSON; needs --prompt or piped questions.")
    ] = False,
) -> None:
    """Chat with a trial's adapter, and with others on the same base beside it.

    The engine runs it like a trial, on a free card, so that it disturbs none. Questions that are
    piped in are asked line by line.
    """
    service = Service()
    subjects = [trial, *(_subject(word) for word in against or [])]
    detail = service.trial(trial)
    need_engine(service)
    data = detail.experiment.recipe.get("data") or {}
    message = system if system is not None else data.get("system")
    questions = _questions(prompt)
    if as_data and questions is None:
        raise UsageError("--json needs a prompt", hint='add -p "QUESTION", or pipe questions in')
    with ChatSession.open(service, subjects) as session:
        how = {"max_new_tokens": max_tokens, "temperature": temperature, "seed": seed}
        talk = Talk(session, message, how)
        session.wait_until_ready(print_note)
        if as_data:
            as_json([talk.ask_all(question, show=None) for question in questions or ()])
        elif questions is not None:
            for question in questions:
                print_answer(f"> {question}", "dim")
                talk.ask_all(question, show=show_piece)
                talk.forget()
        else:
            print_note(f"{talk.names_line()}: {HELP}")
            talk_with_person(talk)


def _subject(word: str) -> int | None:
    """Return the trial's id, or None for the base. Raises UsageError for another word."""
    if word == BASE:
        return None
    if is_id(word):
        return int(word)
    raise UsageError(f"--against takes a trial's id or base, not {word}", hint="workbench ls")


def _questions(prompts: Sequence[str] | None) -> list[str] | None:
    """Return the prompts of the command line or the lines piped in; None where a person types."""
    if prompts:
        return list(prompts)
    if sys.stdin.isatty():
        return None
    return [line for line in sys.stdin.read().splitlines() if line.strip()]


class Talk:
    """A conversation with each model of a session."""

    def __init__(self, session: ChatSession, system: str | None, how: dict[str, Any]) -> None:
        self._session = session
        self._system = system
        self._how = how
        self.forget()

    def forget(self) -> None:
        """Begin every conversation again, with the system message alone."""
        first = [{"role": "system", "content": self._system}] if self._system else []
        self._said: list[list[dict[str, str]]] = [list(first) for _ in self._session.subjects]

    def name_of(self, subject: int) -> str:
        """Return `trial 5`, or `base`."""
        trial = self._session.subjects[subject]
        return BASE if trial is None else f"trial {trial}"

    def names_line(self) -> str:
        """Return all models of the session: `trial 5, base`."""
        return ", ".join(self.name_of(n) for n in range(len(self._session.subjects)))

    def ask_all(self, question: str, show: Callable[[str, Piece], None] | None) -> dict[str, Any]:
        """Ask every model at once and return their answers as JSON values.

        `show` gets the model's name and each piece as it comes, one model after the other. Ctrl-c
        while one is shown ends that answer and goes on with the next model.
        """
        for said in self._said:
            said.append({"role": "user", "content": question})
        with ExitStack() as held:
            asked = [
                held.enter_context(closing(self._session.ask(subject, said, **self._how)))
                for subject, said in enumerate(self._said)
            ]
            answers = [self._listen(subject, one, show) for subject, one in enumerate(asked)]
        return {"question": question, "answers": answers}

    def _listen(
        self, subject: int, answer: Answer, show: Callable[[str, Piece], None] | None
    ) -> dict[str, Any]:
        """Return a model's answer as JSON values, once it is in its conversation."""
        name, text = self.name_of(subject), ""
        last = Piece(subject=subject, ended_by="cancelled")
        try:
            # An empty piece shows at once who is about to answer.
            for piece in chain([Piece(subject=subject)], answer):
                text = "" if piece.again else text + piece.text
                if show is not None:
                    show(name, piece)
                if piece.ended_by is not None:
                    last = piece
        except KeyboardInterrupt:
            answer.close()
            if show is not None:
                show(name, last)
        self._said[subject].append({"role": "assistant", "content": text})
        return {
            "trial": self._session.subjects[subject],
            "answer": text,
            "ended_by": last.ended_by,
            "tokens": last.tokens,
            "seconds": last.seconds,
        }


def show_piece(name: str, piece: Piece) -> None:
    """Print a piece of an answer; the first begins the line with the model's name."""
    out = sys.stdout
    if piece.again:
        out.write("\n(the worker was lost; the answer begins again)\n")
    if piece.ended_by is not None:
        notes = {"length": " …(cut at --max-tokens)", "cancelled": " …(cancelled)"}
        note = notes.get(piece.ended_by, "")
        rate = piece.tokens / piece.seconds if piece.seconds else None
        facts = f"  [{piece.tokens} tokens, {formatting.rate(rate)}/s]" if piece.tokens else ""
        out.write(colour_text(note + facts, "dim", out) + "\n")
    elif piece.text:
        out.write(safe_text(piece.text, len(piece.text) + 1))
    else:
        out.write(colour_text(f"{name}: ", "bold", out))
    out.flush()


def talk_with_person(talk: Talk) -> None:
    """Ask what the person types until they leave; an error ends one answer, not the chat."""
    while True:
        try:
            typed = input("> ").strip()
        except EOFError:
            print_answer()
            return
        except KeyboardInterrupt:  # at the prompt it clears the line, as in a shell
            print_answer()
            continue
        if typed == "/reset":
            talk.forget()
        elif typed in ("/help", "/?"):
            print_note(HELP)
        elif typed in ("/quit", "/exit", "/bye"):
            return
        elif _COMMAND.fullmatch(typed):
            print_note(f"there is no command {typed}; {HELP}")
        elif typed:
            try:
                talk.ask_all(typed, show=show_piece)
            except ChatEnded:
                raise
            except WorkbenchError as refused:
                tell_error(refused)

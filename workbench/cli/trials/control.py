"""`workbench stop`, `kill`, `pause`, `resume`; and what every command does about the engine."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated

import typer

from workbench import formatting
from workbench.cli.arguments import Json, is_id
from workbench.cli.confirmation import confirm_name
from workbench.cli.errors import tell_error
from workbench.cli.tables import as_json, print_answer, print_note
from workbench.errors import EngineError, NotThere, WorkbenchError
from workbench.service import Service
from workbench.store.rows import Experiment, TrialRow
from workbench.text import safe_line

Names = Annotated[
    list[str],
    typer.Argument(metavar="TRIAL|EXPERIMENT", help="Trials' ids, or experiments' names."),
]


def stop_command(names: Names, as_data: Json = False) -> None:
    """End trials, or all of an experiment, early; what they have learned is scored and kept."""
    _each(names, "stop", as_data)


def kill_command(
    names: Names,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for the name.")] = False,
    as_data: Json = False,
) -> None:
    """End trials, or all of an experiment, at once and keep nothing; asks for the name."""
    if not yes:
        _confirm(names)
    _each(names, "kill", as_data)


def pause_command(names: Names, as_data: Json = False) -> None:
    """Checkpoint trials, or all of an experiment, and take them off their cards."""
    _each(names, "pause", as_data)


def resume_command(names: Names, as_data: Json = False) -> None:
    """Let paused trials, or a paused experiment, continue from their checkpoints."""
    _each(names, "resume", as_data)


@dataclass(frozen=True, slots=True)
class _Named:
    """The trial or the experiment that a word of the command line names."""

    word: str
    trial: TrialRow | None
    experiment: Experiment

    @property
    def about(self) -> str:
        """State and progress, in words."""
        if self.trial is None:
            counts = formatting.counts_line(self.experiment.outcomes)
            return f"experiment {safe_line(self.experiment.name)} ({counts or 'no trials yet'})"
        progress = formatting.steps(self.trial.step, self.trial.total_steps)
        return f"{formatting.trial_name(self.trial)} ({self.trial.state}, step {progress})"

    @property
    def has_ended(self) -> bool:
        """True where nothing of it is left to end."""
        if self.trial is None:
            return not self.experiment.is_unfinished
        return self.trial.state.final

    def send(self, service: Service, verb: str) -> str:
        """Send the request for it and return the request's id."""
        if self.trial is None:
            return service.send(f"{verb}-experiment", experiment=self.experiment.id)
        return service.send(verb, trial=self.trial.id)


def _find(service: Service, word: str) -> _Named:
    """Return the trial with this id, or the experiment with this name. Raises NotThere."""
    if is_id(word):
        detail = service.trial(int(word))
        return _Named(word, detail.trial, detail.experiment)
    return _Named(word, None, service.experiment(word))


def _confirm(words: Sequence[str]) -> None:
    service = Service()
    for word in dict.fromkeys(words):
        try:
            found = _find(service, word)
        except NotThere:  # reported with the answers of the others
            continue
        if found.has_ended:  # refused with the answers of the others, and keeps what it left
            continue
        print_note(f"{found.about}:")
        print_note("nothing of it is scored or kept")
        confirm_name(word, "kill", words, verb="kill", done="killed")


def _each(words: Iterable[str], verb: str, as_data: bool) -> None:
    """Send a request for each word, then print every answer.

    A word that names nothing is reported like a refusal, and does not keep the others from being
    carried out. Exits with the first refusal's exit code.
    """
    service = Service()
    found: list[_Named] = []
    errors: list[WorkbenchError] = []
    for word in dict.fromkeys(words):
        try:
            found.append(_find(service, word))
        except NotThere as unknown:
            errors.append(unknown)
    if found:
        need_engine(service)
    answers = []
    for request in [one.send(service, verb) for one in found]:
        try:
            answer = service.wait_for_answer(request)
            answers.append(answer.to_json())
            if not as_data:
                print_answer(answer.text)
        except EngineError:
            raise
        except WorkbenchError as refused:
            errors.append(refused)
    for error in errors:
        tell_error(error)
    if as_data:
        as_json(answers)
    raise typer.Exit(errors[0].exit_code if errors else 0)


# --- the engine ---


def need_engine(service: Service) -> None:
    """Start the engine if it is down. Raises EngineError where a person stopped it.

    Commands that change something call this first.
    """
    engine = service.engine()
    if engine.state == "down":
        print_note("starting the engine (takes some seconds)")
        service.start_engine()
    elif engine.has_ended:
        raise EngineError(
            f"the engine is {engine.state}, so the request would not be carried out",
            hint="run `workbench engine start`, then this command again",
        )

"""The public Python API: what the command line does, for scripts and notebooks.

    import workbench

    with workbench.Workbench() as bench:
        experiment = bench.submit("demo")
        bench.wait(experiment.id)
        for row in bench.board(experiment.id):
            print(row.rank, row.settings, row.score, row.score_low, row.score_high)
        print(bench.verdict(experiment.id))

Training runs in the engine, a process of its own: it goes on when the script ends, and everything
here can also be seen and steered from the command line and the screen. Every error is a
`WorkbenchError`, whose `hint` says what to do. Importing this starts nothing and loads neither
torch nor ray.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from workbench.engine_status import EngineStatus
from workbench.errors import EngineError, UsageError, WorkbenchError
from workbench.home import Home, find_home
from workbench.service import ImportanceReport, Service, TrialDetail
from workbench.store.board_rows import BoardRow, FinalistRow
from workbench.store.rows import CardRow, EventRow, Experiment, Point, TrialRow
from workbench.text import safe_line
from workbench.trial import State

if TYPE_CHECKING:  # pydantic costs 0.1 s, which only `submit` and `clone` need
    from workbench.chat.client import ChatSession
    from workbench.judging.comparison import Comparison
    from workbench.recipe import Recipe

POLL_S = 0.2
"""Seconds between two looks at the store while waiting."""
MOST_STARTS = 3
"""Times that `wait` starts a dead engine again before it gives up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewTrial:
    """A trial that was made by `clone`, `extend` or `add`."""

    experiment: int
    """The id of the experiment that it belongs to."""
    trial: int | None
    """Its id; None while its experiment is new and not prepared yet."""
    answer: str
    """The engine's answer, in words."""


class Workbench:
    """One home: its experiments, trials, cards and engine.

    Methods that change something start the engine if it is down, wait until it has answered, and
    return what it made. They raise EngineError where a person has stopped the engine
    (`start_engine` starts it) or where it does not answer in time (the request is kept), and a
    WorkbenchError with the engine's reason and hint where it refuses. Methods that read need no
    engine. Experiments are named by id or name, trials by id. An object serves one thread.
    """

    def __init__(self, home: str | Path | None = None) -> None:
        """Look at the home in folder `home`, at `$WORKBENCH_HOME` or at the user's data folder.

        Creates nothing: the home is made by the first change.
        """
        self._service = Service(_home(home))

    @property
    def home(self) -> Path:
        """The folder of this home."""
        return self._service.home.root

    def close(self) -> None:
        """Close the database; training goes on. A later question opens it again."""
        self._service.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- looking ---

    def experiments(self) -> list[Experiment]:
        """Return all experiments, newest first; none where nothing ran yet."""
        return self._service.experiments()

    def experiment(self, experiment: int | str) -> Experiment:
        """Return one experiment; NotThere where there is none of that id or name."""
        return self._service.experiment(experiment)

    def trials(self, experiment: int | str) -> list[TrialRow]:
        """Return the trials that train or score an adapter, oldest first, without the base's."""
        rows = self._service.trials(self._service.experiment(experiment).id)
        return [row for row in rows if row.kind in ("tune", "score")]

    def trial(self, trial: int) -> TrialDetail:
        """Return one trial with its experiment, attempts, moves and sample answers."""
        return self._service.trial(trial)

    def board(self, experiment: int | str) -> list[BoardRow]:
        """Return the ranked rows of an experiment, best first, the base last.

        Trials that are tied for first come before the others. Trials without a score have rank
        None. `adapter` is the folder of a trial's adapter, which
        `peft.PeftModel.from_pretrained` loads.
        """
        return self._service.board(experiment)[1]

    def verdict(self, experiment: int | str) -> str:
        """Return which trial is best and how sure that is, in one sentence.

        For example "trial 5 is best: exact match 0.80 [0.71, 0.87]; better than 4 of 5; tied with
        trial 4". Where the scores allow no verdict, the sentence says why. The rows of `board`
        hold the numbers behind it.
        """
        return self._service.verdict(experiment)

    def finalists(self, experiment: int | str) -> list[FinalistRow]:
        """Return the settings that `finals` trains again, best mean first; none without finals.

        `shipped` is the trial of the median seed, whose adapter is the one to ship.
        """
        return list(self._service.judged_board(experiment).finals)

    def compare(self, *trials: int) -> Comparison:
        """Return two or more trials side by side: settings, scores, curves, and answers by row.

        Differences are a trial's score minus the first one's, on the rows that all were scored on.
        Takes some tenths of a second. Raises UsageError for fewer than two.
        """
        return self._service.compare(trials)

    def report(self, experiment: int | str, file: str | Path) -> Path:
        """Write an experiment's report, one HTML file, and return its path. Replaces the file.

        Raises UsageError where the file cannot be written.
        """
        from workbench.report.facts import gather_facts
        from workbench.report.saving import save_report

        path = Path(file).expanduser().absolute()
        save_report(gather_facts(self._service, experiment), path)
        return path

    def importance(self, experiment: int | str) -> ImportanceReport:
        """Return how much each setting of a sweep mattered. Takes some tenths of a second."""
        return self._service.importance(experiment)

    def series(self, trial: int, metric: str = "loss", points: int = 200) -> list[Point]:
        """Return one metric of a trial as at most `points` points over all its steps.

        `trial(id).metric_names` lists what there is. A point has the lowest and the highest value
        of its span of steps; losses are nats per target token.
        """
        return self._service.series(trial, metric, points)

    def logs(self, trial: int, *, after: int = 0, limit: int = 1_000) -> list[EventRow]:
        """Return the newest `limit` lines of a trial's log with an id above `after`, in order."""
        return self._service.events(trial=trial, after=after, limit=limit)

    def cards(self) -> list[CardRow]:
        """Return the cards that the engine has seen, with their newest samples."""
        return self._service.snapshot().cards

    # --- experiments ---

    def submit(
        self,
        recipe: str | Path | Recipe,
        settings: Mapping[str, object] | None = None,
        *,
        warm_start: int | None = None,
    ) -> Experiment:
        """Submit a recipe and return its experiment, whose data is then checked by the engine.

        `recipe` is a file, the name of a shipped recipe, or a Recipe. `settings` changes it, by
        dotted keys such as `{"lora.rank": 8}`. With `warm_start` every trial starts from that
        trial's adapter. Raises RecipeError with all mistakes at once.
        """
        loaded = _load(recipe, settings or {})
        answer = self._ask("submit", recipe=loaded.model_dump(mode="json"), warm_trial=warm_start)
        return self._service.experiment(int(answer["experiment"]))

    def wait(self, experiment: int | str, *, timeout_s: float | None = None) -> Experiment:
        """Wait until all of an experiment has ended, and return it.

        A dead engine is started again, three times at most. Raises WorkbenchError where the
        experiment was refused, where only paused trials are left, and after `timeout_s` seconds
        (None: no limit); EngineError where the engine does not run, or cannot place anything.
        Nothing is lost by any of them: wait again, and training goes on meanwhile.
        """
        until = None if timeout_s is None else time.monotonic() + timeout_s
        starts = 0
        while True:
            found = self._service.experiment(experiment)
            if found.state == "refused":
                what = f"{safe_line(found.name)} was refused: {found.reason}"
                raise WorkbenchError(what, hint=found.hint)
            if found.ended_utc is not None:
                return found
            self._check_progress(found)
            if self._service.engine().state == "down":
                starts += 1
                self._restart_engine(starts)
            if until is not None and time.monotonic() > until:
                what = f"{safe_line(found.name)} has not ended in {timeout_s:g} s"
                raise WorkbenchError(what, hint="training goes on; wait again")
            time.sleep(POLL_S)

    def _restart_engine(self, starts: int) -> None:
        """Start a dead engine for the `starts`-th time; EngineError after MOST_STARTS times."""
        if starts > MOST_STARTS:
            raise EngineError(
                f"the engine ended {MOST_STARTS} times",
                hint=f"look into {self._service.home.logs}, or run `workbench doctor`",
            )
        self.start_engine()

    def _check_progress(self, experiment: Experiment) -> None:
        """Raise where waiting cannot end, because a person has to do something first."""
        engine = self._service.engine()
        if engine.state == "stopped":
            raise _stopped()
        unfinished = {State(state) for state in experiment.counts if not State(state).final}
        live = any(state.live for state in unfinished)
        braked = engine.state == "running" and engine.braked
        if braked and not live and not self._service.waits_for_a_person():
            raise EngineError(engine.detail, hint=f"look into {self._service.home.logs}/loop.log")
        if unfinished == {State.PAUSED} and not experiment.searching:
            raise WorkbenchError(
                f"all unfinished trials of {safe_line(experiment.name)} are paused",
                hint="resume them, or stop them",
            )

    def hold(self, experiment: int | str | None = None) -> str:
        """Place no more trials, of one experiment or of all; return what the engine answers."""
        return str(self._ask("hold", experiment=experiment)["answer"])

    def release(self, experiment: int | str | None = None) -> str:
        """Let a held experiment, or the held queue, place trials again."""
        return str(self._ask("release", experiment=experiment)["answer"])

    def finals(
        self, experiment: int | str, *, top: int | None = None, seeds: int | None = None
    ) -> str:
        """Train the best `top` settings again with `seeds` new seeds each; return the answer.

        Both are 3 unless the recipe says. Asked for again with more, only what is missing is added.
        `finalists` returns their means once they have ended.
        """
        return str(self._ask("finals", experiment=experiment, top=top, seeds=seeds)["answer"])

    def evaluate(
        self,
        adapters: int | str | Path | Sequence[int | str | Path],
        data: str | Path,
        settings: Mapping[str, object] | None = None,
        *,
        rows: int | None = None,
        name: str | None = None,
        same_base: bool = False,
    ) -> Experiment:
        """Score adapters on any rows, and return the new experiment, whose board compares them.

        `adapters` are ids of trials and folders in PEFT's format; the base is scored beside them.
        `data` is a file or a data set, of which the first `rows` are taken (None: all). `settings`
        changes the recipe of the first trial, by keys of `data` and `evaluate` such as
        `{"evaluate.answer_pattern": "#### (.*)"}`. `same_base` says that folders belong to that
        base, whatever their configurations name.
        """
        several = [adapters] if isinstance(adapters, int | str | Path) else list(adapters)
        subjects = [one if isinstance(one, int) else _folder(one) for one in several]
        recipe = self._scoring_recipe(subjects, str(data), _words(settings or {}), rows, name)
        given = recipe.model_dump(mode="json")
        answer = self._ask("evaluate", recipe=given, subjects=subjects, same_base=same_base)
        return self._service.experiment(int(answer["experiment"]))

    def _scoring_recipe(
        self,
        subjects: Sequence[int | str],
        data: str,
        words: Sequence[str],
        rows: int | None,
        name: str | None,
    ) -> Recipe:
        """Return the recipe of an evaluation: that of the first trial, else of the first folder."""
        from workbench.adapters.adapter_folder import read_adapter
        from workbench.adapters.evaluation_recipe import find_rows, folder_recipe
        from workbench.trial_edits import scoring_recipe, trial_recipe

        file = find_rows(data)
        trials = [one for one in subjects if isinstance(one, int)]
        if trials:
            detail = self._service.trial(trials[0])
            source = trial_recipe(detail.experiment, detail.trial)
            resolved, stem = detail.experiment.resolved, detail.experiment.name
        elif subjects:
            found = read_adapter(Path(str(subjects[0])))
            source, resolved, stem = folder_recipe(found, file), {}, found.folder.name
        else:
            raise UsageError("evaluate takes at least one adapter", hint="bench.evaluate(5, FILE)")
        named = name or f"{stem}-{Path(file).stem}"
        return scoring_recipe(source, file, named, rows=rows, resolved=resolved, words=words)

    # --- trials ---

    def chat(self, *trials: int | None) -> ChatSession:
        """Open a chat with the adapters of trials on one base, and wait until they are loaded.

        None stands for the base. `ask(0, [{"role": "user", "content": "…"}])` of the result yields
        the first one's answer piece by piece. Use it in a `with` block: the card is held until it
        is closed. Raises the engine's refusal, and ChatEnded where the session ends too early.
        """
        from workbench.chat.client import ChatSession

        self._need_engine()
        session = ChatSession.open(self._service, trials)
        try:
            session.wait_until_ready()
        except BaseException:
            session.close()
            raise
        return session

    def stop(self, trial: int) -> str:
        """End a trial early and return what the engine answers.

        What it has learned is scored and kept as its adapter; `wait` tells when that is done.
        """
        return str(self._ask("stop", trial=trial)["answer"])

    def kill(self, trial: int) -> str:
        """End a trial at once and keep nothing of it."""
        return str(self._ask("kill", trial=trial)["answer"])

    def pause(self, trial: int) -> str:
        """Checkpoint a trial and give its card back; `resume` continues it."""
        return str(self._ask("pause", trial=trial)["answer"])

    def resume(self, trial: int) -> str:
        """Let a paused trial continue from its checkpoint, as soon as a card is free."""
        return str(self._ask("resume", trial=trial)["answer"])

    def clone(self, trial: int, settings: Mapping[str, object] | None = None) -> NewTrial:
        """Run a trial again with other settings, as a new one.

        A clone whose data, model or evaluation differ could not be compared in its experiment, so
        it gets an experiment of its own.
        """
        return _new_trial(self._ask("clone", trial=trial, settings=dict(settings or {})))

    def extend(
        self, trial: int, *, epochs: float | None = None, steps: int | None = None
    ) -> NewTrial:
        """Train on from an ended trial's adapter, as a new trial.

        Give either `epochs` or optimizer `steps` to add.
        """
        given = {"epochs": epochs, "steps": steps}
        more = {name: value for name, value in given.items() if value is not None}
        return _new_trial(self._ask("extend", trial=trial, **more))

    def add(self, experiment: int | str, settings: Mapping[str, object]) -> NewTrial:
        """Add a trial with settings of your choice to an experiment."""
        return _new_trial(self._ask("add", experiment=experiment, settings=dict(settings)))

    # --- the engine ---

    def engine(self) -> EngineStatus:
        """Return the engine's status in well under a millisecond."""
        return self._service.engine()

    def start_engine(self, *, timeout_s: float = 60.0) -> None:
        """Start the engine, also where a person has stopped it, and wait until it runs.

        All unfinished trials of this home continue. Raises EngineError after `timeout_s` seconds.
        """
        self._service.start_engine()
        self._service.wait_for_engine(running=True, timeout_s=timeout_s)

    def stop_engine(self, *, timeout_s: float = 120.0) -> None:
        """Checkpoint what runs, end the engine, and wait until it has gone.

        Trials continue when it is started again. Does nothing where no engine runs. Raises
        EngineError after `timeout_s` seconds.
        """
        if self._service.engine().pid is not None:
            self._service.stop_engine()
            self._service.wait_for_engine(running=False, timeout_s=timeout_s)

    def _ask(self, verb: str, **args: Any) -> dict[str, Any]:
        """Send a request, and return the data of its answer with the text as `answer`."""
        self._need_engine()
        return self._service.wait_for_answer(self._service.send(verb, **args)).to_json()

    def _need_engine(self) -> None:
        """Start the engine if it is down. Raises EngineError where a person has stopped it."""
        if not self._service.ensure_engine():
            raise _stopped()


def _stopped() -> EngineError:
    return EngineError("the engine is stopped", hint="Workbench.start_engine() starts it")


def _home(folder: str | Path | None) -> Home:
    return find_home() if folder is None else Home(Path(folder).expanduser().absolute())


def _folder(path: str | Path) -> str:
    return os.path.abspath(Path(path).expanduser())


def _words(settings: Mapping[str, object]) -> list[str]:
    """Return settings as `KEY=VALUE`, which takes text as it is, and all else as JSON."""
    return [
        f"{key}={value if isinstance(value, str) else json.dumps(value)}"
        for key, value in settings.items()
    ]


def _new_trial(answer: dict[str, Any]) -> NewTrial:
    trial = answer.get("trial")
    return NewTrial(
        experiment=int(answer["experiment"]),
        trial=None if trial is None else int(trial),
        answer=str(answer["answer"]),
    )


def _load(recipe: str | Path | Recipe, settings: Mapping[str, object]) -> Recipe:
    from workbench.recipe import apply_settings, find_recipe, load_recipe

    if isinstance(recipe, str | Path):
        return load_recipe(find_recipe(str(recipe)), _words(settings))
    if not settings:
        return recipe
    # Settings apply to one trial's recipe, which has no sweep; this one keeps its own.
    return apply_settings(recipe, settings).model_copy(update={"sweep": recipe.sweep})

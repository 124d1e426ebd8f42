"""Tools of benchmarks that run a whole engine: one on a home of its own, and trials in time."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workbench.attempts.events import Outcome
from workbench.home import Home
from workbench.recipe import load_recipe, shipped_file
from workbench.service import Service
from workbench.store.rows import AttemptRow, TrialRow

RECIPE = """
name: {name}
model: {{name: {model}}}
data:
  train: {data}
  columns: {{question: prompt, answer: completion}}
  eval_rows: {held_out}
  max_tokens: {tokens}
train: {{max_steps: {steps}, log_every: 1, save_every: {save}, batch_size: {batch}}}
evaluate: {{{evaluate}, every: {every}}}
sweep:
  max_parallel: {parallel}
"""
SEARCH = """
  method: tpe
  trials: {trials}
  early_stop: {{method: asha, reduction: 2}}
  parameters: {{train.learning_rate: {{min: 2.0e-5, max: 2.0e-3, log: true}}}}
"""
"""The lines of a sweep by TPE and ASHA, for `Lab.submit`."""


@dataclass
class Report:
    """The figures and failed checks of one run; each check is printed at once."""

    figures: dict[str, Any] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def check(self, name: str, good: bool, value: object) -> None:
        print(f"{'ok  ' if good else 'FAIL'}  {name}: {value}", flush=True)
        self.figures[name] = value
        if not good:
            self.failed.append(name)

    def judge(self, name: str, good: bool, value: object, gpu: bool) -> None:
        """Check on real cards; on CPU cards only print the figure."""
        if gpu:
            self.check(name, good, value)
            return
        self.figures[name] = value
        self.skip(name, f"{value} on CPU cards, which share cores and memory")

    def skip(self, name: str, why: str) -> None:
        print(f"skip  {name}: {why}", flush=True)
        self.skipped.append(f"{name}: {why}")

    def write(self, file: Path | None) -> None:
        """Write what is known so far to the file, if there is one, as JSON."""
        if file is not None:
            result = {"figures": self.figures, "failed": self.failed, "skipped": self.skipped}
            file.write_text(json.dumps(result, indent=1, default=str))


@dataclass
class Lab:
    """An engine on a home of its own, and what the checks need of it."""

    service: Service
    root: Path
    model: Path
    data: Path
    newest: int = 0
    """The experiment that was submitted last."""

    def submit(self, name: str, trials: int, steps: int, **settings: Any) -> list[int]:
        """Submit such a recipe as `write_recipe` writes; return the ids that train."""
        recipe = self.write_recipe(name, trials, steps, **settings)
        answer = self.service.wait_for_answer(self.service.submit(load_recipe(recipe)))
        self.newest = int(answer.data["experiment"])
        wait(lambda: self.service.experiment(self.newest).state != "preparing", "preparation")
        found = self.service.experiment(self.newest)
        assert found.state == "ready", found.reason
        return self.trained(self.newest)

    def write_recipe(
        self,
        name: str,
        trials: int,
        steps: int,
        *,
        sweep: str = "",
        save: int = 1000,
        every: int | None = None,
        batch: int = 4,
        tokens: int = 512,
        parallel: int = 64,
        held_out: int = 16,
        evaluate: str = "batch_size: 4",
    ) -> Path:
        """Write a recipe of trials that differ slightly in learning rate; return its path.

        `sweep` has other lines of the recipe's sweep; a search adds most of its trials later.
        `evaluate` has settings of that section, `held_out` is the number of held-out rows.
        """
        recipe = self.root / f"{name}.yaml"
        rates = [round(2e-4 + 1e-6 * i, 7) for i in range(trials)]
        body = RECIPE.format(
            name=name,
            model=self.model,
            data=self.data,
            steps=steps,
            save=save,
            every=every or "null",
            batch=batch,
            tokens=tokens,
            parallel=parallel,
            held_out=held_out,
            evaluate=evaluate,
        )
        recipe.write_text(body + (sweep or f"  parameters: {{train.learning_rate: {rates}}}"))
        return recipe

    def trained(self, experiment: int) -> list[int]:
        """Return the ids of the experiment's trials that train."""
        return [t.id for t in self.service.trials(experiment) if t.kind == "tune"]

    def drain(self, cards: Sequence[str], *, back: bool = False, now: bool = False) -> None:
        """Keep new trials off the cards, `now` those that run there, too; or give them back."""
        verb, settings = ("undrain", {}) if back else ("drain", {"now": now})
        for request in [self.service.send(verb, card=card, **settings) for card in cards]:
            self.service.wait_for_answer(request)

    def warm(self, cards: Sequence[str], steps: int = 2) -> None:
        """Run short trials until each card has a worker that holds the base, and all have ended.

        The base is scored on the way, so that it takes no card from what is measured. After some
        tens of steps a worker holds the captured graphs of most sizes, too.
        """
        warm = self.submit("warm", len(cards), steps)
        self.finish(warm)
        # A card that came up late, when another had taken all trials, gets one alone.
        for card in set(cards) - {attempt.card for attempt in self.attempts(warm)}:
            others = [one for one in cards if one != card]
            self.drain(others)
            self.finish(self.submit(f"warm-{card}", 1, steps))
            self.drain(others, back=True)
        wait(lambda: all(t.state.final for t in self.service.snapshot().trials), "the base's score")

    def spans(self, trials: Sequence[int]) -> list[Span]:
        """Return the attempts of the trials in time, by what their workers wrote."""
        found = [_span(self.service.home, one) for one in self.attempts(list(trials))]
        return sorted(found, key=lambda one: one.start_s)

    def trial(self, id: int) -> TrialRow:
        return self.service.trial(id).trial

    def attempts(self, trials: list[int]) -> list[AttemptRow]:
        return [a for id in trials for a in self.service.trial(id).attempts]

    def finish(self, trials: list[int], limit_s: float = 400) -> None:
        wait(lambda: all(self.trial(id).state.final for id in trials), "the trials' end", limit_s)
        bad = [(id, self.trial(id).reason) for id in trials if self.trial(id).state != "done"]
        assert not bad, bad

    def kill(self, trials: list[int]) -> None:
        for id in trials:
            if not self.trial(id).state.final:
                self.service.wait_for_answer(self.service.stop(id, kill=True))
        wait(lambda: all(self.trial(id).state.final for id in trials), "the kills")

    def losses(self, trial: int) -> dict[int, float]:
        return {p.step: p.low for p in self.service.series(trial, "loss", points=10_000)}

    def kill_worker(self, trial: int) -> AttemptRow:
        """Kill the worker of a running trial with SIGKILL; return the attempt that it ran."""
        victim = self.live(trial)
        assert victim is not None
        assert victim.pid
        os.kill(victim.pid, signal.SIGKILL)
        return victim

    def wait_for_resume(self, victim: AttemptRow) -> None:
        """Wait until the trial of an attempt that was lost has trained a step in its next one."""
        wait(
            lambda: (a := self.live(victim.trial)) and a.id > victim.id and a.loss is not None,
            "its resume",
        )

    def live(self, trial: int) -> AttemptRow | None:
        found = [a for a in self.service.trial(trial).attempts if a.outcome is None]
        return found[0] if found else None


@dataclass(frozen=True)
class Span:
    """An attempt in time, in seconds since the epoch by its worker's clock."""

    trial: int
    card: str
    start_s: float
    end_s: float
    phases: list[tuple[str, float]]
    """(phase, seconds), in their order."""
    ended: str
    """The outcome and the reason of an attempt that did not end its trial as done; else empty."""


def events_of(home: Home, attempt: AttemptRow) -> list[dict[str, Any]]:
    """Return what the attempt's worker wrote, oldest first."""
    lines = (home.attempt(attempt.id) / "events.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def _span(home: Home, attempt: AttemptRow) -> Span:
    events = events_of(home, attempt)
    marks = [(e["name"], e["t"]) for e in events if e["kind"] == "phase"]
    started = next(e["t"] for e in events if e["kind"] == "started")
    end = next(e["t"] for e in events if e["kind"] == "end")
    phases: list[tuple[str, float]] = []
    for (name, at_s), (_, until_s) in itertools.pairwise(
        [("starting", started), *marks, ("", end)]
    ):
        if phases and phases[-1][0] == name:
            at_s -= phases.pop()[1]
        phases.append((name, until_s - at_s))
    ended = "" if attempt.outcome == Outcome.DONE else f"{attempt.outcome}: {attempt.reason}"
    return Span(attempt.trial, attempt.card, started, end, phases, ended)


def idle_before(spans: Sequence[Span]) -> dict[int, float]:
    """Return by trial the seconds for which its card stood still before, while trials waited.

    The first trial of each card has none.
    """
    found: dict[int, float] = {}
    for card in {one.card for one in spans}:
        mine = [one for one in spans if one.card == card]
        found |= {two.trial: two.start_s - one.end_s for one, two in itertools.pairwise(mine)}
    return found


def makespan(spans: Sequence[Span]) -> float:
    """Return the seconds from the first start to the last end."""
    return max(one.end_s for one in spans) - min(one.start_s for one in spans)


def print_timeline(spans: Sequence[Span]) -> None:
    """Print a line for each attempt: when it started, its phases, and how long its card waited."""
    zero_s, idle = min(one.start_s for one in spans), idle_before(spans)
    for one in spans:
        phases = " · ".join(f"{name} {seconds:.1f}" for name, seconds in one.phases)
        waited = f"idle {idle[one.trial]:.2f}" if one.trial in idle else "first"
        print(
            f"      trial {one.trial:>3} {one.card[:8]:<8} at {one.start_s - zero_s:6.1f} s  "
            f"{phases}; before it: {waited}{one.ended and f'; {one.ended}'}",
            flush=True,
        )


@contextmanager
def lab(model: Path, data: Path, cards: str | None = None) -> Iterator[Lab]:
    """Yield an engine over all cards, or those of WORKBENCH_CARDS; stop it at the end.

    SIGTERM ends the process in order, since an engine that is left keeps every card.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    before = os.environ.get("WORKBENCH_CARDS")
    if cards is not None:
        os.environ["WORKBENCH_CARDS"] = cards
    root = Path(tempfile.mkdtemp(prefix="wb-cards-"))
    service = Service(Home(root / "home").make())
    service.start_engine()
    service.wait_for_engine(running=True, timeout_s=60)
    wait(lambda: service.snapshot().cards, "the cards")
    try:
        yield Lab(service, root, model, data)
    finally:
        service.stop_engine()
        service.wait_for_engine(running=False, timeout_s=120)
        os.environ.pop("WORKBENCH_CARDS", None)
        if before is not None:
            os.environ["WORKBENCH_CARDS"] = before


def card_bytes() -> dict[str, int]:
    """Return the bytes in use of each GPU; empty on a machine without NVIDIA's driver."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return {}
    handles = map(pynvml.nvmlDeviceGetHandleByIndex, range(pynvml.nvmlDeviceGetCount()))
    return {
        pynvml.nvmlDeviceGetUUID(one): int(pynvml.nvmlDeviceGetMemoryInfo(one).used)
        for one in handles
    }


def shaped_model(shape: str) -> Path:
    """Return the folder of a model with that shape, written by a child process.

    A process that has written it would keep a context on the first card, and so be in our way.
    """
    if shape == "demo":
        return shipped_file("workbench:demo/model")
    folder = Path(f"/tmp/shaped-{shape}")
    code = "import sys, pathlib, nf4_model as n; n.write_shaped_model(pathlib.Path(sys.argv[1]), "
    code += "sys.argv[2])"
    command = [sys.executable, "-c", code, str(folder), shape]
    subprocess.run(command, cwd=Path(__file__).parent, check=True)
    return folder


def training_rows(file: Path | None) -> Path:
    """Return the absolute path of GSM8K's `file`, or of the demo's rows where it is None."""
    return file.resolve() if file else shipped_file("workbench:demo/data/train.jsonl")


def wait(fact: Callable[[], object], what: str, limit_s: float = 180) -> None:
    until = time.monotonic() + limit_s
    while not fact():
        if time.monotonic() > until:
            raise TimeoutError(f"waited {limit_s:.0f} s for {what}")
        time.sleep(0.05)

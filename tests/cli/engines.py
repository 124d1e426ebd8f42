"""An engine in a thread of the test: the real loop's tick, a real store, a worker without torch."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.support.tick_contexts import PREPARED, TINY, cpu_card
from tests.support.ticking_worker import TickingWorker
from workbench.adapters.subjects import read_subjects
from workbench.cli import main
from workbench.fleet.inline_fleet import InlineFleet
from workbench.home import Home
from workbench.machine.locks import Lock
from workbench.scheduler import TickContext, tick
from workbench.scheduler.children.preparer import Preparer
from workbench.store import Store, card_table

STEPS = 6


class ShortWorker(TickingWorker):
    """Trains for a few steps where the recipe leaves their number open."""

    def start(self, assignment: dict[str, Any]) -> dict[str, Any]:
        train = assignment["recipe"]["train"]
        train["max_steps"] = train["max_steps"] or STEPS
        return super().start(assignment)


class AtOnce(Preparer):
    """Prepares nothing; refuses what is called so."""

    def poll(self, experiment: int, waiting: Sequence[int] = ()) -> dict[str, Any]:
        if "refused" in (self._home.experiment(experiment) / "recipe.json").read_text():
            return {"ok": False, "error": "no rows in train", "hint": "name a file with rows"}
        subjects = read_subjects(self._home.experiment(experiment))
        if subjects is None:
            return PREPARED
        found = [{"trial" if isinstance(a, int) else "folder": a} for a in subjects.adapters]
        return {**PREPARED, "evaluation_digest": "other rows", "subjects": found}


class Engine(threading.Thread):
    """Ticks until it is closed or a person stops it; holds the locks that say so."""

    def __init__(self, home: Home, cards: Sequence[dict[str, Any]] | None = None) -> None:
        super().__init__(daemon=True)
        self.home = home.make()
        self._cards = [cpu_card(0), cpu_card(1)] if cards is None else list(cards)
        self.up, self.ending = threading.Event(), threading.Event()

    def begin(self) -> None:
        self.start()
        assert self.up.wait(20)

    def close(self) -> None:
        self.ending.set()
        self.join(20)

    def run(self) -> None:
        locks = [Lock(self.home.keeper_lock), Lock(self.home.loop_lock)]
        assert all(lock.take() for lock in locks)
        store = Store(self.home.database)
        context = self._desk(store)
        try:
            while not self.ending.wait(0.01):
                self.home.tick.touch()
                tick(context)
                self.up.set()
                if context.stopping and not store.live_attempts():
                    self.home.stopped.touch()
                    break
        finally:
            context.fleet.close()
            store.close()
            for lock in locks:
                lock.release()

    def _desk(self, store: Store) -> TickContext:
        worker = f"{__name__}:ShortWorker"
        return TickContext(
            home=self.home,
            store=store,
            fleet=InlineFleet(
                str(self.home.root), partial(card_table.next_generation, store), worker=worker
            ),
            preparer=AtOnce(self.home),
            sample=lambda: self._cards,
        )


def finished_home(folder: Path, **changes: str) -> Home:
    """Train the experiment of `recipe_file` to its end and return its home, without an engine.

    Tests copy it, because training takes a third of a second.
    """
    home, said = Home(folder / "home"), io.StringIO()
    engine = Engine(home)
    engine.begin()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(said), redirect_stderr(said):
        patch.setenv("WORKBENCH_HOME", str(home.root))
        assert main(["run", str(recipe_file(folder, **changes)), "--watch"]) == 0
    engine.close()
    return home


def recipe_file(folder: Path, name: str = "tiny", **changes: str) -> Path:
    """A recipe for the engine above; `changes` are lines put at its end."""
    (folder / "d.jsonl").write_text('{"prompt": "1+1", "completion": "#### 2"}\n')
    (folder / "m").mkdir(exist_ok=True)
    (folder / "m" / "config.json").write_text(json.dumps(TINY))
    text = f"""name: {name}
model: {{name: ./m}}
data: {{train: ./d.jsonl, max_tokens: 64}}
train: {{max_steps: {changes.pop("max_steps", "6")}, save_every: 2, learning_rate: 0.1}}
evaluate: {{answer_pattern: '####'}}
"""
    path = folder / f"{name}.yaml"
    path.write_text(text + "".join(f"{key}: {value}\n" for key, value in changes.items()))
    return path

"""A TickContext with a real store in a temporary folder, an inline fleet, and chosen cards."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from workbench.fleet.inline_fleet import InlineFleet
from workbench.home import Home
from workbench.recipe import Recipe
from workbench.scheduler import TickContext, tick
from workbench.scheduler.children.preparer import Preparer
from workbench.scheduler.propose_trials import enqueue_trials
from workbench.store import Store, card_table
from workbench.store.rows import TrialRow, card_of
from workbench.trial import State
from workbench.user_config import ConfigWatch

WORKER = "tests.support.ticking_worker:TickingWorker"
GIB = 1 << 30
TINY = {
    "model_type": "llama",
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 256,
    "vocab_size": 512,
    "tie_word_embeddings": False,
}
PREPARED = {
    "ok": True,
    "model": {"path": "/m", "revision": None, "config": TINY, "model_type": "llama"},
    "data": {"folder": "/d", "digest": "d", "train_rows": 10, "eval_rows": 2},
    "evaluation_digest": "e",
    "notes": [],
}


def recipe(**changes: Any) -> Recipe:
    """A small valid recipe; `changes` are whole sections."""
    sections: dict[str, Any] = {
        "name": "tiny",
        "model": {"name": "/m"},
        "data": {"train": "/d.jsonl", "max_tokens": 64},
        "train": {"max_steps": 6, "save_every": 2, "log_every": 1, "learning_rate": 0.1},
        "evaluate": {"answer_pattern": "####"},
        **changes,
    }
    return Recipe.model_validate_json(json.dumps(sections))


def cpu_card(index: int, gib: float = 24.0) -> dict[str, Any]:
    return {
        "uuid": f"cpu-{index}",
        "kind": "cpu",
        "name": "CPU card",
        "total_bytes": int(gib * GIB),
        "processes": [],
    }


def gpu_card(index: int, gib: float = 24.0, **changes: Any) -> dict[str, Any]:
    """Return a card as the engine makes it of a sample."""
    return {
        **cpu_card(index, gib),
        "uuid": f"GPU-{index}",
        "kind": "cuda",
        "name": "RTX 3090",
        "capability": "8.6",
        "free_bytes": int(gib * GIB),
        "temperature_c": 60.0,
        "power_w": 100.0,
        "problem": "",
        **changes,
    }


@dataclass
class Bench:
    """A TickContext together with the clock that it reads."""

    context: TickContext
    now: float
    seen: list[dict[str, Any]]

    @property
    def store(self) -> Store:
        return self.context.store

    def submit(self, wanted: Recipe, config: dict[str, Any] | None = None, **data: Any) -> int:
        """An experiment that is prepared already, `data` told of its rows; its id."""
        id = self.store.add_experiment(wanted.model_dump(mode="json"), wanted.rank_by)
        cards = [card_of(row) for row in self.store.cards()]
        model = {**PREPARED["model"], "config": config or TINY}  # type: ignore[dict-item]
        rows = {**PREPARED["data"], **data}  # type: ignore[dict-item]
        prepared = {**PREPARED, "model": model, "data": rows}
        enqueue_trials(self.context, self.store.experiment(id), prepared, cards)
        return id

    def ticks(self, count: int = 1) -> None:
        for _ in range(count):
            self.now += 1.0
            tick(self.context)

    def until(self, state: State, trial: int, limit: int = 100) -> TrialRow:
        """Tick until the trial is there."""
        for _ in range(limit):
            row = self.store.trial(trial)
            if row.state is state:
                return row
            self.ticks()
        raise AssertionError(f"trial {trial} is {row.state} ({row.reason}), not {state}")

    def configure(self, guards: str) -> None:
        """Write the [guards] of the user's configuration."""
        (self.context.home.root / "config.toml").write_text(f"[guards]\n{guards}\n")

    def trials(self) -> list[TrialRow]:
        return self.store.trials()


def make_bench(folder: Path, cards: list[dict[str, Any]], worker: str = WORKER) -> Bench:
    home = Home(folder / "home").make()
    bench: Bench
    store = Store(home.database, clock=lambda: bench.now)
    fleet = InlineFleet(str(home.root), partial(card_table.next_generation, store), worker=worker)
    config = home.root / "config.toml"
    config.write_text('[guards]\nballast = "0"\n')
    context = TickContext(
        home=home,
        config=ConfigWatch(config),
        store=store,
        fleet=fleet,
        preparer=Preparer(home),
        sample=lambda: bench.seen,
    )
    bench = Bench(context, 1_000.0, cards)
    context.refresh()
    return bench

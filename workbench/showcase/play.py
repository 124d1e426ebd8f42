"""The showcase's home: two experiments on four made-up cards, filled and then kept going."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any

from workbench.errors import EngineError
from workbench.fleet.inline_fleet import InlineFleet
from workbench.home import Home
from workbench.machine.history.writer import HistoryWriter
from workbench.machine.locks import Lock
from workbench.recipe import Recipe, find_recipe, load_recipe
from workbench.scheduler import TickContext, tick
from workbench.scheduler.children.preparer import Preparer
from workbench.scheduler.propose_trials import enqueue_trials
from workbench.showcase.cards import CARDS, MadeUpCards
from workbench.showcase.clock import CLOCK
from workbench.store import Store, card_table
from workbench.store.rows import card_of
from workbench.trial import State
from workbench.user_config import ConfigWatch

WORKER = "workbench.showcase.worker:ScriptedWorker"
TICK_S = 0.5
STRIDE_S = 12.0
"""Seconds of history between two ticks while the home is filled."""
HISTORY_S = 3_000.0
SECOND_AT_S = 1_900.0
"""Seconds of history after which the second experiment is submitted."""

LLAMA_8B = {
    "model_type": "llama",
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": False,
}
"""The fields of Llama 3 8B's config.json that decide its bytes."""
SUPPORT = (
    "name=support-grid",
    "data.train=made-up/support",
    "train.max_steps=240",
    "evaluate.every=40",
    "evaluate.answer_pattern='#### (.*)'",
    "sweep={parameters: {train.learning_rate: [5e-5, 2e-4, 2e-3], lora.rank: [8, 32]}, "
    "finals: {top: 2, seeds: 2}}",
)
SCHOOL = (
    "name=school-search",
    "data.train=made-up/school",
    "train.max_steps=400",
    "evaluate.every=50",
    "evaluate.answer_pattern='#### (.*)'",
    "sweep={method: random, trials: 10, seed: 1, "
    "parameters: {train.learning_rate: {min: 3e-5, max: 1e-3, log: true}, lora.rank: [8, 16, 64]}}",
)


class Showcase:
    """The scheduler over a home in which nothing is trained."""

    def __init__(self, home: Home, seed: int = 0) -> None:
        """Make the home; EngineError where another engine holds it."""
        self.home = home.make()
        self._locks = [Lock(home.keeper_lock), Lock(home.loop_lock)]
        if not all(lock.take() for lock in self._locks):
            raise EngineError(f"an engine runs on {home.root}", hint="name an empty folder")
        config = home.root / "config.toml"
        config.write_text('[guards]\nballast = "0"\n')  # no reserve file for a made-up home
        self._cards = MadeUpCards(seed)
        self._history = HistoryWriter(home.card_history)
        self._store = Store(home.database, clock=CLOCK)
        self._context = TickContext(
            home=home,
            config=ConfigWatch(config),
            store=self._store,
            fleet=InlineFleet(
                str(home.root), partial(card_table.next_generation, self._store), worker=WORKER
            ),
            preparer=Preparer(home),
            sample=self._cards,
        )

    def fill(self, history_s: float = HISTORY_S, ended: Callable[[], bool] = lambda: False) -> None:
        """Play `history_s` seconds of history, as long as not `ended`; takes some seconds."""
        self._fill_day(history_s)
        CLOCK.behind_s = history_s
        self._tick()
        self._submit(SUPPORT)
        while CLOCK.behind_s > 0 and not ended():
            CLOCK.behind_s = max(0.0, CLOCK.behind_s - STRIDE_S)
            if CLOCK.behind_s < history_s - SECOND_AT_S and len(self._store.experiments()) < 2:
                self._submit(SCHOOL)
            self._tick()

    def _fill_day(self, until_s: float) -> None:
        """Write the minutes of the day before: two cards trained, with a pause in between."""
        for minute in range(24 * 60, int(until_s // 60), -1):
            pause = minute % 400 < 90
            self._cards.busy = () if pause else [card[0] for card in CARDS[:2]]
            self._history.add(CLOCK() - minute * 60.0, self._cards.readings())

    def play(self, ended: Callable[[float], bool]) -> None:
        """Tick in real time; sweep follows sweep. `ended` waits so many seconds for the end."""
        while not ended(TICK_S):
            self.advance(1)

    def advance(self, ticks: int) -> None:
        """Do what is due, in so many ticks."""
        for _ in range(ticks):
            self.home.tick.touch()
            self._submit_next()
            self._tick()

    def _submit_next(self) -> None:
        """Submit another sweep once nothing waits any more, so that the showcase never runs dry."""
        if any(one.state is State.QUEUED for one in self._store.trials()):
            return
        number = len(self._store.experiments()) + 1
        again = SUPPORT if number % 2 else SCHOOL
        name = again[0].removeprefix("name=")
        self._submit((f"name={name}-{number}", f"train.seed={number}", *again[1:]))

    def close(self) -> None:
        """Close fleet and store, and give the locks back."""
        self._context.preparer.close()
        self._context.fleet.close()
        self._store.close()
        for lock in self._locks:
            lock.release()

    def _tick(self) -> None:
        self._cards.busy = {attempt.card for attempt in self._store.live_attempts()}
        self._history.add(CLOCK(), self._cards.readings())
        tick(self._context)

    def _submit(self, overrides: tuple[str, ...]) -> None:
        """Add an experiment that counts as prepared, because there are no data and no model."""
        recipe: Recipe = load_recipe(find_recipe("llama3-8b-qlora"), overrides)
        wanted = json.loads(recipe.model_dump_json())
        id = self._store.add_experiment(wanted, recipe.rank_by)
        cards = [card_of(row) for row in self._store.cards()]
        enqueue_trials(self._context, self._store.experiment(id), _prepared(), cards)


def _prepared() -> dict[str, Any]:
    return {
        "ok": True,
        "model": {
            "path": "made-up/model",
            "revision": None,
            "config": LLAMA_8B,
            "model_type": "llama",
        },
        "data": {"folder": "made-up", "digest": "d" * 32, "train_rows": 4_800, "eval_rows": 96},
        "evaluation_digest": "e" * 32,
        "notes": [],
    }

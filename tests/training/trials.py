"""Real trials on the demo model, small enough for one core."""

from __future__ import annotations

import atexit
import json
import math
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from workbench.attempts.assignment import Assignment
from workbench.attempts.events import Event, Outcome, read_events
from workbench.footprint import Plan
from workbench.machine.cards import Card
from workbench.recipe import Recipe, shipped_file
from workbench.training import libraries
from workbench.training.control import Control
from workbench.training.memory.card_memory import Meter
from workbench.training.memory.host_memory import MemoryMonitor
from workbench.training.model.base import BaseSpec, ResidentBase
from workbench.training.prepare import prepare_experiment

DEMO_MODEL = "workbench:demo/model"
LAYERS = 1
"""Layers of the model of these trials; the demo's five take three times as long."""
CARD = Card(uuid="cpu-0", kind="cpu", name="stand-in", total_bytes=8 << 30)
SETTINGS: dict[str, Any] = {
    "name": "test",
    "model": {"quantization": "none"},
    "data": {
        "train": "workbench:demo/data/train.jsonl",
        "eval": "workbench:demo/data/eval.jsonl",
        "max_rows": 24,
        "eval_rows": 8,
        "max_tokens": 96,
        "columns": {"question": "prompt", "answer": "completion"},
    },
    "lora": {"rank": 4},
    "train": {"learning_rate": 3e-3, "save_every": 4, "log_every": 2},
}
"""Six steps of four rows an epoch; not quantised unless asked, which is faster on a CPU."""


def _folder_until_exit() -> Path:
    """Return a new folder that is removed when the process ends."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@cache
def shallow_model(layers: int = LAYERS) -> str:
    """Return a folder with the first layers of the demo's model, removed at exit."""
    demo, folder = shipped_file(DEMO_MODEL), _folder_until_exit() / "demo" / "model"
    shutil.copytree(demo, folder)
    weights = load_file(folder / "model.safetensors")
    dropped = tuple(f"model.layers.{layer}." for layer in range(layers, 5))
    kept = {name: tensor for name, tensor in weights.items() if not name.startswith(dropped)}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text()) | {"num_hidden_layers": layers}
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


def merged(left: dict[str, Any], right: dict[str, Any]) -> dict[str, Any]:
    """`left` with the dotted keys of `right` set."""
    made: dict[str, Any] = json.loads(json.dumps(left))
    for key, value in right.items():
        section, _, name = key.rpartition(".")
        (made.setdefault(section, {}) if section else made)[name] = value
    return made


def recipe(**settings: Any) -> Recipe:
    """recipe(train__epochs=2) -> SETTINGS with train.epochs set."""
    dotted = {key.replace("__", "."): value for key, value in settings.items()}
    if dotted.get("train.max_steps") == 1:
        dotted.setdefault("train.warmup", 0)  # the only step of a trial must not be its warm-up
    dotted.setdefault("model.name", shallow_model())
    return Recipe.model_validate(merged(SETTINGS, dotted))


def recipe_of_two_layers(**settings: Any) -> Recipe:
    """Return the recipe for a model in which one layer follows another."""
    return recipe(**{"model__name": shallow_model(2), **settings})


def plan(**changed: Any) -> Plan:
    made = Plan(
        precision="fp32",
        attention="sdpa",
        attention_why="a test",
        optimizer="adamw_torch",
        rows_per_step=4,
        tokens_per_micro=4 * 96,
        longest=96,
        layers=LAYERS,
        predicted_bytes=1 << 30,
    )
    return replace(made, **changed)


_prepared: dict[str, Path] = {}
"""Homes with experiments on the demo's rows as they were prepared, by the text of their recipe."""


def _prepare(home: Path, recipe: Recipe) -> None:
    """Prepare experiment 1 of `home`; what is made of the demo's files alone is made once."""
    text, folder = recipe.model_dump_json(), home / "experiments" / "1"
    demo = recipe.model.name.endswith("demo/model") and not recipe.evaluate.scorer
    rows = [SETTINGS["data"]["train"], SETTINGS["data"]["eval"]]
    if demo and [recipe.data.train, recipe.data.eval] == rows and not folder.exists():
        if text not in _prepared:
            made = _folder_until_exit()
            _prepare_here(made / "experiments" / "1", text)
            _prepared[text] = made
        shutil.copytree(_prepared[text], home, dirs_exist_ok=True)
        result = folder / "prepared.json"
        result.write_text(result.read_text().replace(str(_prepared[text]), str(home)))
    else:
        _prepare_here(folder, text)


def _prepare_here(folder: Path, text: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.json").write_text(text, encoding="utf-8")
    prepare_experiment(folder, folder.parents[1] / "cache" / "data", lambda *_: None)


_base = ResidentBase()
"""The base that one attempt leaves to the next, as in a worker."""


@dataclass
class Bench:
    """A home with one prepared experiment and one trial; each call of `run` is its next attempt."""

    home: Path
    recipe: Recipe
    plan: Plan = field(default_factory=plan)
    kind: str = "tune"
    card: Card = CARD
    attempts: int = 0
    number: int = 1
    """The trial's id, which names its folder."""

    def __post_init__(self) -> None:
        _prepare(self.home, self.recipe)

    @property
    def trial(self) -> Path:
        return self.home / "trials" / str(self.number)

    @property
    def checkpoints(self) -> Path:
        return self.trial / "checkpoints"

    def assignment(self, **changed: Any) -> Assignment:
        self.attempts += 1
        return Assignment(
            attempt=self.attempts,
            trial=self.number,
            experiment=1,
            kind=self.kind,
            recipe=self.recipe.model_dump(mode="json"),
            card=self.card.to_json(),
            plan=self.plan.to_json(),
            folder=str(self.home / "attempts" / str(self.attempts)),
            trial_folder=str(self.trial),
            experiment_folder=str(self.home / "experiments" / "1"),
            **changed,
        )

    def run(
        self,
        resident: ResidentBase | None = None,
        on: Callable[[str, dict[str, Any], Control], None] = lambda *_: None,
        rehearse: bool | None = None,
        host: Callable[[Any, Control, Path], MemoryMonitor] = MemoryMonitor,
        **changed: Any,
    ) -> Log:
        """Run one attempt; `on` sees every event as it comes and may ask for a halt.

        Without a `resident` an attempt on a CPU takes the base that the one before left, where it
        is the same. `ResidentBase()` loads a fresh one.
        """
        from workbench.training.trial_run import run_attempt

        libraries.import_libraries(threads=1)
        log, control = Log(), Control()

        def emit(kind: str, *, durable: bool = False, **data: Any) -> None:
            log.events.append((kind, json.loads(json.dumps(data))))
            on(kind, data, control)

        log.outcome = run_attempt(
            self.assignment(**changed),
            resident=resident or (_base if self.card.kind == "cpu" else ResidentBase()),
            meter=Meter(self.card),
            emit=emit,
            control=control,
            rehearse=rehearse,
            host=host(emit, control, self.home),
        )
        return log


@dataclass
class Log:
    """The events of one attempt."""

    events: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    outcome: Outcome | None = None

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [data for told, data in self.events if told == kind]

    @property
    def end(self) -> dict[str, Any]:
        return self.of("end")[-1]

    @property
    def losses(self) -> dict[int, tuple[float, float]]:
        """Training loss and gradient norm by step; NaN where the step was skipped."""
        rows = [row for row in self.of("metric") if "loss" in row["values"]]
        norms = [row["values"].get("grad_norm", math.nan) for row in rows]
        return {row["step"]: (row["values"]["loss"], n) for row, n in zip(rows, norms, strict=True)}

    @property
    def scores(self) -> dict[str, float]:
        values: dict[str, float] = self.of("score")[-1]["values"]
        return values


def halt_at(step: int, how: Any) -> Callable[[str, dict[str, Any], Control], None]:
    """Return a callback for Bench.run that asks for a halt at the metric row of `step`."""

    def on(kind: str, data: dict[str, Any], control: Control) -> None:
        if kind == "metric" and data["step"] == step:
            control.request_halt(how)

    return on


def spec(**changed: Any) -> BaseSpec:
    made = BaseSpec(
        path=shallow_model(),
        revision=None,
        quantization="none",
        double_quantization=True,
        precision="fp32",
        attention="sdpa",
        device="cpu",
    )
    return replace(made, **changed)


def events_of(folder: Path) -> list[Event]:
    """Return a worker's events; a bad line fails the test."""
    found, _ = read_events(folder / "events.jsonl", 0)
    assert all(isinstance(event, Event) for event in found), found
    return [event for event in found if isinstance(event, Event)]

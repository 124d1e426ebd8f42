"""One trial in the foreground: `python -m workbench.training.foreground FOLDER`.

FOLDER holds recipe.json, and warm.json where the trial starts from another adapter. It receives
everything else: the prepared rows, checkpoints, the adapter.
A second run on the same folder resumes from its newest checkpoint. Events are printed line by line.
"""

from __future__ import annotations

import os
import signal
import sys

if __name__ == "__main__":  # ctrl-c while the imports below run would print a traceback
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))

import json
from pathlib import Path
from typing import Any, TextIO

from workbench.attempts.assignment import Assignment
from workbench.attempts.events import Outcome
from workbench.errors import WorkbenchError
from workbench.footprint import NO_HISTORY, History, Plan, plan_trial
from workbench.footprint.measured_peaks import factors_from_json
from workbench.footprint.oom_fallback import hardware_key
from workbench.footprint.plan import describe_plan
from workbench.footprint.row_lengths import lengths_of
from workbench.home import find_home
from workbench.machine.cards import Card
from workbench.machine.files import write_durably
from workbench.recipe import Recipe
from workbench.text import safe_line, safe_text
from workbench.text.quantities import number, size, steps, time_left_phrase
from workbench.training import interrupts, libraries
from workbench.training.control import Control
from workbench.training.foreground_card import choose_card
from workbench.training.prepare import prepare_experiment

CONTINUES = "the same command with --out {folder} continues"


def main(arguments: list[str] | None = None) -> int:
    """Train the folder's trial; return 0 when done, 1 when failed, 130 when interrupted."""
    os.umask(0o077)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    words = arguments or sys.argv[1:]
    folder, as_json = Path(words[0]).absolute(), "--json" in words
    named = next((word.removeprefix("--card=") for word in words if word.startswith("--card=")), "")
    try:
        libraries.silence_loggers()
        return train_here(folder, as_json=as_json, named_card=named or None)
    except KeyboardInterrupt:
        print(f"interrupted; {CONTINUES.format(folder=folder)}", file=sys.stderr)
        return interrupts.EXIT_CODE
    except WorkbenchError as refused:
        print(f"error: {refused.what}", file=sys.stderr)
        if refused.hint:
            print(f"  → {refused.hint}", file=sys.stderr)
        return refused.exit_code


def train_here(folder: Path, *, as_json: bool = False, named_card: str | None = None) -> int:
    """Prepare the rows, plan for the card with the most free memory, train; return the exit code.

    `named_card` is the uuid of the card to take instead, or its beginning.

    With `as_json` stdout has one JSON object for each event of the attempt, and nothing else.

    Ctrl-c ends the training at its next step boundary, with a checkpoint; before the first step it
    raises KeyboardInterrupt.
    """
    out = sys.stderr if as_json else sys.stdout
    recipe = Recipe.model_validate_json((folder / "recipe.json").read_bytes())
    control = Control()
    chosen = choose_card(os.environ, find_home(), named_card)  # before the rows, which take longer
    card = chosen.card
    if chosen.holder is not None:
        shared = f"card {card.uuid} is used by process {chosen.holder}, and shared with it"
        print(shared, file=sys.stderr, flush=True)
    if card.kind == "cuda":  # before torch is imported
        os.environ["CUDA_VISIBLE_DEVICES"] = card.uuid
    warm = _warm_source(folder, recipe)
    experiment = folder / "experiments" / "1"
    experiment.mkdir(parents=True, exist_ok=True)
    (experiment / "recipe.json").write_text(recipe.model_dump_json())
    prepared = prepare_experiment(experiment, folder / "cache" / "data", lambda *_: None)
    for note in prepared.get("notes", []):
        print(f"data: {safe_line(note)}", file=out, flush=True)
    plan = _plan_here(folder, recipe, prepared, card, chosen.free_bytes)
    _print_plan(card, plan, out)
    begins = f"training in {safe_line(folder)}; ctrl-c checkpoints and ends it"
    print(begins, file=sys.stderr, flush=True)

    from workbench.training.trial_run import run_foreground  # seconds: torch, transformers, trl

    number = 1 + len(list((folder / "attempts").glob("*")))
    given = Assignment(
        attempt=number,
        trial=1,
        experiment=1,
        kind="tune",
        recipe=recipe.model_dump(mode="json"),
        card=card.to_json(),
        plan=plan.to_json(),
        folder=str(folder / "attempts" / str(number)),
        trial_folder=str(folder),
        experiment_folder=str(experiment),
        warm=warm,
    )
    with interrupts.checkpointing(control):
        outcome = run_foreground(given, _print_json if as_json else _print_event, control)
    return _exit_code(outcome, folder, out)


def _warm_source(folder: Path, recipe: Recipe) -> dict[str, Any] | None:
    """Return the adapter that the trial starts from, as an assignment names it; None without one.

    It is checked before the rows are prepared, which may take minutes. A trial that continues from
    a checkpoint no longer needs it. Raises the errors of `check_adapter`.
    """
    file = folder / "warm.json"
    if not file.exists():
        return None
    source: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    if not any((folder / "checkpoints").glob("step-*")):
        from workbench.training.model.warm_start import check_adapter  # seconds: torch and PEFT

        check_adapter(source, recipe)
    return source


def _plan_here(
    folder: Path,
    recipe: Recipe,
    prepared: dict[str, Any],
    card: Card,
    free_bytes: int | None = None,
) -> Plan:
    """Return the trial's plan on the card, as the engine would make it, and keep it in plan.json.

    A run that goes on from a checkpoint on the same kind of card keeps its micro-steps, on which
    dropout's masks depend.
    """
    factors, kept = folder / "factors.json", folder / "plan.json"
    history = NO_HISTORY
    if factors.exists():
        history = History(factors=factors_from_json(json.loads(factors.read_text())))
    previous = None
    if kept.exists() and any((folder / "checkpoints").glob("*")):
        stored = json.loads(kept.read_text())
        if hardware_key(Card.from_json(stored["card"])) == hardware_key(card):
            previous = Plan.from_json(stored["plan"]).tokens_per_micro
    plan = plan_trial(
        recipe,
        prepared["model"]["config"],
        card,
        free_bytes=free_bytes,
        lengths=lengths_of(prepared["data"]),
        history=history,
        previous_tokens_per_micro=previous,
    )
    write_durably(kept, json.dumps({"card": card.to_json(), "plan": plan.to_json()}).encode())
    return plan


def _exit_code(outcome: Outcome, folder: Path, out: TextIO) -> int:
    if outcome is Outcome.YIELDED:
        print(f"stopped; {CONTINUES.format(folder=folder)}", file=out, flush=True)
        return interrupts.EXIT_CODE
    return 0 if outcome is Outcome.DONE else 1


def _print_plan(card: Card, plan: Plan, out: TextIO) -> None:
    print(f"card  {card.uuid} {card.name}, {size(card.usable_bytes)}", file=out)
    words = describe_plan(plan.to_json())
    print(
        f"plan  {words['step']}, {words['micro-step']}, {plan.precision}, {plan.optimizer}",
        file=out,
    )
    print(f"      recompute: {words['recompute']}; kept in 16 bits: {words['unpacked']}", file=out)
    print(f"      {plan.attention_why}", file=out)
    print(f"      {size(plan.predicted_bytes)} predicted", file=out, flush=True)


def _print_json(kind: str, data: dict[str, Any]) -> None:
    print(json.dumps({"event": kind, **data}, default=str), flush=True)


def _print_event(kind: str, data: dict[str, Any]) -> None:
    line = _line(kind, data)
    if line:
        print(line, flush=True)


def _line(kind: str, data: dict[str, Any]) -> str:
    """Return an event as a line for people; empty for events that only programs need."""
    if kind == "metric":
        step = steps(data["step"], data.get("steps"))
        return f"step {step:>9}  {_values(data['values'])}{_left(data)}"
    if kind == "rows":
        return f"-- {data['done']} of {data['rows']} held-out rows{_left(data)}"
    if kind == "phase":
        return f"-- {data['name']} {data.get('detail') or ''}".rstrip()
    if kind == "log" and data["level"] != "debug":
        return f"{data['level']}: {safe_text(data['text'])}"
    if kind == "checkpoint":
        return f"checkpoint at step {data['step']}"
    if kind == "score":
        return f"scores  {_values(data['values'])}"
    if kind == "sample":
        verdict = "right" if data["right"] else "wrong"
        return f"sample, {verdict}: {safe_line(data['question'])} → {safe_line(data['answer'])}"
    if kind == "adapter":
        return f"adapter {data['path']}"
    if kind == "end" and data["outcome"] != Outcome.DONE:
        return f"{data['outcome']}: {data['reason']}\n  → {data['hint']}"
    return ""


def _left(data: dict[str, Any]) -> str:
    """Return `  ~3 min left`; empty for an event without an estimate."""
    seconds = data.get("seconds_left")
    return "" if seconds is None else f"  {time_left_phrase(seconds)}"


def _values(values: dict[str, float]) -> str:
    return "  ".join(
        f"{name.removesuffix('_bytes')} {size(int(value))}"
        if name.endswith("_bytes")
        else f"{name} {number(value)}"
        for name, value in values.items()
    )


if __name__ == "__main__":
    sys.exit(main())

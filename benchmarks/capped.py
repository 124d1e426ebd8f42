"""Plans of an 8B shape on a capped card, each trained for 20 steps through the real trainer.

    python benchmarks/capped.py [--caps 12 16 24] [--tokens 512 2048 8192] [--out FILE]
    python benchmarks/capped.py --rehearse     (a tiny model on a CPU card)

The card is capped by WORKBENCH_CARDS, for planner and worker alike. Each run prepares its rows (the
longest has exactly that many tokens), plans, trains with an evaluation and a checkpoint in between,
scores and leaves its adapter. Each cap has a process of its own, because a process keeps its
cap; the base stays resident between its runs. The plan, predicted and measured bytes are printed
and written. The exit code is 1 where a run that was planned did not end well.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")  # as a worker has it

from workbench.attempts.assignment import Assignment
from workbench.attempts.events import Outcome
from workbench.errors import DoesNotFit
from workbench.footprint import Plan, plan_trial
from workbench.footprint.row_lengths import lengths_of
from workbench.machine.cards import CARDS_VARIABLE, Card, detect_cards
from workbench.recipe.schema import Recipe

GIB = 1 << 30
ROWS = 64


def main() -> int:
    options = parse()
    if options.cap is not None:
        return child(options)
    model = options.model
    began = time.perf_counter()
    shape = "tiny" if options.rehearse else options.shape
    writes = f"from nf4_model import *; write_shaped_model(Path({str(model)!r}), {shape!r}, {{}})"
    device = "cpu" if options.rehearse else "cuda"
    script = writes.format(repr(device))
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).parent)
    print(f"model written in {time.perf_counter() - began:.0f} s", flush=True)
    rows: list[dict[str, Any]] = []
    for cap in options.caps:
        told = options.out.with_suffix(f".{cap:g}.json")
        told.parent.mkdir(parents=True, exist_ok=True)
        told.unlink(missing_ok=True)
        subprocess.run([sys.executable, *sys.argv, "--cap", str(cap)], check=False)
        if told.exists():
            rows += json.loads(told.read_text())
            told.unlink()
        else:
            rows.append({"cap_gib": cap, "outcome": "died"})
        options.out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    bad = [row for row in rows if row["outcome"] not in ("done", "does not fit")]
    print(
        f"{len(rows)} runs, {len(bad)} of them not as planned; {time.perf_counter() - began:.0f} s"
    )
    return 1 if bad else 0


def child(options: argparse.Namespace) -> int:
    """Make all runs on a card of one cap."""
    card = the_card(options.cap, rehearse=options.rehearse)
    if card.kind == "cuda":  # before torch is imported, as a worker does
        os.environ["CUDA_VISIBLE_DEVICES"] = card.uuid

    from workbench.training import libraries
    from workbench.training.memory.card_memory import Meter
    from workbench.training.model.base import ResidentBase

    libraries.import_libraries(threads=2 if card.kind == "cpu" else None)
    meter, resident = Meter(card), ResidentBase()
    rows = []
    for tokens in options.tokens:
        tokens = tokens // 8 if options.rehearse else tokens
        rows.append(one(options, card, tokens, resident, meter))
        print(line(rows[-1]), flush=True)
        options.out.with_suffix(f".{options.cap:g}.json").write_text(json.dumps(rows))
    return 0


def one(
    options: argparse.Namespace, card: Card, tokens: int, resident: Any, meter: Any
) -> dict[str, Any]:
    from workbench.training.control import Control
    from workbench.training.trial_run import run_attempt

    home = Path(tempfile.mkdtemp(prefix="wb-capped-"))
    recipe = recipe_of(options, home, tokens)
    prepared = prepare(home, recipe)
    data = prepared["data"]
    told: dict[str, Any] = {
        "cap_gib": options.cap, "tokens": tokens, "card": card.name, "mean": data["mean_length"],
        "longest": data["max_length"],
    }  # fmt: skip
    try:
        plan = plan_trial(
            recipe, prepared["model"]["config"], card,
            lengths=lengths_of(data),
        )  # fmt: skip
    except DoesNotFit as refused:
        return {**told, "outcome": "does not fit", "reason": refused.what, "hint": refused.hint}
    given = assigned(home, 1, recipe, card, plan)
    events: list[tuple[str, dict[str, Any]]] = []

    def emit(kind: str, *, durable: bool = False, **data: Any) -> None:
        events.append((kind, data))

    began = time.perf_counter()
    outcome = run_attempt(given, resident=resident, meter=meter, emit=emit, control=Control())
    end = next(data for kind, data in events if kind == "end")
    metrics = [data["values"] for kind, data in events if kind == "metric"]
    return {
        **told,
        "outcome": "done" if outcome is Outcome.DONE else outcome.value,
        "reason": end["reason"],
        "seconds": round(time.perf_counter() - began, 1),
        "predicted_bytes": plan.predicted_bytes,
        "measured_bytes": meter.peak_bytes(),
        "context_bytes": meter.context_bytes,
        "tokens_per_s": max((m["tokens_per_s"] for m in metrics if "tokens_per_s" in m), default=0),
        "steps": end["step"],
        "checkpoints": sum(kind == "checkpoint" for kind, _ in events),
        "evaluations": sum("eval_loss" in values for values in metrics),
        "warnings": [data["text"] for kind, data in events if kind == "log"],
        "plan": plan.to_json(),
    }


def prepare(home: Path, recipe: Recipe) -> dict[str, Any]:
    """Prepare the recipe as the home's first experiment, and return the preparation's report."""
    from workbench.training.prepare import prepare_experiment

    experiment = home / "experiments" / "1"
    experiment.mkdir(parents=True, exist_ok=True)
    (experiment / "recipe.json").write_text(recipe.model_dump_json())
    return prepare_experiment(experiment, home / "cache" / "data", lambda *_: None)


def assigned(home: Path, trial: int, recipe: Recipe, card: Card, plan: Plan) -> Assignment:
    """Return the assignment of the first attempt of a trial of that experiment."""
    folder = home / "attempts" / str(trial)
    folder.mkdir(parents=True)
    return Assignment(
        attempt=trial, trial=trial, experiment=1, kind="tune",
        recipe=recipe.model_dump(mode="json"), card=card.to_json(), plan=plan.to_json(),
        folder=str(folder), trial_folder=str(home / "trials" / str(trial)),
        experiment_folder=str(home / "experiments" / "1"),
    )  # fmt: skip


def the_card(cap_gib: float, *, rehearse: bool) -> Card:
    if rehearse:
        return detect_cards({CARDS_VARIABLE: f"cpu:{cap_gib:g}GiB"})[0]
    whole = max(detect_cards(os.environ), key=lambda card: card.total_bytes)
    wish = {**os.environ, CARDS_VARIABLE: f"{whole.uuid}={cap_gib:g}GiB"}
    return next(card for card in detect_cards(wish) if card.uuid == whole.uuid)


def recipe_of(options: argparse.Namespace, home: Path, tokens: int) -> Recipe:
    data = home / "rows.jsonl"
    write_rows(options.model, data, tokens)
    steps = 4 if options.rehearse else 20
    return Recipe.model_validate(
        {
            "name": "capped",
            "model": {"name": str(options.model)},
            "data": {
                "train": str(data), "max_tokens": tokens, "eval_rows": 8, "loss_on": "all",
                "chat_template": "never",
            },
            "train": {
                "batch_size": 1 if tokens >= 8_192 else 4, "max_steps": steps, "epochs": 9,
                "log_every": 5, "save_every": steps // 2,
            },
            "evaluate": {
                "every": steps // 2, "answer_pattern": "#### (\\d+)", "max_new_tokens": 16,
            },
        }
    )  # fmt: skip


def write_rows(model: Path, file: Path, tokens: int) -> None:
    """Write rows of a prompt and an answer, from half of `tokens` to exactly as many tokens."""
    from workbench.training.model.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(str(model), None)
    with file.open("w", encoding="utf-8") as out:
        for row in range(ROWS):
            wanted = tokens - 16 if row % 4 == 0 else tokens // 2 + (row * 7919) % (tokens // 2)
            words = [f"row {row}:"]
            each = len(tokenizer(" cat sat", add_special_tokens=False)["input_ids"])
            words += [" cat sat"] * max(1, (wanted - 32) // each)
            answer = {"prompt": "".join(words), "completion": f" it is #### {row}"}
            out.write(json.dumps(answer) + "\n")


def line(told: dict[str, Any]) -> str:
    head = f"{told['cap_gib']:g} GiB, {told['tokens']:,} tokens (longest {told['longest']}): "
    if "plan" not in told:
        return head + f"{told['outcome']}: {told.get('reason', '')} → {told.get('hint', '')}"
    plan, measured = told["plan"], told["measured_bytes"]
    return (
        f"{head}{told['outcome']} {told['reason']} predicted {told['predicted_bytes'] / GIB:.2f} "
        f"measured {measured / GIB:.2f} GiB ({told['predicted_bytes'] / measured - 1:+.1%}); "
        f"{plan['tokens_per_micro']:,} tokens x {plan['micro_steps']}, {plan['recompute_layers']} "
        f"recompute, {plan['resident_layers']} unpacked, {plan['optimizer']}, evaluation "
        f"{plan['eval_batch']}; {told['tokens_per_s']:,.0f} tokens/s, {told['steps']} steps, "
        f"{told['checkpoints']} checkpoints, {told['evaluations']} evaluations, "
        f"{told['seconds']} s, {len(told['warnings'])} notes"
    )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--caps", type=float, nargs="*", default=[12, 16, 24], help="GiB")
    parser.add_argument("--tokens", type=int, nargs="*", default=[512, 2048, 8192])
    parser.add_argument("--shape", default="8b")
    parser.add_argument("--model", type=Path, default=Path("/tmp/shaped-llama-3-8b"))
    parser.add_argument("--cap", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--rehearse", action="store_true", help="a tiny model on a CPU card")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/capped-h200.json"))
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

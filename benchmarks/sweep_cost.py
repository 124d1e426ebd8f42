"""Measure what a sweep costs beside its training steps, on every card of this machine.

    python benchmarks/sweep_cost.py --data train.jsonl --build after [--shape 8b]
    python benchmarks/sweep_cost.py --data train.jsonl --build before --trials 2 --answers 32
    python benchmarks/sweep_cost.py --build after --shape demo --trials 3 --steps 8 --answers 8

The sweep is 8 trials of 60 steps, each with a held-out loss and 200 answers of 128 tokens, through
the whole engine with the default recipe. Printed as they become known, and written:

    seconds         from the first trial's start to the last one's end, the base's score included
    share_of_ideal  time of the training steps alone, as a share of `seconds` on all cards
    fixed_s         cost of a trial on a warm worker after a trial with the same settings: all but
                    its training steps and its scoring, from the end of the one before (median)
    kill_s          from `kill -9` of a worker to the next step of its trial, with a spare that
                    stands ready; kill_without_spare_s before one is (medians of --kills)
    run_s           from `workbench run` with the engine stopped to the first step, where a trial
                    with the same rows and another learning rate ran before

Times come from the events of the attempts. A trial's training steps alone are its tokens at its
median rate, so that captures and compiling count as fixed cost. With fewer trials, steps or answers
`seconds` and `share_of_ideal` are scaled to the whole sweep; `measured` then has what was measured.

Rows replace those of the same build, shape and number of cards in `--out`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cards_lab import Lab, events_of, lab, print_timeline, shaped_model, training_rows, wait

from workbench.fleet import Fleet
from workbench.machine.processes import identify_process
from workbench.store.rows import AttemptRow

TRIALS, STEPS, ANSWERS = 8, 60, 200
"""The whole sweep."""
NEW_TOKENS = 128
OUT = Path(__file__).parent / "results" / "sweep-cost.json"


@dataclass(frozen=True)
class Cost:
    """The seconds that one attempt took on its card."""

    trial: int
    trains: bool
    card: str
    start_s: float
    """Its worker's first event, seconds since the epoch."""
    end_s: float
    steps_s: float
    """Its training steps alone."""
    scoring_s: float
    """Its phases of evaluating."""
    captures: str
    """The time and number of its captures of CUDA graphs, in words."""


def main() -> int:
    options = _options()
    model = shaped_model(options.shape)
    row: dict[str, Any] = {"build": options.build, "shape": options.shape}
    with lab(model, training_rows(options.data)) as here:
        found = here.service.snapshot().cards
        cards = [card.uuid for card in found]
        row |= {"cards": len(cards), "card": found[0].name}
        print(f"{len(cards)} cards: {found[0].name}", flush=True)
        if "sweep" in options.only:
            row |= measure_sweep(here, cards, options)
            _keep(row, options.out)
        if "kill" in options.only:
            row |= measure_kills(here, options.kills)
            _keep(row, options.out)
        if "run" in options.only:
            row["run_s"] = measure_run(here)
            _keep(row, options.out)
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--build", required=True, help="what is measured: before, after, …")
    parser.add_argument("--data", type=Path, help="GSM8K's train.jsonl; the demo's rows without")
    parser.add_argument("--shape", default="8b", help="`8b`, `1b`, …, or `demo`: the shipped model")
    parser.add_argument("--trials", type=int, default=TRIALS)
    parser.add_argument("--steps", type=int, default=STEPS, help="optimizer steps of each trial")
    parser.add_argument("--answers", type=int, default=ANSWERS, help="held-out rows")
    parser.add_argument("--kills", type=int, default=1, help="workers killed with a spare")
    parser.add_argument("--only", default="sweep,kill,run", help="the parts to measure")
    parser.add_argument("--out", type=Path, default=OUT)
    return parser.parse_args()


def measure_sweep(lab: Lab, cards: list[str], options: argparse.Namespace) -> dict[str, Any]:
    """Run the sweep and return the figures of its row."""
    began = time.monotonic()
    evaluate = rf"answer_pattern: '#### (\S+)', max_new_tokens: {NEW_TOKENS}, rank_by: loss"
    lab.submit("sweep", options.trials, options.steps, held_out=options.answers, evaluate=evaluate)
    print(f"prepared after {time.monotonic() - began:.1f} s", flush=True)
    ids = [one.id for one in lab.service.trials(lab.newest)]
    _print_ends(lab, ids)
    took = time.monotonic() - began
    print(f"submitted → all done: {took:.1f} s", flush=True)
    print_timeline(lab.spans(ids))
    costs = [cost_of(lab, one) for one in lab.attempts(ids)]
    figures = summarise(costs, len(cards), options)
    return {**figures, "from_submit_s": round(took, 1)}


def _print_ends(lab: Lab, ids: list[int], limit_s: float = 3600) -> None:
    """Print each trial's end as it comes, until all have ended."""
    began, left = time.monotonic(), set(ids)

    def all_ended() -> bool:
        for id in sorted(left):
            if (trial := lab.trial(id)).state.final:
                left.discard(id)
                words = f"trial {id} ({trial.kind}) {trial.state} {trial.reason or ''}"
                print(f"{time.monotonic() - began:7.1f} s  {words}", flush=True)
        return not left

    wait(all_ended, "the trials' end", limit_s)
    lab.finish(ids)


def cost_of(lab: Lab, attempt: AttemptRow) -> Cost:
    """Return what an attempt that has ended took, by its events."""
    span = next(one for one in lab.spans([attempt.trial]) if one.card == attempt.card)
    events = events_of(lab.service.home, attempt)
    metrics = [e["values"] for e in events if e["kind"] == "metric"]
    logged = [e["text"] for e in events if e["kind"] == "log"]
    windows = [one for one in metrics if "tokens_per_s" in one]  # one step each: log_every is 1
    tokens = sum(one["tokens_per_s"] * one["step_s"] for one in windows)
    rate = statistics.median([one["tokens_per_s"] for one in windows]) if windows else 1.0
    return Cost(
        trial=attempt.trial,
        trains=bool(windows),
        card=span.card,
        start_s=span.start_s,
        end_s=span.end_s,
        steps_s=tokens / rate,
        scoring_s=sum(seconds for name, seconds in span.phases if name == "evaluating"),
        captures=next((text for text in logged if "CUDA graphs captured" in text), ""),
    )


def summarise(costs: list[Cost], cards: int, options: argparse.Namespace) -> dict[str, Any]:
    """Return the row's figures, scaled to the whole sweep where this was a shorter one."""
    fixed = fixed_seconds(costs)
    for one in costs:
        words = f"fixed {fixed[one.trial]:.2f} s" if one.trial in fixed else "not after a trial"
        steps = f"steps {one.steps_s:.2f} s, scoring {one.scoring_s:.2f} s, {words}"
        print(f"      trial {one.trial:>3}: {steps}; {one.captures}", flush=True)
    fixed_s = statistics.median(fixed.values()) if fixed else None
    size = {"trials": options.trials, "steps": options.steps, "answers": options.answers}
    seconds = max(one.end_s for one in costs) - min(one.start_s for one in costs)
    ideal = sum(one.steps_s for one in costs)
    measured = {}
    if size != {"trials": TRIALS, "steps": STEPS, "answers": ANSWERS} and fixed_s is not None:
        measured = {"measured": {**size, "seconds": round(seconds, 1)}}
        seconds, ideal = scaled(costs, fixed_s, cards, options)
    return {
        "seconds": round(seconds, 1),
        "share_of_ideal": round(ideal / seconds / cards, 3),
        "fixed_s": fixed_s and round(fixed_s, 2),
        "steps_s": round(ideal, 2),
        "scoring_s": round(statistics.mean(one.scoring_s for one in costs if one.trains), 2),
        **measured,
    }


def fixed_seconds(costs: list[Cost]) -> dict[int, float]:
    """Return the fixed seconds of each trial that came after another one on its card.

    They begin with the end of the trial before; one that came after the base's score loads nothing
    either, but may capture.
    """
    found = {}
    for card in {one.card for one in costs}:
        mine = sorted((one for one in costs if one.card == card), key=lambda one: one.start_s)
        for before, one in itertools.pairwise(mine):
            if before.trains and one.trains:
                found[one.trial] = one.end_s - before.end_s - one.steps_s - one.scoring_s
    return found


def scaled(
    costs: list[Cost], fixed_s: float, cards: int, options: argparse.Namespace
) -> tuple[float, float]:
    """Return seconds and ideal seconds of the whole sweep, from those of a shorter one.

    Steps and scoring grow with their numbers. What the first attempts took beside both, the load of
    the base, is counted once for each card, and `fixed_s` for every trial.
    """
    steps, rows = STEPS / options.steps, ANSWERS / options.answers
    tuned = [one for one in costs if one.trains]
    ideal = TRIALS * steps * statistics.mean(one.steps_s for one in tuned)
    scoring = rows * statistics.mean(one.scoring_s for one in tuned)
    base = rows * sum(one.scoring_s for one in costs if not one.trains)
    first = min(costs, key=lambda one: one.start_s)
    loading = first.end_s - first.start_s - first.steps_s - first.scoring_s
    busy = ideal + base + TRIALS * (scoring + fixed_s)
    return loading + busy / cards, ideal


def measure_kills(lab: Lab, kills: int) -> dict[str, float]:
    """Return the seconds from the end of a worker by SIGKILL to its trial's next step.

    Each kill with a spare is followed by one before another spare is ready.
    """
    [trial] = lab.submit("killed", 1, 100_000, save=5)
    took: dict[str, list[float]] = {"kill_s": [], "kill_without_spare_s": []}
    for _ in range(kills):
        for name in took if hasattr(Fleet, "keep_spare") else ["kill_without_spare_s"]:
            wait(lambda: (a := lab.live(trial)) and a.checkpoint_step and a.loss, "a checkpoint")
            if name == "kill_s":
                wait(lambda: _spare_is_ready(lab, trial), "a spare worker")
            victim, began = lab.kill_worker(trial), time.monotonic()
            lab.wait_for_resume(victim)
            took[name].append(time.monotonic() - began)
            print(f"killed → training again, {name}: {took[name][-1]:.1f} s", flush=True)
    lab.kill([trial])
    return {name: round(statistics.median(each), 1) for name, each in took.items() if each}


def _spare_is_ready(lab: Lab, trial: int) -> bool:
    """Return True while the spare that was ready last is no worker yet."""
    running = lab.live(trial)
    log = (lab.service.home.logs / "loop.log").read_text(errors="replace")
    pids = re.findall(r"a spare worker stands ready: process (\d+)", log)
    used = running is not None and pids and int(pids[-1]) == running.pid
    return bool(pids) and not used and identify_process(int(pids[-1])) is not None


def measure_run(lab: Lab) -> float:
    """Return the seconds from `workbench run`, with the engine stopped, to the first step."""
    lab.finish(lab.submit("before", 1, 2))
    lab.service.stop_engine()
    lab.service.wait_for_engine(running=False, timeout_s=120)
    recipe = lab.write_recipe("again", 1, 2, sweep="  parameters: {train.learning_rate: [1.0e-4]}")
    known = {one.id for one in lab.service.snapshot().trials}
    env = {**os.environ, "WORKBENCH_HOME": str(lab.service.home.root)}
    command = [sys.executable, "-m", "workbench", "run", str(recipe), "--start"]
    began, began_utc = time.monotonic(), time.time()
    subprocess.run(command, env=env, check=True)
    print(f"submitted after {time.monotonic() - began:.1f} s", flush=True)

    def stepped() -> bool:
        new = [one.id for one in lab.service.snapshot().trials if one.id not in known]
        return any(attempt.loss is not None for attempt in lab.attempts(new))

    wait(stepped, "the first step", 400)
    took = time.monotonic() - began
    for words, at_utc in _first_events(lab, known):
        print(f"{at_utc - began_utc:7.1f} s  {words}", flush=True)
    print(f"`workbench run`, engine stopped → first step: {took:.1f} s", flush=True)
    return round(took, 1)


def _first_events(lab: Lab, known: set[int]) -> list[tuple[str, float]]:
    """Return what the first attempt of the trials that are not known did until its first step."""
    trials = lab.service.snapshot().trials
    attempt = lab.attempts([one.id for one in trials if one.id not in known])[0]
    told = [("sent to a worker", attempt.started_utc)]
    events = events_of(lab.service.home, attempt)
    for event in (one for one in events if one["kind"] != "log"):
        told.append((event.get("name") or event["kind"], event["t"]))
        if event["kind"] == "metric":
            break
    return told


def _keep(row: dict[str, Any], out: Path) -> None:
    """Print the row, and write it in place of an earlier one of the same build, shape and cards."""
    print(json.dumps(row), flush=True)
    rows = json.loads(out.read_text()) if out.exists() else []
    names = ("build", "shape", "cards")
    others = [one for one in rows if any(one[name] != row[name] for name in names)]
    out.write_text("[\n" + ",\n".join(map(json.dumps, [*others, row])) + "\n]\n")


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    sys.exit(main())

"""Run one QLoRA trial of a Llama-3-8B-shaped model through the whole engine on one card.

    python benchmarks/llama8b.py --data train.jsonl [--steps 50] [--shape llama-3-8b]
    python benchmarks/llama8b.py --data train.jsonl --rates 3e-5 1e-4 3e-4   (a sweep, its board)
        [--evaluate test.jsonl]   (then all its adapters on 256 other rows, on one loaded base)

It writes the model (random weights), runs the recipe with the guide's settings, prints the losses,
the predicted and the measured peak, tokens/s and the time of each phase, and loads the adapter in
plain PEFT. It exits with 1 when the trial is not done or its loss is not finite or does not fall.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from cards_lab import Lab, print_timeline
from nf4_model import write_shaped_model

from workbench.home import Home
from workbench.recipe import load_recipe
from workbench.service import Service

RECIPE = """
name: llama8b
model: {{name: {model}}}
data:
  train: {data}
  columns: {{question: prompt, answer: completion}}
  eval_rows: 32
  max_tokens: 512
train: {{max_steps: {steps}, log_every: 5, save_every: 25}}
evaluate: {{{evaluate}}}
"""


def main() -> int:
    options = _options()
    root = Path(tempfile.mkdtemp(prefix="wb-"))
    started = time.monotonic()
    model = write_shaped_model(options.model, options.shape)
    print(f"model written in {time.monotonic() - started:.0f} s", flush=True)
    recipe = root / "recipe.yaml"
    data = options.data.resolve()
    answers = "answer_pattern: '#### (\\S+)', max_new_tokens: 64, rank_by: loss, every: 10"
    text = RECIPE.format(
        model=model,
        data=data,
        steps=options.steps,
        evaluate=answers if options.rates else "batch_size: 4",
    )
    if options.rates:
        rates = ", ".join(map(str, options.rates))
        text = text.replace("eval_rows: 32", "eval_rows: 128")
        text += f"sweep: {{method: grid, parameters: {{train.learning_rate: [{rates}]}}}}\n"
    recipe.write_text(text)
    service = Service(Home(root / "home").make())
    service.start_engine()
    try:
        trial = _run(service, recipe)
        if options.rates:
            good = _show_board(service, service.trial(trial).trial.experiment)
            if options.evaluate is not None:
                good &= _evaluate(service, trial, options.evaluate)
            return 0 if good else 1
        return _report(service, trial, model)
    finally:
        service.stop_engine()
        service.wait_for_engine(running=False, timeout_s=120)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="GSM8K's train.jsonl")
    parser.add_argument("--model", type=Path, default=Path("/tmp/shaped-llama-3-8b"))
    parser.add_argument("--shape", default="llama-3-8b")
    parser.add_argument("--rates", type=float, nargs="*", default=[], help="learning rates")
    parser.add_argument("--evaluate", type=Path, help="rows to score every adapter on, after all")
    parser.add_argument("--steps", type=int, default=50)
    return parser.parse_args()


def _run(service: Service, recipe: Path) -> int:
    """Submit the recipe, wait for the trial's end and return the trial's id."""
    answer = service.wait_for_answer(service.submit(load_recipe(recipe)))
    experiment = int(answer.data["experiment"])
    tuned = _wait(service, experiment)
    return tuned[0]


def _wait(service: Service, experiment: int) -> list[int]:
    """Print each change of a trial's state until all have ended; return the ids that train."""
    began, seen = time.monotonic(), dict[int, str]()
    while True:
        found = service.experiment(experiment)
        if found.state == "refused":
            sys.exit(f"refused: {found.reason}")
        trials = service.trials(experiment)
        for one in trials:
            if seen.get(one.id) != str(one.state):
                seen[one.id] = str(one.state)
                words = f"trial {one.id} ({one.kind}) {one.state} {one.reason or ''}"
                print(f"{time.monotonic() - began:7.1f} s  {words}", flush=True)
        if found.state == "ready" and trials and all(one.state.final for one in trials):
            return [one.id for one in trials if one.kind != "base"]
        time.sleep(0.2)


def _show_board(service: Service, experiment: int) -> bool:
    """Print the experiment's board, each attempt's phases and bytes; return True if all is done."""
    _command(service, "board", service.experiment(experiment).name)
    trials = service.trials(experiment)
    lab = Lab(service, service.home.root, Path(), Path())
    print_timeline(lab.spans([one.id for one in trials]))
    for attempt in lab.attempts([one.id for one in trials]):
        plan, peak = attempt.plan, attempt.peak_bytes or 0
        print(
            f"trial {attempt.trial}: predicted {attempt.predicted_bytes / 2**30:.2f} GiB, measured "
            f"{peak / 2**30:.2f}; rows at once {plan.get('eval_batch')}, dequantised for answers "
            f"{plan.get('eval_dequantised')}",
            flush=True,
        )
    return all(one.state == "done" for one in trials)


def _evaluate(service: Service, trial: int, data: Path) -> bool:
    """Score all adapters of the trial's experiment on 256 rows, and show them as a board."""
    before = {one.id for one in service.experiments()}
    columns = ("--columns", "question=prompt,answer=completion")
    answers = ["--answer-pattern", r"#### (\S+)", "--set", "evaluate.rank_by=loss"]
    answers += ["--set", "evaluate.max_new_tokens=256"]
    rows = ("--data", str(data.resolve()), "--rows", "256")
    name = service.trial(trial).experiment.name
    _command(service, "evaluate", name, *rows, *columns, *answers)
    new = next(one.id for one in service.experiments() if one.id not in before)
    _wait(service, new)
    return _show_board(service, new)


def _command(service: Service, *words: str) -> None:
    """Run the program on the benchmark's home, and print what it says."""
    env = {**os.environ, "WORKBENCH_HOME": str(service.home.root), "COLUMNS": "110"}
    command = [sys.executable, "-m", "workbench", *words]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    print(done.stdout, done.stderr, flush=True)


def _report(service: Service, trial: int, model: Path) -> int:
    detail = service.trial(trial)
    losses = [round(point.low, 4) for point in service.series(trial, "loss")]
    rates = [point.high for point in service.series(trial, "tokens_per_s")]
    attempt = detail.attempts[-1]
    card = next(c for c in service.snapshot().cards if c.uuid == attempt.card)
    done = str(detail.trial.state) == "done"
    falling = bool(losses) and all(map(math.isfinite, losses)) and losses[-1] < losses[0]
    adapter = service.home.trial(trial) / "adapter"
    _, board = service.board(detail.experiment.id)
    report = {
        "state": detail.trial.state,
        "reason": detail.trial.reason,
        "card": f"{card.name} {card.uuid}",
        "losses": losses,
        "tokens_per_s": sorted(rates)[len(rates) // 2] if rates else None,
        "predicted_gib": round(attempt.predicted_bytes / 2**30, 2),
        "measured_gib": round((attempt.peak_bytes or 0) / 2**30, 2),
        "plan": {k: v for k, v in attempt.plan.items() if k not in ("buckets", "attention_why")},
        "scores": board[0].scores,
        "moves": [(m.after, round(m.at_utc - detail.moves[0].at_utc, 1)) for m in detail.moves],
        "plain_peft": _loads_in_plain_peft(model, adapter) if done else None,
    }
    print(json.dumps(report, indent=1, default=str), flush=True)
    return 0 if done and falling else 1


def _loads_in_plain_peft(model: Path, adapter: Path) -> str:
    """Load the adapter with PEFT alone, as a stranger would, and return the result in words."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    four = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    base = AutoModelForCausalLM.from_pretrained(
        model, quantization_config=four, dtype=torch.bfloat16, device_map="auto"
    )
    tokens = torch.arange(16, device=base.device)[None]
    with torch.no_grad():
        plain = base(tokens).logits.float()
        tuned = PeftModel.from_pretrained(base, adapter)(tokens).logits.float()
    assert torch.isfinite(tuned).all()
    return f"loaded; largest change of a logit {(tuned - plain).abs().max():.3f}"


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    sys.exit(main())

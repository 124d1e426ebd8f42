"""The longest rows that plans take on small cards, each trained for 20 steps on a capped card.

    python benchmarks/long_rows.py [--sizes 8 12 16 24] [--shape 8b] [--out FILE]
    python benchmarks/long_rows.py --sizes 24 --tokens 96256    (a shorter row)
    python benchmarks/long_rows.py --plan       (prints the plans alone; needs no card)

For each size it finds the longest row that `workbench plan` takes there (rank 32, batch 1, rows of
one length, a multiple of 64), makes a model of that shape with random weights in NF4, puts its
tables where the plan says, and trains. The card is capped so that the plan has the room of a card
of that size. Each size has a process of its own, because a process keeps its cap. It prints the
plan, the predicted and measured peak, seconds a step, and losses; the seconds of each step go to
standard error. The exit code is 1 where a run ended badly, took more than predicted by 5 %, or
where a table that the plan moves is on the card.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")  # as a worker has it

from capped import GIB, the_card
from nf4_model import measures

from workbench.errors import DoesNotFit
from workbench.footprint import Plan, plan_trial
from workbench.footprint.card_limits import limit_bytes
from workbench.footprint.usual_cards import card_of_size
from workbench.machine.cards import CAP_SLACK_BYTES, Card
from workbench.recipe.schema import Recipe

STEPS, WARM = 20, 3
GRAIN, MOST_TOKENS = 64, 1 << 18


def main() -> int:
    options = parse()
    if options.size is not None:
        return child(options)
    rows: list[dict[str, Any]] = []
    for size in options.sizes:
        if options.plan:
            tokens, plan = row_of(options, card_of_size(int(size * GIB), f"{size:g} GB"))
            print(line({"size_gib": size, "tokens": tokens, "plan": plan.to_json()}), flush=True)
            continue
        subprocess.run([sys.executable, *sys.argv, "--size", str(size)], check=False)
        told = options.out.with_suffix(f".{size:g}.json")
        rows.append(json.loads(told.read_text()) if told.exists() else {"size_gib": size})
        told.unlink(missing_ok=True)
        options.out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return 1 if any(not row.get("good") for row in rows) else 0


def recipe_of(shape: str, tokens: int) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "long-rows", "model": {"name": shape}, "lora": {"rank": 32},
            "data": {"train": "rows.jsonl", "max_tokens": tokens},
            "train": {"batch_size": 1, "log_every": 1},
        }
    )  # fmt: skip


def planned(shape: str, tokens: int, card: Card) -> Plan | None:
    config = {**measures(shape), "max_position_embeddings": MOST_TOKENS}
    try:
        return plan_trial(recipe_of(shape, tokens), config, card, advise=False)
    except DoesNotFit:
        return None


def longest_row(shape: str, card: Card) -> tuple[int, Plan]:
    """Return the tokens of the longest row that a plan takes on the card, and that plan."""
    low, high = 0, MOST_TOKENS // GRAIN
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if planned(shape, middle * GRAIN, card) else (low, middle - 1)
    plan = planned(shape, low * GRAIN, card) if low else None
    if plan is None:
        raise SystemExit(f"{shape} does not fit {card.name} with any row")
    return low * GRAIN, plan


def row_of(options: argparse.Namespace, card: Card) -> tuple[int, Plan]:
    """Return the tokens of the row to train on, the longest unless it was asked for, and a plan."""
    if options.tokens is None:
        return longest_row(options.shape, card)
    plan = planned(options.shape, options.tokens, card)
    if plan is None:
        raise SystemExit(f"rows of {options.tokens} tokens do not fit {card.name}")
    return options.tokens, plan


def child(options: argparse.Namespace) -> int:
    """Train on a card of one size."""
    usual = card_of_size(int(options.size * GIB), f"{options.size:g} GB")
    card = the_card((limit_bytes(usual) + CAP_SLACK_BYTES) / GIB, rehearse=False)
    os.environ["CUDA_VISIBLE_DEVICES"] = card.uuid  # before torch is imported, as a worker does
    tokens, plan = row_of(options, card)
    told: dict[str, Any] = {"size_gib": options.size, "tokens": tokens, "plan": plan.to_json()}
    print(line(told), flush=True)

    from workbench.training import libraries
    from workbench.training.memory.card_memory import Meter

    libraries.import_libraries(threads=None)
    meter = Meter(card)
    meter.start()
    told |= trained(options.shape, tokens, plan, options.steps)
    told["measured_bytes"] = meter.peak_bytes()
    over = told["measured_bytes"] / plan.predicted_bytes - 1
    told["good"] = over <= 0.05 and all(loss == loss for loss in told["losses"])
    print(
        f"  {len(told['losses'])} steps, {told['step_s']:.2f} s a step "
        f"({tokens / told['step_s']:,.0f} tokens/s); predicted {plan.predicted_bytes / GIB:.2f}, "
        f"measured {told['measured_bytes'] / GIB:.2f} GiB ({over:+.1%}); losses "
        f"{told['losses'][0]:.4f} to {told['losses'][-1]:.4f}; tables: {told['tables']}",
        flush=True,
    )
    for each in told["optimizations"]:
        print(f"    {each}", flush=True)
    options.out.with_suffix(f".{options.size:g}.json").write_text(json.dumps(told))
    return 0


def trained(shape: str, tokens: int, plan: Plan, steps: int) -> dict[str, Any]:
    """Train on rows of that many tokens by the plan; return losses and seconds a step."""
    import torch
    from nf4_model import make_nf4_model

    from workbench.training.memory.host_tables import embedding_tables, place_tables
    from workbench.training.model.adapter import add_adapter
    from workbench.training.step import Step, collate_rows
    from workbench.training.step.in_trainer import options_from

    device = torch.device("cuda", 0)
    base = make_nf4_model(shape, device, torch.bfloat16)
    base.config.max_position_embeddings = MOST_TOKENS
    before = torch.cuda.memory_allocated()
    moved = place_tables(base, on_host=True) if plan.host_tables else 0
    left = before - torch.cuda.memory_allocated()
    assert moved == plan.table_bytes, moved
    assert left >= 0.99 * moved, (left, moved)
    recipe = recipe_of(shape, tokens)
    model = add_adapter(base, recipe, lambda *_, **__: None)
    step = Step(model, options_from(plan, recipe))
    chance = torch.Generator().manual_seed(1)
    vocab = measures(shape)["vocab_size"]
    losses, seconds = [], []
    for number in range(steps):
        ids = torch.randint(3, vocab, (tokens,), generator=chance).tolist()
        rows = collate_rows([{"input_ids": ids}])
        torch.cuda.synchronize()
        began = time.perf_counter()
        losses.append(float(step.forward_backward(rows)))
        step.optimizer_step()
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
        print(f"step {number}: {seconds[-1]:.1f} s", file=sys.stderr, flush=True)
    return {
        "losses": losses,
        "step_s": statistics.median(seconds[min(WARM, steps - 1) :]),
        "tables": f"{moved / GIB:.2f} GiB of {', '.join(embedding_tables(base))} in host memory"
        if moved
        else "on the card",
        "optimizations": [
            f"{one.name if one.on else f'no {one.name}'}: {one.why}" for one in step.optimizations()
        ],
    }


def line(told: dict[str, Any]) -> str:
    plan = told["plan"]
    return (
        f"{told['size_gib']:g} GiB: rows of {told['tokens']:,} tokens; peak "
        f"{plan['predicted_bytes'] / GIB:.2f} GiB, {plan['recompute_layers']} of {plan['layers']} "
        f"layers recompute, {plan['host_bytes'] / GIB:.1f} GiB of inputs and "
        f"{plan['table_bytes'] / GIB:.1f} GiB of tables in host memory, {plan['optimizer']}"
    )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=float, nargs="*", default=[8, 12, 16, 24], help="GiB")
    parser.add_argument("--shape", default="8b")
    parser.add_argument("--tokens", type=int, help="of a row; the longest that fits without")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--plan", action="store_true", help="print the plans alone")
    parser.add_argument("--size", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/long-rows.json"))
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

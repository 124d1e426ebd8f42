"""Predicted against measured peak bytes of scoring: answers and held-out losses, on one card.

    python benchmarks/scoring_bytes.py [--shapes 8b 3b 1b] [--within 225] [--out FILE]
    python benchmarks/scoring_bytes.py --shapes tiny     (any machine, nothing measured or written)

Each cell is scored as a worker scores it: with the rows at once and the weights, dequantised or
not, that the plan of a score trial gives for the card, capped at 12 and 24 GiB and whole. Answers
end by a seeded schedule, so that steps of fewer and fewer lanes are captured, and free lanes are
refilled. Measured bytes are the most that PyTorch's allocator reserved, base included, and are
compared with the plan's sum without the CUDA context. Weights are random.

Rows are written to --out after each cell; tests/footprint/test_scoring_measured.py compares them
with today's plans. A cell that fails is a row with `failed`. A cell whose plan is that of a cell
before, as where a small model fits any cap, is named and not measured again; so are those that
--within seconds leave no time for. The exit status is 1 where a plan is more than 5 % above what
was measured, or more than 2 % below, where a cell failed, and where one was left out.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")  # as a worker has it

import torch
from held_out_loss import made_rows
from nf4_model import SHAPES, measures
from scoring_contestants import GIB, PROMPT, adapted_model, prompt_ids, schedule, usual_device

from workbench.footprint import Plan
from workbench.footprint.peak.scoring_bytes import pass_tokens
from workbench.footprint.row_lengths import Lengths
from workbench.footprint.scoring_plan import Beside, adapter_parameters, plan_scoring
from workbench.machine.cards import Card, detect_cards
from workbench.recipe.schema import Lora, Recipe
from workbench.training.control import Control
from workbench.training.decode.forward import fast_forward
from workbench.training.decode.generate import generate_tokens
from workbench.training.decode.lanes import Lanes, Prompt
from workbench.training.memory.card_memory import Meter
from workbench.training.scoring.held_out_loss import score_rows

NEW, RANK = 320, 16
"""New tokens that a lane has room for, and the rank of each adapter."""
TOKENS = 64
"""New tokens of an answer at most: fewer than there is room for, to end sooner."""
LONGEST = 342
"""Tokens of the longest row of held_out_loss.made_rows."""
IMAGINED = Card(uuid="GPU-0", kind="cuda", name="a card", total_bytes=141 * GIB, capability=(9, 0))
"""The card that is planned for where there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One measurement: how many rows are scored at most at once, by how many adapters."""

    kind: str = "answers"
    """answers or losses."""
    rows: int
    adapters: int = 1
    cap_gib: float | None = None


CELLS = (
    Cell(rows=256), Cell(rows=64), Cell(kind="losses", rows=256),
    Cell(rows=256, cap_gib=12), Cell(rows=64, cap_gib=12),
    Cell(kind="losses", rows=256, cap_gib=12),
    Cell(rows=256, cap_gib=24), Cell(rows=64, cap_gib=24),
    Cell(rows=64, adapters=4),
)  # fmt: skip
"""Those with one adapter come first: the others stay on the card."""


def main() -> int:
    began, options = time.perf_counter(), _options()
    rows: list[dict[str, Any]] = []
    left_out = 0
    for shape in options.shapes:
        model, planned = None, set()
        for cell in CELLS:
            if time.perf_counter() - began > options.within:
                print(f"left out: {shape}, {cell}", flush=True)
                left_out += 1
                continue
            plan = _plan(shape, cell)
            how = (cell.kind, cell.adapters, _lanes(plan), plan.eval_dequantised)
            if how in planned:
                print(f"{shape}, {cell}: planned as a cell before", flush=True)
                continue
            planned.add(how)
            model = model or adapted_model(shape, usual_device())
            rows.append(_measured(model, shape, cell, plan))
            print(_line(rows[-1]), flush=True)
            if torch.cuda.is_available():
                options.out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    bad = [row for row in rows if "failed" in row or not -0.02 <= _error(row) <= 0.05]
    print(f"{len(rows)} cells, {len(bad)} failed or outside -2 to +5 %, {left_out} left out; "
          f"{time.perf_counter() - began:.0f} s in all")  # fmt: skip
    return 1 if bad or left_out else 0


def _options() -> argparse.Namespace:
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    parser.add_argument("--shapes", nargs="*", default=["8b", "3b", "1b"], metavar="SHAPE")
    parser.add_argument("--within", type=float, default=225.0, metavar="S")
    results = Path("benchmarks/results/footprint-scoring.json")
    parser.add_argument("--out", type=Path, default=results)
    return parser.parse_args()


# -- the plan


def _plan(shape: str, cell: Cell) -> Plan:
    """Return the plan of a score trial for the cell's card."""
    config, each = measures(shape), _adapter_values(shape)
    answers = {"answer_pattern": "(.*)", "max_new_tokens": NEW} if cell.kind == "answers" else {}
    recipe = Recipe.model_validate(
        {
            "name": "scoring",
            "model": {"name": "shaped"},
            "data": {"train": "rows.jsonl", "max_tokens": 512, "eval_rows": cell.rows},
            "evaluate": answers,
        }
    )
    lengths: Lengths = {"longest": 512, "sample": [], "scored": _longest(cell)}
    more = Beside(parameters=each * (cell.adapters - 1), lanes=cell.rows)
    return plan_scoring(
        recipe, config, _card(cell), lengths=lengths, adapter_parameters=each,
        beside=more if cell.adapters > 1 else None,
    )  # fmt: skip


def _card(cell: Cell) -> Card:
    here = (one for one in detect_cards(os.environ) if one.kind == "cuda")
    cap = int(cell.cap_gib * GIB) if cell.cap_gib else None
    return replace(next(here, IMAGINED), cap_bytes=cap)


def _lanes(plan: Plan) -> int:
    return plan.eval_lanes or plan.eval_batch


def _longest(cell: Cell) -> int:
    return PROMPT if cell.kind == "answers" else LONGEST


def _adapter_values(shape: str) -> int:
    return adapter_parameters(measures(shape), Lora(rank=RANK))


# -- what was measured


def _measured(model: Any, shape: str, cell: Cell, plan: Plan) -> dict[str, Any]:
    """Return the cell's row: how it was scored, the plan's bytes, and those that it took."""
    sizes = plan.buckets
    row: dict[str, Any] = {
        "shape": shape, "model": SHAPES.get(shape, shape), "kind": cell.kind, "rank": RANK,
        "adapters": cell.adapters, "lanes": _lanes(plan), "dequantised": plan.eval_dequantised,
        "prompt_tokens": _longest(cell), "new_tokens": NEW, "cap_gib": cell.cap_gib,
        "predicted_bytes": sum(sizes.values()) - sizes["context"], "buckets": sizes,
    }  # fmt: skip
    while len(model.peft_config) < cell.adapters:
        model.add_adapter(f"more_{len(model.peft_config)}", model.peft_config["default"])
    gc.collect()
    if has_card := torch.cuda.is_available():
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(1.0)
        Meter(_card(cell)).start()  # applies the cap as a worker does
    began = time.perf_counter()
    try:
        (_answer if cell.kind == "answers" else _compute_losses)(model, cell, plan)
    except Exception as failed:  # the other cells are measured all the same
        row["failed"] = f"{type(failed).__name__}: {str(failed).splitlines()[0][:200]}"
    if has_card:
        row["measured_bytes"] = torch.cuda.max_memory_reserved()
        row["allocated_bytes"] = torch.cuda.max_memory_allocated()
        row["card"] = torch.cuda.get_device_name()
    row["seconds"] = round(time.perf_counter() - began, 2)
    return row


def _answer(model: Any, cell: Cell, plan: Plan) -> None:
    """Answer an eighth more rows than there are lanes, so that lanes are refilled once."""
    lanes = _lanes(plan)
    most = schedule(lanes + -(-lanes // 8), TOKENS)
    prompts = [
        Prompt(ids=prompt_ids(row), most=new, adapter=row % cell.adapters)
        for row, new in enumerate(most)
    ]
    names = list(model.peft_config)[: cell.adapters]
    with fast_forward(
        model, torch.bfloat16, adapters=names, dequantised=plan.eval_dequantised
    ) as forward:
        held = Lanes(forward, lanes, positions=PROMPT + NEW, most=NEW, ends=[])
        generate_tokens(held, prompts, [], prefill_tokens=pass_tokens(lanes, PROMPT))


def _compute_losses(model: Any, cell: Cell, plan: Plan) -> None:
    rows = made_rows(cell.rows)
    assert max(rows["length"]) <= LONGEST
    score_rows(
        model.get_base_model(), rows, pad_id=0, batch_size=plan.eval_batch, precision="bf16",
        control=Control(),
    )  # fmt: skip


def _error(row: dict[str, Any]) -> float:
    """Return the plan's bytes against those measured, 0 where nothing was measured."""
    measured = row.get("measured_bytes")
    return float(row["predicted_bytes"] / measured - 1) if measured else 0.0


def _line(row: dict[str, Any]) -> str:
    cap = f"{row['cap_gib']:g} GiB" if row["cap_gib"] else "whole card"
    weights = "16-bit copies" if row["dequantised"] else "4-bit weights"
    words = (
        f"{row['shape']}, {row['kind']}, {cap}, {row['lanes']} at once, {row['adapters']} adapters"
    )
    if "failed" in row:
        return f"{words}, {weights}: {row['failed']}"
    words += f", {weights}: predicted {row['predicted_bytes'] / GIB:.2f} GiB, {row['seconds']} s"
    if "measured_bytes" not in row:
        return f"{words}, not measured"
    return f"{words}, measured {row['measured_bytes'] / GIB:.2f} GiB, {100 * _error(row):+.1f} %"


if __name__ == "__main__":
    sys.exit(main())

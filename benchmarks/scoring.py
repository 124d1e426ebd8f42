"""Generated tokens a second of four ways to answer held-out rows, on one card, in one run.

    python benchmarks/scoring.py [--contestants a b b16 c] [--shape 8b] [--caps 12 24] [--out FILE]

The contestants: (a) transformers' `generate` over PEFT's modules, 16 rows at once, as the default
recipe answered before there was a decode path; (b) transformers on the 4-bit base with the adapter,
all rows at once, in each of `--ways`; (b16) the same on a merged 16-bit copy; (c) the decode path
with the plan's settings, also with the card capped at `--caps` GiB. Random weights never end an
answer, so that each row ends after a number of tokens that one seeded schedule gives to all
contestants. (a) answers 32 rows of at most 128 tokens, whatever is asked: it is slow, and its rate
does not depend on how many batches follow. Rates count the tokens of rows that have not ended.
What is compiled or captured once is told apart, as `compile_s` and `capture_s`. The floor is the
time of reading the 4-bit weights and the head once at the measured copy speed.

Cells are measured in the order of their use, and written at once; `--within S` begins none after S
seconds, and names those that are left out. The last lines compare what was measured. The 8B shape
takes about six minutes on one H200, most of it compiling; `--ways dynamic` compiles nothing.
`--shape tiny` tries the script on a CPU.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from scoring_contestants import (
    CONTESTANTS,
    GIB,
    Cell,
    adapted_model,
    shape_parser,
    usual_device,
    wait_for_card,
)

from workbench.machine.cards import Card, detect_cards

WAYS = ("static", "continuous", "dynamic")
COMPARED = (256, 320)
"""Rows and new tokens of the cells that are compared at the end."""


def main() -> int:
    began = time.perf_counter()
    options = _options()
    device = usual_device()
    card = next(card for card in detect_cards(os.environ) if card.kind == device.type)
    speed = copy_speed(device)
    model = adapted_model(options.shape, device)
    floor_ms = weight_bytes(model) / speed * 1e3
    print(f"{card.name}, copies {speed / 1e9:.0f} GB/s, floor {floor_ms:.2f} ms", flush=True)
    found: list[dict[str, Any]] = []
    for cell in _cells(options):
        if time.perf_counter() - began > options.within:
            print(f"left out: {cell}", flush=True)
            continue
        made = {**_named(cell), "floor_ms": round(floor_ms, 2), **_measured(model, cell, card)}
        found.append(made)
        print(json.dumps(made), flush=True)
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    for line in _comparison(found):
        print(line)
    print(f"{time.perf_counter() - began:.0f} s in all")
    return 0


def _options() -> argparse.Namespace:
    parser = shape_parser(__doc__)
    parser.add_argument("--contestants", nargs="*", default=list(CONTESTANTS), choices=CONTESTANTS)
    parser.add_argument("--ways", nargs="*", default=list(WAYS), choices=WAYS)
    parser.add_argument("--caps", nargs="*", type=float, default=[12.0, 24.0], metavar="GIB")
    parser.add_argument(
        "--cells", nargs="*", type=_sizes, default=[COMPARED, (64, 320)], metavar="ROWSxTOKENS",
        help="of which transformers answers the first alone",
    )  # fmt: skip
    parser.add_argument("--all-cells", action="store_true", help="transformers answers all cells")
    parser.add_argument("--within", type=float, default=float("inf"), metavar="S")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/scoring.json"))
    return parser.parse_args()


def _sizes(text: str) -> tuple[int, int]:
    rows, _, new = text.partition("x")
    return int(rows), int(new)


def _cells(options: argparse.Namespace) -> list[Cell]:
    """Return the cells, those first that the rest is compared with."""
    asked = options.cells if options.all_cells else options.cells[:1]
    theirs = [
        Cell(contestant=name, shape=options.shape, rows=rows, new=new, way=way)
        for way in options.ways
        for rows, new in asked
        for name in ("b", "b16")
    ]
    ours = [
        Cell(contestant="c", shape=options.shape, rows=rows, new=new, cap=cap)
        for cap in (None, *options.caps)
        for rows, new in (options.cells if cap is None else options.cells[:1])
    ]
    before = Cell(contestant="a", shape=options.shape, rows=32, new=128)
    return [one for one in (before, *ours, *theirs) if one.contestant in options.contestants]


def _named(cell: Cell) -> dict[str, Any]:
    """Return the cell by the names of the results' file."""
    others = {"new": "new_tokens", "cap": "cap_gib"}
    return {others.get(name, name): value for name, value in asdict(cell).items()}


def _measured(model: Any, cell: Cell, card: Card) -> dict[str, Any]:
    """Return the cell's rates and its peak; the reason where it could not be measured."""
    has_card, elsewhere = card.kind == "cuda", 0
    gc.collect()
    if has_card:
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(cell.cap * GIB / total if cell.cap else 1.0)
        torch.cuda.reset_peak_memory_stats()
        if cell.contestant == "b16":  # which needs no 4-bit base beside its own
            elsewhere = torch.cuda.memory_allocated()
    try:
        made = CONTESTANTS[cell.contestant](model, cell, card)
    except Exception as failed:  # whatever one contestant meets, the others are measured
        made = {"failed": f"{type(failed).__name__}: {str(failed).splitlines()[0][:200]}"}
    peak = torch.cuda.max_memory_reserved() - elsewhere if has_card else 0
    return {"peak_gib": round(peak / GIB, 2), **made}


def copy_speed(device: torch.device) -> float:
    """Return bytes a second of a copy of 2 GiB, reading and writing counted; the median of six."""
    size = 2 * GIB if device.type == "cuda" else GIB >> 6
    there = torch.empty(size, dtype=torch.uint8, device=device)
    here = torch.empty_like(there)
    times = []
    for _ in range(6):
        wait_for_card()
        began = time.perf_counter()
        here.copy_(there)
        wait_for_card()
        times.append(time.perf_counter() - began)
    return float(2 * size / sorted(times)[2])


def weight_bytes(model: Any) -> int:
    """Return the bytes of the packed weights with their scales, and of the head."""
    base = model.get_base_model()
    states = [one.weight for one in base.modules() if hasattr(one, "quant_state")]
    packed = sum(weight.data.numel() + weight.quant_state.absmax.numel() for weight in states)
    return int(packed + base.lm_head.weight.numel() * 2)


def _comparison(found: list[dict[str, Any]]) -> list[str]:
    """Return the rates of the decode path as multiples of the others', each in a line."""

    def best(name: str, cap: float | None = None) -> float:
        rates = [
            one["tokens_per_s"]
            for one in found
            if one["contestant"] == name
            and one["cap_gib"] == cap
            and "failed" not in one
            and (name == "a" or (one["rows"], one["new_tokens"]) == COMPARED)
        ]
        return float(max(rates, default=0.0))

    lines = []
    for cap, name, least in ((None, "a", 60), (None, "b", 2.5), (None, "b16", 1), (12.0, "a", 20)):
        ours, theirs = best("c", cap), best(name)
        if ours and theirs:
            card = f"capped at {cap:.0f} GiB" if cap else "whole card"
            lines.append(f"{card}: {ours / theirs:.1f} times ({name}); at least {least} is asked")
    steps = [one for one in found if one["contestant"] == "c" and one.get("batch") == 64]
    for one in steps:
        times = one["ms_per_step"] / one["floor_ms"]
        lines.append(f"a step of 64 lanes: {times:.1f} times the floor; at most 5 is asked")
    return lines


if __name__ == "__main__":
    sys.exit(main())

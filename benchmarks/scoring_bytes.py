"""The bytes that generating answers takes on a card, and those that the plan says.

    python benchmarks/scoring_bytes.py [--shape 8b] [--json FILE]

For several numbers of lanes and adapters, with 4-bit weights unpacked for each token and with
16-bit copies of them: what PyTorch's allocator reserves while prompts are read, steps are captured
and 24 tokens are added to each, against the plan's sum without the CUDA context. Weights are
random. Last come the smallest and largest ratio; the plan may be 5 % above what was reserved, and
not 2 % below.
"""

from __future__ import annotations

import gc
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from nf4_model import measures
from scoring_contestants import PROMPT, adapted_model, prompt_ids, shape_parser, usual_device

from workbench.footprint.model.shape import ModelShape
from workbench.footprint.peak.buckets import Run
from workbench.footprint.plan_search import PlanSearch
from workbench.footprint.row_lengths import Lengths
from workbench.footprint.scoring_plan import scoring_buckets
from workbench.machine.cards import Card
from workbench.recipe.schema import Recipe
from workbench.training.decode.forward import fast_forward
from workbench.training.decode.generate import generate_tokens
from workbench.training.decode.lanes import Lanes, Prompt

NEW = 320
"""New tokens that a lane has room for."""
TOKENS = 24
"""New tokens that are generated."""
CASES = [(lanes, adapters, kept) for kept in (False, True)
         for lanes, adapters in ((16, 1), (64, 1), (256, 1), (256, 4))]  # fmt: skip
"""(Lanes, adapters, whether weights are kept dequantised)."""


def main() -> int:
    parser = shape_parser(__doc__)
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    options = parser.parse_args()
    device = usual_device()
    model = adapted_model(options.shape, device)
    for number in range(1, 4):
        model.add_adapter(f"more_{number}", model.peft_config["default"])
    rows = [_measure(model, options.shape, device, *case) for case in CASES]
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    ratios = [row["ratio"] for row in rows]
    print(f"the plan says {min(ratios):.3f} to {max(ratios):.3f} of what was reserved")
    return 0


def _measure(
    model: Any, shape: str, device: torch.device, lanes: int, adapters: int, kept: bool
) -> dict[str, Any]:
    names = ["default", *(f"more_{number}" for number in range(1, adapters))]
    # Adapters that take no part are on the card as well: their fp32 values are counted below.
    _forget(device)
    with fast_forward(model, torch.bfloat16, adapters=names, dequantised=kept) as forward:
        held = Lanes(forward, lanes, positions=PROMPT + NEW, most=NEW, ends=[])
        prompts = [
            Prompt(ids=prompt_ids(row), most=TOKENS, adapter=row % adapters) for row in range(lanes)
        ]
        generate_tokens(held, prompts, [], prefill_tokens=8_192)
        reserved = torch.cuda.max_memory_reserved() if device.type == "cuda" else 0
        held.release()
    parameters = sum(p.numel() for name, p in model.named_parameters() if "lora_" in name) // 4
    said = _planned(shape, lanes, kept, parameters * adapters) + parameters * (4 - adapters) * 4
    row = {
        "shape": shape, "lanes": lanes, "adapters": adapters, "dequantised": kept,
        "reserved_bytes": reserved, "planned_bytes": said,
        "ratio": round(said / reserved, 4) if reserved else 0.0,
    }  # fmt: skip
    print(json.dumps(row), flush=True)
    return row


def _planned(shape: str, lanes: int, kept: bool, parameters: int) -> int:
    """Return the plan's bytes without the CUDA context."""
    recipe = Recipe.model_validate(
        {
            "name": "scoring",
            "model": {"name": "shaped"},
            "data": {"train": "rows.jsonl", "max_tokens": 512, "eval_rows": lanes},
            "evaluate": {"answer_pattern": "(.*)", "max_new_tokens": NEW},
        }
    )
    card = Card(uuid="GPU-0", kind="cuda", name="a card", total_bytes=141 << 30, capability=(9, 0))
    lengths: Lengths = {"longest": 512, "sample": [], "scored": PROMPT}
    search = PlanSearch.of(recipe, measures(shape), card, lengths)
    run: Run = replace(search.run, eval_rows=lanes, eval_dequantised=kept)
    buckets = scoring_buckets(search, run, parameters)
    assert run.decodes(ModelShape.of(measures(shape)))
    return sum(size for name, size in buckets.items() if name != "context")


def _forget(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


if __name__ == "__main__":
    sys.exit(main())

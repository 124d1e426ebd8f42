"""Generated tokens a second of four ways to answer held-out rows, on one card, in one run.

    python benchmarks/scoring.py [--contestants a b b16 c] [--shape 8b] [--cap 12] [--out FILE]

The contestants: (a) transformers' `generate` over PEFT's modules, 16 rows at once, as the default
recipe answered before there was a decode path; (b) the same with all rows at once; (b16) the same
on a merged 16-bit copy; (c) the decode path with the plan's settings. Random weights never end an
answer, so that each row ends after a number of tokens that one seeded schedule gives to all
contestants. (a) answers 32 rows of at most 128 tokens, whatever is asked: it is slow, and its rate
does not depend on how many batches follow. Rates count the tokens of rows that have not ended.
`--cap` bounds the card's memory in GiB. What is captured once is told apart, as `capture_s`. The
floor is the time of reading the 4-bit weights and the head once at the measured copy speed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from nf4_model import make_nf4_model, measures
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from workbench.footprint import plan_trial
from workbench.machine.cards import detect_cards
from workbench.recipe.schema import Recipe
from workbench.training.decode.forward import fast_forward
from workbench.training.decode.generate import generate_tokens
from workbench.training.decode.lanes import Lanes, Prompt

GIB = 1 << 30
PROMPT = 150
"""Tokens of each question: the mean of GSM8K's with a chat template."""


def main() -> int:
    options = _options()
    device = torch.device("cuda")
    total = torch.cuda.get_device_properties(0).total_memory
    if options.cap:
        torch.cuda.set_per_process_memory_fraction(options.cap * GIB / total)
    speed = _copy_speed(device) if not options.cap else 0.0
    model = _adapted(make_nf4_model(options.shape, device, torch.bfloat16))
    floor_ms = _weight_bytes(model) / speed * 1e3 if speed else 0.0
    print(f"{torch.cuda.get_device_name()}, copies {speed / 1e9:.0f} GB/s, floor {floor_ms:.2f} ms")
    found: list[dict[str, Any]] = []
    for name in options.contestants:
        for rows, new in [(32, 128)] if name == "a" else options.cells:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            made = CONTESTANTS[name](model, rows, new, options)
            cell = {
                "contestant": name, "shape": options.shape, "rows": rows, "new_tokens": new,
                "cap_gib": options.cap, "floor_ms": round(floor_ms, 2),
                "peak_gib": round(torch.cuda.max_memory_reserved() / GIB, 2), **made,
            }  # fmt: skip
            found.append(cell)
            print(json.dumps(cell), flush=True)
            options.out.parent.mkdir(parents=True, exist_ok=True)
            options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--contestants", nargs="*", default=list(CONTESTANTS))
    parser.add_argument("--shape", default="8b")
    parser.add_argument("--cap", type=float, help="GiB of the card")
    parser.add_argument(
        "--cells", nargs="*", type=_cell, default=[(256, 320), (64, 320)], help="rows x new tokens"
    )
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/scoring.json"))
    return parser.parse_args()


def _cell(text: str) -> tuple[int, int]:
    rows, _, new = text.partition("x")
    return int(rows), int(new)


def schedule(rows: int, new: int) -> list[int]:
    """Return the tokens after which each row ends: from an eighth of `new` to all of it."""
    chance = torch.Generator().manual_seed(0)
    return torch.randint(new // 8, new + 1, (rows,), generator=chance).tolist()


def _prompt(row: int) -> list[int]:
    return [5 + (row * 7 + n) % 1_000 for n in range(PROMPT)]


def _adapted(base: Any) -> Any:
    lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(base, lora)
    for name, param in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(param, 0.0, 0.01)
    return model.eval()


def _copy_speed(device: torch.device) -> float:
    """Return bytes a second of a copy of 2 GiB, reading and writing counted."""
    there = torch.empty(2 * GIB, dtype=torch.uint8, device=device)
    here = torch.empty_like(there)
    times = []
    for _ in range(6):
        began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        began.record()
        here.copy_(there)
        ended.record()
        torch.cuda.synchronize()
        times.append(began.elapsed_time(ended) / 1e3)
    return float(2 * there.numel() / sorted(times)[2])


def _weight_bytes(model: Any) -> int:
    """Return the bytes of the packed weights with their scales, and of the head."""
    base = model.get_base_model()
    states = [one.weight for one in base.modules() if hasattr(one, "quant_state")]
    packed = sum(weight.data.numel() + weight.quant_state.absmax.numel() for weight in states)
    return int(packed + base.lm_head.weight.numel() * 2)


# -- the contestants


class _Ends(StoppingCriteria):  # type: ignore[misc]
    """A criterion that ends each row after its number of new tokens."""

    def __init__(self, most: list[int]) -> None:
        self._most = torch.tensor(most, device="cuda")

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        return self._most <= input_ids.shape[1] - PROMPT


def _by_transformers(model: Any, rows: int, new: int, batch: int) -> dict[str, Any]:
    most = schedule(rows, new)
    began, steps = time.perf_counter(), 0
    for at in range(0, rows, batch):
        part = most[at : at + batch]
        ids = torch.tensor([_prompt(row) for row in range(at, at + len(part))], device="cuda")
        settings = GenerationConfig(max_new_tokens=new, do_sample=False, pad_token_id=0)
        with torch.no_grad(), torch.autocast("cuda", torch.bfloat16):
            model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                generation_config=settings,
                stopping_criteria=StoppingCriteriaList([_Ends(part)]),
            )
        steps += max(part)
    torch.cuda.synchronize()
    seconds = time.perf_counter() - began
    return {
        "batch": batch,
        "tokens_per_s": round(sum(most) / seconds),
        "ms_per_step": round(seconds / steps * 1e3, 2),
        "seconds": round(seconds, 2),
    }


def _before(model: Any, rows: int, new: int, options: Any) -> dict[str, Any]:
    return _by_transformers(model, rows, new, 16)


def _all_rows(model: Any, rows: int, new: int, options: Any) -> dict[str, Any]:
    return _by_transformers(model, rows, new, rows)


def _merged(model: Any, rows: int, new: int, options: Any) -> dict[str, Any]:
    """Answer by a 16-bit model of the same shape: a merged copy has the same bytes and products."""
    merged = make_nf4_model(options.shape, torch.device("cuda"), torch.bfloat16, quantised=False)
    return _by_transformers(merged, rows, new, rows)


def _decoded(model: Any, rows: int, new: int, options: Any) -> dict[str, Any]:
    lanes, dequantised = _planned(options, rows, new)
    most = schedule(rows, new)
    prompts = [Prompt(ids=_prompt(row), most=most[row]) for row in range(rows)]
    with fast_forward(model, torch.bfloat16, dequantised=dequantised) as forward:
        held = Lanes(forward, lanes, positions=PROMPT + new, most=new, ends=[])
        times = []
        for _ in range(3):
            began = time.perf_counter()
            made = generate_tokens(held, prompts, [], prefill_tokens=8_192)
            torch.cuda.synchronize()
            times.append(time.perf_counter() - began)
        assert [len(one.ids) for one in made] == most
        every = list(range(lanes))
        held.start(every[:32], prompts[:32])  # positions as in the middle of an answer
        step_ms = _step_ms(lambda: held.advance(every, 32)) / 32
        held.release()
    steady = sorted(times[1:])[0]
    return {
        "batch": lanes,
        "dequantised": dequantised,
        "tokens_per_s": round(sum(most) / steady),
        "ms_per_step": round(step_ms, 2),
        "seconds": round(steady, 2),
        "capture_s": round(times[0] - steady, 2),
    }


def _step_ms(run: Callable[[], None]) -> float:
    began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    run()
    began.record()
    run()
    ended.record()
    torch.cuda.synchronize()
    return float(began.elapsed_time(ended))


def _planned(options: Any, rows: int, new: int) -> tuple[int, bool]:
    """Return (rows at once, whether weights are dequantised) as the plan decides for the card."""
    model = measures(options.shape)
    recipe = Recipe.model_validate(
        {
            "name": "scoring",
            "model": {"name": "shaped"},
            "data": {"train": "rows.jsonl", "max_tokens": 512},
            "evaluate": {"answer_pattern": "(.*)", "max_new_tokens": new},
        }
    )
    card = next(card for card in detect_cards(os.environ) if card.kind == "cuda")
    free = int(options.cap * GIB) if options.cap else None
    lengths: Any = {"longest": 512, "sample": [], "scored": PROMPT}
    plan = plan_trial(recipe, model, card, free_bytes=free, lengths=lengths, advise=False)
    return min(plan.eval_batch, rows), plan.eval_dequantised


CONTESTANTS: dict[str, Callable[[Any, int, int, Any], dict[str, Any]]] = {
    "a": _before,
    "c": _decoded,
    "b": _all_rows,
    "b16": _merged,
}

if __name__ == "__main__":
    sys.exit(main())

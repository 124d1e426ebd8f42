"""The contestants of scoring.py: each answers the same rows and returns its rates.

Transformers has three ways: `static` is `generate` with a static cache, compiled; `dynamic` the
same with a cache that grows, and not compiled; `continuous` is the continuous batching that
`generate_batch` is made of. All end a row after the number of tokens that `schedule` gives it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from nf4_model import make_nf4_model, measures
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from workbench.footprint import plan_trial
from workbench.machine.cards import Card
from workbench.recipe.schema import Recipe
from workbench.training.decode.forward import fast_forward
from workbench.training.decode.generate import generate_tokens
from workbench.training.decode.lanes import Lanes, Prompt

GIB = 1 << 30
PROMPT = 150
"""Tokens of each question: the mean of GSM8K's with a chat template."""
WARM_TOKENS = 8
"""New tokens of the run before the measured one, which compiles."""
STEPS = 32
"""Decode steps that are timed at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One measurement: who answers how many rows, of how many new tokens at most."""

    contestant: str
    """a, b, b16 or c, as scoring.py describes them."""
    shape: str
    rows: int
    new: int
    way: str = ""
    """Transformers' way; empty for the others."""
    cap: float | None = None
    """GiB of the card; None for all of it."""


def shape_parser(about: str | None) -> argparse.ArgumentParser:
    """Return a parser of a script's options with `--shape`, whose help is the text `about`."""
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=about, formatter_class=layout)
    parser.add_argument("--shape", default="8b", help="8b, 1b, … or tiny, to try it on a CPU")
    return parser


def usual_device() -> torch.device:
    """Return the first GPU, or the CPU where there is none."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def schedule(rows: int, new: int) -> list[int]:
    """Return the tokens after which each row ends: from an eighth of `new` to all of it."""
    chance = torch.Generator().manual_seed(0)
    return torch.randint(new // 8, new + 1, (rows,), generator=chance).tolist()


def prompt_ids(row: int) -> list[int]:
    """Return the question of a row."""
    return [5 + (row * 7 + n) % 1_000 for n in range(PROMPT)]


def adapted_model(shape: str, device: torch.device) -> Any:
    """Return a 4-bit model of that shape with a rank-16 adapter that changes what it says."""
    base = make_nf4_model(shape, device, torch.bfloat16)
    lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(base, lora)
    for name, param in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(param, 0.0, 0.01)
    return model.eval()


def wait_for_card() -> None:
    """Wait until the card has done what was asked of it."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


# -- (a), (b) and (b16)


def answer_as_before(model: Any, cell: Cell, card: Card) -> dict[str, Any]:
    """Answer 16 rows at once by transformers over PEFT's fp32 adapter, as there was no other."""
    with torch.autocast(_device_of(model).type, torch.bfloat16):
        return _generated(model, cell, 16, static=False)


def answer_adapted(model: Any, cell: Cell, card: Card) -> dict[str, Any]:
    """Answer all rows at once by transformers over PEFT's modules, all of it in bf16."""
    with _adapter_in_16_bits(model):
        return _by_transformers(model.get_base_model(), cell)


def answer_merged(model: Any, cell: Cell, card: Card) -> dict[str, Any]:
    """Answer by a 16-bit model of the same shape: a merged copy has the same bytes and products."""
    copy = make_nf4_model(cell.shape, _device_of(model), torch.bfloat16, quantised=False)
    return _by_transformers(copy, cell)


def _by_transformers(model: Any, cell: Cell) -> dict[str, Any]:
    if cell.way == "continuous":
        return _continuous(model, cell)
    try:
        return _generated(model, cell, cell.rows, static=cell.way == "static")
    finally:
        model.__dict__.pop("_compiled_call", None)
        torch._dynamo.reset()


def _generated(model: Any, cell: Cell, batch: int, *, static: bool) -> dict[str, Any]:
    most = schedule(cell.rows, cell.new)
    began = time.perf_counter()
    if static:
        _generate(model, cell, list(range(batch)), [WARM_TOKENS] * batch, static=True)
    ready = time.perf_counter()
    for at in range(0, cell.rows, batch):
        part = most[at : at + batch]
        _generate(model, cell, list(range(at, at + len(part))), part, static=static)
    ended = time.perf_counter()
    steps = sum(max(most[at : at + batch]) for at in range(0, cell.rows, batch))
    once = {"compile_s": round(ready - began, 2)} if static else {}
    return {"batch": batch, **_rates(sum(most), ended - ready, steps), **once}


def _generate(model: Any, cell: Cell, rows: list[int], most: list[int], *, static: bool) -> None:
    device = _device_of(model)
    ids = torch.tensor([prompt_ids(row) for row in rows], device=device)
    settings = GenerationConfig(
        max_new_tokens=cell.new,
        do_sample=False,
        pad_token_id=0,
        cache_implementation="static" if static else None,
    )
    ends = StoppingCriteriaList([_Ends(torch.tensor(most, device=device))])
    with torch.no_grad():
        model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            generation_config=settings,
            stopping_criteria=ends,
        )
    wait_for_card()


class _Ends(StoppingCriteria):  # type: ignore[misc]
    """A criterion that ends each row after its number of new tokens."""

    def __init__(self, most: torch.Tensor) -> None:
        self._most = most

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        return self._most <= input_ids.shape[1] - PROMPT


def _continuous(model: Any, cell: Cell) -> dict[str, Any]:
    """Answer by transformers' continuous batching; its graphs are captured before the clock."""
    from transformers.generation.continuous_batching.utils import WorkloadHints

    most = schedule(cell.rows, cell.new)
    settings = GenerationConfig(max_new_tokens=cell.new, do_sample=False, eos_token_id=-1)
    hints = WorkloadHints(
        max_prompt_length=PROMPT, max_generated_length=cell.new, num_requests=cell.rows
    )
    began = time.perf_counter()
    with (
        torch.no_grad(),
        model.continuous_batching_context_manager(
            generation_config=settings, workload_hints=hints, timeout=5
        ) as manager,
    ):
        ready = time.perf_counter()
        for row, tokens in enumerate(most):
            manager.add_request(prompt_ids(row), max_new_tokens=tokens, eos_token_id=-1)
        left = cell.rows
        while left:
            result = manager.get_result(timeout=1)
            if result is not None and result.is_finished():
                assert result.error is None, result.error
                left -= 1
            assert result is not None or manager.is_running(), "continuous batching ended early"
        ended = time.perf_counter()
    once = {"compile_s": round(ready - began, 2)}
    return {"batch": cell.rows, **_rates(sum(most), ended - ready, max(most)), **once}


@contextmanager
def _adapter_in_16_bits(model: Any) -> Iterator[None]:
    """Keep the adapter in bf16 inside the block, which spares transformers all conversions."""
    kept = [(param, param.data) for name, param in model.named_parameters() if "lora_" in name]
    for param, data in kept:
        param.data = data.to(torch.bfloat16)
    try:
        yield
    finally:
        for param, data in kept:
            param.data = data


# -- (c)


def answer_by_lanes(model: Any, cell: Cell, card: Card) -> dict[str, Any]:
    """Answer by the decode path with the plan's settings; the first of three runs captures."""
    lanes, dequantised = planned_lanes(cell, card)
    most = schedule(cell.rows, cell.new)
    prompts = [Prompt(ids=prompt_ids(row), most=most[row]) for row in range(cell.rows)]
    with fast_forward(model, torch.bfloat16, dequantised=dequantised) as forward:
        held = Lanes(forward, lanes, positions=PROMPT + cell.new, most=cell.new, ends=[])
        times = []
        for _ in range(3):
            began = time.perf_counter()
            made = generate_tokens(held, prompts, [], prefill_tokens=8_192)
            wait_for_card()
            times.append(time.perf_counter() - began)
        assert [len(one.ids) for one in made] == most
        every = list(range(lanes))
        held.start(every[:STEPS], prompts[:STEPS])  # positions as in the middle of an answer
        step_ms = _timed_ms(lambda: held.advance(every, STEPS)) / STEPS
        held.release()
    steady = min(times[1:])
    return {
        "batch": lanes,
        "dequantised": dequantised,
        **_rates(sum(most), steady, 1),
        "ms_per_step": round(step_ms, 2),
        "capture_s": round(times[0] - steady, 2),
    }


def planned_lanes(cell: Cell, card: Card) -> tuple[int, bool]:
    """Return (rows at once, whether weights are dequantised) as the plan decides for the card."""
    recipe = Recipe.model_validate(
        {
            "name": "scoring",
            "model": {"name": "shaped"},
            "data": {"train": "rows.jsonl", "max_tokens": 512, "eval_rows": cell.rows},
            "evaluate": {"answer_pattern": "(.*)", "max_new_tokens": cell.new},
        }
    )
    capped = replace(card, cap_bytes=int(cell.cap * GIB) if cell.cap else None)
    lengths: Any = {"longest": 512, "sample": [], "scored": PROMPT}
    plan = plan_trial(recipe, measures(cell.shape), capped, lengths=lengths, advise=False)
    return min(plan.eval_batch, cell.rows), plan.eval_dequantised


# -- shared


def _device_of(model: Any) -> torch.device:
    found: torch.device = model.get_input_embeddings().weight.device
    return found


def _rates(tokens: int, seconds: float, steps: int) -> dict[str, Any]:
    return {
        "tokens_per_s": round(tokens / seconds),
        "ms_per_step": round(seconds / steps * 1e3, 2),
        "seconds": round(seconds, 2),
    }


def _timed_ms(run: Callable[[], None]) -> float:
    """Return the milliseconds of the second of two runs."""
    run()
    wait_for_card()
    began = time.perf_counter()
    run()
    wait_for_card()
    return (time.perf_counter() - began) * 1e3


CONTESTANTS: dict[str, Callable[[Any, Cell, Card], dict[str, Any]]] = {
    "a": answer_as_before,
    "c": answer_by_lanes,
    "b": answer_adapted,
    "b16": answer_merged,
}

"""The fastest plan that fits a card, or the nearest settings that would."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import product
from typing import Any

from workbench.attention import attention_for, capability_words
from workbench.cards import Card
from workbench.errors import DoesNotFit, WorkbenchError
from workbench.footprint.buckets import GIB, Run, eval_row_bytes, predict
from workbench.footprint.plan import Plan
from workbench.footprint.shape import ModelShape
from workbench.recipe.schema import Recipe

DRIVER_BYTES = GIB // 2
"""Of NVML's total, what no process gets: 0.47 GiB on an H100 (NVML's total less CUDA's)."""


def choose_plan(
    recipe: Recipe,
    config: Mapping[str, Any],
    card: Card,
    free_bytes: int | None = None,
    longest: int | None = None,
) -> Plan:
    """How to run `recipe` on `card`; `config` is the model's config.json.

    `free_bytes`: what can be had there now; left out, the whole card. `longest`: tokens of the
    longest row, where known. The whole batch in one micro-step is best, first without recompute,
    then with, then cut finer; micro_batch × micro_steps is always the recipe's batch.
    Raises DoesNotFit with the nearest settings that fit, ModelError for an unknown kind of model,
    WorkbenchError where the card lacks the precision or attention asked for by name.
    """
    shape = ModelShape.of(config)
    precision = precision_for(card, recipe.model.precision)
    attention, why = attention_for(card, recipe.model.attention, softcap=shape.softcap)
    run = Run(
        precision=precision,
        attention=attention,
        optimizer=_optimizers(recipe)[-1],
        rows=1,
        tokens=_tokens(recipe, longest),
        recompute=False,
        card_kind=card.kind,
        quadratic=is_quadratic(shape, card, attention),
    )
    limit = limit_bytes(card, free_bytes)
    batch = recipe.train.batch_size * recipe.train.accumulation
    for optimizer, (rows, recompute) in product(_optimizers(recipe), _ways(recipe, batch)):
        tried = replace(run, rows=rows, recompute=recompute, optimizer=optimizer)
        buckets = predict(shape, recipe, tried)
        if sum(buckets.values()) <= limit:
            return Plan(
                precision=precision,
                attention=attention,
                attention_why=why,
                optimizer=optimizer,
                micro_batch=rows,
                micro_steps=batch // rows,
                recompute=recompute,
                predicted_bytes=sum(buckets.values()),
                buckets=buckets,
                eval_batch=_eval_batch(shape, recipe, tried, buckets, limit),
            )
    raise _refusal(shape, recipe, run, card, limit)


def precision_for(card: Card, wanted: str) -> str:
    """bf16, fp16 or fp32 for `card`; WorkbenchError where it lacks the one asked for by name."""
    has_bf16 = card.kind == "cpu" or (card.capability is not None and card.capability >= (8, 0))
    if wanted == "auto":
        return "fp32" if card.kind == "cpu" else "bf16" if has_bf16 else "fp16"
    if wanted == "bf16" and not has_bf16:
        raise WorkbenchError(
            f"bf16 needs compute capability 8.0; {card.name} {capability_words(card)}",
            mend="set model.precision: auto, which is fp16 on this card",
        )
    if wanted == "fp16" and card.kind == "cpu":
        raise WorkbenchError(
            f"fp16 training needs a GPU; {card.name} is a CPU card",
            mend="set model.precision: auto, which is fp32 on this card",
        )
    return wanted


def limit_bytes(card: Card, free_bytes: int | None = None) -> int:
    """What a plan on `card` may take."""
    had = card.total_bytes - (DRIVER_BYTES if card.kind == "cuda" else 0)
    return min(card.usable_bytes, had, had if free_bytes is None else free_bytes)


def _optimizers(recipe: Recipe) -> tuple[str, ...]:
    """What `auto` stands for, best first.

    An adapter's AdamW states are small (0.3 GiB at rank 16 on 8B), and bitsandbytes' optimizers
    synchronise the card after every tensor (30–40 ms a step on 8B); they are for little room.
    """
    if recipe.train.optimizer == "auto":
        return ("adamw_torch", "paged_adamw_8bit")
    return (recipe.train.optimizer,)


def _tokens(recipe: Recipe, longest: int | None) -> int:
    if longest is None or recipe.data.packing:
        return recipe.data.max_tokens
    return max(1, min(longest, recipe.data.max_tokens))


def is_quadratic(shape: ModelShape, card: Card, attention: str) -> bool:
    """Eager holds all scores; so does SDPA for grouped queries before Ampere (math path)."""
    old = card.kind == "cuda" and (card.capability or (0, 0)) < (8, 0)
    return attention == "eager" or (attention == "sdpa" and old and shape.kv_heads != shape.heads)


def _ways(recipe: Recipe, batch: int) -> Iterator[tuple[int, bool]]:
    """(rows, recompute), fastest first."""
    asked = recipe.train.gradient_checkpointing
    recomputes = {"auto": (False, True), "on": (True,), "off": (False,)}[asked]
    for rows in _divisors(batch):
        for recompute in recomputes:
            yield rows, recompute


def _divisors(number: int) -> list[int]:
    """Downward. A batch beyond any card is cut to sizes a card could hold."""
    small = [n for n in range(1, min(int(number**0.5) + 1, 65_537)) if number % n == 0]
    return sorted({*small, *(number // n for n in small)}, reverse=True)


def _eval_batch(
    shape: ModelShape, recipe: Recipe, run: Run, buckets: dict[str, int], limit: int
) -> int:
    moving = ("activations", "transient", "logits")
    room = limit - sum(size for name, size in buckets.items() if name not in moving)
    row = eval_row_bytes(shape, recipe, run.precision, run.tokens)
    return max(1, min(recipe.evaluate.batch_size, room // row))


def _refusal(shape: ModelShape, recipe: Recipe, run: Run, card: Card, limit: int) -> DoesNotFit:
    run = replace(run, rows=1, recompute=recipe.train.gradient_checkpointing != "off")

    def need(changed: Recipe = recipe, **how: Any) -> int:
        return sum(predict(shape, changed, replace(run, **how)).values())

    least = need()
    mends = list(_mends(recipe, run, need, limit))
    mends.append(f"use a card with {_gib_up(least + DRIVER_BYTES)} GiB")
    return DoesNotFit(
        f"{recipe.name} needs at least {least / GIB:.1f} GiB, one row of {run.tokens} tokens at a "
        f"time; {card.name} has {limit / GIB:.1f} GiB to give",
        mend=", or ".join(mends),
    )


def _mends(recipe: Recipe, run: Run, need: Callable[..., int], limit: int) -> Iterator[str]:
    """The nearest settings that fit, each alone."""
    if not run.recompute and need(recompute=True) <= limit:
        yield "set train.gradient_checkpointing: auto"
    nf4 = _with(recipe, "model", quantization="nf4")
    if recipe.model.quantization == "none" and need(nf4) <= limit:
        yield "set model.quantization: nf4"
    if tokens := _most(run.tokens - 1, lambda n: need(tokens=n) <= limit):
        nice = tokens // 64 * 64 or tokens
        if nice >= 8:
            yield f"lower data.max_tokens to {nice}"
    rank = _most(recipe.lora.rank - 1, lambda n: need(_with(recipe, "lora", rank=n)) <= limit)
    if rank:
        yield f"lower lora.rank to {1 << (rank.bit_length() - 1)}"


def _with(recipe: Recipe, section: str, **changes: Any) -> Recipe:
    changed = getattr(recipe, section).model_copy(update=changes)
    return recipe.model_copy(update={section: changed})


def _most(top: int, fits: Callable[[int], bool]) -> int:
    """The largest number up to `top` that fits, by bisection; 0 if none does."""
    low, high = 0, top
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def _gib_up(size: int) -> int:
    return -(-size // GIB)
